"""RRD's fused loss against autograd on the plain formula: same values, same gradients, whatever the scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_derrd.distillers import ranking
from recbole_derrd.distillers.ranking import ranking_losses
from recbole_derrd.distillers.rrd import relaxed_ranking_loss

SIZES = [(1, 0), (1, 3), (4, 0), (3, 5), (40, 40)]


def normal(*shape: int, seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return seeded normal numbers."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def both(scores: Tensor, k: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Losses and gradients, each user with a weight of its own: by autograd on the formula, and fused."""
    weights = torch.linspace(0.5, 2, len(scores), dtype=scores.dtype)
    results = []
    for loss in (lambda s: relaxed_ranking_loss(s[:, :k], s[:, k:]), lambda s: ranking_losses(s, k)):
        leaf = scores.clone().requires_grad_()
        losses = loss(leaf)
        results.append((losses.detach(), torch.autograd.grad((losses * weights).sum(), leaf)[0]))
    return results[0], results[1]


@pytest.mark.parametrize(("k", "l"), SIZES)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 1000.0])
def test_it_equals_autograd(k: int, l: int, scale: float) -> None:  # noqa: E741
    expected, found = both(normal(7, k + l, seed=1, scale=scale), k)
    for one, other in zip(expected, found):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.1, 3.0, 10.0])
def test_it_equals_double_precision_in_float32_at_the_papers_size(scale: float) -> None:
    """Forty terms of float32, each with a few roundings of the sums."""
    scores = normal(900, 80, seed=2, scale=scale, dtype=torch.float32)
    (losses, gradient), _ = both(scores.double(), 40)
    _, found = both(scores, 40)
    torch.testing.assert_close(found[0].double(), losses, rtol=2e-6, atol=0)
    torch.testing.assert_close(found[1].double(), gradient, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "row",
    [
        [1e4, -1e4, 0.0, 90.0, -1e4, 1e4, 88.0],
        [-1e4, -1e4, -1e4, -1e4, 1e4, 1e4, 1e4],
        [1e4, 1e4, 1e4, 1e4, -1e4, -1e4, -1e4],
        [1e4, 9.9e3, 9.8e3, 9.7e3, -1e4, -1e4, -1e4],
        [-1e4, 0.0, 50.0, 1e4, -1e4, -1e4, -1e4],
    ],
)
def test_extreme_scores_in_float32(row: list[float]) -> None:
    """exp() holds none of them; the plain formula in double precision does it in logarithms."""
    scores = torch.tensor([row, [0.0] * len(row)])
    (losses, gradient), _ = both(scores.double(), 4)
    _, found = both(scores, 4)
    torch.testing.assert_close(found[0].double(), losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].double(), gradient, rtol=1e-4, atol=1e-5)


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_scores_in_double_precision(rows: list[list[float]]) -> None:
    expected, found = both(torch.tensor(rows, dtype=torch.float64), 3)
    for one, other in zip(expected, found):
        torch.testing.assert_close(other, one, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("gap", [40.0, 50.0, 54.0, 56.0, 60.0, 90.0, 200.0])
def test_around_the_change_of_ways_in_float32(gap: float) -> None:
    """The last interesting and all uninteresting items lie ever further below the first: plain sums underflow."""
    scores = torch.tensor([[0.0, -gap / 2, -gap + 1, -gap, -gap, -gap - 3]])
    (losses, gradient), _ = both(scores.double(), 3)
    _, found = both(scores, 3)
    torch.testing.assert_close(found[0].double(), losses, rtol=2e-6, atol=1e-5)
    torch.testing.assert_close(found[1].double(), gradient, rtol=1e-5, atol=1e-5)


def test_both_ways_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of two ways that always takes one would prove nothing about the other."""
    taken, own = [], ranking._log_tails
    monkeypatch.setattr(ranking, "_log_tails", lambda *given: (taken.append(1), own(*given))[1])
    ranking_losses(normal(3, 6, seed=1), 4)
    assert not taken
    ranking_losses(normal(3, 6, seed=1, scale=1000.0), 4)
    assert taken


@pytest.mark.parametrize(("k", "l"), [(1, 2), (3, 0), (3, 4)])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_gradcheck(k: int, l: int, scale: float) -> None:  # noqa: E741
    assert torch.autograd.gradcheck(
        lambda scores: ranking_losses(scores, k), normal(3, k + l, seed=4, scale=scale).requires_grad_()
    )


def test_not_a_number_stays_one() -> None:
    """A student that has blown up must be seen in the loss."""
    scores = torch.tensor([[0.0, float("nan"), 1.0], [0.0, 1.0, 2.0]])
    losses = ranking_losses(scores, 2)
    assert losses[0].isnan() and losses[1].isfinite()


def test_the_scores_are_left_alone() -> None:
    scores = normal(3, 5, seed=1)
    before = scores.clone()
    leaf = scores.requires_grad_()
    losses = ranking_losses(leaf, 2)
    once, again = (torch.autograd.grad(losses.sum(), leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(scores, before) and torch.equal(once, again)
