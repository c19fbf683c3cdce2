"""The search for a rotation that few bits lose little with: against plain linear algebra."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_derrd.ops import rotation as rotation_module
from recbole_derrd.ops.rotation import learned_rotation, random_rotation


def some_rows(count: int = 60, size: int = 6) -> Tensor:
    """Rows of unlike lengths, some with one large number: their best steps differ."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64)
    rows[::3, 0] *= 8
    return rows * torch.rand(count, 1, generator=generator, dtype=torch.float64).add(0.1)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def test_a_round_finds_the_best_rotation_for_its_codes() -> None:
    """One bit: the codes are signs at the row's mean magnitude, and the rotation is Procrustes' for them."""
    rows, before = some_rows(), random_rotation(6, 4).double()
    turned = unit(rows) @ before
    codes = turned.sign() * turned.abs().mean(dim=1, keepdim=True)
    left, _, right = torch.linalg.svd(unit(rows).T @ codes)
    torch.testing.assert_close(learned_rotation(rows, bits=1, seed=4, rounds=1), left @ right)


def test_of_many_rows_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows()
    monkeypatch.setattr(rotation_module, "_MOST_ROWS", 20)
    some = torch.randperm(60, generator=torch.Generator().manual_seed(7))[:20]
    found = learned_rotation(rows, bits=1, seed=7)
    assert torch.equal(found, learned_rotation(rows[some], bits=1, seed=7))
    assert not torch.equal(found, learned_rotation(rows, bits=1, seed=8))


def test_the_search_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        learned_rotation(some_rows(), bits=1, seed=0, rounds=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
