"""Seeded sampling for all rows at once: no loop over rows, no rows x items table."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Ranks that are drawn one by one, beyond the number of draws and in units of the decay.
_NEAR = 8.0
#: Numbers of a row that are taken when they are drawn, on average, up to which they are replaced one by one.
_FEW_TAKEN = 8


def sample_top_positions(lengths: Tensor, count: int, decay: float, longest: int, generator: torch.Generator) -> Tensor:
    r"""Draw positions of rankings without replacement, the better the rank the likelier.

    Position k (1-based) is drawn with probability proportional to w_k = exp(-k / decay). With independent
    exponential variables E_k of mean 1, the ``count`` smallest arrival times E_k / w_k are such a draw without
    replacement. They are compared as logarithms, so a decay at which w_k underflows is no problem.

    Far ranks hardly ever win, so they are not drawn one by one: the first arrival among them is exponential with the
    sum of their weights. Only where it comes before the last winner of the near ranks are they drawn after all, given
    that first arrival. That is exact: how far the others come after the first does not depend on when the first came.

    Args:
        lengths: length of each list [n]; of one shorter than ``count`` the first positions are all that it has, and
            the others mean nothing.
        count: positions to draw from each list.
        decay: above 0, in ranks; small means close to the first ``count``.
        longest: width of the rankings.
        generator: source of randomness, on the CPU.

    Returns:
        0-based positions [n, count], ascending in each row, int64.
    """
    near = int(min(longest, count + _NEAR * decay))
    times = _log_exponential((len(lengths), near), generator)
    times += torch.arange(1, near + 1, dtype=torch.float64) / decay
    times.masked_fill_(torch.arange(near) >= lengths.unsqueeze(1), torch.inf)
    positions = _earliest(times, count)
    if near == longest:
        return positions
    last = times.gather(1, positions).amax(dim=1)
    far = (lengths - near).clamp(min=0).double()
    # log of the geometric sum of w_k over the far ranks; -inf where there are none.
    far_weight = torch.log(torch.expm1(-far / decay) / math.expm1(-1 / decay)) - (near + 1) / decay
    first = _log_exponential((len(lengths),), generator) - far_weight
    rows = (first < last).nonzero().squeeze(1)
    if len(rows):
        later = _far_times(first[rows], far[rows], near, longest - near, decay, generator)
        positions[rows] = _earliest(torch.cat([times[rows], later], dim=1), count)
    return positions


def sample_weighted_positions(log_weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw positions without replacement, each next one with a probability proportional to its weight.

    The ``count`` smallest arrival times E_p / w_p, as in :func:`sample_top_positions`.

    Args:
        log_weights: ln w of each position [n, m]; float64.
        count: positions to draw from each row, at most m.
        generator: source of randomness, on the CPU.

    Returns:
        0-based positions [n, count], ascending in each row, int64.
    """
    return _earliest(_log_exponential(tuple(log_weights.shape), generator) - log_weights, count)


def _log_exponential(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return logarithms of standard exponential variables, float64; three times faster than ``exponential_``."""
    return torch.rand(shape, dtype=torch.float64, generator=generator).log_().neg_().log_()


def _earliest(times: Tensor, count: int) -> Tensor:
    """Return the columns of each row's ``count`` smallest times, ascending; numpy's selection is the faster one."""
    columns = np.argpartition(times.numpy(), count - 1, axis=1)[:, :count]
    return torch.from_numpy(np.sort(columns, axis=1))


def _far_times(
    first: Tensor, lengths: Tensor, near: int, width: int, decay: float, generator: torch.Generator
) -> Tensor:
    """Return the log arrival times [n, width] of the ranks after ``near``, given each row's first log arrival."""
    # In units of the first far rank's mean time, so that nothing overflows that has a chance.
    unit = (near + 1) / decay
    times = _log_exponential((len(first), width), generator)
    times = times.add_(torch.arange(width, dtype=torch.float64) / decay).exp_()
    times.masked_fill_(torch.arange(width) >= lengths.unsqueeze(1), torch.inf)
    times += (first - unit).exp().unsqueeze(1) - times.amin(dim=1, keepdim=True)
    return times.log_() + unit


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
    uniform = torch.rand(len(sizes), count, dtype=torch.float64, generator=generator)
    last = (sizes - count).unsqueeze(1) + torch.arange(count)
    drawn = (uniform * (last + 1)).long()
    if not len(sizes) or count * count <= 2 * _FEW_TAKEN * int(sizes.min()):
        _replace_one_by_one(drawn.numpy(), last.numpy())
    else:
        _replace_in_order(drawn, last)
    return drawn


def _replace_one_by_one(drawn: NDArray[np.int64], last: NDArray[np.int64]) -> None:
    """Replace, in each row [n, count], a number that the row has before by that of ``last``, until all are distinct.

    Each round replaces the first of each row that still has one, so that it costs what sorting these rows costs.
    """
    count = drawn.shape[1]
    bits = count.bit_length()
    rows = np.arange(len(drawn))
    while len(rows):
        # Equal numbers become neighbours, in the order of their positions.
        keys = np.sort((drawn[rows] << bits) | np.arange(count), axis=1)
        taken = (keys[:, 1:] >> bits) == (keys[:, :-1] >> bits)
        some = taken.any(axis=1)
        rows = rows[some]
        position = np.where(taken[some], keys[some, 1:] & ((1 << bits) - 1), count).min(axis=1, initial=count)
        drawn[rows, position] = last[rows, position]


def _replace_in_order(drawn: Tensor, last: Tensor) -> None:
    """Do the same position by position, which is quicker where much is taken."""
    for step in range(1, drawn.shape[1]):
        taken = (drawn[:, :step] == drawn[:, step : step + 1]).any(dim=1)
        drawn[:, step] = torch.where(taken, last[:, step], drawn[:, step])


def sample_outside(keys: Tensor, offsets: Tensor, n_items: int, count: int, generator: torch.Generator) -> Tensor:
    r"""Draw items uniformly without replacement from those not excluded; the padding item 0 is never drawn.

    Row u excludes the sorted items ``e_0 < e_1 < ...``. The r-th allowed item (r from 0, items from 1) is r + 1 + c
    where c counts the excluded ``e_j`` with ``e_j - j <= r + 1``; since ``e_j - j`` does not fall, one binary search
    finds it.

    Args:
        keys: ``row * n_items + e_j - j`` of all rows, row after row: ascending [total], see :func:`exclusion_keys`.
        offsets: where each row starts in ``keys`` [n + 1], int64.
        n_items: number of items, padding included.
        count: items to draw for each row.
        generator: source of randomness, on the CPU.

    Returns:
        Items [n, count], int64, distinct within a row; 0 in positions of a row that allows fewer.
    """
    allowed = n_items - 1 - (offsets[1:] - offsets[:-1])
    if not len(allowed) or int(allowed.min()) >= count:
        return allowed_items(sample_subsets(allowed, count, generator), keys, offsets, n_items)
    ranks = sample_subsets(allowed.clamp(min=count), count, generator)
    return allowed_items(ranks, keys, offsets, n_items).masked_fill_(ranks >= allowed.unsqueeze(1), 0)


def allowed_items(ranks: Tensor, keys: Tensor, offsets: Tensor, n_items: int) -> Tensor:
    """Return which items have these ranks, from 0, among those that their row does not exclude.

    Args:
        ranks: [n, count], below the number of items that the row allows; int64, on any device.
        keys: see :func:`sample_outside`, on the same device; so are the offsets.
        offsets: where each row starts in ``keys`` [n + 1], int64.
        n_items: number of items, padding included.

    Returns:
        Items [n, count], int64.
    """
    wanted = ranks + 1 + (torch.arange(len(ranks), device=ranks.device) * n_items).unsqueeze(1)
    before = torch.searchsorted(keys, wanted.reshape(-1).to(keys.dtype), right=True).view_as(wanted)
    return ranks + 1 + before - offsets[:-1].unsqueeze(1)


def exclusion_keys(rows: Tensor, items: Tensor, n_rows: int, n_items: int) -> tuple[Tensor, Tensor]:
    """Prepare :func:`sample_outside`: the keys and offsets of the excluded (row, item) pairs.

    Args:
        rows: row of each excluded pair [m], int64, in any order, duplicates allowed.
        items: item of each pair [m], int64; 0 (padding) is ignored.
        n_rows: number of rows.
        n_items: number of items, padding included.

    Returns:
        keys [unique pairs], int32 where that holds them, and offsets [n_rows + 1], int64.
    """
    real = items > 0
    pairs = (rows[real] * n_items + items[real]).unique()
    offsets = torch.searchsorted(pairs, torch.arange(n_rows + 1, device=pairs.device) * n_items)
    position = torch.arange(len(pairs), device=pairs.device) - offsets[pairs // n_items]
    keys = pairs.sub_(position)
    return keys.int() if n_rows * n_items < 2**31 else keys, offsets
