"""A teacher's files beside this run's data: rows become the data set's internal ids, matched by the ids' texts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recbole_derrd.data.prepare import Data
from recbole_derrd.errors import DataError, shown
from recbole_derrd.teacher.exported.rankings import Rankings
from recbole_derrd.teacher.exported.reading import SIDES, Exported

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Matched:
    """What a teacher's files say of this run's users and items; row n belongs to internal id n, 0 being padding.

    Attributes:
        known: which users and items the teacher can answer for, by side [n]; a side of which it knows all is left out.
        embeddings: by side [n, d], zeros for who is not known; None for rankings.
        rankings: of this run's users and items; None for embeddings.
        note: how many are known, missing and new, as a sentence.
    """

    known: dict[str, Array]
    embeddings: dict[str, Array] | None
    rankings: Rankings | None
    note: str


def matched(exported: Exported, data: Data) -> Matched:
    """Match a teacher's ids with those of this run's data.

    Raises:
        DataError: no user or no item is in both.
    """
    # Number n of a list is internal id n.
    tokens = {side: ["", *own] for side, own in data.tokens.items()}
    rows = {side: _internal(exported, side, tokens[side]) for side in SIDES}
    counts = {side: int((rows[side] > 0).sum()) for side in SIDES}
    embeddings = rankings = None
    known = {side: np.zeros(len(tokens[side]), dtype=bool) for side in SIDES}
    for side in SIDES:
        known[side][rows[side]] = True
        known[side][0] = False
    if exported.embeddings is not None:
        embeddings = {side: _placed(exported.embeddings[side], rows[side], len(tokens[side])) for side in SIDES}
        known["user"] &= _have_unobserved(data, known["item"])
    else:
        assert exported.rankings is not None
        rankings = _translated(exported.rankings, rows, len(tokens["user"]))
        known["user"] &= _list_unobserved(data, rankings)
        if not exported.all_items:
            # An item in no ranking is not new to whoever made them: they rank it behind.
            known["item"][1:] = True
    partial = {side: one for side, one in known.items() if not one[1:].all()}
    return Matched(partial, embeddings, rankings, _note(exported, counts, tokens, known["user"]))


def _internal(exported: Exported, side: str, tokens: list[str]) -> Array:
    """Return the internal id of each of the teacher's rows, 0 where this run has none.

    Raises:
        DataError: there is none at all.
    """
    numbers = {token: number for number, token in enumerate(tokens) if number}
    found = np.array([numbers.get(one, 0) for one in exported.ids[side]], dtype=np.int64)
    if not found.any():
        raise DataError(
            f"The teacher '{exported.path}' knows none of this run's {side}s: its first is "
            f"{shown(exported.ids[side][0])}, that of the data {shown(tokens[1])}. Ids must be those of the data set's "
            "files, as texts."
        )
    return found


def _placed(table: Array, rows: Array, count: int) -> Array:
    placed = np.zeros((count, table.shape[1]), np.float32)
    placed[rows] = table
    placed[0] = 0
    return placed


def _translated(rankings: Rankings, rows: dict[str, Array], n_users: int) -> Rankings:
    """Return the rankings of this run's users and items."""
    users = np.repeat(rows["user"], np.diff(rankings.indptr))
    items = rows["item"][rankings.items]
    kept = np.flatnonzero((users > 0) & (items > 0))
    # Stable: each ranking keeps its order.
    order = kept[np.argsort(users[kept], kind="stable")]
    indptr = np.searchsorted(users[order], np.arange(n_users + 1)).astype(np.int64)
    return Rankings(indptr, items[order], None if rankings.scores is None else rankings.scores[order])


def _have_unobserved(data: Data, items: Array) -> Array:
    """Return which users have a known item that is none of their training items [n_users]."""
    history = data.history
    held = np.concatenate([[0], np.cumsum(items[history.items])])
    seen = held[history.indptr[1:]] - held[history.indptr[:-1]]
    found: Array = seen < int(items.sum())
    return found


def _list_unobserved(data: Data, rankings: Rankings) -> Array:
    """Return which users have an item in their ranking that is none of their training items [n_users]."""
    history = data.history
    count, lengths = history.n_items, np.diff(rankings.indptr)
    seen = np.repeat(np.arange(history.n_users), history.lengths) * count + history.items
    listed = np.repeat(np.arange(history.n_users), lengths) * count + rankings.items
    new = listed[~np.isin(listed, seen)]
    return np.isin(np.arange(history.n_users), new // count)


def _note(exported: Exported, counts: dict[str, int], tokens: dict[str, list[str]], taught: Array) -> str:
    parts = []
    for side in SIDES:
        mine, theirs = len(tokens[side]) - 1, len(exported.ids[side])
        part = f"{counts[side]:,} of this run's {mine:,} {side}s"
        # What rankings alone do not hold need not be new to who made them.
        more = f"{mine - counts[side]:,} {'are in no ranking' if _unlisted(exported, side) else 'are new to it'}"
        parts.append(f"{part} ({more}, {theirs - counts[side]:,} of its own are not in these data)")
    without = counts["user"] - int(taught.sum())
    ranked = f"; of {without:,} users whom it knows it ranks nothing that they have not seen" if without else ""
    text = f"The teacher '{exported.path}' knows {' and '.join(parts)}{ranked}."
    if not taught[1:].all():
        text += " Users whom it cannot teach are left out of the terms."
    return text


def _unlisted(exported: Exported, side: str) -> bool:
    return side == "item" and not exported.all_items
