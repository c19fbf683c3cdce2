# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # A first distillation, with plots
#
# A BPR of 64 dimensions teaches a BPR of 6 on ml-100k, which comes with RecBole. Run this file as a script, or open it
# as a notebook with jupytext. It takes a few minutes. `python first_distillation.py --small` is quicker, and shows only
# that everything works.

# %%
import sys
from pathlib import Path

from recbole_derrd import run_recbole_derrd

small = "--small" in sys.argv

# %% [markdown]
# ## Settings
#
# Any RecBole key, and a few more. The teacher has the student's settings, but for those in `teacher`.

# %%
settings = {
    "embedding_size": 6,
    "teacher": {"embedding_size": 64, "learning_rate": 0.002},
    "learning_rate": 0.005,
    "rrd_weight": 0.1,
    "rrd_k": 20,
    "rrd_l": 20,
    "rrd_top_n": 100,
    "epochs": 2 if small else 150,
    "metrics": ["NDCG", "Recall"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "record_dir": "records/first-distillation",
}

# %% [markdown]
# ## Two methods, two seeds
#
# Each call trains what is missing. The second method finds the teacher and the plain student of the first.

# %%
seeds = [2020] if small else [2020, 2021]
for seed in seeds:
    for distillers in (["rrd"], ["de", "rrd"]):
        record = run_recbole_derrd(
            model="BPR",
            dataset="ml-100k",
            config_dict={**settings, "distillers": distillers, "seed": seed},
        )
        print(distillers, seed, "NDCG@10:", record["distilled"]["test"]["ndcg@10"])

# %% [markdown]
# ## What the records say
#
# `report_of` makes the tables that `recbole-derrd report` prints. With matplotlib it draws plots too.

# %%
from recbole_derrd.report.document import report_of  # noqa: E402

records = Path("records/first-distillation")
print(report_of(records, "md").split("Commands:")[0])

# %%
from recbole_derrd.report.plots import can_plot  # noqa: E402

if can_plot():
    report_of(records, "md", plots=Path("plots"))
    print("Plots:", ", ".join(sorted(str(file) for file in Path("plots").iterdir())))
else:
    print("Plots need matplotlib: pip install 'recbole_derrd[plots]'")

# %% [markdown]
# `plots/` has the learning curves, and quality against size and against latency. One HTML file with tables and plots
# together: `recbole-derrd report records/first-distillation --format=html`.
