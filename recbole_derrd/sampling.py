"""Seeded sampling for all rows at once: no loop over rows, no rows x items table."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_top_positions(
    lengths: Tensor, count: int, sharpness: float, longest: int, generator: torch.Generator
) -> Tensor:
    r"""Draw positions of ranked lists without replacement, the better the rank the likelier.

    Position k (1-based) is drawn with probability proportional to exp(-k / sharpness), by the Gumbel-top-k trick:
    the ``count`` largest of ``-k / sharpness + Gumbel noise`` are such a draw without replacement. It works in
    logarithms, so a sharpness at which exp(-k / sharpness) underflows is no problem.

    Args:
        lengths: length of each list [n]; each at least ``count``.
        count: positions to draw from each list.
        sharpness: above 0, in ranks; small means close to the first ``count``.
        longest: width of the lists.
        generator: source of randomness, on the CPU.

    Returns:
        0-based positions [n, count], ascending in each row, int64.
    """
    ranks = torch.arange(1, longest + 1, dtype=torch.float64)
    noise = torch.empty(len(lengths), longest, dtype=torch.float64).exponential_(generator=generator).log_().neg_()
    keys = noise - ranks / sharpness
    keys.masked_fill_(torch.arange(longest) >= lengths.unsqueeze(1), -torch.inf)
    return keys.topk(count, dim=1).indices.sort(dim=1).values


def sample_subsets(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    r"""Draw ``count`` distinct numbers below each size, uniformly over all subsets (Floyd's algorithm).

    For j from size - count to size - 1: draw t uniform in 0..j and take it, or j where t is already taken. It needs
    exactly ``count`` draws whatever the size, so it cannot stall where ``count`` is close to ``size``.

    Args:
        sizes: [n], each at least ``count``; int64.
        count: numbers to draw from each.
        generator: source of randomness, on the CPU.

    Returns:
        [n, count] int64, in no particular order.
    """
    drawn = torch.empty(len(sizes), count, dtype=torch.int64)
    uniform = torch.rand(len(sizes), count, dtype=torch.float64, generator=generator)
    for step in range(count):
        last = sizes - count + step
        pick = (uniform[:, step] * (last + 1)).long()
        taken = (drawn[:, :step] == pick.unsqueeze(1)).any(dim=1)
        drawn[:, step] = torch.where(taken, last, pick)
    return drawn


def sample_outside(keys: Tensor, offsets: Tensor, n_items: int, count: int, generator: torch.Generator) -> Tensor:
    r"""Draw items uniformly without replacement from those not excluded; the padding item 0 is never drawn.

    Row u excludes the sorted items ``e_0 < e_1 < ...``. The r-th allowed item (r from 0, items from 1) is r + 1 + c
    where c counts the excluded ``e_j`` with ``e_j - j <= r + 1``; since ``e_j - j`` does not fall, one binary search
    finds it.

    Args:
        keys: ``row * n_items + e_j - j`` of all rows, row after row: ascending [total], int64 (see
            :func:`exclusion_keys`).
        offsets: where each row starts in ``keys`` [n + 1], int64.
        n_items: number of items, padding included.
        count: items to draw for each row.
        generator: source of randomness, on the CPU.

    Returns:
        Items [n, count], int64, distinct within a row.
    """
    n_rows = len(offsets) - 1
    allowed = n_items - 1 - (offsets[1:] - offsets[:-1])
    ranks = sample_subsets(allowed, count, generator) + 1
    wanted = ranks + (torch.arange(n_rows) * n_items).unsqueeze(1)
    before = torch.searchsorted(keys, wanted.reshape(-1), right=True).view_as(wanted) - offsets[:-1].unsqueeze(1)
    return ranks + before


def exclusion_keys(rows: Tensor, items: Tensor, n_rows: int, n_items: int) -> tuple[Tensor, Tensor]:
    """Prepare :func:`sample_outside`: the keys and offsets of the excluded (row, item) pairs.

    Args:
        rows: row of each excluded pair [m], int64, in any order, duplicates allowed.
        items: item of each pair [m], int64; 0 (padding) is ignored.
        n_rows: number of rows.
        n_items: number of items, padding included.

    Returns:
        keys [unique pairs] and offsets [n_rows + 1], int64.
    """
    real = items > 0
    pairs = (rows[real] * n_items + items[real]).unique()
    offsets = torch.searchsorted(pairs, torch.arange(n_rows + 1) * n_items)
    position = torch.arange(len(pairs)) - offsets[pairs // n_items]
    return pairs - position, offsets
