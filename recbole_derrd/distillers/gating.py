r"""The choice of experts in one go, with a gradient for the undecided rows only.

As the temperature falls, most rows' largest weight becomes 1 to the last digit, and the gradient by their logits 0. The
backward pass of the softmax and the product V^T dL for the selection network then need only the other rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _ChosenWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, select: Tensor, bias: Tensor, tau: float, noise: Tensor | None) -> Tensor:
        # numpy's product is the faster one for so few columns.
        keys = torch.from_numpy(np.matmul(embeddings.numpy(), select.detach().numpy())).add_(bias)
        if noise is not None:
            keys += noise
        keys -= keys.amax(dim=1, keepdim=True)
        weights = keys.div_(tau).softmax(dim=1)
        ctx.tau = tau
        ctx.save_for_backward(embeddings, weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        embeddings, weights = ctx.saved_tensors
        settled = (weights == 1).any(dim=1)
        if bool(settled.any()):
            undecided = settled.logical_not_().nonzero().squeeze(1)
            embeddings, weights, gradient = (
                part.index_select(0, undecided) for part in (embeddings, weights, gradient)
            )
        by_logits = weights * gradient
        by_logits = (by_logits - weights * by_logits.sum(dim=1, keepdim=True)).div_(ctx.tau)
        return None, embeddings.T @ by_logits, by_logits.sum(dim=0), None, None


def chosen_weights(embeddings: Tensor, select: Tensor, bias: Tensor, tau: float, noise: Tensor | None = None) -> Tensor:
    """Return what ``gating_weights(embeddings @ select + bias, tau, noise)`` returns [n, M].

    Differentiable once, by the selection network alone. Counting the undecided rows would stop an accelerator's queue
    of work, so this is for the CPU.

    Args:
        embeddings: teacher's embeddings [n, d_t].
        select: [d_t, M].
        bias: [M].
        tau: temperature, above 0.
        noise: Gumbel noise [n, M]; None chooses without noise.
    """
    weights: Tensor = _ChosenWeights.apply(embeddings, select, bias, tau, noise)
    return weights
