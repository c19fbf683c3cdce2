"""What the cache says of a model is checked before it is used; what is damaged is named, and the model made anew."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
from pathlib import Path
from typing import Any, Callable

import pytest

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.errors import DistillError
from recbole_derrd.evaluation.latency import Latency
from recbole_derrd.model_cache.results import RESULT, TrainedModel, read_result, write_result
from recbole_derrd.model_cache.train_or_find import MODEL, train_or_find
from recbole_derrd.runtime.artifact_cache import ArtifactCache
from recbole_derrd.runtime.stored_arrays import sealed

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
    write_result(GOOD, tmp_path / "entry")
    (tmp_path / "entry" / MODEL).touch()
    return tmp_path / "entry"


def found_in(entry: Path, checkpoint: Path | None = None) -> TrainedModel | None:
    """Look a result up as a run does."""
    return ArtifactCache(entry.parent).get(entry.name, lambda folder: read_result(folder, checkpoint or folder / MODEL))


def content_of(file: Path) -> dict[str, Any]:
    """Return what a result holds, without its seal."""
    content: dict[str, Any] = json.loads(file.read_text())
    del content["seal"]
    return content


def test_a_good_result_is_found(entry: Path) -> None:
    assert found_in(entry) == dataclasses.replace(GOOD, checkpoint=entry / MODEL, found=True)
    content = content_of(entry / RESULT)
    content["test"]["auc"] = float("nan")
    (entry / RESULT).write_text(sealed({**content, "unknown": 1}))
    assert found_in(entry) is not None, "a metric may be undefined"
    (entry / MODEL).unlink()
    assert found_in(entry) is None


@pytest.mark.parametrize("name", ["seal", "bytes_per_item", "valid_scores", "evaluation_settings", "test_groups"])
def test_a_result_without_one_of_its_parts_counts_as_missing(
    entry: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    content = content_of(entry / RESULT)
    content.pop(name, None)
    (entry / RESULT).write_text(json.dumps(content) if name == "seal" else sealed(content))
    assert found_in(entry) is None and "is damaged: 'result.json'" in caplog.text
    assert ("checksum" if name == "seal" else f"{name} is missing") in caplog.text


@pytest.mark.parametrize(
    "name", [*(field.name for field in dataclasses.fields(TrainedModel)), "latency.threads", "test.x"]
)
def test_a_wrong_kind_anywhere_is_named_and_counts_as_missing(
    entry: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    if name in ("checkpoint", "found"):
        return
    content, (outer, _, inner) = content_of(entry / RESULT), name.partition(".")
    number = inner or name in ("params", "bytes", "seconds", "bytes_per_item")
    for place, wrong in enumerate(WRONG):
        if wrong in RIGHT.get(name, []) or (name == "seconds" and wrong is True):
            continue
        (entry / f"{place}").mkdir()
        changed = {**content, outer: {**content[outer], inner: wrong}} if inner else {**content, name: wrong}
        (entry / f"{place}" / RESULT).write_text(sealed(changed))
        caplog.clear()
        assert found_in(entry / f"{place}", entry / MODEL) is None or (number and wrong is None), (name, wrong)
        assert "is damaged: 'result.json'" in caplog.text and name.split(".")[0] in caplog.text, (name, wrong)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 5000, '{"model": "a", "model": "b"}', "\udce9"])
def test_what_is_no_result_at_all_is_named(entry: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    (entry / RESULT).write_text(text, encoding="utf-8", errors="surrogateescape")
    assert found_in(entry) is None and found_in(entry) is None
    assert caplog.text.count("counts as missing") == 1, "once a run"
    ArtifactCache(entry.parent).get_or_build(
        entry.name, lambda folder: write_result(GOOD, folder), lambda folder: read_result(folder, folder), doing="x"
    )
    (entry / MODEL).touch()
    assert found_in(entry) is not None, "what was unusable is replaced"


def test_another_digit_counts_as_missing(entry: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = entry / RESULT
    file.write_text(file.read_text().replace("0.2", "0.3", 1))
    assert found_in(entry) is None and "checksum" in caplog.text


def test_a_result_that_the_system_does_not_give_is_no_damage(
    entry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that took hours must not be trained again because of a right or a limit."""
    for number, words in ((errno.EACCES, "cannot be read: Permission denied"), (errno.EMFILE, "ulimit -n")):

        def refuse(*_: Any, number: int = number) -> Any:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched, pytest.raises(DistillError, match=words):
            patched.setattr("recbole_derrd.runtime.json_files.os.open", refuse)
            found_in(entry)
    assert "damaged" not in caplog.text and found_in(entry) is not None


def test_a_model_with_a_damaged_result_is_made_anew(tiny_settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", latency_users=0))
    first = train_or_find(config)
    file = first.checkpoint.parent / RESULT
    file.write_text(sealed({**content_of(file), "epochs": "x"}))
    with caplog.at_level(logging.WARNING):
        second = train_or_find(config)
    assert not second.found and second.test == first.test and "epochs is 'x', not a list" in caplog.text
    assert train_or_find(config).found
    file.write_text(sealed({**content_of(file), "test": {"x": 0.1}}))
    assert train_or_find(config).test == first.test, "a metric that is not there is measured anew"


def test_a_setting_may_have_keys_that_json_does_not_know(tmp_path: Path) -> None:
    """It is written when the training is over."""
    (tmp_path / "entry").mkdir()
    write_result(dataclasses.replace(GOOD, settings={"own": {(1, 2): 3}}), tmp_path / "entry")
    (tmp_path / "model.pth").write_bytes(b"")
    found = read_result(tmp_path / "entry", tmp_path / "model.pth")
    assert found is not None and found.settings == {"own": {"(1, 2)": 3}}
