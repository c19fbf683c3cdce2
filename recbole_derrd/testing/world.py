"""A tiny world without RecBole: a student, a teacher, and what the teacher knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor, nn

from recbole_derrd.adapters import EmbeddingAdapter
from recbole_derrd.data.history import History
from recbole_derrd.distillers import StepBatch
from recbole_derrd.teacher import GivenTeacher, Knowledge, StoredKnowledge

#: Seed of the teacher's weights; one of the several teachers' last snapshots has it as well.
TEACHER_SEED = 2
#: Seeds of several teachers' snapshots, oldest first.
TEACHERS = ((11, 12, TEACHER_SEED), (21,), (31, 32))


class TinyModel(nn.Module):
    """Two embedding tables: all that a model must be for the distillers."""

    def __init__(self, n_users: int, n_items: int, size: int, seed: int) -> None:
        """Draw the tables, padding id 0 included."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.n_users, self.n_items, self.device = n_users, n_items, torch.device("cpu")
        self.users = nn.Embedding(n_users, size, _weight=torch.randn(n_users, size, generator=generator))
        self.items = nn.Embedding(n_items, size, _weight=torch.randn(n_items, size, generator=generator))


class TinyAdapter(EmbeddingAdapter):
    """The tables as hint layer "embedding"; layer "twice" is twice them, so that layers can be told apart."""

    hints = ("embedding", "twice")

    @staticmethod
    def _read(table: nn.Embedding, ids: Tensor | None, layer: str) -> Tensor:
        embeddings = table.weight if ids is None else table(ids)
        return 2 * embeddings if layer == "twice" else embeddings

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        return self._read(self.model.users, users, layer)

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return self._read(self.model.items, items, layer)


class SeveralTeachers(StoredKnowledge):
    """What several teachers know, each with its earlier snapshots.

    Args:
        folder: where the arrays are kept.
        teacher: the one whose seed is ``TEACHER_SEED``.
        history: training items of each user.
        seeds: seeds of each teacher's snapshots, oldest first.
        size: dimensions of their embeddings.
        teacher_hints: hint layers of the first teacher.
    """

    def __init__(
        self,
        folder: Path,
        teacher: TinyAdapter,
        history: History,
        seeds: Sequence[Sequence[int]],
        size: int,
        teacher_hints: tuple[str, ...],
    ) -> None:
        """Make the teachers; rankings and embeddings are the first one's."""

        def loader(seed: int) -> Callable[[], TinyAdapter]:
            model = TinyModel(history.n_users, history.n_items, size, seed)
            return lambda: teacher if seed == TEACHER_SEED else TinyAdapter(model)

        #: What loads each snapshot of each teacher.
        self.loaders = [[loader(seed) for seed in of_teacher] for of_teacher in seeds]
        super().__init__(folder / "first", GivenTeacher(self.loaders[0][-1], teacher_hints), history)
        #: What each snapshot of each teacher knows.
        self.members = [
            [
                StoredKnowledge(folder / f"{index}-{place}", GivenTeacher(load), history)
                for place, load in enumerate(own)
            ]
            for index, own in enumerate(self.loaders)
        ]

    def trajectories(self, count: int) -> list[np.ndarray[Any, Any]]:
        """Return each teacher's rankings."""
        return [np.stack([snapshot.top_items(count) for snapshot in own]) for own in self.members]

    def observed_ranks(self) -> list[np.ndarray[Any, Any]]:
        """Return each teacher's ranks of the training items."""
        return [own[-1].observed_ranks()[0] for own in self.members]

    def order(self, teacher: int, snapshot: int, user: int, items: set[int]) -> list[int]:
        """Return these items as a snapshot ranks them, by a plain sort."""
        with torch.no_grad():
            scores = self.loaders[teacher][snapshot]().score_all(torch.tensor([user]))[0].tolist()
        return sorted(items, key=lambda item: -scores[item])


def history_of(rows: Sequence[Sequence[int]], n_items: int) -> History:
    """Return the history of users 1, 2 ... with these training items."""
    lengths = [0, *(len(row) for row in rows)]
    items = [item for row in rows for item in sorted(row)]
    return History(np.concatenate([[0], np.cumsum(lengths)]), np.array(items, dtype=np.int64), n_items)


@dataclasses.dataclass
class World:
    """A student, a teacher and what the teacher knows.

    Attributes:
        student: the student in its adapter; its tables are ``student.model.users`` and ``student.model.items``.
        teacher: the teacher likewise.
        knowledge: what a method reads of the teacher.
    """

    student: TinyAdapter
    teacher: TinyAdapter
    knowledge: Knowledge

    @property
    def history(self) -> History:
        """Training items of each user."""
        return self.knowledge.history

    def seen(self, user: int) -> set[int]:
        """Return one user's training items."""
        return set(self.history.items[self.history.indptr[user] : self.history.indptr[user + 1]].tolist())

    def teacher_order(self, user: int) -> list[int]:
        """Return the user's unobserved items as the teacher ranks them, by a plain sort."""
        with torch.no_grad():
            scores = self.teacher.score_all(torch.tensor([user]))[0].tolist()
        allowed = set(range(1, self.history.n_items)) - self.seen(user)
        return sorted(allowed, key=lambda item: -scores[item])


def make_world(
    folder: Path,
    rows: Sequence[Sequence[int]],
    n_items: int,
    student_size: int = 4,
    teacher_size: int = 6,
    teacher_hints: tuple[str, ...] = TinyAdapter.hints,
    teachers: Sequence[Sequence[int]] | None = None,
) -> World:
    """Build a world whose users 1, 2 ... have these training items.

    Args:
        folder: where what the teacher knows is kept.
        rows: training items of each user.
        n_items: number of items, padding item included.
        student_size: dimensions of the student's embeddings.
        teacher_size: dimensions of the teachers' embeddings.
        teacher_hints: hint layers that the teacher's embeddings can be read from.
        teachers: seeds of several teachers' snapshots, for methods that need trajectories; None for one teacher.
    """
    n_users, history = len(rows) + 1, history_of(rows, n_items)
    student = TinyAdapter(TinyModel(n_users, n_items, student_size, seed=1))
    teacher = TinyAdapter(TinyModel(n_users, n_items, teacher_size, seed=TEACHER_SEED))
    if teachers is None:
        source = GivenTeacher(lambda: teacher, teacher_hints)
        return World(student, teacher, StoredKnowledge(folder, source, history))
    several = SeveralTeachers(folder, teacher, history, teachers, teacher_size, teacher_hints)
    return World(student, teacher, several)


def some_rows(n_users: int, n_items: int, most: int, seed: int = 0) -> list[list[int]]:
    """Return between 0 and ``most`` training items for each user."""
    random = np.random.default_rng(seed)
    return [
        sorted((random.permutation(n_items - 1)[: random.integers(0, most + 1)] + 1).tolist()) for _ in range(n_users)
    ]


def step(users: Sequence[int], positives: Sequence[int], negatives: Sequence[int], rows: int = 1) -> StepBatch:
    """Return a batch of these distinct entities."""
    as_ids = lambda ids: torch.tensor(list(ids), dtype=torch.int64)  # noqa: E731
    return StepBatch(as_ids(users), as_ids(positives), as_ids(negatives), rows)
