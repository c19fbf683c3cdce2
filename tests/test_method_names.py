"""Names of methods as users write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_derrd.errors import OptionError
from recbole_derrd.registry import METHODS, PUBLISHED_TOGETHER, method_class, method_names, unknown_method


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["DE", "RRD"], ["de", "rrd"]),
        (["de-rrd"], ["de", "rrd"]),
        ("DE_RRD", ["de", "rrd"]),
        (["derrd", "cd"], ["de", "rrd", "cd"]),
        (["IR-RRD"], ["ir_rrd"]),
        (["irrrd"], ["ir_rrd"]),
        ("rrd+ListWise", ["rrd", "listwise"]),
        ("IR-RRD + de", ["ir_rrd", "de"]),
        (["ir_rrd+DE-RRD"], ["ir_rrd", "de", "rrd"]),
        ("MKD", ["nkd", "cpd", "sld"]),
        (["my.module.Mine"], ["my.module.Mine"]),
        ([], []),
        (None, []),
    ],
)
def test_case_and_signs_make_no_difference(written: Any, names: list[str]) -> None:
    assert method_names(written, METHODS) == names


@settings(deadline=None)
@given(st.sampled_from(sorted(METHODS)), st.data())
def test_every_spelling_of_a_name_is_that_method(name: str, data: st.DataObject) -> None:
    written = "".join(data.draw(st.sampled_from([sign, sign.upper(), "-" if sign == "_" else sign])) for sign in name)
    assert method_names([written], METHODS) == [name]


def test_what_is_published_together_is_no_name_of_its_own() -> None:
    assert not PUBLISHED_TOGETHER.keys() & METHODS.keys()
    assert all(part in METHODS for parts in PUBLISHED_TOGETHER.values() for part in parts)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("rrdd", "'rrd'"), ("de-rdr", "'de, rrd'"), ("MKKD", "'nkd, cpd, sld'"), ("xyz", "Known are")],
)
def test_a_mistake_is_told_what_was_meant(written: str, meant: str) -> None:
    assert method_names([written], METHODS) == [written]
    assert meant in unknown_method(written, METHODS)


@pytest.mark.parametrize("twice", [["de", "DE"], ["de", "de-rrd"], ["RRD", "rrd"]])
def test_a_method_under_two_spellings_is_given_twice(twice: list[str]) -> None:
    with pytest.raises(OptionError, match="given twice"):
        method_names(twice, METHODS)


@pytest.mark.parametrize(
    "name", ["..x", ".x", "x.", "a..b", "json.loads", "no_such_module.Mine", "recbole_derrd.errors.X"]
)
def test_a_path_that_names_no_method_is_a_sentence(name: str) -> None:
    with pytest.raises(OptionError, match="Cannot load the distiller"):
        method_class(name)
