"""Who has interacted with the same: each user's (or item's) strongest neighbours in the training interactions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

from recbole_derrd.data.history import History

Array = np.ndarray[Any, Any]

#: Entries of one block of the product, which are sorted at once (some 200 MB at most).
_BLOCK = 1 << 22


@dataclasses.dataclass(frozen=True)
class CoOccurrence:
    """A symmetric graph of users or of items by rows, its weights normalised.

    Attributes:
        indptr: where each row begins [n + 1], int64; row 0 is padding and empty.
        neighbours: ids [edges], int32, ascending within a row; an edge is in the rows of both its ends.
        weights: those of D^-1/2 A D^-1/2 [edges], float32.
    """

    indptr: Array
    neighbours: Array
    weights: Array


def co_occurrence_graph(history: History, side: str, count: int) -> CoOccurrence:
    r"""Return D^-1/2 A D^-1/2 of A = (B + B^T) / 2, where B has a 1 for each of a row's strongest neighbours.

    So an edge weighs 1 where each is among the other's strongest, and 1/2 where one is; D has the sums of A's rows.

    Two users are the stronger tied the more items both have interacted with, R R^T; two items likewise, R^T R. Of equal
    ties the smaller id is taken. Nobody is its own neighbour; who shares nothing with anyone has none.

    The product is made some rows at a time: its time is the sum of the squared lengths of the columns of R.

    Args:
        history: training items of each user.
        side: "user" or "item".
        count: strongest neighbours of each (ones in a row of B).
    """
    ones = np.ones(len(history.items), dtype=np.int32)
    interactions = sparse.csr_matrix((ones, history.items, history.indptr), (history.n_users, history.n_items))
    if side == "item":
        interactions = interactions.T.tocsr()
    n, transposed = interactions.shape[0], interactions.T.tocsr()
    blocks = _blocks(interactions)
    directed = [_strongest(interactions[start:stop] @ transposed, start, count) for start, stop in blocks]
    rows, columns = (np.concatenate(part) for part in zip(*directed))
    # Both directions, each edge once: sorted by row, then by column.
    edges, directions = np.unique(np.concatenate([rows * n + columns, columns * n + rows]), return_counts=True)
    rows, columns = edges // n, edges % n
    degrees = np.bincount(rows, weights=directions / 2, minlength=n)
    weights = directions / 2 / np.sqrt(degrees[rows] * degrees[columns])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    return CoOccurrence(indptr, columns.astype(np.int32), weights.astype(np.float32))


def _blocks(interactions: Any) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of rows whose products have no more entries than a block, unless a row alone has."""
    lengths = np.bincount(interactions.indices, minlength=interactions.shape[1])
    of_rows = np.add.reduceat(np.append(lengths[interactions.indices], 0), interactions.indptr[:-1])
    of_rows[np.diff(interactions.indptr) == 0] = 0
    ends = np.cumsum(np.minimum(of_rows, interactions.shape[0]))
    start = 0
    while start < len(ends):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
        yield start, stop
        start = stop


def _strongest(product: Any, start: int, count: int) -> tuple[Array, Array]:
    """Return rows and columns, int64, of the ``count`` largest entries of each row of R R^T from ``start`` on."""
    n = product.shape[1]
    rows = np.repeat(np.arange(product.shape[0]), np.diff(product.indptr))
    kept = _candidates(rows, product.data, count + 1)
    rows, columns, ties = (part[kept].astype(np.int64) for part in (rows, product.indices, product.data))
    other = rows + start != columns
    rows, columns, ties = rows[other], columns[other], ties[other]
    most = int(ties.max(initial=0)) + 1
    # One number to sort by: the row, the strongest tie, the smallest id.
    keys = np.sort((rows * most + (most - 1 - ties)) * n + columns)
    rows = keys // (most * n)
    first = np.searchsorted(rows, np.arange(product.shape[0]))
    kept = np.arange(len(keys)) - first[rows] < count
    return rows[kept] + start, keys[kept] % n


def _candidates(rows: Array, ties: Array, count: int) -> Array:
    """Return which entries are at least the largest power of two that ``count`` of their row are: few of many."""
    exponents: Array = np.frexp(np.arange(int(ties.max(initial=0)) + 1))[1].astype(np.int8)
    levels = exponents[ties]
    width = int(levels.max(initial=0)) + 1
    of_levels = np.bincount(rows * width + levels, minlength=(int(rows.max(initial=0)) + 1) * width).reshape(-1, width)
    least = (of_levels[:, ::-1].cumsum(axis=1)[:, ::-1] >= count).sum(axis=1) - 1
    kept: Array = levels >= least[rows]
    return kept
