r"""The sum of the experts' reconstruction errors where few experts matter: DE's inner loop once the choice is cold.

A pair (row, expert) is active where its weight matters. The pairs are sorted by expert, so that each expert's rows lie
together, and each layer of each expert is one matrix product without copies. Going from pairs to rows and back is a sum
over bags of rows. With the pairs' inputs X, weights s and gradients g = d error / d reconstruction, expert by expert:

    H = relu(X W1 + b1),  Y = H W2 + b2,  reconstruction = sum over a row's pairs of s Y
    d s = <g, Y>,  G = s g,  d W2 = H^T G,  d b2 = sum G,
    D = G W2^T [H > 0],  d W1 = X^T D,  d b1 = sum D,  d X = D W1^T

The products are numpy's, whose calls cost a third of torch's: a step makes 360 of them, and each takes microseconds.
Readable twin: ``mixed_experts`` and ``reconstruction_errors`` in ``distillers/de.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Spans = list[tuple[int, slice, slice]]


def error_and_gradient(error: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Return the sum of the rows' errors and its derivative by ``error``, which is overwritten."""
    if norm == "l2":
        length = torch.linalg.vector_norm(error, dim=1, keepdim=True)
        return length.sum(), error / length.clamp(min=torch.finfo(error.dtype).tiny)
    flat = error.reshape(-1)
    return flat.dot(flat), error.mul_(2)


def _starts(counts: Tensor) -> Tensor:
    """Return where each bag begins."""
    return counts.cumsum(0) - counts


def _bags(table: Tensor, ids: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the (weighted) sum of each bag's rows of the table."""
    return functional.embedding_bag(ids, table, starts, mode="sum", per_sample_weights=weights)


def _spans(counts: list[int], size: int) -> Spans:
    """Return each busy expert, its rows among the sorted pairs and its hidden units."""
    spans, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            spans.append((expert, slice(start, start + count), slice(expert * size, (expert + 1) * size)))
        start += count
    return spans


def _sorted_pairs(active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the active pairs of rows and experts, sorted by expert and then by row.

    Args:
        active: which pairs count [n, M].

    Returns:
        Where each pair is in the flat matrix [p]; where each is among these, row by row [p]; and where each row's begin
        in that [n].
    """
    n_rows, n_experts = active.shape
    # numpy finds and sorts small numbers faster.
    found = np.flatnonzero(active.numpy())
    order = torch.from_numpy(np.argsort((found % n_experts).astype(np.int16), kind="stable"))
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    by_row = _starts(torch.from_numpy(np.bincount(found // n_experts, minlength=n_rows)))
    return torch.from_numpy(found).index_select(0, order), place, by_row


class SparseErrorSum(torch.autograd.Function):
    """See the file's head; called through :func:`recbole_derrd.ops.experts.expert_error_sum`."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weights: Tensor,
        targets: Tensor,
        active: Tensor,
        norm: str,
        first: Tensor,
        first_bias: Tensor,
        second: Tensor,
        second_bias: Tensor,
    ) -> Tensor:
        """Return the sum of the errors; the products for the gradients wait for the backward pass."""
        n_experts = weights.shape[1]
        size = len(first_bias) // n_experts
        pairs, place, by_row = _sorted_pairs(active)
        rows, experts, share = pairs // n_experts, pairs % n_experts, weights.reshape(-1).index_select(0, pairs)
        by_expert = experts.bincount(minlength=n_experts)
        spans = _spans(by_expert.tolist(), size)

        x = embeddings.index_select(0, rows)
        hidden = x.new_empty(len(x), size)
        inputs, units, layer = x.numpy(), hidden.numpy(), first.detach().numpy()
        for _, own, columns in spans:
            np.matmul(inputs[own], layer[:, columns], out=units[own])
        hidden.add_(first_bias.view(n_experts, size).index_select(0, experts)).relu_()
        output = x.new_empty(len(x), second.shape[1])
        outputs, layer, bias = output.numpy(), second.detach().numpy(), second_bias.detach().numpy()
        for expert, own, columns in spans:
            np.matmul(units[own], layer[columns], out=outputs[own])
            outputs[own] += bias[expert]

        total, gradient = error_and_gradient(
            _bags(output, place, by_row, share.index_select(0, place)).sub_(targets), norm
        )
        gradient = gradient.index_select(0, rows)
        d_share = torch.from_numpy(np.einsum("pt,pt->p", gradient.numpy(), outputs))
        ctx.spans, ctx.shape = spans, weights.shape
        ctx.save_for_backward(x, hidden, gradient, share, d_share, pairs, place, by_row, by_expert, first, second)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:
        """Run the products of the gradients, on gradients that are scaled already."""
        x, hidden, gradient, share, d_share, pairs, place, by_row, by_expert, first, second = ctx.saved_tensors
        gradient = gradient * (share * scale).unsqueeze(1)
        d_hidden, d_x = torch.empty_like(hidden), torch.empty_like(x)
        # Experts that nobody pairs have no gradient; the others' is written in place.
        empty = torch.empty_like if len(ctx.spans) == len(by_expert) else torch.zeros_like
        d_first, d_second = empty(first), empty(second)
        g, h, d_h = gradient.numpy(), hidden.numpy(), d_hidden.numpy()
        layer, d_layer = second.detach().numpy(), d_second.numpy()
        for _, own, units in ctx.spans:
            np.matmul(h[own].T, g[own], out=d_layer[units])
            np.matmul(g[own], layer[units].T, out=d_h[own])
        torch.ops.aten.threshold_backward.grad_input(d_hidden, hidden, 0, grad_input=d_hidden)
        inputs, d_inputs, layer, d_layer = x.numpy(), d_x.numpy(), first.detach().numpy(), d_first.numpy()
        for _, own, units in ctx.spans:
            np.matmul(inputs[own].T, d_h[own], out=d_layer[:, units])
            np.matmul(d_h[own], layer[:, units].T, out=d_inputs[own])
        every, starts = torch.arange(len(x)), _starts(by_expert)
        # The softmax behind the weights multiplies by them, so what is not active would vanish there.
        d_weights = gradient.new_zeros(ctx.shape.numel()).index_copy_(0, pairs, d_share * scale).view(ctx.shape)
        return (
            _bags(d_x, place, by_row), d_weights, None, None, None,
            d_first, _bags(d_hidden, every, starts).view(-1), d_second, _bags(gradient, every, starts),
        )  # fmt: skip
