# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # From a CSV file to recommendations
#
# The steps of the page *Your own data*, from Python. Put your own file in place of `ratings.csv`. Here it is made of
# ml-100k, which comes with RecBole, so that the example runs as it is. `python own_data.py --small` trains two epochs.

# %%
import csv
import sys
from pathlib import Path

import recbole

small = "--small" in sys.argv
table = Path("ratings.csv")
if not table.exists():
    source = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.inter"
    lines = source.read_text(encoding="utf-8").splitlines()[1:]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["user", "movie", "stars", "date"], *(line.split("\t") for line in lines)])

# %% [markdown]
# ## Convert
#
# The same as `recbole-derrd convert ratings.csv --user=user --item=movie --rating=stars --time=date
# --out=dataset/my-data`.

# %%
from recbole_derrd.cli import main  # noqa: E402

columns = ["--user=user", "--item=movie", "--rating=stars", "--time=date"]
assert main(["convert", str(table), *columns, "--out=dataset/my-data", "--force"]) == 0

# %% [markdown]
# ## Train, distil, store in 4 bits

# %%
from recbole_derrd import run_recbole_derrd  # noqa: E402

record = run_recbole_derrd(
    model="BPR",
    dataset="my-data",
    config_dict={
        "data_path": "dataset",
        "embedding_size": 16,
        "teacher": {"embedding_size": 128},
        "distillers": ["rrd"],
        "rrd_weight": 0.1,
        "store_bits": 4,
        "epochs": 2 if small else 100,
    },
)
student = record["checkpoints"]["student"]
print("Student:", student)

# %% [markdown]
# ## Export
#
# A folder with embeddings and your own ids, which numpy alone can read.

# %%
assert main(["export", student, "--out=export", "--bits=4", "--force"]) == 0

# %% [markdown]
# ## Recommend
#
# From here on neither torch nor RecBole is needed: this part may run on another machine.

# %%
from recbole_derrd.serving import Recommender  # noqa: E402

model = Recommender.load("export")
for user in model.user_ids[:3]:
    print(user, [(item, round(score, 2)) for item, score in model.recommend(user, k=5)])

# %% [markdown]
# A user who is not in the data, by what this user has liked:

# %%
print(model.recommend_from(model.item_ids[:3], k=5))
