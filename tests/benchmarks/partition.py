r"""How far HetComp's loss moves when items are drawn for the rest of the catalogue: hetcomp_remainder against the sum.

    python tests/benchmarks/remainder.py                                      # ml-100k, a minute
    python tests/benchmarks/partition.py --out=partition.json                 # the numbers as well

A BPR of 64 dimensions is trained, so that the scores are those of a model and not of chance. Its own best 20 items and
its order of each user's first 10 training items are what is taught; the loss of all users is summed over the whole
catalogue, and with items drawn for the rest, as often as --draws says. The logarithm of the drawn rest is too low on
average, and with it the loss, the less the more are drawn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from tabulate import tabulate

from recbole_derrd.adapters import adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.distillers.hetcomp import fine_order_loss, overall_relation_loss
from recbole_derrd.distillers.hetcomp.partition import estimated_log_partition, log_partition, sampled_partition
from recbole_derrd.model_cache.building import load_model
from recbole_derrd.model_cache.train_or_find import train_or_find
from recbole_derrd.report.environment import versions

COUNTS = (10, 30, 100, 300, 1000)
RANKED, OBSERVED = 20, 10


def trained_scores(folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a trained model's scores of ml-100k's users and items, padding left out, and what the users trained on."""
    config = DistillConfig(
        "BPR",
        "ml-100k",
        config_dict={
            "embedding_size": 64, "learning_rate": 0.002, "epochs": 100, "checkpoint_dir": folder, "threads": 1,
            "topk": [10], "metrics": ["NDCG"], "valid_metric": "NDCG@10", "show_progress": False, "state": "ERROR",
            "eval_batch_size": 4_000_000, "latency_users": 0,
        },
    )  # fmt: skip
    data = prepare_data(config)
    model = load_model(config, data, train_or_find(config, data).checkpoint)
    with torch.no_grad():
        scores = adapter_of(model).score_all(torch.arange(1, data.history.n_users)).float()
    seen = torch.zeros_like(scores, dtype=torch.bool)
    for user in range(1, data.history.n_users):
        seen[user - 1, data.history.items[data.history.indptr[user] : data.history.indptr[user + 1]]] = True
    return scores, seen


def shares(draws: int) -> list[dict[str, float]]:
    """Return how far log R and both losses are off for each number of drawn items, on average over users and draws."""
    with tempfile.TemporaryDirectory() as folder:
        scores, seen = trained_scores(folder)
    scores[:, 0], lowest = -1e9, -1e9
    ranked = scores.masked_fill(seen, lowest).topk(RANKED, dim=1)
    observed = scores.masked_fill(~seen, lowest).topk(OBSERVED, dim=1)
    held = (observed.values > lowest / 2, ranked.values > lowest / 2)
    out = seen.scatter(1, ranked.indices, True)
    out[:, 0] = True
    hidden = tuple(out.nonzero().T)
    both, both_held = torch.cat([observed.values, ranked.values], dim=1), torch.cat(held, dim=1)

    def losses(log_partition_term: torch.Tensor) -> tuple[float, float]:
        first = overall_relation_loss(both, both_held, log_partition_term)
        second = fine_order_loss((observed.values, held[0]), (ranked.values, held[1]), log_partition_term, [RANKED])
        return float(first.double().sum()), float(second.double().sum())

    log_partition_term = log_partition(scores, hidden)  # type: ignore[arg-type]
    exact, generator, found = losses(log_partition_term), torch.Generator().manual_seed(0), []
    for count in COUNTS:
        drawn: list[tuple[float, float, float]] = []
        for _ in range(draws):
            items, sizes = sampled_partition(hidden, *scores.shape, count, generator)  # type: ignore[arg-type]
            estimate = estimated_log_partition(scores.gather(1, items), sizes)
            drawn.append((float((estimate - log_partition_term).mean()), *losses(estimate)))
        off, first, second = (statistics.fmean(column) for column in zip(*drawn))
        found.append({"items": count, "log R": off, "L_O": first / exact[0] - 1, "L_F": second / exact[1] - 1})
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="HetComp's loss with items drawn for the rest of the catalogue.")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = shares(arguments.draws)
    rows = [[row["items"], f"{row['log R']:+.4f}", f"{row['L_O']:+.2%}", f"{row['L_F']:+.2%}"] for row in found]
    print(
        tabulate(rows, headers=["items drawn", "log R", "phase 1", "phase 2"], tablefmt="github", disable_numparse=True)
    )
    if arguments.out:
        command = "python tests/benchmarks/remainder.py " + " ".join(sys.argv[1:])
        content = {"command": command.strip(), "draws": arguments.draws, "rows": found, "versions": versions()}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
