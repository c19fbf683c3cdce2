r"""RRD's loss with its gradient in one go.

With S_1 .. S_K the interesting logits, z the uninteresting ones and rest_k = log(sum_{i >= k} e^{S_i} + sum_l e^{z_l}):

    loss = sum_k rest_k - S_k,    d/dS_j = e^{S_j} sum_{k <= j} e^{-rest_k} - 1,    d/dz_l = e^{z_l} sum_k e^{-rest_k}

All sums are of positive numbers, so once the row's largest logit m is taken off nothing cancels, and the only danger is
underflow. rest_k falls with k, hence e^{rest_K - m} bounds them all from below: as long as that one is far above the
smallest float, what underflows adds nothing and plain sums of exponentials are as good as logarithms. Where it is not
(all uninteresting logits and the last interesting one some 50 below the largest) the sums are done in logarithms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_derrd.ops.full_softmax import LOWEST

#: e^{rest_K - m} from which on plain sums are safe: float32's smallest number is 1e-38, its rounding 1e-7.
_SAFE = 1e-24


class _RankingLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int, held: Tensor | None) -> Tensor:
        shifted = scores - scores.amax(dim=1, keepdim=True)
        powers = shifted.exp()
        tails = powers[:, :k].flip(1).cumsum(dim=1).flip(1)
        if k < scores.shape[1]:
            tails += powers[:, k:].sum(dim=1, keepdim=True)
        empty = None if held is None else ~held[:, :k]
        lowest = tails[:, -1] if empty is None else tails.masked_fill(empty, 1).amin(dim=1)
        # Not a number is not above anything, so it takes the careful way as well.
        if bool((lowest > _SAFE).all()):
            rest = tails.log()
            heads = _without(empty, tails.reciprocal_(), 0).cumsum(dim=1)
            gradient = powers
            gradient[:, :k] *= heads
            gradient[:, k:] *= heads[:, -1:]
        else:
            rest = _log_tails(shifted, k)
            log_heads = _without(empty, -rest, LOWEST).logcumsumexp(dim=1)
            gradient = (
                shifted + torch.cat([log_heads, log_heads[:, -1:].expand(-1, scores.shape[1] - k)], dim=1)
            ).exp()
        gradient[:, :k] -= 1
        ctx.save_for_backward(gradient)
        return _without(empty, rest.sub_(shifted[:, :k]), 0).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * scale.unsqueeze(1), None, None


def _without(empty: Tensor | None, values: Tensor, filling: float) -> Tensor:
    """Fill the positions that hold no item, in place."""
    return values if empty is None else values.masked_fill_(empty, filling)


def _log_tails(scores: Tensor, k: int) -> Tensor:
    rest = scores[:, :k].flip(1).logcumsumexp(dim=1).flip(1)
    if k == scores.shape[1]:
        return rest
    return torch.logaddexp(rest, scores[:, k:].logsumexp(dim=1, keepdim=True))


def ranking_losses(scores: Tensor, k: int, held: Tensor | None = None) -> Tensor:
    """Return each user's loss [n], what ``relaxed_ranking_loss(scores[:, :k], scores[:, k:], held)`` returns.

    Differentiable once. It looks at the scores to choose its way, which on an accelerator would stop the queue of work.

    Args:
        scores: logits [n, K + L], the interesting items first, in the teacher's order.
        k: how many items are interesting, at least 1.
        held: which positions hold an item [n, K + L]; all of them if None.
    """
    if held is not None:
        scores = scores.masked_fill(~held, LOWEST)
    losses: Tensor = _RankingLosses.apply(scores, k, held)
    return losses
