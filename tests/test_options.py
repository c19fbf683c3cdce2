"""Options say what they accept, and refuse the rest in a sentence that helps."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_derrd.config.options import RunOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.distillers.de import DEOptions
from recbole_derrd.distillers.rrd import RRDOptions
from recbole_derrd.errors import OptionError
from recbole_derrd.registry import METHODS, method_class


@pytest.mark.parametrize(
    "group",
    [RunOptions, CompressOptions, *(method_class(name).options_class for name in METHODS)],
    ids=lambda group: group.__name__,
)
def test_defaults_pass_their_own_checks_and_have_a_meaning(group: Any) -> None:
    assert group.from_keys(group.defaults()) == group()
    for key, _, _, _, meaning in group.describe():
        assert key.startswith(group.prefix) and meaning.endswith((".", ")")), key


def test_numbers_are_typed_and_ranged() -> None:
    assert RRDOptions.from_keys({"rrd_weight": 1}).weight == 1.0
    assert RRDOptions.from_keys({"rrd_k": 20.0}).k == 20
    for keys, words in [
        ({"rrd_k": 0}, "'rrd_k' must be at least 1"),
        ({"rrd_k": 2.5}, "'rrd_k' must be int"),
        ({"rrd_k": True}, "'rrd_k' must be int"),
        ({"rrd_k": "many"}, "'rrd_k' must be int"),
        ({"rrd_weight": -1}, "'rrd_weight' must be at least 0"),
        ({"rrd_weight": float("nan")}, "finite"),
        ({"rrd_decay": 0}, "above 0"),
    ]:
        with pytest.raises(OptionError, match=words):
            RRDOptions.from_keys(keys)


def test_choices_suggest_the_nearest() -> None:
    with pytest.raises(OptionError, match="Did you mean 'attention'"):
        DEOptions.from_keys({"de_gating": "atention"})


def test_default_containers_are_not_shared() -> None:
    RunOptions().teacher["embedding_size"] = 1
    assert RunOptions().teacher == {}
