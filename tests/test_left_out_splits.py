"""Runs without a validation or a test split: fixed epochs, undefined metrics, and what cannot work is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.evaluation import left_out
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, OptionError
from recbole_derrd.model_cache.train_or_find import train_or_find
from recbole_derrd.quick_start import objective_function, run_recbole_derrd
from recbole_derrd.report import RunRecord, run_table
from recbole_derrd.report.document import report_of

Settings = Callable[..., dict[str, Any]]
NO_VALID, NO_TEST = "no validation split", "no test split"
SPLITS = [
    ({"RS": [0.8, 0.2, 0]}, (NO_TEST,)),
    ({"RS": [0.8, 0, 0.2]}, (NO_VALID,)),
    ({"RS": [1, 0, 0]}, (NO_VALID, NO_TEST)),
    ({"LS": "valid_only"}, (NO_TEST,)),
    ({"LS": "test_only"}, (NO_VALID,)),
]


def of_split(split: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"eval_args": {"split": split, "order": "RO", "group_by": "user", "mode": "full"}, **more}


@pytest.mark.parametrize(("split", "without"), SPLITS, ids=str)
def test_a_run_without_a_split(tiny_settings: Settings, tmp_path: Path, split: Any, without: tuple[str, ...]) -> None:
    records = tmp_path / "records"
    more = {"distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "latency_users": 0, "store_bits": 4}
    settings = tiny_settings(
        "BPR", **of_split(split), **more, epochs=6, stopping_step=9,
        teacher={"embedding_size": 16}, record_dir=str(records),
    )  # fmt: skip
    record = run_recbole_derrd("BPR", "tiny", config_dict=settings)
    entries = [record[part] for part in ("teacher", "student", "distilled", "stored")]
    for part, missing in (("valid", NO_VALID), ("test", NO_TEST)):
        for entry in entries:
            assert set(entry[part]) == {"ndcg@5", "recall@5"}
            assert all(math.isnan(value) == (missing in without) for value in entry[part].values())
        assert any(missing in sentence for sentence in record["warnings"]) == (missing in without)
    for entry in entries[:3]:
        assert bool(entry["valid_scores"]) == (NO_VALID not in without) and entry["epochs"] == 6
    rows = [line.split() for line in run_table(RunRecord.from_json(record)).splitlines() if line.startswith("Teacher")]
    assert (rows[0][2] == "-") == (NO_TEST in without)
    assert "nan" not in report_of([records], "md")
    again = run_recbole_derrd("BPR", "tiny", config_dict=settings)
    assert again["teacher"]["found"] and again["student"]["found"]
    last = torch.load(record["checkpoints"]["student"], weights_only=False)
    assert last["epoch"] == 5 or NO_VALID not in without


@pytest.mark.parametrize("mode", ["uni5", "fixed5", "full"])
@pytest.mark.parametrize(("split", "without"), SPLITS[:3], ids=str)
def test_every_mode_of_ranking(tiny_settings: Settings, split: Any, without: tuple[str, ...], mode: str) -> None:
    settings = tiny_settings("BPR", **of_split(split))
    settings["eval_args"]["mode"] = mode
    config = DistillConfig("BPR", "tiny", config_dict=settings)
    data = prepare_data(config)
    assert (not data.valid, not data.test) == (NO_VALID in without, NO_TEST in without)
    trained = train_or_find(config, data)
    assert math.isnan(trained.valid["ndcg@5"]) == (NO_VALID in without)
    assert math.isnan(trained.test["ndcg@5"]) == (NO_TEST in without)


def test_the_last_epoch_is_stock_recboles(tiny_settings: Settings, tmp_path: Path) -> None:
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    settings = tiny_settings("BPR", **of_split({"RS": [0.8, 0, 0.2]}), epochs=3, distillers=[], latency_users=0)
    record = run_recbole_derrd("BPR", "tiny", config_dict={**settings, "record_dir": str(tmp_path / "records")})
    config = DistillConfig("BPR", "tiny", config_dict={**settings, "checkpoint_dir": str(tmp_path / "stock")})
    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    trainer = Trainer(config, get_model("BPR")(config, train._dataset))
    assert trainer.fit(train, None, saved=True)[1] is None
    here = torch.load(record["checkpoints"]["student"], weights_only=False)["state_dict"]
    assert all(torch.equal(value, here[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.evaluate(test, load_best_model=False)["ndcg@5"] == record["distilled"]["test"]["ndcg@5"]


def test_which_splits_are_left_out() -> None:
    def of(split: Any, files: Any = None) -> set[str]:
        return set(left_out({"benchmark_filename": files, "eval_args": {"split": split}}))

    assert of({"RS": [8, 1, 1]}) == of({"LS": "valid_and_test"}) == of({"TS": [8, 1, 1]}) == set()
    assert of({"TS": [8, 2, 0.0]}) == of({"LS": "valid_only"}) == {"test"}
    assert of({"RS": [8, 0, 1]}) == of({"LS": "test_only"}) == {"validation"}
    assert of({"RS": [8, 0, 0]}) == {"validation", "test"} and of({"RS": [8, 0, 0]}, ["a", "b", "c"]) == set()


def test_what_needs_a_validation_split_is_refused(tiny_settings: Settings, tmp_path: Path) -> None:
    settings = tiny_settings("BPR", **of_split({"RS": [0.8, 0, 0.2]}), latency_users=0)
    settings["record_dir"] = str(tmp_path / "records")
    with pytest.raises(OptionError, match="eval_args leaves none"):
        objective_function({**settings, "model": "BPR", "dataset": "tiny"})
    own = run_recbole_derrd("BPR", "tiny", config_dict={**settings, "distillers": []})["checkpoints"]["student"]
    rrd = {"distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "compare_student": False}
    assert run_recbole_derrd("BPR", "tiny", config_dict={**settings, **rrd, "teacher_checkpoint": own})["teacher"]
    content = torch.load(own, weights_only=False)
    del content["derrd"]
    stock = tmp_path / "stock.pth"
    torch.save(content, stock)
    with pytest.raises(CheckpointError, match=r"leaves no validation split.*teacher_trusted"):
        run_recbole_derrd("BPR", "tiny", config_dict={**settings, **rrd, "teacher_checkpoint": str(stock)})
