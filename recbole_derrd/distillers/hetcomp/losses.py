r"""HetComp's two losses: overall relation (phase 1) and fine order (phase 2); the package's head has the formulas."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.ops.full_softmax import LOWEST


def overall_relation_loss(scores: Tensor, held: Tensor, log_partition_term: Tensor) -> Tensor:
    r"""Return each user's -sum_i log(e^{s_i} / (e^{s_i} + R)) over the items of O and P, which do not compete.

    Args:
        scores: logits of O's and P's items [n, m], in any order.
        held: which positions hold an item [n, m]; the others' scores are any finite numbers and take no part.
        log_partition_term: log R [n]; -1e30 where no other item is left, which makes the loss 0.

    Returns:
        Loss of each user [n]; 0 at best, m log(1 + r) where all logits are equal and r items are left.
    """
    return -functional.logsigmoid(scores - log_partition_term.unsqueeze(1)).masked_fill(~held, 0).sum(dim=1)


def _log_tails(scores: Tensor, held: Tensor, log_partition_term: Tensor) -> Tensor:
    """Return log(sum_{q >= l} e^{s_q} + R) of each place l [n, m]; held positions come first in their rows."""
    tails = scores.masked_fill(~held, LOWEST).flip(1).logcumsumexp(dim=1).flip(1)
    return torch.logaddexp(tails, log_partition_term.unsqueeze(1))


def fine_order_loss(
    observed: tuple[Tensor, Tensor], ranked: tuple[Tensor, Tensor], log_partition_term: Tensor, lengths: list[int]
) -> Tensor:
    r"""Return each user's LM(O, |O|, R(n_1)) + mean over n of LM(P, n, R(n)).

    Args:
        observed: logits of O's items [n, o], in the teachers' order, and which positions hold one; these come first.
        ranked: the same of P's items [n, K].
        log_partition_term: log of R = sum e^{s_j} over the unobserved items outside P [n]; -1e30 where there are none.
        lengths: the n of the mean, each from 1 to K; n_1 is the largest.

    Returns:
        Loss of each user [n]; at best near 0.
    """
    scores, held = ranked
    longest = max(lengths)
    place = torch.arange(scores.shape[1], device=scores.device)
    share = sum((place < length).to(scores.dtype) for length in lengths) / len(lengths)
    losses = (share * (_log_tails(scores, held, log_partition_term) - scores)).masked_fill(~held, 0).sum(dim=1)
    below = log_partition_term
    if longest < scores.shape[1]:
        later = scores[:, longest:].masked_fill(~held[:, longest:], LOWEST)
        below = torch.logaddexp(log_partition_term, later.logsumexp(dim=1))
    scores, held = observed
    return losses + (_log_tails(scores, held, below) - scores).masked_fill(~held, 0).sum(dim=1)
