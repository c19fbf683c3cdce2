"""Filters of interactions: what is accepted here is what RecBole filters by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.dataset import Dataset

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.filters import check_counts, check_threshold, check_values, intervals_of
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment.preflight import check_data

Settings = Callable[..., dict[str, Any]]


def as_recbole_reads(value: Any) -> tuple[list[Any] | None, list[str]]:
    """What RecBole makes of it and the warnings it logs; None where it fails."""
    warnings: list[str] = []
    stub = SimpleNamespace(logger=SimpleNamespace(warning=warnings.append))
    try:
        return Dataset._parse_intervals_str(stub, value), warnings
    except (ValueError, IndexError):
        return None, warnings


_ENDS = st.one_of(st.integers(-3, 9).map(str), st.sampled_from(["inf", "-inf", " 2", "1.5", "nan", "x", ""]))
_PARTS = st.builds(lambda a, x, comma, y, b: a + x + comma + y + b, st.sampled_from(["[", "(", "", "{"]), _ENDS,
                   st.sampled_from([",", ",", ";", " "]), _ENDS, st.sampled_from(["]", ")", "", "}"]))  # fmt: skip
_VALUES = st.one_of(
    st.lists(_PARTS, max_size=3).map(";".join), st.integers(-5, 9), st.lists(st.integers(-3, 9), max_size=3)
)


@settings(deadline=None)
@given(_VALUES)
def test_what_is_accepted_is_read_by_recbole_without_a_word(value: Any) -> None:
    read, warnings = as_recbole_reads(value)
    try:
        ours = intervals_of("x", value)
    except OptionError:
        # Nothing that RecBole could have filtered by is refused, but intervals that no number lies in.
        wide = [x < y or (x == y and a + b == "[]") for a, x, y, b in read or []]
        assert not wide or warnings or not all(wide) or any(x != x or y != y for _, x, y, _ in read or [])
    else:
        assert ours == read and not warnings


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("[("), st.integers(-2, 6), st.integers(-2, 6), st.sampled_from("])")),
        min_size=1,
        max_size=2,
    )
)
def test_intervals_of_counts_hold_a_count(parts: list[tuple[str, int, int, str]]) -> None:
    text = ";".join(f"{a}{x},{y}{b}" for a, x, y, b in parts)
    empty = [x > y or (x == y and a + b != "[]") for a, x, y, b in parts]
    held = [
        n
        for n in range(1, 9)
        for a, x, y, b in parts
        if (x <= n if a == "[" else x < n) and (n <= y if b == "]" else n < y)
    ]
    if held and not any(empty):
        check_counts("x", text)
    else:
        with pytest.raises(OptionError):
            check_counts("x", text)


def test_halves_and_infinities_are_no_counts() -> None:
    check_counts("x", "(4.5,5.5)")
    check_counts("x", "[0,inf)")
    for text in ("(4.5,4.7)", "[inf,inf]", "(-inf,0]"):
        with pytest.raises(OptionError, match="no number of interactions"):
            check_counts("x", text)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"user_inter_num_interval": "13,inf"}, "user_inter_num_interval must be an interval in quotes"),
        ({"item_inter_num_interval": "xx"}, "item_inter_num_interval must be an interval in quotes"),
        ({"user_inter_num_interval": 5}, 'At least 5 is "[5,inf)"'),
        ({"user_inter_num_interval": "[5,3]"}, "without any number"),
        ({"val_interval": {"rating": 4}}, 'At least 4 is "[4,inf)"'),
        ({"val_interval": {"rating": None}}, "rating in val_interval must be an interval"),
        ({"val_interval": {"item_id": []}}, "empty list"),
        ({"val_interval": "[3,inf)"}, "must name columns"),
        ({"threshold": 4}, "threshold must be one column"),
        ({"threshold": {"rating": "4"}}, "threshold must be one column"),
        ({"threshold": {"rating": True}}, "threshold must be one column"),
        ({"threshold": {"rating": 3, "timestamp": 4}}, "threshold must be one column"),
    ],
)  # fmt: skip
def test_what_recbole_ignores_is_refused(tiny_settings: Settings, wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **wanted))
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [None, "[5,inf)", "[1,2];[4,9]", [2, 30], "(0, 8]"])
def test_intervals_pass(value: Any) -> None:
    check_counts("x", value)
    check_values(None if value is None else {"rating": value, "item_id": ["a", "b"]})
    check_threshold(None if value is None else {"rating": 3.5})


@pytest.mark.parametrize("column", [["rating"], ["rating", "timestamp"]])
def test_a_list_for_a_column_of_numbers_is_refused_once_its_type_is_known(
    tiny_settings: Settings, column: list[str]
) -> None:
    """RecBole takes [3, 4, 5] for no interval at all, and drops one row for it."""
    load = {"inter": ["user_id", "item_id", *column]}
    given_so = tiny_settings("BPR", val_interval={"rating": [3, 4, 5]}, load_col=load)
    config = DistillConfig("BPR", "tiny", config_dict=given_so)
    with pytest.raises(OptionError, match="rating in val_interval must be an interval"):
        check_data(config, prepare_data(config))
    again = DistillConfig(
        "BPR", "tiny", config_dict={**given_so, "val_interval": {"rating": "[3,5]", "item_id": ["i1"]}}
    )
    again["val_interval"] = {"rating": "[3,5]"}
    check_data(again, prepare_data(again))


def test_a_column_that_is_filtered_by_and_then_dropped_is_looked_at(tiny_settings: Settings) -> None:
    load = {"inter": ["user_id", "item_id", "rating"]}
    given = tiny_settings("BPR", val_interval={"rating": [3, 4, 5]}, load_col=load, unused_col={"inter": ["rating"]})
    with pytest.raises(OptionError, match="rating in val_interval must be an interval"):
        prepare_data(DistillConfig("BPR", "tiny", config_dict=given))
