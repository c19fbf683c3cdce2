"""Small made-up records for the tests of reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SEEDS = (1, 2, 3, 4, 5)


def part(model: str, score: float, size: int, key: str | None = None, **settings: Any) -> dict[str, Any]:
    """What a record says of one model."""
    return {
        "model": model, "params": size, "bytes": 4 * size, "bytes_per_item": 16.0, "test": {"ndcg@10": score},
        "valid": {"ndcg@10": score}, "seconds": 2.0, "epochs": 3, "settings": {"seed": 9, **settings},
        "valid_scores": [[0, score / 2], [1, score]], **({"key": key} if key else {}),
    }  # fmt: skip


def made(method: str, seed: int, score: float, mode: str = "full", **more: Any) -> dict[str, Any]:
    """One record: a teacher that all seeds share, a plain student for each seed, and a distilled one."""
    return {
        "schema": 1, "model": "BPR", "dataset": "toy", "distillers": [method.lower()], "seed": seed, "split_seed": 1,
        "protocol": {"order": "RO", "mode": {"valid": mode, "test": mode}}, "valid_metric": "ndcg@10",
        "valid_metric_bigger": True, "options": {f"{method.lower()}_weight": 1.0},
        "data": {"fingerprint": {"ids": "i", "train": "t", "valid": "v", "test": "w"}},
        "teacher": part("BPR", 0.5, 1000, "the-teacher", embedding_size=64),
        "student": part("BPR", 0.3 + seed / 1000, 100, f"student{seed}", embedding_size=4),
        "distilled": part("BPR", score, 100, embedding_size=4),
        "latency": {"teacher": {"p50_ms": 0.2}, "student": {"p50_ms": 0.1}, "distilled": {"p50_ms": 0.1}},
        "expert_choice": {"side": "user", "activity": [[1, 2], [3, 9]], "mean_choice": [[0.2, 0.8], [0.6, 0.4]]},
        "command": "python -m recbole_derrd benchmark toy.yaml", "versions": {"python": "3.11", "torch": "2.0"},
        "git_commit": "abc", "benchmark": {"name": "toy", "cell": method, "key": f"{method}{seed}", "settings": method},
        **more,
    }  # fmt: skip


def synthetic() -> list[dict[str, Any]]:
    """Two methods over five seeds: DE a little better than the student, RRD much."""
    return [made("DE", seed, 0.31 + seed**2 / 10000) for seed in SEEDS] + [
        made("RRD", seed, 0.4 + seed**2 / 10000) for seed in SEEDS
    ]


def rich(seed: int = 1) -> dict[str, Any]:
    """One record with everything that a record may hold."""
    several = [part(model, 0.45, 500, f"{model}{seed}", k=3) for model in ("BPR", "ItemKNN")]
    latency = {"p50_ms": 0.2, "p99_ms": 0.4, "users_per_second": 10.0, "device": "cpu", "threads": 1}
    members = [{"model": one["model"], **one["settings"]} for one in several]
    return made(
        "HetComp", seed, 0.4, mode="fixed9", candidates="c", candidates_given=True, compression={"method": "svd"},
        teacher=part("Ensemble", 0.5, 1000, "together", members=members, layers=[1, 2]),
        teachers=[{**one, "latency": latency} for one in several],
        stored={**part("BPR", 0.39, 100), "bits": 4, "users": True, "latency": latency},
        seconds={"teacher": 1.0, "student": 1.0, "distilled": 2.0, "epochs": [1.0]},
        data={"users": 5, "items": 9, "training_interactions": 20, "interactions": "x", "files": {"toy.inter": "1-a"},
              "named_files": {"t.npy": "a"},
              "fingerprint": {"ids": "i", "train": "t", "valid": "v", "test": "w"}},
    )  # fmt: skip


def written(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for place, record in enumerate(records):
        (folder / f"{place:03}.json").write_text(json.dumps(record))
    return folder
