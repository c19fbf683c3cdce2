"""A method that adds nothing to the loss is named: its student is a plain one, and no table shows it."""

from __future__ import annotations

import types
from typing import Any, Callable

import pytest

from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.training.silent_terms import SilentTerms

Settings = Callable[..., dict[str, Any]]


def methods(**weights: float) -> Any:
    return [
        types.SimpleNamespace(name=name, options=types.SimpleNamespace(weight=own)) for name, own in weights.items()
    ]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.split(" taught")[0] for line in caplog.messages if "taught the student nothing" in line]


def test_who_is_silent_in_all_epochs_is_named(caplog: pytest.LogCaptureFixture) -> None:
    terms = SilentTerms(methods(de=1.0, rrd=0.1, cd=2.0, sld=0.0))
    terms.warn()
    assert not said(caplog)
    terms.see({"de": 0.0, "rrd": 0.5, "base": 0.0})
    terms.see({"de": 0.0, "rrd": 0.0, "base": 0.7})
    terms.warn()
    assert said(caplog) == ["cd", "de"]


def test_a_sum_tells_no_terms_apart(caplog: pytest.LogCaptureFixture) -> None:
    terms = SilentTerms(methods(de=1.0))
    terms.see({"sum": 0.0})
    terms.warn()
    assert not said(caplog)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"distillers": ["rrd"], "rrd_k": 1, "rrd_l": 0}, ["rrd"]),
        ({"distillers": ["rrd"], "rrd_k": 2, "rrd_l": 0}, []),
        ({"distillers": ["rrd", "sld"], "rrd_k": 2, "rrd_l": 2, "sld_k": 1, "sld_l": 0}, ["sld"]),
    ],
)
def test_a_run_names_them(
    tiny_settings: Settings, caplog: pytest.LogCaptureFixture, options: dict[str, Any], named: list[str]
) -> None:
    run_recbole_derrd("BPR", "tiny", config_dict=tiny_settings("BPR", **options, latency_users=0, epochs=2))
    assert said(caplog) == named
