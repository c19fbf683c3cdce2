"""What a distiller may ask of a teacher: an interface, whether disk or a teacher in memory answers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.data.history import History
from recbole_derrd.teacher.rank_weighting import RankWeighting

Array = np.ndarray[Any, Any]


class QueryKnowledge(Protocol):
    """A teacher's answers to the queries of a batch, as they come.

    A query is what items are ranked for. It is whatever the teacher's adapter takes, a user id today. It need not be an
    index into a table: there may be too many queries to keep an answer for each of them.
    """

    @property
    def n_items(self) -> int:
        """Number of items, padding id 0 included."""
        ...

    @property
    def teacher(self) -> Adapter:
        """The frozen teacher, loaded on first use."""
        ...

    @property
    def score_scale(self) -> float:
        """What all scores that this gives are multiplied by; those of :attr:`teacher` itself are not."""
        ...

    def scores(self, queries: Tensor, items: Tensor) -> Tensor:
        """Return the teacher's logits [n, K] of items [n, K] for queries [n], times :attr:`score_scale`."""
        ...


class Knowledge(QueryKnowledge, Protocol):
    """A teacher's embeddings, top-N rankings and scores, where each query is a user of the training data.

    Then an answer for every user can be kept, and the arrays below have a row for each; row 0 is padding. They are
    memory-mapped: writing to one leaves the file as it is.

    Attributes:
        history: training items of each user; they never enter a ranking.
        rank_weighting: what a rank counts, for methods that add up ranks.
    """

    history: History
    rank_weighting: RankWeighting

    @property
    def n_users(self) -> int:
        """Number of users, padding id 0 included."""
        ...

    @property
    def teacher_hints(self) -> tuple[str, ...]:
        """Hint layers that the teacher's embeddings can be read from, default first; empty where it has none."""
        ...

    def known(self, side: str, *, by_embedding: bool = False) -> Array | None:
        """Return which users or items the teacher ranks and scores [n], bool; None where it does all.

        Rankings of the others are empty, and never hold them. The padding id is not known.

        Args:
            side: "user" or "item".
            by_embedding: of which it has embeddings, instead; those of the others are zeros.
        """
        ...

    def embeddings(self, side: str, hint: str | None = None) -> Array:
        """Return the embeddings of all users or items at a hint layer [n, d], float32.

        Args:
            side: "user" or "item".
            hint: the teacher's hint layer; its first if None.

        Raises:
            OptionError: the teacher has no embeddings, or no such layer.
        """
        ...

    def neighbours(self, side: str, count: int, components: int, hint: str | None = None) -> Array:
        """Return each user's or item's ``count`` nearest others, nearest first, by the teacher's embeddings.

        Args:
            side: "user" or "item".
            count: below the number of users or items.
            components: principal components of the embeddings that distances are taken in.
            hint: the teacher's hint layer; its first if None.

        Returns:
            [n, count] int32.
        """
        ...

    def score_embeddings(self) -> tuple[Array, Array]:
        """Return embeddings of all users and of all items whose dot products are scores: for teachers that score so."""
        ...

    def top_items(self, count: int) -> Array:
        """Return each user's ``count`` best items that the user has no training interaction with, best first.

        Validation and test items stay in. Rows of users with fewer unobserved items end in zeros.

        Returns:
            [n_users, count] int32.
        """
        ...

    def top_users(self, count: int) -> Array:
        """Return each item's ``count`` best users that have no training interaction with it, best first.

        Rows of items with fewer such users end in zeros, and so do rows of items that fewer users have in an ensemble's
        rankings.

        Returns:
            [n_items, count] int32.
        """
        ...

    def top_scores(self, count: int) -> Array:
        """Return the teacher's logits of the items in :meth:`top_items`; 0 where a row has no item.

        Returns:
            [n_users, count] float32.
        """
        ...

    def trajectories(self, count: int) -> list[Array]:
        """Return the rankings of each teacher's snapshots: one array a teacher, of :meth:`top_items` for each snapshot.

        A teacher passed through its snapshots in its training; the final one is last. A teacher that is not trained by
        epochs has that one alone.

        Returns:
            [snapshots, n_users, count] int32 for each teacher.
        """
        ...

    def observed_ranks(self) -> list[Array]:
        """Return where each teacher ranks each training interaction among those of its user, from 1.

        Returns:
            [interactions] int32 for each teacher, in the order of ``history.items``.
        """
        ...
