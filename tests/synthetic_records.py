"""Small made-up records for the tests of reports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole_derrd import report
from recbole_derrd.report import RunRecord, grouping
from recbole_derrd.report.rows import Group

SEEDS = (1, 2, 3, 4, 5)
UTILISATION = {"side": "user", "activity": [[1, 2], [3, 9]], "mean_utilisation": [[0.2, 0.8], [0.6, 0.4]]}


def part(model: str, score: float, size: int, key: str | None = None, **settings: Any) -> dict[str, Any]:
    """What a record says of one model."""
    return {
        "model": model, "params": size, "bytes": 4 * size, "bytes_per_item": 16.0, "test": {"ndcg@10": score},
        "valid": {"ndcg@10": score}, "seconds": 2.0, "epochs": 3, "settings": {"seed": 9, **settings},
        "latency": {"p50_ms": 0.1}, "valid_scores": [[0, score / 2], [1, score]], **({"key": key} if key else {}),
    }  # fmt: skip


def made(method: str, seed: int, score: float, mode: str = "full", **more: Any) -> dict[str, Any]:
    """One record: a teacher that all seeds share, a plain student for each seed, and a distilled one."""
    return {
        "schema": 2, "model": "BPR", "dataset": "toy", "distillers": [method.lower()], "seed": seed, "split_seed": 1,
        "protocol": {"order": "RO", "mode": {"valid": mode, "test": mode}}, "valid_metric": "ndcg@10",
        "valid_metric_bigger": True, "options": {f"{method.lower()}_weight": 1.0},
        "data": {"fingerprint": {"ids": "i", "train": "t", "valid": "v", "test": "w"}},
        "teacher": part("BPR", 0.5, 1000, "the-teacher", embedding_size=64),
        "student": part("BPR", 0.3 + seed / 1000, 100, f"student{seed}", embedding_size=4),
        "distilled": part("BPR", score, 100, embedding_size=4),
        "diagnostics": {"de": {"expert_utilisation": UTILISATION}},
        "command": "python -m recbole_derrd benchmark toy.yaml", "versions": {"python": "3.11", "torch": "2.0"},
        "git_commit": "abc",
        "benchmark": {"name": "toy", "experiment": method, "key": f"{method}{seed}", "settings": method},
        **more,
    }  # fmt: skip


def synthetic() -> list[dict[str, Any]]:
    """Two methods over five seeds: DE a little better than the student, RRD much."""
    return [made("DE", seed, 0.31 + seed**2 / 10000) for seed in SEEDS] + [
        made("RRD", seed, 0.4 + seed**2 / 10000) for seed in SEEDS
    ]


def rich(seed: int = 1) -> dict[str, Any]:
    """One record with everything that a record may hold."""
    latency = {"p50_ms": 0.2, "p99_ms": 0.4, "users_per_second": 10.0, "device": "cpu", "threads": 1}
    check = {"found": True, "trusted": False, "split_check": {"by": "scores"}, "progress": {"de": [[0, 1.0]]}}

    def whole(model: str, score: float, size: int, key: str, **more: Any) -> dict[str, Any]:
        return {**part(model, score, size, key, **more), **check, "latency": latency}

    several = [whole(model, 0.45, 500, f"{model}{seed}", k=3) for model in ("BPR", "ItemKNN")]
    members = [{"model": one["model"], **one["settings"]} for one in several]
    gaps = {"ndcg@10": 0.5}
    stored = {"bits": 4, "users": True, "bytes_per_user": 8, "file": "a.npz", "gap_recovered": gaps}
    return made(
        "HetComp", seed, 0.4, mode="fixed9", candidates="c", candidates_file="c.npy", candidates_given=True,
        teacher=whole("Ensemble", 0.5, 1000, "together", members=members, layers=[1, 2]), teachers=several,
        refined=whole("BPR", 0.51, 900, f"refined{seed}"),
        student=whole("BPR", 0.3 + seed / 1000, 100, f"student{seed}"),
        distilled=whole("BPR", 0.4, 100, f"distilled{seed}"),
        stored={**whole("BPR", 0.39, 100, f"stored{seed}"), **stored},
        compression={"method": "svd", "size": 8, "bits": 4, "rotation": "random", "levels": "uniform",
                     "codebooks": "pq", "svd": True, "seed": 1,
                     "bytes_per_item": 4, "codebook_bytes": 0, "bytes_per_user": 4, "seconds": 0.1},
        cost={"total_seconds": 9.0, "knowledge_seconds": 1.0, "epoch_seconds": [1.0], "peak_rss_bytes": 99},
        checkpoints={"student": "s.pth", "training": "s.training.pth", "teacher": "t.pth", "teachers": ["t.pth"]},
        data={"users": 5, "items": 9, "training_interactions": 20, "interactions": "x", "content": "y",
              "files": {"toy.inter": "1-a"},
              "named_files": {"t.npy": "a"},
              "fingerprint": {"ids": "i", "train": "t", "valid": "v", "test": "w"}},
        benchmark={"name": "toy", "experiment": "HetComp", "position": 0, "key": f"HetComp{seed}",
                   "settings": "HetComp", "vary": "training", "proposed": True, "fold": "a", "folds": ["a", "b"]},
        gap_recovered=gaps, gap_error={"ndcg@10": 0.01}, search_recall=0.99, warnings=["Too small."], fast=["adam"],
    )  # fmt: skip


def written(folder: Path, records: list[dict[str, Any]]) -> Path:
    """The folder, with each record in a file of its own."""
    folder.mkdir(exist_ok=True)
    for place, record in enumerate(records):
        (folder / f"{place:03}.json").write_text(json.dumps(record))
    return folder


def groups_of(records: Iterable[dict[str, Any]], *arguments: Any) -> list[Group]:
    """The groups of records that are given as JSON."""
    return grouping.groups_of(map(RunRecord.from_json, records), *arguments)


def run_table(record: dict[str, Any]) -> str:
    """The table of a run whose record is given as JSON."""
    return report.run_table(RunRecord.from_json(record))
