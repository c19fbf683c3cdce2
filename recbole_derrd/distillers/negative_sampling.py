"""Drawing items that a user has no training interaction with, for all users again in each epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_derrd.data.history import History
from recbole_derrd.ops.sampling import allowed_items, exclusion_keys, sample_subsets

#: Items drawn at once; bounds the memory of drawing to some 20 MB.
_DRAWN_AT_ONCE = 1 << 19
#: Up to so many numbers, or down to so few times as many to choose from, Floyd's algorithm is no slower or safer.
_FEW, _SPARSE = 16, 4
#: Training pairs up to which their order is kept from epoch to epoch (64 MB) instead of being made again.
_KEPT_PAIRS = 1 << 24


class NegativeSampler:
    """Uniform draws of unobserved items, or of the positions of rankings, without a users x items table.

    Args:
        history: training items of each user.
    """

    def __init__(self, history: History) -> None:
        """Count what each user has not seen."""
        self.history = history
        self.sizes = history.n_items - 1 - torch.from_numpy(history.lengths)
        self._keys: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def blocks(self, count: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the blocks of users for whom ``count`` items are drawn at once, without user 0."""
        at_once = max(1, _DRAWN_AT_ONCE // count)
        n_users = self.history.n_users
        return [(start, min(start + at_once, n_users)) for start in range(1, n_users, at_once)]

    def distinct(self, start: int, stop: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` distinct unobserved items for each of users start .. stop - 1, in no particular order.

        Returns:
            Items [stop - start, count], int64; 0 in positions of users who have not so many.
        """
        return self._items(start, stop, distinct_numbers(self.sizes[start:stop].clamp(min=count), count, generator))

    def independent(self, start: int, stop: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` unobserved items for each of users start .. stop - 1, each draw on its own.

        Returns:
            Items [stop - start, count], int64; an item may come again, and 0 is for users who have none.
        """
        uniform = torch.rand(stop - start, count, dtype=torch.float64, generator=generator)
        return self._items(start, stop, (uniform * self.sizes[start:stop].unsqueeze(1)).long())

    def positions(self, start: int, stop: int, width: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` distinct positions of rankings as long as ``width`` or as what these users have not seen.

        Returns:
            0-based positions [stop - start, count], int64, in no particular order; of users with fewer than ``count``
            unobserved items some lie behind the end of their rankings.
        """
        return distinct_numbers(self.sizes[start:stop].clamp(max=width).clamp(min=count), count, generator)

    def _items(self, start: int, stop: int, ranks: Tensor) -> Tensor:
        """Return the unobserved items of these ranks, from 0; item 0 for ranks that a user does not have."""
        items = allowed_items(ranks, *self._excluded(start, stop), self.history.n_items)
        sizes = self.sizes[start:stop]
        return items if int(sizes.min()) >= ranks.shape[1] else items.masked_fill_(ranks >= sizes.unsqueeze(1), 0)

    def _excluded(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if (start, stop) in self._keys:
            return self._keys[start, stop]
        history = self.history
        rows = torch.arange(stop - start).repeat_interleave(torch.from_numpy(history.lengths[start:stop]))
        seen = torch.from_numpy(history.items[history.indptr[start] : history.indptr[stop]])
        excluded = exclusion_keys(rows, seen, stop - start, history.n_items)
        if len(history.items) <= _KEPT_PAIRS:
            self._keys[start, stop] = excluded
        return excluded


def distinct_numbers(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` distinct numbers below each size, uniformly over all subsets, in no particular order.

    Floyd's algorithm takes time that grows with the square of ``count``. Where there is much to choose from, all
    numbers are drawn at once instead and repeated ones again until none is: every number is treated alike, so every
    subset is as likely as any other.

    Args:
        sizes: [n], each at least ``count``; int64.
        count: numbers to draw from each.
        generator: source of randomness, on the CPU.

    Returns:
        [n, count] int64.
    """
    if count <= _FEW or not len(sizes) or int(sizes.min()) < _SPARSE * count:
        return sample_subsets(sizes, count, generator)
    uniform = torch.rand(len(sizes), count, dtype=torch.float64, generator=generator)
    numbers = (uniform * sizes.unsqueeze(1)).long()
    rows = torch.arange(len(sizes))
    while len(rows):
        ordered, order = numbers[rows].sort(dim=1, stable=True)
        found, positions = (ordered[:, 1:] == ordered[:, :-1]).nonzero(as_tuple=True)
        again = rows[found]
        drawn = torch.rand(len(again), dtype=torch.float64, generator=generator)
        numbers[again, order[found, positions + 1]] = (drawn * sizes[again]).long()
        rows = again.unique()
    return numbers
