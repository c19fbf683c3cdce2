"""An exported model that answers: top-N rankings of its users, of new users, and similar items."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.runtime.stored_arrays import DamagedFileError
from recbole_derrd.serving.arrays import mapped
from recbole_derrd.serving.fold_in import folded_in
from recbole_derrd.serving.ids import Ids, read_ids
from recbole_derrd.serving.layout import BITS, FORMATS, READABLE, SEEN, TOP, TOP_PARQUET, damaged, ids_file, read_card
from recbole_derrd.serving.search import EXACT, TWO_STAGE, Search, TwoStageSearch
from recbole_derrd.serving.vectors import Vectors, open_vectors

#: Scores that a block of users may take (24 MB of float32), and its most users.
_SCORES, _USERS = 6 << 20, 256
#: No rows.
_NONE = np.zeros(0, np.int64)


class Recommended(NamedTuple):
    """An item and its score."""

    item: str
    score: float


class Recommender:
    """An export in memory; its vectors stay on the disk and are mapped. Made by :meth:`load`.

    Rankings are by the model's score, the inner product of the user's and the item's vector, best first. Of equal
    scores the item that comes first in ``item_ids.jsonl`` is first. ``search="two_stage"`` estimates every score from
    one bit a dimension and computes those of the best estimates alone: quicker in large catalogues, and an item may be
    missed (docs/serving.md).

    Attributes:
        card: what ``card.json`` says.
        user_ids: the users' ids.
        item_ids: the items' ids.
    """

    def __init__(
        self,
        card: dict[str, Any],
        ids: dict[str, Ids],
        vectors: dict[str, Vectors],
        seen: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
        search: Search,
    ) -> None:
        """Keep the parts."""
        self.card = card
        self._users, self._items = ids["user"], ids["item"]
        self._user_vectors, self._item_vectors = vectors["user"], vectors["item"]
        self._indptr, self._seen = seen
        self._search = search

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, check: bool = True, search: str = EXACT, candidates: int = 10
    ) -> Recommender:
        """Open an export.

        Args:
            folder: what ``recbole-derrd export`` has written.
            check: whether to read every file once and compare its checksum.
            search: "exact", or "two_stage": ``candidates`` times k items are found by one bit a dimension, and these
                are scored. The bits are made of the items' vectors at the first search and kept in memory.
            candidates: of the two stages; more miss fewer items.

        Raises:
            DataError: it is no export, is damaged, or holds no vectors that numpy can read.
            OptionError: there is no such search.
        """
        _check_search(search, candidates)
        place = Path(folder)
        card = read_card(place, check=check)
        embedding = card.get("embedding")
        if embedding is None:
            top = TOP_PARQUET if TOP_PARQUET in card["files"] else TOP
            raise DataError(
                f"The export '{place}' holds no embeddings, because {card['model']} has none that its score is made "
                f"of. Its users' rankings are in '{top}'."
            )
        kind, bits = embedding["format"], embedding["bits"]
        if kind in FORMATS and kind not in READABLE:
            raise DataError(
                f"The export '{place}' holds its vectors as {kind}, which numpy does not read. Export the model with "
                f"--format={READABLE[0]}."
            )
        try:
            if kind not in FORMATS or not {bits, embedding.get("user_bits", bits)} <= set(BITS):
                raise DamagedFileError(f"its vectors are {kind} in {bits} bits")
            sides = (("user", card["users"]), ("item", card["items"]))
            ids = {side: read_ids(place / ids_file(side), count, side) for side, count in sides}
            vectors = {side: open_vectors(place, side, embedding, count) for side, count in sides}
            found = Search(vectors["item"]) if search == EXACT else TwoStageSearch(vectors["item"], candidates)
            return cls(card, ids, vectors, _seen_of(place, card), found)
        except FileNotFoundError as error:
            raise damaged(place, f"'{Path(error.filename).name}' is missing") from error
        except DamagedFileError as error:
            raise damaged(place, error) from error

    @property
    def user_ids(self) -> list[str]:
        """The users' ids, in the order of the rows."""
        return list(self._users.ids)

    @property
    def item_ids(self) -> list[str]:
        """The items' ids, in the order of the rows."""
        return list(self._items.ids)

    def recommend(self, user: str, k: int = 10, exclude_seen: bool = True) -> list[Recommended]:
        """Return a user's ``k`` best items; fewer where there are no more.

        Args:
            user: the user's own id.
            k: how many.
            exclude_seen: leave out the user's training items.

        Raises:
            DataError: there is no such user.
        """
        return next(iter(self.recommend_many([user], k, exclude_seen)))[1]

    def recommend_many(
        self, users: Iterable[str], k: int = 10, exclude_seen: bool = True
    ) -> Iterator[tuple[str, list[Recommended]]]:
        """Yield (user, ranking) of each user; scored in blocks of users, never users x items at once.

        Args:
            users: the users' own ids.
            k: how many items each.
            exclude_seen: leave out each user's training items.

        Raises:
            DataError: which users there are not; before anything is scored.
        """
        _check_count(k)
        if isinstance(users, str):
            users = [users]
        rows = self._users.rows(users)
        return self._in_blocks(rows, k, exclude_seen)

    def _in_blocks(self, rows: list[int], k: int, exclude_seen: bool) -> Iterator[tuple[str, list[Recommended]]]:
        step = max(1, min(_USERS, _SCORES // len(self._items.ids)))
        for start in range(0, len(rows), step):
            block = np.array(rows[start : start + step])
            own = [self._seen[self._indptr[row] : self._indptr[row + 1]] if exclude_seen else _NONE for row in block]
            found = self._search.rankings(self._user_vectors.rows(block), own, k)
            for row, ranking in zip(block, found):
                yield self._users.ids[row], self._named(*ranking)

    def recommend_from(self, items: Iterable[str], k: int = 10, exclude_seen: bool = True) -> list[Recommended]:
        r"""Return the ``k`` best items of a new user, whose items alone are known.

        The user's vector is that of least squares in the items' space (:mod:`recbole_derrd.serving.fold_in`): with the
        user's items S, all items I and their vectors v,

            u = argmin_u  1/|S| Σ_{i ∈ S} (1 − ⟨u, v_i⟩)²  +  1/|I| Σ_{j ∈ I} ⟨u, v_j⟩²  +  λ |u|².

        Args:
            items: own ids of what the user has; repeated ones count once.
            k: how many.
            exclude_seen: leave those out.

        Raises:
            DataError: which items there are not, or none is given.
        """
        _check_count(k)
        if isinstance(items, str):
            items = [items]
        known = np.unique(np.array(self._items.rows(items), dtype=np.int64))
        if not len(known):
            raise DataError("A new user needs at least one item to be recommended others.")
        user = folded_in(self._item_vectors.rows(known), self._gram)
        (found,) = self._search.rankings(user[np.newaxis], [known if exclude_seen else _NONE], k)
        return self._named(*found)

    def similar(self, item: str, k: int = 10) -> list[Recommended]:
        """Return the ``k`` items whose vectors have the largest cosine with an item's, and the cosines.

        Args:
            item: the item's own id, which is left out.
            k: how many.

        Raises:
            DataError: there is no such item.
        """
        _check_count(k)
        row = np.array(self._items.rows([item]))
        query = self._item_vectors.rows(row) * self._scales[row]
        (found,) = self._search.rankings(query, [row], k, self._scales)
        return self._named(*found)

    def _named(self, rows: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> list[Recommended]:
        return [Recommended(self._items.ids[row], score) for row, score in zip(rows, scores.tolist())]

    @functools.cached_property
    def _gram(self) -> np.ndarray[Any, Any]:
        """1/|I| Σ_j v_j v_jᵀ."""
        total = np.zeros((self._item_vectors.size,) * 2)
        for _, block in self._item_vectors.blocks():
            total += block.T @ block
        return total / len(self._items.ids)

    @functools.cached_property
    def _scales(self) -> np.ndarray[Any, Any]:
        """1 / |v_j|, or 0 for a vector of zeros."""
        norms = np.concatenate([np.linalg.norm(block, axis=1) for _, block in self._item_vectors.blocks()])
        scales: np.ndarray[Any, Any] = np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0).astype(np.float32)
        return scales


def _check_count(k: Any, what: str = "k, the length of a ranking,") -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise OptionError(f"{what} must be a whole number from 1 on, but is {k!r}.")


def _check_search(search: Any, candidates: Any) -> None:
    if search not in (EXACT, TWO_STAGE):
        raise OptionError(f"search must be '{EXACT}' or '{TWO_STAGE}', but is {search!r}.")
    _check_count(candidates, "candidates, of each wanted item,")


def _seen_of(folder: Path, card: dict[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    indptr, items = mapped(folder / SEEN[0], np.int64, 1), mapped(folder / SEEN[1], np.int32, 1)
    rising = len(indptr) == card["users"] + 1 and indptr[0] == 0 and indptr[-1] == len(items)
    if not rising or (np.diff(indptr) < 0).any():
        raise DamagedFileError("the seen items are not those of so many users")
    if len(items) and (items.min() < 0 or items.max() >= card["items"]):
        raise DamagedFileError("the seen items name items that there are not")
    return indptr, items
