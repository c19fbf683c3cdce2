"""MKD on planted data: each term alone helps a student that learns little by itself; together they do most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planted import write_planted

from recbole_derrd.quick_start import run_recbole_derrd

# Each needs the same four trainings.
pytestmark = pytest.mark.slow
TERMS = ("nkd", "cpd", "sld")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], dict[str, Any]]:
    """One record for each term, and one for all; they share teacher and plain student."""
    home: Path = tmp_path_factory.mktemp("mkd")
    settings = {
        "data_path": str(write_planted(home)), "load_col": {"inter": ["user_id", "item_id"]},
        "checkpoint_dir": str(home / "saved"), "record_dir": str(home / "records"), "embedding_size": 4,
        "learning_rate": 0.01, "epochs": 30, "teacher": {"embedding_size": 64, "weight_decay": 1e-4, "epochs": 60},
        "train_batch_size": 512, "stopping_step": 30, "eval_batch_size": 4_000_000, "metrics": ["NDCG"], "topk": [10],
        "valid_metric": "NDCG@10", "show_progress": False, "state": "WARNING", "latency_users": 0,
        "cpd_num_experts": 4, "sld_weight": 0.5, "sld_k": 10, "sld_l": 20, "sld_top_n": 30, "sld_temperature": 1.0,
    }  # fmt: skip
    chosen = [(term,) for term in TERMS] + [TERMS]
    return {
        methods: run_recbole_derrd("BPR", "planted", config_dict={**settings, "distillers": list(methods)})
        for methods in chosen
    }


@pytest.mark.parametrize("methods", [("nkd",), ("cpd",), ("sld",), TERMS], ids="-".join)
def test_a_term_closes_a_part_of_the_gap(found: Any, methods: tuple[str, ...]) -> None:
    record = found[methods]
    assert record["distilled"]["test"]["ndcg@10"] > 1.3 * record["student"]["test"]["ndcg@10"]
    assert record["gap_recovered"]["ndcg@10"] > 0.25


def test_together_they_are_better_than_each(found: Any) -> None:
    for split in ("valid", "test"):
        best = max(found[(term,)]["distilled"][split]["ndcg@10"] for term in TERMS)
        assert found[TERMS]["distilled"][split]["ndcg@10"] > 1.02 * best
