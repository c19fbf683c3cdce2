"""A data set's file with a head that RecBole only stumbles over."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

from recbole_derrd.config import DistillConfig
from recbole_derrd.data import prepare_data
from recbole_derrd.errors import DataError

Settings = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("user_id\titem_id\nu\ti\n", "name:type in the first line"),
        ("user_id:token,item_id:token\nu,i\n", "Set field_separator"),
        ("user:token\titem_id:token\nu\ti\n", "has no column 'user_id', only user, item_id.*--USER_ID_FIELD="),
    ],
)
def test_the_fault_is_named(tiny_settings: Settings, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "odd.inter").write_text(content, encoding="utf-8")
    config = DistillConfig("BPR", "odd", config_dict=tiny_settings("BPR", data_path=str(tmp_path)))
    with pytest.raises(DataError, match=f"'odd' cannot be read: .*odd.inter' .*{words}"):
        prepare_data(config)


def test_labels_are_part_of_what_a_model_has_seen(tiny_settings: Settings, tmp_path: Path) -> None:
    """Other ratings, other labels, another teacher; ratings without a threshold change nothing."""
    given = tiny_settings("NeuMF", load_col={"inter": ["user_id", "item_id", "rating"]})
    text = (Path(given["data_path"]) / "tiny" / "tiny.inter").read_text(encoding="utf-8")
    (tmp_path / "tiny").mkdir()
    other = text.replace("\t5\t", "\t2\t")
    (tmp_path / "tiny" / "tiny.inter").write_text(other, encoding="utf-8")

    def fingerprint(**more: Any) -> Any:
        return prepare_data(DistillConfig("NeuMF", "tiny", config_dict={**given, **more})).fingerprint

    labelled = {"threshold": {"rating": 4}, "train_neg_sample_args": None}
    assert fingerprint() == fingerprint(data_path=str(tmp_path))
    assert fingerprint(**labelled) != fingerprint(**labelled, data_path=str(tmp_path))
