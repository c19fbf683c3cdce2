"""One split while the training seed varies, and what else a record needs for a table over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
import torch

from recbole_derrd.adapters import adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import CheckpointError
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.quick_start import run_recbole_derrd

Settings = Callable[..., dict[str, Any]]
RRD = {"distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "latency_users": 0}


def prepared(settings: dict[str, Any], **more: Any) -> tuple[DistillConfig, Data]:
    config = DistillConfig("BPR", "tiny", config_dict={**settings, **more})
    return config, prepare_data(config)


def first_batch(config: DistillConfig, data: Data) -> dict[str, torch.Tensor]:
    build_model(config, data)
    batch = next(iter(data.train))
    return {name: batch[name] for name in ("user_id", "item_id", "neg_item_id")}


def test_the_split_stays_and_the_training_varies(tiny_settings: Settings) -> None:
    settings = tiny_settings("BPR")
    one, two = (prepared(settings, split_seed=7, seed=seed) for seed in (1, 2))
    assert one[1].fingerprint == two[1].fingerprint
    assert one[1].train.generator.initial_seed() == 1 and two[1].train.generator.initial_seed() == 2
    batches = [first_batch(*side) for side in (one, two)]
    for name in ("user_id", "item_id", "neg_item_id"):
        assert not torch.equal(batches[0][name], batches[1][name]), f"{name} must follow the training seed"
    again = first_batch(*prepared(settings, split_seed=7, seed=1))
    assert all(torch.equal(again[name], batches[0][name]) for name in again)
    weights = [build_model(*side).item_embedding.weight for side in (one, two)]
    assert not torch.equal(*weights)


def test_negatives_do_not_follow_the_split(tiny_settings: Settings) -> None:
    """Two splits that are the same, since they are in order of time: what is drawn afterwards must be the same too."""
    settings = tiny_settings("BPR", eval_args={"order": "TO", "split": {"RS": [0.8, 0.1, 0.1]}, "mode": "full"})
    settings["load_col"] = {"inter": ["user_id", "item_id", "timestamp"]}
    batches = [first_batch(*prepared(settings, split_seed=split, seed=3)) for split in (7, 8, None)]
    for name, values in batches[0].items():
        assert torch.equal(values, batches[1][name]) and torch.equal(values, batches[2][name]), name


def test_none_is_recboles_way_and_the_same_seed_for_both_is_too(tiny_settings: Settings) -> None:
    settings = tiny_settings("BPR")
    stock, same = prepared(settings, seed=5), prepared(settings, seed=5, split_seed=5)
    assert stock[1].fingerprint == same[1].fingerprint != prepared(settings, seed=6)[1].fingerprint
    first, second = first_batch(*stock), first_batch(*same)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_teacher_serves_all_seeds(tiny_settings: Settings, tmp_path: Path) -> None:
    settings = tiny_settings("BPR", **RRD, split_seed=7, teacher={"seed": 7}, record_dir=str(tmp_path / "records"))
    one, two = (run_recbole_derrd("BPR", "tiny", config_dict={**settings, "seed": seed}) for seed in (1, 2))
    assert not one["teacher"]["found"] and two["teacher"]["found"] and one["teacher"]["key"] == two["teacher"]["key"]
    assert one["student"]["key"] != two["student"]["key"]
    assert one["data"]["fingerprint"] == two["data"]["fingerprint"] and one["split_seed"] == two["split_seed"] == 7
    varied = run_recbole_derrd("BPR", "tiny", config_dict={**settings, "seed": 2, "teacher": {}})
    assert varied["teacher"]["key"] != two["teacher"]["key"] and varied["student"]["found"]


def test_a_brought_teacher_is_checked_against_the_split(tiny_settings: Settings, tmp_path: Path) -> None:
    plain = tiny_settings("BPR", record_dir=str(tmp_path / "records"), latency_users=0)
    brought = run_recbole_derrd("BPR", "tiny", config_dict={**plain, "seed": 7})["checkpoints"]["student"]
    content = torch.load(brought, weights_only=False)
    del content["derrd"]
    stock = tmp_path / "stock.pth"
    torch.save(content, stock)
    for teacher in (brought, str(stock)):
        settings = {**plain, **RRD, "teacher_checkpoint": teacher, "compare_student": False, "seed": 1}
        with pytest.raises(CheckpointError, match=r"another split|not trained on this run's data"):
            run_recbole_derrd("BPR", "tiny", config_dict={**settings, "split_seed": 8})
        assert run_recbole_derrd("BPR", "tiny", config_dict={**settings, "split_seed": 7})["teacher"]["test"]


def test_candidates_follow_the_split_and_are_part_of_a_models_key(tiny_settings: Settings, tmp_path: Path) -> None:
    settings = tiny_settings("BPR", **RRD, split_seed=7, teacher={"seed": 7}, record_dir=str(tmp_path / "records"))
    settings["eval_args"] = {"order": "RO", "split": {"RS": [0.8, 0.1, 0.1]}, "mode": "fixed10"}
    one, two = (run_recbole_derrd("BPR", "tiny", config_dict={**settings, "seed": seed}) for seed in (1, 2))
    assert two["teacher"]["found"] and len(list((tmp_path / "saved" / "cache").glob("candidates-*.npy"))) == 1
    other = run_recbole_derrd("BPR", "tiny", config_dict={**settings, "seed": 1, "candidates_seed": 99})
    assert not other["teacher"]["found"], "what was measured among other candidates is no answer"
    assert one["teacher"]["test"] == two["teacher"]["test"]


@pytest.mark.parametrize("model", ["Pop", "EASE", "ItemKNN"])
def test_a_model_without_gradients_runs_without_distillers(tiny_settings: Settings, tmp_path: Path, model: str) -> None:
    settings = tiny_settings(model, distillers=[], record_dir=str(tmp_path / "records"), latency_users=5)
    record = run_recbole_derrd(model, "tiny", config_dict=settings)
    entry = record["distilled"]
    assert entry["test"]["ndcg@5"] > 0 and entry["bytes"] > 0 and record["distilled"]["latency"]["p50_ms"] > 0
    assert entry["bytes_per_item"] == entry["bytes"] / 40
    assert record["teacher"] is None and record["diagnostics"] == {} and record["benchmark"] is None


def test_bytes_an_item_are_those_of_the_served_vector(tiny_settings: Settings) -> None:
    for model, wanted in (("BPR", 8 * 4), ("LightGCN", 8 * 4), ("FISM", (8 + 2) * 4)):
        config = DistillConfig(model, "tiny", config_dict=tiny_settings(model))
        built = build_model(config, prepare_data(config))
        assert bytes_per_item(built) == wanted and built.training
    config = DistillConfig("NeuMF", "tiny", config_dict=tiny_settings("NeuMF"))
    built = build_model(config, prepare_data(config))
    assert bytes_per_item(built) == model_bytes(built) / (adapter_of(built).n_items - 1)


def test_records_hold_curves_and_experts(tiny_settings: Settings, tmp_path: Path) -> None:
    more = {**RRD, "distillers": ["de", "rrd"], "de_num_experts": 3, "epochs": 4, "record_dir": str(tmp_path / "r")}
    settings = tiny_settings("BPR", **more, checkpoint_step=2, stopping_step=9)
    record = run_recbole_derrd("BPR", "tiny", config_dict=settings)
    for role in ("teacher", "student", "distilled"):
        curve = record[role]["valid_scores"]
        assert [point[0] for point in curve] == [0, 1, 2, 3]
        assert max(point[1] for point in curve) == pytest.approx(record[role]["valid"]["ndcg@5"])
        assert record[role]["bytes_per_item"] == 32
    # A found model and a resumed run tell the same.
    again = run_recbole_derrd("BPR", "tiny", config_dict={**settings, "resume": True})
    for role in ("teacher", "student", "distilled"):
        assert again[role]["valid_scores"] == record[role]["valid_scores"]
    choice = record["diagnostics"]["de"]["expert_utilisation"]
    assert len(choice["activity"]) == len(choice["mean_utilisation"]) == 5
    assert all(sum(row) == pytest.approx(1, abs=1e-4) and len(row) == 3 for row in choice["mean_utilisation"])
    assert [low for low, _ in choice["activity"]] == sorted(low for low, _ in choice["activity"])
