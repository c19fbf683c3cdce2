"""``fast`` with kernels takes them, and without them takes none: both give one value, so only this tells them apart."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from recbole_derrd.registry import method_class
from recbole_derrd.testing import LossContract, make_world, some_rows

from .hetcomp_world import world_of


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("method", "module", "kernel"),
    [
        ("listwise", "recbole_derrd.distillers.listwise", "cross_entropy_sum"),
        ("hetcomp", "recbole_derrd.distillers.hetcomp.method", "partition_sum"),
        ("de", "recbole_derrd.distillers.de", "expert_error_sum"),
        ("rrd", "recbole_derrd.adapters.base", "listed_products"),
        ("ftd", "recbole_derrd.distillers.ftd", "gram_distance"),
        ("htd", "recbole_derrd.distillers.htd", "grouped_distance"),
    ],
)
def test_kernels_are_taken_where_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, module: str, kernel: str, fused: bool
) -> None:
    calls, place = [], importlib.import_module(module)
    whole = getattr(place, kernel)
    monkeypatch.setattr(place, kernel, lambda *given: (calls.append(1), whole(*given))[1])
    rows = some_rows(12, 41, 10)
    world: Any = world_of(tmp_path, rows) if method == "hetcomp" else make_world(tmp_path, rows, n_items=41)
    world.student.fused = fused
    kind = method_class(method)
    distiller = kind(kind.options_class(**kind.test_settings), world.knowledge, world.student, 1)
    distiller.begin_epoch(0)
    calls.clear()
    distiller(LossContract.batch)
    assert bool(calls) is fused
