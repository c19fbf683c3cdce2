r"""How far a student's ranking of items is from a teacher's, as 1 minus an NDCG.

With S the student's ranking, T the teacher's, both of length k, and positions t from 0:

    g_t = 2^{exp(-t / 10)} - 1,    a_t = g_t / log2(t + 2)
    D = 1 - sum_t [S(t) in T] a_t / sum_t a_t

This is the published code's: what an item is worth follows from its position in the student's ranking, and the
teacher's order does not matter. The code rounds the NDCG to four decimals, this does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Positions in which the relevance falls to 1 / e.
_FALL = 10.0


def discrepancy(student: Tensor, teacher: Tensor, k: int) -> Tensor:
    """Return D@k of each row [n], float64: 0 for the same items, 1 for disjoint rankings.

    Places that hold 0 are no items and take no part; a row without items has D = 0.

    Args:
        student: ids [n, at least k], best first, distinct but for zeros, which come last.
        teacher: ids [n, at least k], likewise.
        k: how many of each are compared; all of them where the rankings are shorter.
    """
    own, theirs = student[:, :k].long(), teacher[:, :k].long().contiguous()
    positions = torch.arange(own.shape[1], dtype=torch.float64, device=own.device)
    worth = (torch.exp2((-positions / _FALL).exp()) - 1) / (positions + 2).log2()
    ordered = theirs.sort(dim=1).values
    nearest = torch.searchsorted(ordered, own.contiguous()).clamp_(max=theirs.shape[1] - 1)
    found = (ordered.gather(1, nearest) == own) & (own > 0)
    most = ((own > 0) * worth).sum(dim=1)
    share = (found * worth).sum(dim=1) / most
    # Sums of the same numbers in another order may come out a digit above 1.
    return torch.where(most > 0, (1 - share).clamp(min=0), 0.0)
