"""Exact top-N users of each item: the search of ``exact.py`` with the sides swapped."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter, EmbeddingAdapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import DataError
from recbole_derrd.teacher.exact import _CPU_SCORES, _FEWEST_USERS, _SCORES, DIVERGED, best_unseen, hidden_entries

#: Best users of all items that are kept in one pass over all users (64 MB with their scores); more take more passes.
_KEPT = 1 << 23


def swapped(history: History) -> History:
    """Return each item's training users: a history whose "users" are items and whose "items" are users."""
    rows = np.repeat(np.arange(history.n_users), history.lengths)
    # A stable sort keeps an item's users in ascending order.
    order = np.argsort(history.items, kind="stable")
    counts = np.bincount(history.items, minlength=history.n_items)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return History(indptr, rows[order], history.n_users)


class UserSearch:
    """Exact rankings of users of any teacher, some items at a time.

    A teacher with embeddings scores some items for all users at once. Any other teacher scores all items for some users
    at once; the best users of each item so far are kept.

    Args:
        adapter: the teacher.
        by_item: each item's training users.
        count: length of the rankings.
        chunk: users or items scored at once; 0 fits it to the number of scores.
    """

    def __init__(self, adapter: Adapter, by_item: History, count: int, chunk: int = 0) -> None:
        """Choose the chunks."""
        self.adapter, self.by_item, self.count = adapter, by_item, count
        scores = _CPU_SCORES if adapter.device.type == "cpu" else _SCORES
        # A score of -inf, which is never ranked, is in no embedding.
        self._embeddings = isinstance(adapter, EmbeddingAdapter) and adapter.ranks_all
        n_users, n_items = by_item.n_items, by_item.n_users
        #: Items that are ranked at once.
        self.chunk = chunk or max(_FEWEST_USERS, scores // n_users)
        if not self._embeddings:
            # Each merge searches kept and new users: as many new ones as are kept, if they fit.
            self._users_at_once = chunk or max(_FEWEST_USERS, min(count, scores // n_items))
            self.chunk = max(1, _KEPT // count)

    def rankings(self, start: int, stop: int) -> Tensor:
        """Return the rankings of items start .. stop - 1 [stop - start, count], int32; a row of too few ends in zeros.

        Without embeddings, users whose score is -inf are not ranked: an ensemble gives it to all who do not list the
        item.
        """
        return self._scored(start, stop) if self._embeddings else self._passed(start, stop)

    def _scored(self, start: int, stop: int) -> Tensor:
        adapter = self.adapter
        layer = adapter.hints[0]
        users = adapter.once("every user's embedding", lambda: self._users(layer))
        items = adapter.once("every item's embedding", lambda: adapter.item_embeddings(None, layer).float())
        scores = items[start:stop] @ users.T
        return best_unseen(scores, hidden_entries(self.by_item, start, stop, scores.device), self.count)

    def _users(self, layer: str) -> Tensor:
        embeddings = self.adapter.user_embeddings(None, layer).float().clone()
        # The padding user's embedding may hold any values.
        embeddings[0] = 0
        return embeddings

    def _passed(self, start: int, stop: int) -> Tensor:
        device, n_users = self.adapter.device, self.by_item.n_items
        values = torch.full((stop - start, self.count), -torch.inf, device=device)
        best = torch.zeros(stop - start, self.count, dtype=torch.int32, device=device)
        rows, hidden = hidden_entries(self.by_item, start, stop, device)
        for low in range(0, n_users, self._users_at_once):
            high = min(low + self._users_at_once, n_users)
            scores = self.adapter.score_all(torch.arange(low, high, device=device)).float()[:, start:stop].T
            here = (hidden >= low) & (hidden < high)
            # The scores are written to, and may lie in the teacher's own memory.
            scores = scores.clone()
            # The padding user's scores may hold any values.
            scores[:, : 1 if low == 0 else 0] = 0
            if scores.isnan().any():
                raise DataError(DIVERGED)
            scores[rows[here], hidden[here] - low] = -torch.inf
            users = torch.arange(low, high, dtype=torch.int32, device=device).expand_as(scores)
            values, positions = torch.cat([values, scores], dim=1).topk(self.count, dim=1)
            best = torch.cat([best, users], dim=1).gather(1, positions)
        return best.masked_fill(values == -torch.inf, 0)
