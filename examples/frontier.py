# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # How small may it be?
#
# Quality against bytes an item on ml-100k, which comes with RecBole: students that are trained in few bits, the
# teacher's own codes, and students without a teacher. It takes some minutes; `python frontier.py --small` trains two
# epochs of two models.

# %%
import sys
from pathlib import Path

import yaml

small = "--small" in sys.argv
settings = {
    "base": {
        "model": "BPR",
        "dataset": "ml-100k",
        "teacher": {"embedding_size": 64},
        "epochs": 2 if small else 60,
        "learning_rate": 0.002,
        "metrics": ["Recall", "NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "latency_users": 0,
    },
    "bytes": [4] if small else [4, 8, 16],
    "kinds": ["untrained"] if small else ["trained", "untrained", "refined", "student"],
    "ways": 1,
    "seeds": [2020],
}
Path("my-frontier.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

# %% [markdown]
# ## Train and measure
#
# The same as `recbole-derrd frontier my-frontier.yaml`. What is recorded already is not run again.

# %%
from recbole_derrd.cli import main  # noqa: E402

assert main(["frontier", "my-frontier.yaml"]) == 0

# %% [markdown]
# ## The numbers
#
# Of each kind of model, at each number of bytes, the row that is the best on the validation split.

# %%
from recbole_derrd.report.frontier import frontiers_of  # noqa: E402
from recbole_derrd.report.reading import records_of  # noqa: E402

records, _ = records_of(Path("records") / "my-frontier")
(frontier,) = frontiers_of(records)
for point in frontier.points:
    print(f"{point.item_bytes:>4.0f} B  {frontier.metric} {point.row.mean(frontier.metric):.4f}  {point.row.label}")

# %% [markdown]
# ## The picture

# %%
from recbole_derrd.report.plots import can_plot  # noqa: E402

if can_plot():
    from recbole_derrd.report.frontier import frontier_figure

    frontier_figure(frontier).savefig("frontier.png", dpi=150)
    print("Picture: frontier.png")

# %% [markdown]
# ## The best student of some bytes, ready to be served
#
# `recbole-derrd shrink --config_files=run.yaml --bytes=8 --out=small` makes it of the teacher that a run names in its
# settings.
