"""FTD and HTD on planted data: each helps a student that learns little by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import write_planted

from recbole_derrd.quick_start import run_recbole_derrd


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ftd", "htd"])
def test_a_term_closes_a_part_of_the_gap(method: str, tmp_path: Path) -> None:
    settings = {
        "data_path": str(write_planted(tmp_path)), "load_col": {"inter": ["user_id", "item_id"]},
        "checkpoint_dir": str(tmp_path / "saved"), "record_dir": str(tmp_path / "records"), "embedding_size": 4,
        "learning_rate": 0.01, "epochs": 30, "teacher": {"embedding_size": 64, "weight_decay": 1e-4, "epochs": 60},
        "train_batch_size": 512, "stopping_step": 30, "eval_batch_size": 4_000_000, "metrics": ["NDCG"], "topk": [10],
        "valid_metric": "NDCG@10", "show_progress": False, "state": "WARNING", "latency_users": 0,
        "ftd_weight": 0.01, "htd_weight": 0.01, "htd_num_groups": 8, "distillers": [method],
    }  # fmt: skip
    record = run_recbole_derrd("BPR", "planted", config_dict=settings)
    assert record["distilled"]["test"]["ndcg@10"] > 1.1 * record["student"]["test"]["ndcg@10"]
    assert record["gap_recovered"]["ndcg@10"] > 0.25
