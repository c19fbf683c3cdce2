"""Each user's training items, as rows of one flat array."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class History:
    """Training items of each user: ``items[indptr[u]:indptr[u + 1]]``, sorted; int64."""

    indptr: np.ndarray[Any, Any]
    items: np.ndarray[Any, Any]
    n_items: int

    @property
    def n_users(self) -> int:
        """Number of users, padding id 0 included."""
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Training items of each user, counted."""
        return np.diff(self.indptr)

    @classmethod
    def of_pairs(cls, users: np.ndarray[Any, Any], items: np.ndarray[Any, Any], n_users: int, n_items: int) -> History:
        """Return the history of these interactions, of which repeated ones count once."""
        keys = np.unique(users.astype(np.int64) * n_items + items)
        indptr = np.searchsorted(keys, np.arange(n_users + 1, dtype=np.int64) * n_items)
        return cls(indptr.astype(np.int64), keys % n_items, n_items)

    def without_items(self) -> History:
        """Return the history of as many users and items in which nobody has seen anything."""
        return History(np.zeros_like(self.indptr), np.zeros(0, dtype=np.int64), self.n_items)
