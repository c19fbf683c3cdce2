"""What the cache says of a model is checked before it is used; what is damaged is named, and the model made anew."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, Callable

import pytest

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.evaluation.latency import Latency
from recbole_derrd.model_cache.results import TrainedModel, keep_result, store_result, stored_result
from recbole_derrd.model_cache.train_or_find import MODEL, train_or_find

Settings = Callable[..., dict[str, Any]]

GOOD = TrainedModel(
    "BPR", "key", Path("x"), 10, 40, {"ndcg@5": 0.1}, {"ndcg@5": 0.2}, 1.0, [0.5, 0.5], Latency(1, 2, 3.0, "cpu", 1),
    {"a": 1}, 4.0, [[0, 0.1]], ["x"],
)  # fmt: skip
WRONG: list[Any] = [None, True, -1, 1e400, "x", [], ["x"], {}, {"x": "y"}, [[1]], [None], 10**30]
#: Values of another kind that are right all the same.
RIGHT = {
    "bytes_per_item": [None], "latency": [None], "model": ["x"], "key": ["x"], "settings": [{}, {"x": "y"}],
    "epochs": [[]], "valid_scores": [[]], "evaluation_settings": [[], ["x"]], "test_groups": [{}],
    "split_check": [None, {}, {"x": "y"}], "test.x": [-1, 1e400],
}  # fmt: skip


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    (tmp_path / "entry").mkdir()
    store_result(GOOD, tmp_path / "entry")
    (tmp_path / "entry" / MODEL).touch()
    return tmp_path / "entry"


def test_a_good_result_is_found_and_one_of_an_earlier_version_too(entry: Path) -> None:
    found = stored_result(entry, entry / MODEL)
    assert found == dataclasses.replace(GOOD, checkpoint=entry / MODEL, found=True)
    content = json.loads((entry / "result.json").read_text())
    del content["seal"]
    for name in ("bytes_per_item", "valid_scores", "evaluation_settings"):
        del content[name]
    content["test"]["auc"] = float("nan")
    (entry / "result.json").write_text(json.dumps({**content, "later": 1}))
    assert stored_result(entry, entry / MODEL) is not None, "a metric may be undefined"
    (entry / MODEL).unlink()
    assert stored_result(entry, entry / MODEL) is None


@pytest.mark.parametrize(
    "name", [*(field.name for field in dataclasses.fields(TrainedModel)), "latency.threads", "test.x"]
)
def test_a_wrong_kind_anywhere_is_named_and_counts_as_missing(
    entry: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    if name in ("checkpoint", "found"):
        return
    content, (outer, _, inner) = json.loads((entry / "result.json").read_text()), name.partition(".")
    del content["seal"]
    number = inner or name in ("params", "bytes", "seconds", "bytes_per_item")
    for place, wrong in enumerate(WRONG):
        if wrong in RIGHT.get(name, []) or (name == "seconds" and wrong is True):
            continue
        (entry / f"{place}").mkdir()
        changed = {**content, outer: {**content[outer], inner: wrong}} if inner else {**content, name: wrong}
        (entry / f"{place}" / "result.json").write_text(json.dumps(changed))
        caplog.clear()
        assert stored_result(entry / f"{place}", entry / MODEL) is None or (number and wrong is None), (name, wrong)
        assert "result.json' is damaged" in caplog.text and name.split(".")[0] in caplog.text, (name, wrong)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 5000, '{"model": "a", "model": "b"}', "\udce9"])
def test_what_is_no_result_at_all_is_named(entry: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    (entry / "result.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert stored_result(entry, entry / MODEL) is None
    assert stored_result(entry, entry / MODEL) is None
    assert caplog.text.count("counts as missing") == 1, "once a run"
    keep_result(GOOD, entry)
    assert stored_result(entry, entry / MODEL) is not None, "what was unusable is replaced"


def test_another_digit_counts_as_missing(entry: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = entry / "result.json"
    file.write_text(file.read_text().replace("0.2", "0.3", 1))
    assert stored_result(entry, entry / MODEL) is None and "checksum" in caplog.text


def test_a_model_with_a_damaged_result_is_made_anew(tiny_settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", latency_users=0))
    first = train_or_find(config)
    file = first.checkpoint.parent / "result.json"
    content = json.loads(file.read_text())
    del content["seal"]
    file.write_text(json.dumps({**content, "epochs": "x"}))
    with caplog.at_level(logging.WARNING):
        second = train_or_find(config)
    assert not second.found and second.test == first.test and "epochs is 'x', not a list" in caplog.text
    assert train_or_find(config).found
    content = json.loads(file.read_text())
    del content["seal"]
    file.write_text(json.dumps({**content, "test": {"x": 0.1}}))
    assert train_or_find(config).test == first.test, "a metric that is not there is measured anew"
