"""Every key is RecBole's, ours, or the user is told; what the code of RecBole reads is found in its source."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import pytest
import recbole
from recbole.model.general_recommender import BPR
from recbole_source import keys_read

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.known_keys import mentions, recbole_keys
from recbole_derrd.config.options import RunOptions
from recbole_derrd.config.options.recbole_keys import READ_BY_CODE, SET_BY_RECBOLE
from recbole_derrd.config.options.retired import RENAMED, retired, retired_keys
from recbole_derrd.errors import OptionError
from recbole_derrd.registry import METHODS, method_class

Settings = Callable[..., dict[str, Any]]
RECBOLE = Path(recbole.__file__).parent
TEACHER = {"embedding_size": 16}


def test_every_key_that_recboles_code_reads_is_known() -> None:
    read = keys_read(RECBOLE)
    assert len(read) > 300
    assert read <= recbole_keys() | retired_keys()
    assert read >= READ_BY_CODE, "RecBole reads them no more"
    assert SET_BY_RECBOLE.keys() <= recbole_keys()


def test_reading_is_seen_in_each_form(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "a = config['a']\nb = self.config.get('b', 1)\nif 'c' in dataset.config: pass\nd = config.d\n"
        "e = config.final_config_dict['e']\nconfig['f'] = 1\ng = other['g']\n"
    )
    assert keys_read(tmp_path) == set("abcde")


@pytest.mark.parametrize(
    "key", ["tail_ratio", "eta", "token_num_threshold", "n_heads", "kg_embedding_size", "alias_of_x"]
)
def test_recboles_own_keys_pass(tiny_settings: Settings, key: str) -> None:
    assert DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **{key: 1})).unknown_keys == {"": []}


def test_what_recbole_derives_passes_too(tiny_settings: Settings) -> None:
    given = {f"{phase}_neg_sample_args": {"distribution": "uniform", "sample_num": 3} for phase in ("valid", "test")}
    assert DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **given)).unknown_keys == {"": []}


def test_a_key_with_a_hyphen_can_be_given_on_the_command_line(tiny_settings: Settings) -> None:
    config = DistillConfig("BPR", "tiny", None, tiny_settings("BPR"), ["--time-aware=True"])
    assert config["time-aware"] is True and config.unknown_keys == {"": []}


def test_new_names_are_options() -> None:
    known = {
        key
        for group in (RunOptions, *(method_class(name).options_class for name in METHODS))
        for key in group.defaults()
    }
    assert set(RENAMED.values()) <= known and not known & RENAMED.keys()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"min_user_inter_num": 5}, 'write user_inter_num_interval: "[5,inf)"'),
        ({"max_item_inter_num": 100.0, "min_item_inter_num": 5}, 'write item_inter_num_interval: "[5,100]"'),
        ({"min_user_inter_num": None}, 'write user_inter_num_interval: "[0,inf)"'),
        ({"lowest_val": {"rating": 3}}, 'write val_interval: {rating: "[3,inf)"}'),
        ({"lowest_val": {"rating": 3}, "highest_val": {"rating": 4.5}}, 'val_interval: {rating: "[3,4.5]"}'),
        ({"highest_val": {"timestamp": 9}}, 'val_interval: {timestamp: "(-inf,9]"}'),
        ({"equal_val": {"rating": 4}}, 'val_interval: {rating: "[4,4]"}'),
        ({"not_equal_val": {"rating": 0}}, 'val_interval: {rating: "(-inf,0);(0,inf)"}'),
        ({"eval_setting": "TO_LS,full"}, "{split: {LS: valid_and_test}, order: TO, group_by: user, mode: full}"),
        (
            {"eval_setting": "RO_RS,uni100", "split_ratio": [0.6, 0.2, 0.2], "group_by_user": False},
            "eval_args: {split: {RS: [0.6, 0.2, 0.2]}, order: RO, group_by: none, mode: uni100}",
        ),
        ({"group_by_user": True}, "group_by: user"),
        *(({old: 3}, f"'{old}' is called '{new}' now: write {new}: 3.") for old, new in RENAMED.items()),
        ({"train_neg_sample_args": {"uniform": 5}}, "{distribution: uniform, sample_num: 5}"),
        ({"train_neg_sample_args": {"distribution": "uniform", "sample_number": 4}}, "Did you mean 'sample_num'"),
        ({"leave_one_num": 1}, "split: {LS: valid_and_test}"),
        ({"training_neg_sample_num": 4}, "train_neg_sample_args: {distribution: uniform, sample_num: 4}"),
        ({"training_neg_sample_num": 0}, "train_neg_sample_args: null"),
        ({"neg_sampling": {"popularity": 2}}, "train_neg_sample_args: {distribution: popularity, sample_num: 2}"),
        ({"neg_sampling": None}, "train_neg_sample_args: null"),
        ({"neg_sample_num": 3}, "sample_num: 3}"),
        ({"MODEL_TYPE": "General"}, "Take it out"),
    ],
)  # fmt: skip
def test_an_old_key_is_refused_with_its_successor(tiny_settings: Settings, given: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **given))
    assert words in str(caught.value)


@pytest.mark.parametrize("key", sorted(retired_keys()))
def test_every_old_key_is_refused_for_teachers_too(tiny_settings: Settings, key: str) -> None:
    for given in ({"teacher": {key: 1}}, {"teachers": ["BPR", {"model": "LINE", key: "x"}]}):
        with pytest.raises(OptionError, match=f"in .*teacher.*'{key}'"):
            DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **given))


def test_what_is_written_instead_is_accepted(tiny_settings: Settings) -> None:
    import yaml

    unequal, sampled = {"not_equal_val": {"rating": 1}}, {"neg_sampling": {"uniform": 2}}
    for old in (
        {"eval_setting": "TO_RS,full"},
        {"leave_one_num": 1},
        {"split_ratio": [0.8, 0.2]},
        {"min_user_inter_num": 2},
        unequal,
        sampled,
    ):
        sentence = str(retired(next(iter(old)), old))
        given = yaml.safe_load(sentence.partition("write ")[2].rstrip("."))
        assert DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **given)).unknown_keys == {"": []}


def test_other_keys_are_kept_for_a_warning(tiny_settings: Settings) -> None:
    settings = tiny_settings("BPR", foo=1, bar=2, teacher={"zzz": 1}, teachers=[{"model": "LINE", "yyy": 2}])
    unknown = DistillConfig("BPR", "tiny", config_dict=settings).unknown_keys
    assert unknown == {"": ["foo", "bar"], " in 'teacher'": ["zzz"], " in number 1 of 'teachers'": ["yyy"]}


OWN = """
from recbole.model.general_recommender import BPR

class Mine(BPR):
    def __init__(self, config, dataset):
        self.mine = config["my_key"]
        # so like a key of RecBole's that it would be refused
        self.near = config["embedding_sizes"], config["rrd_of_mine"], config["split_ratio"]
        super().__init__(config, dataset)
"""


def test_keys_of_a_users_own_model_are_theirs(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_with_keys.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {"my_key": 1, "embedding_sizes": 2, "rrd_of_mine": 3, "split_ratio": 4}
    settings = tiny_settings("BPR", **own, foo=5)
    config = DistillConfig("own_with_keys.Mine", "tiny", config_dict=settings)
    assert config.unknown_keys == {"": ["foo"]}
    assert config.derived("BPR", {}, teacher=True)["my_key"] == 1, "a teacher inherits them"
    as_teacher = DistillConfig("BPR", "tiny", config_dict={**settings, "teacher_model": "own_with_keys.Mine"})
    assert as_teacher.unknown_keys == {"": ["foo"]}
    with pytest.raises(OptionError, match="Did you mean"):
        DistillConfig("BPR", "tiny", config_dict=settings)


def test_keys_are_found_in_a_class_without_source(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = ModuleType("a_notebook")
    monkeypatch.setitem(sys.modules, "a_notebook", notebook)
    exec(compile(OWN, "<cell>", "exec"), vars(notebook))
    assert issubclass(notebook.Mine, BPR)
    assert mentions("a_notebook.Mine", "my_key") and not mentions("a_notebook.Mine", "foo")
