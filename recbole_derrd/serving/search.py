"""Two ways to find the items of the largest inner products: exactly, or in two stages."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from recbole_derrd.serving.ranking import best
from recbole_derrd.serving.signs import Signs
from recbole_derrd.serving.vectors import Vectors

#: The names of the searches.
EXACT, TWO_STAGE = "exact", "two_stage"
Found = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]


class Search:
    """Every item is scored.

    Args:
        vectors: the items'.
    """

    def __init__(self, vectors: Vectors) -> None:
        """Keep them."""
        self.vectors = vectors

    def rankings(
        self,
        queries: np.ndarray[Any, Any],
        hidden: Sequence[np.ndarray[Any, Any]],
        k: int,
        scales: np.ndarray[Any, Any] | None = None,
    ) -> Iterator[Found]:
        """Yield the rows of the ``k`` best items of each query, best first, and their scores.

        Args:
            queries: float32 [n, size].
            hidden: of each query the rows of items to leave out.
            k: how many; fewer where there are no more.
            scales: factors of the items' scores [items].
        """
        for scores, out in zip(self.vectors.products(queries), hidden):
            if scales is not None:
                scores *= scales
            scores[out] = -np.inf
            rows = best(scores, k)
            yield rows, scores[rows]


class TwoStageSearch(Search):
    """The ``candidates`` · k items of the largest estimates are scored, and no other.

    Of equal estimates and of equal scores the first item is first. Where there are not more items than candidates,
    every item is scored.

    Args:
        vectors: the items'.
        candidates: how many for each wanted item.
    """

    def __init__(self, vectors: Vectors, candidates: int) -> None:
        """Keep them; the signs are made at the first search."""
        super().__init__(vectors)
        self._candidates = candidates

    @functools.cached_property
    def _signs(self) -> Signs:
        return Signs(self.vectors)

    def rankings(
        self,
        queries: np.ndarray[Any, Any],
        hidden: Sequence[np.ndarray[Any, Any]],
        k: int,
        scales: np.ndarray[Any, Any] | None = None,
    ) -> Iterator[Found]:
        """Yield what :meth:`Search.rankings` would, but for items that the estimates miss."""
        if self._candidates * k >= self.vectors.count:
            yield from super().rankings(queries, hidden, k, scales)
            return
        for query, out in zip(queries, hidden):
            estimates = self._signs.products(query)
            if scales is not None:
                estimates *= scales
            estimates[out] = -np.inf
            rows = np.sort(best(estimates, self._candidates * k))
            scores = self.vectors.rows(rows) @ query
            if scales is not None:
                scores *= scales[rows]
            order = np.argsort(-scores, kind="stable")[:k]
            yield rows[order], scores[order]
