"""DE's fused inner loop against autograd on the same formula: same errors, same gradients, at every temperature."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import recbole_derrd.ops.experts as experts
from recbole_derrd.distillers.de import gating_weights, mixed_experts, reconstruction_errors
from recbole_derrd.ops.experts import expert_error_sum


def problem(rows: int, seed: int = 0, dtype: torch.dtype = torch.float64, **sizes: int) -> dict[str, Any]:
    """Random embeddings, logits and experts, all of them asking for gradients."""
    d_s, d_t, count, hidden = (sizes.get(name, default) for name, default in zip(("s", "t", "m", "h"), (3, 5, 4, 6)))
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    return {
        "x": draw(rows, d_s), "logits": draw(rows, count), "targets": draw(rows, d_t).detach(),
        "experts": [draw(d_s, count * hidden), draw(count * hidden), draw(count * hidden, d_t), draw(count, d_t)],
    }  # fmt: skip


def both(given: dict[str, Any], tau: float, norm: str) -> tuple[list[Tensor], list[Tensor]]:
    """Loss and gradients by autograd, and by the fused function."""
    results = []
    leaves = [given["x"], given["logits"], *given["experts"]]
    for fused in (False, True):
        weights = gating_weights(given["logits"], tau)
        if fused:
            loss = expert_error_sum(given["x"], weights, given["targets"], *given["experts"], norm)
        else:
            loss = reconstruction_errors(
                given["targets"], mixed_experts(given["x"], weights, *given["experts"]), norm
            ).sum()
        results.append([loss.detach(), *torch.autograd.grad(3.0 * loss, leaves)])
    return results[0], results[1]


@pytest.mark.parametrize("norm", ["squared", "l2"])
@pytest.mark.parametrize("tau", [1.0, 0.3, 0.05, 0.01, 1e-3, 1e-10])
@pytest.mark.parametrize("rows", [1, 7, 500])
def test_it_equals_autograd_at_every_temperature(rows: int, tau: float, norm: str) -> None:
    expected, found = both(problem(rows), tau, norm)
    for one, other in zip(expected, found):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6 * float(one.abs().max() + 1)), (one - other).abs().max()


@pytest.mark.parametrize("tau", [1.0, 0.1, 1e-3])
def test_it_equals_autograd_in_float32_at_the_papers_size(tau: float) -> None:
    expected, found = both(problem(300, dtype=torch.float32, s=20, t=200, m=30, h=110), tau, "squared")
    for one, other in zip(expected, found):
        assert (one - other).abs().max() <= 2e-5 * one.abs().max()


def test_both_ways_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of two ways that always takes one would prove nothing about the other."""
    taken = []
    for name in ("_ErrorSum", "SparseErrorSum"):
        own = getattr(experts, name).apply
        way = SimpleNamespace(apply=lambda *a, own=own, name=name: (taken.append(name), own(*a))[1])
        monkeypatch.setattr(experts, name, way)
    both(problem(50), 1.0, "squared")
    both(problem(50), 1e-3, "squared")
    assert taken == ["_ErrorSum", "SparseErrorSum"]


@pytest.mark.parametrize("norm", ["squared", "l2"])
def test_gradcheck(norm: str) -> None:
    given = problem(5)
    weights = gating_weights(given["logits"].detach(), 1.0).requires_grad_()

    def function(x: Tensor, weights: Tensor, *parts: Tensor) -> Tensor:
        return expert_error_sum(x, weights, given["targets"], *parts, norm)

    assert torch.autograd.gradcheck(function, (given["x"], weights, *given["experts"]))


@pytest.mark.parametrize("norm", ["squared", "l2"])
@pytest.mark.parametrize("picks", [[[1], [0], [1], [3]], [[1, 2], [2], [0, 1, 2], [2]], [[3], [], [3], [0]]])
def test_gradcheck_of_picked_experts(norm: str, picks: list[list[int]]) -> None:
    """One pick a row, several, none; an expert for all and experts for nobody."""
    given = problem(len(picks), m=8)
    rows, chosen = zip(*((row, expert) for row, experts_of_row in enumerate(picks) for expert in experts_of_row))
    share = torch.linspace(0.2, 0.9, len(rows), dtype=torch.float64).requires_grad_()

    def function(x: Tensor, share: Tensor, *parts: Tensor) -> Tensor:
        weights = torch.zeros(len(picks), 8, dtype=torch.float64).index_put(
            (torch.tensor(rows), torch.tensor(chosen)), share
        )
        return expert_error_sum(x, weights, given["targets"], *parts, norm)

    assert type(function(given["x"], share, *given["experts"]).grad_fn).__name__ == "SparseErrorSumBackward"
    assert torch.autograd.gradcheck(function, (given["x"], share, *given["experts"]))


def test_the_backward_pass_of_picked_experts_can_be_repeated() -> None:
    """It works on its own copies: a second pass over a kept graph gives the same."""
    given = problem(50)
    weights = gating_weights(given["logits"], 1e-3)
    loss = expert_error_sum(given["x"], weights, given["targets"], *given["experts"])
    leaves = [given["x"], given["logits"], *given["experts"]]
    once, again = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(once, again))


def test_an_expert_that_nobody_picks_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was in the memory before."""
    given = problem(20)
    used = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda one: used(one).fill_(7))
    weights = torch.zeros(20, 4, dtype=torch.float64)
    weights[:, 2] = 1
    loss = expert_error_sum(given["x"], weights, given["targets"], *given["experts"])
    first = torch.autograd.grad(loss, given["experts"][0])[0].view(3, 4, 6)
    assert first[:, 2].any() and not first[:, [0, 1, 3]].any()


def test_a_perfect_reconstruction_has_no_slope() -> None:
    """The distance's derivative at 0 is 0 / 0 unless it is told otherwise."""
    given = problem(4)
    weights = gating_weights(given["logits"].detach(), 1.0)
    targets = mixed_experts(given["x"], weights, *given["experts"]).detach()
    loss = expert_error_sum(given["x"], weights, targets, *given["experts"], "l2")
    gradient = torch.autograd.grad(loss, given["x"])[0]
    assert torch.isfinite(gradient).all()


def test_what_is_not_a_number_comes_out_of_the_choice() -> None:
    """Otherwise the loss would be finite, and teach nothing."""
    given = problem(6)
    weights = gating_weights(given["logits"], 1e-3).detach()
    weights[2] = torch.nan
    assert expert_error_sum(given["x"], weights, given["targets"], *given["experts"]).isnan()
