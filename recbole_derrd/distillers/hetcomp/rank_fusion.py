"""One ranking out of several teachers': the sum over the teachers of what each rank counts.

``teacher/rank_weighting.py`` decides what a rank counts; a teacher that does not rank an item adds nothing to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def fused_rankings(rankings: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return each row's ``count`` items of largest summed weight, best first; of equal sums the smaller id first.

    An item's weights are added in the order of the teachers, so sums that are equal on paper may differ in the last
    digit; the order is the same in every run all the same.

    Args:
        rankings: ids [n, M, N] of M teachers, each best first and without repetition; 0 is no item.
        weights: weight of ranks 1 .. N [N], not negative.
        count: K.

    Returns:
        Ids [n, K], int64, and their sums [n, K], of the weights' type. Rows of fewer items end in zeros.
    """
    rows, teachers, length = rankings.shape
    ids, order = rankings.flatten(1).long().sort(dim=1, stable=True)
    added = weights.repeat(teachers)[order]
    # Equal ids lie together; the i-th distinct one of a row gets place i.
    fresh = torch.ones_like(ids, dtype=torch.bool)
    fresh[:, 1:] = ids[:, 1:] != ids[:, :-1]
    place = fresh.cumsum(dim=1) - 1
    sums = torch.zeros_like(added).scatter_add_(1, place, added)
    distinct = torch.zeros_like(ids).scatter_(1, place, ids)
    # Distinct ids ascend, so a stable sort leaves the smaller of equals in front.
    best, positions = sums.masked_fill(distinct == 0, -torch.inf).sort(dim=1, descending=True, stable=True)
    width = min(count, teachers * length)
    chosen, kept = distinct.gather(1, positions[:, :width]), best[:, :width]
    merged, scores = ids.new_zeros(rows, count), added.new_zeros(rows, count)
    merged[:, :width] = chosen
    scores[:, :width] = kept.masked_fill(chosen == 0, 0)
    return merged, scores


def fused_history(
    ranks: list[np.ndarray[Any, Any]],
    indptr: np.ndarray[Any, Any],
    items: np.ndarray[Any, Any],
    weights: Tensor,
    count: int,
) -> Tensor:
    """Return each user's ``count`` training items of largest summed weight, best first; of equals the smaller id first.

    Args:
        ranks: of each teacher, the rank from 1 of each training interaction among its user's [interactions].
        indptr: where each user's interactions start [n_users + 1].
        items: their items [interactions], ascending within a user.
        weights: weight of each rank, as many as the longest history has at least.
        count: how many.

    Returns:
        Ids [n_users, count], int32; rows of users with fewer training items end in zeros.
    """
    table = weights.numpy()
    sums = np.zeros(len(items))
    for of_teacher in ranks:
        sums += table[np.asarray(of_teacher) - 1]
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    order = np.lexsort((items, -sums, rows))
    place = np.arange(len(items)) - indptr[rows]
    listed = place < count
    merged = np.zeros((len(indptr) - 1, count), dtype=np.int32)
    merged[rows[listed], place[listed]] = items[order[listed]]
    return torch.from_numpy(merged)
