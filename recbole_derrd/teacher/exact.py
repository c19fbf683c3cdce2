"""Exact top-N search: every item is scored for every user, some users at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import DataError
from recbole_derrd.ops.top_k import top_scores

#: Error message for a teacher without an order.
DIVERGED = "The teacher's scores hold NaN; train the teacher again with a lower learning_rate."
#: Scores of one chunk. On the CPU 24 MB: the C library returns blocks from 32 MB on to the system, and allocating their
#: pages again for every chunk costs as much as the matrix product. On an accelerator 256 MB.
_CPU_SCORES, _SCORES = 6 << 20, 1 << 26
#: Scores that are searched while they are in a core's cache (4 MB): a search of a whole chunk takes twice as long.
_CACHED_SCORES = 1 << 20
#: With fewer users, a matrix product takes more time a user, however large the catalogue is.
_FEWEST_USERS = 16


def hidden_entries(history: History, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows and items that rankings of users start .. stop - 1 must not hold: training items and item 0."""
    every = np.arange(stop - start)
    rows = np.concatenate([every, np.repeat(every, history.lengths[start:stop])])
    seen = history.items[history.indptr[start] : history.indptr[stop]]
    items = np.concatenate([np.zeros(stop - start, dtype=np.int64), seen])
    return torch.from_numpy(rows).to(device), torch.from_numpy(items).to(device)


def users_in_cache(device: torch.device, n_items: int, start: int, stop: int) -> list[tuple[int, int]]:
    """Return (start, stop) of users, in order, whose scores are best computed and searched at once."""
    at_once = stop - start if device.type != "cpu" else max(_FEWEST_USERS, _CACHED_SCORES // n_items)
    return [(first, min(first + at_once, stop)) for first in range(start, stop, max(1, at_once))]


def best_unseen(scores: Tensor, hidden: tuple[Tensor, Tensor], count: int, *, ranks_all: bool = True) -> Tensor:
    """Return each row's ``count`` best items without the hidden ones, best first; a row of too few ends in zeros.

    Apart from the search, only the hidden scores are touched: a pass over all scores costs as much as the search.

    Args:
        scores: [n, n_items], contiguous float32; changed within and restored at the end. -inf is a valid score.
        hidden: rows and items to leave out; item 0 of every row is among them.
        count: at most n_items.
        ranks_all: whether an item with -inf is ranked, behind all others, or left out as hidden ones are.

    Returns:
        Items [n, count], int32.

    Raises:
        DataError: a score is NaN.
    """
    kept = scores[hidden]
    scores[hidden] = -torch.inf
    values, items = top_scores(scores, count)
    # NaN sorts first in its row, unless it was hidden.
    if values[:, 0].isnan().any() or kept.isnan().any():
        raise DataError(DIVERGED)
    if (values[:, -1] == -torch.inf).any():
        if ranks_all:
            # The teacher may score an item -inf: lift those scores, so that -inf marks hidden items alone.
            lifted = scores.clamp(min=torch.finfo(scores.dtype).min)
            lifted[hidden] = -torch.inf
            values, items = top_scores(lifted, count)
        items = items.masked_fill(values == -torch.inf, 0)
    # The scores may lie in the teacher's own memory.
    scores[hidden] = kept
    return items.to(torch.int32)


class ExactSearch:
    """Exact rankings of any teacher.

    Args:
        adapter: the teacher.
        history: what each user has seen.
        count: length of the rankings.
        chunk: users scored at once; 0 sizes it to the catalogue.
    """

    #: Description that is stored beside the rankings: an exact search needs none.
    about: ClassVar[dict[str, Any]] = {}

    def __init__(self, adapter: Adapter, history: History, count: int, chunk: int = 0) -> None:
        """Choose the chunk."""
        self.adapter, self.history, self.count = adapter, history, count
        scores = _CPU_SCORES if adapter.device.type == "cpu" else _SCORES
        self.chunk = chunk or max(_FEWEST_USERS, scores // history.n_items)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of the users that are scored at once, padding user 0 left out."""
        for start in range(1, self.history.n_users, self.chunk):
            yield start, min(start + self.chunk, self.history.n_users)

    def rankings(self, start: int, stop: int) -> Tensor:
        """Return the rankings of users start .. stop - 1 [stop - start, count], int32."""
        blocks = users_in_cache(self.adapter.device, self.history.n_items, start, stop)
        return torch.cat([self._rankings(*block) for block in blocks])

    def _rankings(self, start: int, stop: int) -> Tensor:
        users = torch.arange(start, stop, device=self.adapter.device)
        scores = self.adapter.score_all(users).float().contiguous()
        hidden = hidden_entries(self.history, start, stop, scores.device)
        return best_unseen(scores, hidden, self.count, ranks_all=self.adapter.ranks_all)
