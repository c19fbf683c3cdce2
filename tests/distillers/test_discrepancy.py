"""The discrepancy of two rankings: against plain loops, known values, what it implies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_derrd.distillers.hetcomp.discrepancy import discrepancy


def naive(student: list[int], teacher: list[int]) -> float:
    """Return 1 - NDCG position by position."""
    student, teacher = [i for i in student if i], [i for i in teacher if i]
    gain = lambda t: 2 ** math.exp(-t / 10) - 1  # noqa: E731
    found = most = 0.0
    for t, item in enumerate(student):
        if item in teacher:
            found += gain(t) / math.log2(t + 2)
    for t in range(len(student)):
        most += gain(t) / math.log2(t + 2)
    return 1 - found / most if most else 0.0


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Two rankings of ids 1 .. 12, of the same length, both short by as many where they are short."""
    length, missing = draw(st.integers(1, 8)), draw(st.integers(0, 8))
    held = max(0, length - missing)
    one, other = (draw(st.permutations(range(1, 13)))[:held] + [0] * (length - held) for _ in range(2))
    return one, other


@given(st.lists(pairs(), min_size=1, max_size=1), st.integers(1, 10))
@settings(max_examples=150, deadline=None)
def test_plain_loops(rows: list[tuple[list[int], list[int]]], k: int) -> None:
    student, teacher = (torch.tensor([row[side] for row in rows], dtype=torch.int32) for side in (0, 1))
    expected = [naive(own[:k], theirs[:k]) for own, theirs in rows]
    found = discrepancy(student, teacher, k)
    assert found.tolist() == pytest.approx(expected, abs=1e-12) and (found >= 0).all() and (found <= 1).all()


def test_rows_do_not_meet() -> None:
    """Many rows at once give what each gives alone."""
    generator = torch.Generator().manual_seed(0)
    own, theirs = (torch.rand(50, 30, generator=generator).argsort(dim=1)[:, :12] + 1 for _ in range(2))
    alone = torch.cat([discrepancy(own[row : row + 1], theirs[row : row + 1], 9) for row in range(50)])
    assert torch.equal(discrepancy(own, theirs, 9), alone) and len(alone.unique()) > 20


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([5, 7, 2, 1], [7, 5, 1, 9], 0.171935),
        ([5, 7, 2, 1], [1, 2, 5, 7], 0.0),
        ([5, 7, 2, 1], [3, 4, 6, 8], 1.0),
    ],
)
def test_golden(student: list[int], teacher: list[int], expected: float) -> None:
    """Origin: computed for this project's specification by a script of its own (section 9)."""
    found = discrepancy(torch.tensor([student]), torch.tensor([teacher]), 4).item()
    assert found == pytest.approx(expected, abs=5e-7)


def test_head_weighs_most() -> None:
    """Published shares of positions 1 / 5 / 10 / 20 / 30 of 50 in the whole."""
    own = torch.arange(1, 51).repeat(5, 1)
    theirs = own.clone()
    for row, count in enumerate((1, 5, 10, 20, 30)):
        theirs[row, count:] += 100
    shares = 1 - discrepancy(own, theirs, 50)
    assert shares.tolist() == pytest.approx([0.263, 0.645, 0.823, 0.948, 0.984], abs=6e-4)


def test_the_teachers_order_does_not_matter() -> None:
    own, theirs = torch.tensor([[1, 2, 3]]), torch.tensor([[3, 2, 1]])
    assert discrepancy(own, theirs, 3).item() == discrepancy(own, own, 3).item() == 0


def test_padding_is_no_item() -> None:
    """A user who has seen all but two items, and one who has seen all."""
    own, theirs = torch.tensor([[4, 9, 0, 0], [0, 0, 0, 0]]), torch.tensor([[9, 4, 0, 0], [0, 0, 0, 0]])
    assert discrepancy(own, theirs, 4).tolist() == [0, 0]
