"""What a frozen teacher knows, built once in chunks of users and kept on disk, memory-mapped."""

from __future__ import annotations

import functools
import hashlib
import math
from logging import getLogger
from pathlib import Path

import numpy as np
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.data.history import History
from recbole_derrd.runtime.console import SHOWN
from recbole_derrd.teacher.array_builder import BuildSettings
from recbole_derrd.teacher.array_store import ArrayStore
from recbole_derrd.teacher.embedding_arrays import Embeddings, Neighbours
from recbole_derrd.teacher.knowledge import Array
from recbole_derrd.teacher.rank_weighting import RankWeighting
from recbole_derrd.teacher.ranking_arrays import TopItems, TopUsers, Trajectory
from recbole_derrd.teacher.score_arrays import ObservedRanks, TopScores, listed_scores
from recbole_derrd.teacher.score_scale import automatic_scale, spread_of
from recbole_derrd.teacher.source import LazyTeacher, TeacherSource


class StoredKnowledge:
    """A teacher's :class:`~recbole_derrd.teacher.knowledge.Knowledge` in ``.npy`` files under one folder.

    No users x items array is made anywhere: rankings are built some users at a time and written as they come, so that
    memory does not grow with the number of users. The teacher is loaded only for what is not on disk, and for scores.

    Args:
        folder: where the arrays are kept; see :func:`knowledge_folder`.
        source: the frozen teacher.
        history: training items of each user; they never enter a ranking.
        settings: how arrays are built.
        rank_weighting: what a rank counts, for methods that add up ranks.
        score_scale: what scores are multiplied by; None for :func:`~recbole_derrd.teacher.score_scale.automatic_scale`.

    Attributes:
        search_recall: share of the exact rankings that an approximate search has found; None for the exact search.
    """

    def __init__(
        self,
        folder: Path,
        source: TeacherSource,
        history: History,
        settings: BuildSettings | None = None,
        rank_weighting: RankWeighting | None = None,
        score_scale: float | None = 1.0,
    ) -> None:
        """Open the knowledge; nothing is computed yet."""
        self.history = history
        self.settings = settings or BuildSettings()
        self.rank_weighting = rank_weighting or RankWeighting()
        self.search_recall: float | None = None
        self._score_scale = score_scale
        self._teacher = LazyTeacher(source)
        self._arrays = ArrayStore(folder, self._teacher)

    @property
    def folder(self) -> Path:
        """Where the arrays are kept."""
        return self._arrays.folder

    @property
    def n_users(self) -> int:
        """Number of users, padding id 0 included."""
        return self.history.n_users

    @property
    def n_items(self) -> int:
        """Number of items, padding id 0 included."""
        return self.history.n_items

    @property
    def teacher(self) -> Adapter:
        """The frozen teacher, loaded on first use."""
        return self._teacher.adapter

    @property
    def teacher_hints(self) -> tuple[str, ...]:
        """Hint layers that the teacher's embeddings can be read from, default first."""
        return self._teacher.source.hints

    @property
    def teacher_loaded(self) -> bool:
        """Whether the teacher is in memory."""
        return self._teacher.loaded

    def known(self, side: str, *, by_embedding: bool = False) -> Array | None:
        """Return which users or items the teacher knows; see :meth:`Knowledge.known`."""
        return self._teacher.source.known.get(side)

    def forget_teacher(self) -> None:
        """Free the teacher's memory; it is loaded again if it is needed again."""
        self._teacher.forget()

    def total_seconds(self) -> float:
        """Return how long building arrays took in this process."""
        return self._arrays.seconds

    def embeddings(self, side: str, hint: str | None = None) -> Array:
        """Return the embeddings of all users or items; see :meth:`Knowledge.embeddings`."""
        return self._arrays.open(Embeddings(side, self._layer(hint), self.n_users if side == "user" else self.n_items))

    def neighbours(self, side: str, count: int, components: int, hint: str | None = None) -> Array:
        """Return each user's or item's nearest others; see :meth:`Knowledge.neighbours`."""
        layer = self._layer(hint)
        embeddings = self.embeddings(side, layer)
        width = min(components, embeddings.shape[1])
        known = self.known(side, by_embedding=True)
        return self._arrays.open(Neighbours(side, layer, count, width, embeddings, self.settings, known))

    def _layer(self, hint: str | None) -> str | None:
        return hint or next(iter(self.teacher_hints), None)

    @functools.cached_property
    def score_scale(self) -> float:
        """What scores are multiplied by; found at first use where it was not given."""
        if self._score_scale is not None:
            return self._score_scale
        spread = spread_of(self.teacher, self._teacher.source.known)
        if not math.isfinite(spread):
            getLogger().warning(
                "teacher_scale: auto has no effect: the teacher scores too few items of each user to show how large "
                "its scores are. If they are of another size than those of a BPR, set teacher_scale to a number.",
                extra=SHOWN,
            )
        scale = automatic_scale(spread)
        if scale != 1:
            getLogger().info(
                f"The teacher's best scores lie {spread:.3g} above its median ones; all are multiplied by {scale:.3g} "
                "(teacher_scale: auto).",
                extra=SHOWN,
            )
        return scale

    def score_embeddings(self) -> tuple[Array, Array]:
        """Return embeddings whose dot products are scores; see :meth:`Knowledge.score_embeddings`."""
        users, items = self.embeddings("user"), self.embeddings("item")
        return (users if self.score_scale == 1 else users * np.float32(self.score_scale)), items

    def top_items(self, count: int) -> Array:
        """Return each user's best unobserved items; see :meth:`Knowledge.top_items`."""
        builder = TopItems(self.history, min(count, self.n_items - 1), self.settings)
        rankings = self._arrays.open(builder)
        self.search_recall = self._arrays.description(builder).get("recall")
        return rankings

    def top_users(self, count: int) -> Array:
        """Return each item's best users; see :meth:`Knowledge.top_users`. Always exact, whatever the search is."""
        return self._arrays.open(TopUsers(self.history, min(count, self.n_users - 1), self.settings))

    def top_scores(self, count: int) -> Array:
        """Return the logits of each user's best items; see :meth:`Knowledge.top_scores`."""
        stored = self._arrays.open(TopScores(self.top_items(count), self.settings))
        return stored if self.score_scale == 1 else stored * np.float32(self.score_scale)

    def trajectories(self, count: int) -> list[Array]:
        """Return the rankings of the teacher's snapshots; see :meth:`Knowledge.trajectories`."""
        builder = Trajectory(self.history, min(count, self.n_items - 1), self.settings)
        return [self._arrays.open(builder).reshape(-1, self.n_users, builder.count)]

    def observed_ranks(self) -> list[Array]:
        """Return the teacher's ranks of the training interactions; see :meth:`Knowledge.observed_ranks`."""
        return [self._arrays.open(ObservedRanks(self.history))[:, 0]]

    def scores(self, queries: Tensor, items: Tensor) -> Tensor:
        """Return the teacher's logits [n, K] of items [n, K] for queries [n], computed in chunks of queries."""
        return listed_scores(self.teacher, queries, items) * self.score_scale


def knowledge_folder(cache: Path, teacher_key: str, fingerprint: str) -> Path:
    """Return the folder of a teacher's knowledge.

    Args:
        cache: the run's ``cache_dir``.
        teacher_key: the teacher's cache key.
        fingerprint: of the training data.
    """
    key = hashlib.sha256(f"{teacher_key}|{fingerprint}".encode()).hexdigest()[:16]
    return cache / f"knowledge-{key}"
