"""Users' rankings as rows (user, item, rank, score), checked and put in order."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recbole_derrd.runtime.stored_arrays import DamagedFileError

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Rankings:
    """Each user's ranking, best first: that of row u is ``items[indptr[u]:indptr[u + 1]]``.

    Attributes:
        indptr: int64 [users + 1].
        items: int64, rows of items.
        scores: float32 of the same length; None where there are none.
    """

    indptr: Array
    items: Array
    scores: Array | None


def rankings_of(
    users: Array, items: Array, ranks: Array, scores: Array | None, ids: dict[str, list[str]] | None
) -> tuple[dict[str, list[str]], Rankings]:
    """Return the ids of both sides and the rankings.

    Args:
        users: of each row, texts or whole numbers [n].
        items: likewise.
        ranks: whole numbers from 1; smaller is better.
        scores: larger is better; None where there are none.
        ids: the ids that the rows of the result belong to; those that occur, in ascending order, if None.

    Raises:
        DamagedFileError: what is wrong.
    """
    _refuse_kinds(users, items, ranks, scores)
    names, numbers = {}, {}
    for side, column in (("user", users), ("item", items)):
        names[side], numbers[side] = _numbered(column.astype(str), side, None if ids is None else ids[side])
    order = np.lexsort((ranks, numbers["user"]))
    users, items, ranks = numbers["user"][order], numbers["item"][order], ranks[order]
    same = users[1:] == users[:-1]
    _refuse_where(same & (ranks[1:] == ranks[:-1]), users, names, "two items of one rank")
    keys = np.sort(users * len(names["item"]) + items)
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        user, item = divmod(int(keys[twice[0]]), len(names["item"]))
        raise DamagedFileError(f"the ranking of {names['user'][user]!r} holds the item {names['item'][item]!r} twice")
    if scores is not None:
        with np.errstate(over="ignore"):
            scores = scores[order].astype(np.float32)
        rising = "scores that rise with the rank, and the larger score must be the better one"
        _refuse_where(same & (scores[1:] > scores[:-1]), users, names, rising)
        if not np.isfinite(scores).all():
            raise DamagedFileError("a score is no finite number")
    indptr = np.searchsorted(users, np.arange(len(names["user"]) + 1)).astype(np.int64)
    return names, Rankings(indptr, items, scores)


def _refuse_kinds(users: Array, items: Array, ranks: Array, scores: Array | None) -> None:
    columns = {"user_id": (users, "Uiu"), "item_id": (items, "Uiu"), "rank": (ranks, "iu")}
    if scores is not None:
        columns["score"] = (scores, "fiu")
    for name, (column, kinds) in columns.items():
        if column.ndim != 1 or column.dtype.kind not in kinds:
            wanted = "texts or whole numbers" if kinds == "Uiu" else "whole numbers" if kinds == "iu" else "numbers"
            raise DamagedFileError(f"the column '{name}' is {column.dtype} {column.shape}, not {wanted}")
    lengths = {len(column) for column, _ in columns.values()}
    if len(lengths) > 1 or not len(users):
        raise DamagedFileError("the columns have several lengths" if len(users) else "there is no row in it")
    if int(ranks.min()) < 1:
        raise DamagedFileError(f"a rank is {int(ranks.min())}, and ranks go from 1")


def _numbered(column: Array, side: str, ids: list[str] | None) -> tuple[list[str], Array]:
    found, numbers = np.unique(column, return_inverse=True)
    numbers = numbers.astype(np.int64).reshape(-1)
    if ids is None:
        return found.tolist(), numbers
    rows = {one: row for row, one in enumerate(ids)}
    missing = next((one for one in found.tolist() if one not in rows), None)
    if missing is not None:
        raise DamagedFileError(f"the rankings name the {side} {missing!r}, which is none of its ids")
    return ids, np.array([rows[one] for one in found.tolist()], dtype=np.int64)[numbers]


def _refuse_where(wrong: Array, users: Array, names: dict[str, list[str]], what: str) -> None:
    if wrong.any():
        raise DamagedFileError(f"the ranking of {names['user'][users[int(np.argmax(wrong))]]!r} has {what}")
