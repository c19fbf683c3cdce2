"""Options that are met exactly at their limits are taken, and beyond them refused, with every method."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_derrd.config.options.schema import Options
from recbole_derrd.distillers.cd import CDOptions
from recbole_derrd.distillers.cpd import CPDOptions
from recbole_derrd.distillers.dcd import DCDOptions
from recbole_derrd.distillers.de import DEOptions
from recbole_derrd.distillers.hetcomp.options import HetCompOptions
from recbole_derrd.distillers.htd import HTDOptions
from recbole_derrd.distillers.ir_rrd import IRRRDOptions
from recbole_derrd.distillers.nkd import NeighbourhoodDistillation, NKDOptions
from recbole_derrd.distillers.rce_kd import RCEKDOptions
from recbole_derrd.distillers.rrd import RRDOptions
from recbole_derrd.distillers.sld import SLDOptions
from recbole_derrd.distillers.unkd import UnKDOptions
from recbole_derrd.errors import OptionError
from recbole_derrd.testing import history_of

LIMITS: list[tuple[type[Options], dict[str, Any], dict[str, Any]]] = [
    (CDOptions, {"n_distill": 3, "top_n": 6}, {"n_distill": 3, "top_n": 5}),
    (CDOptions, {"n_distill": 3, "top_n": 0}, {"n_distill": 3, "top_n": 1}),
    (CDOptions, {"n_distill": 3, "guide": "uniform"}, {"n_distill": 3, "guide": "uniform", "top_n": 9}),
    (CPDOptions, {"q": 5, "top_n": 5}, {"q": 6, "top_n": 5}),
    (
        CPDOptions,
        {"temperature_start": 2.0, "temperature_end": 2.0},
        {"temperature_start": 2.0, "temperature_end": 2.1},
    ),
    (DCDOptions, {"k": 5, "top_n": 5}, {"k": 6, "top_n": 5}),
    (
        DEOptions,
        {"temperature_start": 2.0, "temperature_end": 2.0},
        {"temperature_start": 2.0, "temperature_end": 2.1},
    ),
    (
        HTDOptions,
        {"temperature_start": 2.0, "temperature_end": 2.0},
        {"temperature_start": 2.0, "temperature_end": 2.1},
    ),
    (HetCompOptions, {"k": 5, "discrepancy_k": 5, "top_n": 5}, {"k": 6, "discrepancy_k": 5, "top_n": 5}),
    (HetCompOptions, {"k": 5, "discrepancy_k": 5, "top_n": 5}, {"k": 5, "discrepancy_k": 6, "top_n": 5}),
    (IRRRDOptions, {"k": 5, "top_n": 5}, {"k": 6, "top_n": 5}),
    (IRRRDOptions, {"item_k": 5, "item_top_n": 5}, {"item_k": 6, "item_top_n": 5}),
    (RCEKDOptions, {"l": 5, "m": 5}, {"l": 6, "m": 5}),
    (RRDOptions, {"k": 5, "top_n": 5}, {"k": 6, "top_n": 5}),
    (SLDOptions, {"k": 5, "top_n": 5}, {"k": 6, "top_n": 5}),
    (UnKDOptions, {"groups": 4, "top_n": 8}, {"groups": 5, "top_n": 9}),
]


@pytest.mark.parametrize(("kind", "taken", "refused"), LIMITS)
def test_a_limit_may_be_met(kind: type[Options], taken: dict[str, Any], refused: dict[str, Any]) -> None:
    kind(**taken)
    with pytest.raises(OptionError):
        kind(**refused)


@pytest.mark.parametrize(("users", "items"), [(6, 20), (20, 6)])
def test_as_many_neighbours_as_there_are_others(users: int, items: int) -> None:
    history = history_of([[1]] * users, n_items=items + 1)
    NeighbourhoodDistillation.check(NKDOptions(neighbours=5), history)
    with pytest.raises(OptionError, match=r"of 6 (users|items) each has 5 others"):
        NeighbourhoodDistillation.check(NKDOptions(neighbours=6), history)


def test_what_hetcomps_variants_stand_for() -> None:
    assert [HetCompOptions(k=k, fine="whole").fine_lengths for k in (1, 30)] == [[1], [30]]
    assert [HetCompOptions(k=k).fine_lengths for k in (1, 2, 10, 44)] == [[1, 1], [1, 1], [5, 1], [22, 4]]
