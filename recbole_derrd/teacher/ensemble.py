"""Several teachers as one, and what they know together; the formula is in ``ensemble_model.py``."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np

from recbole_derrd.data.history import History
from recbole_derrd.errors import OptionError
from recbole_derrd.teacher.array_builder import BuildSettings
from recbole_derrd.teacher.ensemble_model import EnsembleAdapter, EnsembleModel
from recbole_derrd.teacher.knowledge import Array
from recbole_derrd.teacher.rank_weighting import RankWeighting
from recbole_derrd.teacher.source import Known, Load
from recbole_derrd.teacher.stored_knowledge import StoredKnowledge


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Several teachers as one: a :class:`~recbole_derrd.teacher.source.TeacherSource`.

    Attributes:
        members: what each teacher knows.
        config: RecBole's configuration of one of the teachers.
        dataset: RecBole's data set.
        rank_weighting: what a rank counts.
        count: items of each teacher's ranking that count.
        leader: which teacher's embeddings are used; None where none has any.
        starter: which teacher's scores a student may start at; None where none's are dot products of embeddings.
    """

    members: Sequence[StoredKnowledge]
    config: Any
    dataset: Any
    rank_weighting: RankWeighting
    count: int
    leader: int | None = None
    starter: int | None = None

    @property
    def key(self) -> str:
        """What distinguishes one ensemble from another, as a cache key."""
        content: list[Any] = [[member.folder.name for member in self.members], repr(self.rank_weighting), self.count]
        # Rankings of an approximate search make another ensemble.
        content.append([member.settings.search for member in self.members])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def hints(self) -> tuple[str, ...]:
        """Hint layers of the teacher whose embeddings are used."""
        return () if self.leader is None else self.members[self.leader].teacher_hints

    @property
    def known(self) -> Known:
        """Users and items that any of the teachers knows; a side of which one knows all is left out."""
        found = {}
        for side in ("user", "item"):
            masks = [mask for member in self.members if (mask := member.known(side)) is not None]
            if len(masks) == len(self.members):
                found[side] = np.stack(masks).any(axis=0)
        return found

    @property
    def ranks_all(self) -> bool:
        """Whether items in no ranking are ranked behind the others: not where a teacher does not know them."""
        return all(member.known(side) is None for member in self.members for side in ("user", "item"))

    def model(self, *, among_candidates: bool = False) -> EnsembleModel:
        """Return the ensemble as a RecBole model."""
        model = EnsembleModel(
            self.config, self.dataset, self.members, self.rank_weighting, self.count, among_candidates=among_candidates
        )
        model.to(self.config["device"])
        model.eval()
        return model

    def load(self) -> EnsembleAdapter:
        """Return the ensemble in its adapter."""
        adapter = EnsembleAdapter(self.model())
        adapter.ranks_all = self.ranks_all
        return adapter

    def snapshots(self, count: int) -> contextlib.AbstractContextManager[Sequence[Load]]:
        """Give none: trajectories are each teacher's own."""
        return contextlib.nullcontext(())

    def forget(self) -> None:
        """Free the memory of all teachers."""
        for member in self.members:
            member.forget_teacher()


class EnsembleKnowledge(StoredKnowledge):
    """What several teachers know together, as if they were one.

    Rankings and scores are the ensemble's; embeddings are those of the best teacher that has any; trajectories and the
    ranks of training items are every teacher's own.

    Args:
        folder: where the ensemble's own arrays are kept.
        ensemble: the teachers.
        history: training items of each user.
        settings: how the ensemble's own arrays are built.
        score_scale: what scores are multiplied by; None is 1.
    """

    def __init__(
        self,
        folder: Path,
        ensemble: Ensemble,
        history: History,
        settings: BuildSettings | None = None,
        score_scale: float | None = 1.0,
    ) -> None:
        """Open the knowledge; nothing is computed yet."""
        # Scores that come from ranks are all of one size.
        scale = 1.0 if score_scale is None else score_scale
        super().__init__(folder, ensemble, history, settings, ensemble.rank_weighting, scale)
        self.ensemble = ensemble

    @property
    def members(self) -> Sequence[StoredKnowledge]:
        """What each teacher knows."""
        return self.ensemble.members

    def total_seconds(self) -> float:
        """Return how long building arrays took in this process, the teachers' own included."""
        return super().total_seconds() + sum(member.total_seconds() for member in self.members)

    def known(self, side: str, *, by_embedding: bool = False) -> Array | None:
        """Return whom any teacher knows, or the one whose embeddings are used; see :meth:`Knowledge.known`."""
        if by_embedding:
            return self.members[self.ensemble.leader or 0].known(side)
        return super().known(side)

    def embeddings(self, side: str, hint: str | None = None) -> Array:
        """Return the embeddings of the best teacher that has any [n, d]; see :meth:`Knowledge.embeddings`."""
        return self.members[self.ensemble.leader or 0].embeddings(side, hint)

    def neighbours(self, side: str, count: int, components: int, hint: str | None = None) -> Array:
        """Return those of the best teacher that has embeddings; see :meth:`Knowledge.neighbours`."""
        return self.members[self.ensemble.leader or 0].neighbours(side, count, components, hint)

    def score_embeddings(self) -> tuple[Array, Array]:
        """Return those of the best teacher whose scores are dot products; see :meth:`Knowledge.score_embeddings`."""
        return self.members[self.ensemble.starter or 0].score_embeddings()

    def top_items(self, count: int) -> Array:
        """Return the ensemble's rankings; see :meth:`Knowledge.top_items`.

        Raises:
            OptionError: they would be longer than the teachers' rankings that they are made from.
        """
        count = min(count, self.n_items - 1)
        if count > self.ensemble.count:
            raise OptionError(
                f"The ensemble's rankings of {count} items are made from rankings of {self.ensemble.count} of each "
                f"teacher, which may hold too few: set ensemble_top_n to {count} or more."
            )
        return super().top_items(count)

    def trajectories(self, count: int) -> list[Array]:
        """Return the rankings of each teacher's snapshots; see :meth:`Knowledge.trajectories`."""
        return self._of_each(lambda member: member.trajectories(count))

    def observed_ranks(self) -> list[Array]:
        """Return each teacher's ranks of the training interactions; see :meth:`Knowledge.observed_ranks`."""
        return self._of_each(lambda member: member.observed_ranks())

    def _of_each(self, ask: Callable[[StoredKnowledge], list[Array]]) -> list[Array]:
        """Ask each teacher, of which one at a time is in memory."""
        answers = []
        for member in self.members:
            answers += ask(member)
            member.forget_teacher()
        return answers
