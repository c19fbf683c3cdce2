r"""The sum of the experts' reconstruction errors with its gradients, block by block: DE's inner loop.

With autograd every [n, M * h] intermediate (26 MB for 2,000 rows, 30 experts of 110 units) is written to fresh memory
and read again in the backward pass. The error is a sum over rows, so its gradients are known as soon as a block of
rows is through: here each block's hidden units live in two reused buffers, and the backward pass only scales what the
forward pass has found. Once the temperature has made the weights sparse, only the experts whose weight matters are run
(``sparse_experts.py``).

For a row with student vector x, expert weights s, teacher vector t, and with H_m = relu(x W1_m + b1_m):

    e = sum_m s_m (H_m W2_m + b2_m) - t,    error = |e|^2 (or |e|),    g = d error / d e = 2 e (or e / |e|)
    d H_m = s_m g W2_m^T,  d s_m = <g, H_m W2_m + b2_m>,  d W2_m = s_m H_m^T g,  d b2_m = s_m g,
    and through the relu:  d W1_m = x^T d H_m [H_m > 0],  d b1_m = sum d H_m [H_m > 0],  d x = d H_m [H_m > 0] W1_m^T

Readable twin: ``mixed_experts`` and ``reconstruction_errors`` in ``distillers/de.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_derrd.ops.sparse_experts import SparseErrorSum, error_and_gradient

#: Rows of a block: two buffers of this many rows of hidden units stay in a core's cache. On an accelerator, where every
#: small product is a call, as many rows as have this many hidden units (64 MB).
_BLOCK, _BLOCK_UNITS = 192, 1 << 24
#: An expert whose weight is below this adds less than float32's rounding to a reconstruction.
NEGLIGIBLE = 1e-9
#: Share of weights that matter from which on all experts are run: hardly slower than picking there, in less memory.
_DENSE = 0.5


class _Bank(NamedTuple):
    """The experts' layers: [d_s, M * h], [M * h], [M * h, d_t] and [M, d_t]; or their gradients."""

    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor

    def zeros(self) -> _Bank:
        return _Bank(*(torch.zeros_like(part) for part in self))


class _ErrorSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, weights: Tensor, targets: Tensor, norm: str, *layers: Tensor) -> Tensor:
        total, d_embeddings, d_weights, d_bank = _blocks(embeddings, weights, targets, _Bank(*layers), norm)
        ctx.save_for_backward(d_embeddings, d_weights, *d_bank)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:
        embeddings, weights, *layers = (scale * part for part in ctx.saved_tensors)
        return (embeddings, weights, None, None, *layers)


def _rows_at_once(device: torch.device, units: int) -> int:
    return _BLOCK if device.type == "cpu" else max(_BLOCK, _BLOCK_UNITS // units)


def _blocks(
    embeddings: Tensor, weights: Tensor, targets: Tensor, bank: _Bank, norm: str
) -> tuple[Tensor, Tensor, Tensor, _Bank]:
    """Run all experts on every row."""
    n_experts = weights.shape[1]
    d_embeddings, d_weights, d_bank = torch.empty_like(embeddings), torch.empty_like(weights), bank.zeros()
    at_once = _rows_at_once(embeddings.device, bank.first.shape[1])
    hidden_buffer = embeddings.new_empty(min(at_once, len(embeddings)), bank.first.shape[1])
    weighted_buffer = torch.empty_like(hidden_buffer)
    total = embeddings.new_zeros(())
    for start in range(0, len(embeddings), at_once):
        block = slice(start, min(start + at_once, len(embeddings)))
        x, s = embeddings[block], weights[block]
        hidden = torch.addmm(bank.first_bias, x, bank.first, out=hidden_buffer[: len(x)]).relu_()
        by_expert = hidden.view(len(x), n_experts, -1)
        weighted = weighted_buffer[: len(x)]
        torch.mul(by_expert, s.unsqueeze(2), out=weighted.view_as(by_expert))
        error, gradient = error_and_gradient(
            torch.addmm(s @ bank.second_bias, weighted, bank.second) - targets[block], norm
        )
        total += error
        d_bank.second.addmm_(weighted.T, gradient)
        d_bank.second_bias.addmm_(s.T, gradient)
        d_hidden = torch.mm(gradient, bank.second.T, out=weighted)
        d_by_expert = d_hidden.view_as(by_expert)
        d_weights[block] = torch.einsum("nmh,nmh->nm", d_by_expert, by_expert).addmm_(gradient, bank.second_bias.T)
        d_by_expert *= s.unsqueeze(2)
        d_hidden *= hidden > 0
        d_bank.first.addmm_(x.T, d_hidden)
        d_bank.first_bias.add_(d_hidden.sum(dim=0))
        d_embeddings[block] = d_hidden @ bank.first.T
    return total, d_embeddings, d_weights, d_bank


def expert_error_sum(
    embeddings: Tensor,
    weights: Tensor,
    targets: Tensor,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    norm: str = "squared",
) -> Tensor:
    r"""Return sum_rows ||t - sum_m s_m E_m(x)||^2, what ``reconstruction_errors(mixed_experts(...)).sum()`` returns.

    Differentiable once, by everything but the targets.

    Args:
        embeddings: student's embeddings x [n, d_s].
        weights: expert weights s [n, M]; those below :data:`NEGLIGIBLE` may be taken for 0.
        targets: teacher's embeddings t [n, d_t].
        first: first layers side by side [d_s, M * h].
        first_bias: [M * h].
        second: second layers one below the other [M * h, d_t].
        second_bias: [M, d_t].
        norm: "squared" or "l2".
    """
    layers = (first, first_bias, second, second_bias)
    # Picking asks how many rows each expert has; on an accelerator that would stop the queue of work.
    if weights.device.type == "cpu":
        # NaN is active as well, so that it comes out.
        active = ~(weights <= NEGLIGIBLE)
        if active.sum().item() < _DENSE * active.numel():
            sparse: Tensor = SparseErrorSum.apply(embeddings, weights, targets, active, norm, *layers)
            return sparse
        # Products with weights of 1e-40 are subnormal numbers, which a CPU is slow with.
        weights = weights.where(active, 0.0)
    total: Tensor = _ErrorSum.apply(embeddings, weights, targets, norm, *layers)
    return total
