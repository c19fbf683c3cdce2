"""The fused choice of experts against autograd on the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_derrd.distillers.de import gating_weights, gumbel_noise
from recbole_derrd.distillers.gating import chosen_weights


def problem(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Teacher's embeddings, selection network and noise."""
    generator = torch.Generator().manual_seed(rows)
    embeddings, select, bias = (
        torch.randn(shape, generator=generator, dtype=dtype) for shape in ((rows, 5), (5, 4), (4,))
    )
    return embeddings, select.requires_grad_(), bias.requires_grad_(), gumbel_noise((rows, 4), generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01, 1e-3, 1e-10])
def test_it_equals_autograd_at_every_temperature(tau: float, noisy: bool, dtype: torch.dtype) -> None:
    embeddings, select, bias, noise = problem(200, dtype)
    gradient = torch.randn(200, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    results = []
    for fused in (False, True):
        given = noise if noisy else None
        if fused:
            weights = chosen_weights(embeddings, select, bias, tau, given)
        else:
            weights = gating_weights(torch.addmm(bias, embeddings, select), tau, given)
        results.append([weights.detach(), *torch.autograd.grad(weights, (select, bias), gradient)])
    small = 1e-9 if dtype == torch.float64 else 1e-5
    for one, other in zip(*results):
        # A logit that is rounded otherwise moves a weight by the difference over the temperature.
        assert (one - other).abs().max() <= small * (one.abs().max() + 1) / min(1, 10 * max(tau, 1e-3))


def test_noise_is_left_alone() -> None:
    embeddings, select, bias, noise = problem(20)
    before = noise.clone()
    chosen_weights(embeddings, select, bias, 0.1, noise)
    assert torch.equal(noise, before)


@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_gradcheck(tau: float) -> None:
    embeddings, select, bias, noise = problem(6)
    assert torch.autograd.gradcheck(lambda *own: chosen_weights(embeddings, *own, tau, noise), (select, bias))


def test_settled_rows_have_no_gradient() -> None:
    embeddings, select, bias, noise = problem(50)
    weights = chosen_weights(embeddings, select, bias, 1e-10, noise)
    assert (weights.amax(dim=1) == 1).all()
    gradients = torch.autograd.grad(weights, (select, bias), torch.ones_like(weights).cumsum(dim=1))
    assert all((gradient == 0).all() for gradient in gradients)
