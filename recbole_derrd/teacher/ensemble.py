r"""Several teachers as one: an ensemble that adds up what the teachers' ranks count.

For user u, teachers m and the rank of item i in teacher m's ranking of u's unobserved items,

    G_u(i) = sum_m w(rank of i in m's ranking),    w of ``rank_weighting.py``,

and the ensemble's logit is ln G_u(i): the order is that of G, softmax and sigmoid of it are G's shares and odds, and
an item in no ranking has -inf. SeongKu Kang et al.: "Distillation from Heterogeneous Models for Top-K Recommendation",
WWW 2023, equation 8. The authors' code keeps w of every item for every user (12.6 GB on CiteULike), this keeps
rankings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_derrd.adapters.rows import FixedAdapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import OptionError
from recbole_derrd.teacher.array_builder import BuildSettings
from recbole_derrd.teacher.knowledge import Array
from recbole_derrd.teacher.rank_weighting import RankWeighting
from recbole_derrd.teacher.source import Load
from recbole_derrd.teacher.stored_knowledge import StoredKnowledge

#: Scores of the users whose pairs are evaluated at once (64 MB).
_PAIR_SCORES = 1 << 24


class EnsembleAdapter(FixedAdapter):
    """Logits ln G; among fixed candidates the teachers rank the candidates themselves."""

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        scores: Tensor = self.model.listed_scores(users)
        return scores

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        if self.model.among_candidates:
            scores: Tensor = self.model.candidate_scores(users, items)
            return scores
        return super().score(users, items)


class EnsembleModel(GeneralRecommender):
    """The ensemble as a RecBole model, so that it is evaluated as every other model is.

    Args:
        config: RecBole's configuration of one of the teachers.
        dataset: RecBole's data set.
        members: what the teachers know.
        importance: what a rank counts.
        count: items of each ranking that count.
        among_candidates: whether it is evaluated among fixed candidates. Most of them are in no ranking of the whole
            catalogue, so the teachers rank the candidates, and are then in memory together.
    """

    type = ModelType.TRADITIONAL
    own_adapter = EnsembleAdapter

    def __init__(
        self,
        config: Any,
        dataset: Any,
        members: Sequence[StoredKnowledge],
        importance: RankWeighting,
        count: int,
        *,
        among_candidates: bool = False,
    ) -> None:
        """Open the rankings."""
        super().__init__(config, dataset)
        self.members, self.importance, self.among_candidates = list(members), importance, among_candidates
        self.rankings: list[Array] = []
        for member in self.members:
            self.rankings.append(member.top_items(count))
            # One teacher in memory at a time.
            member.forget_teacher()
        self.weights = self.importance.of_list(self.rankings[0].shape[1]).to(self.device, torch.float32)
        # RecBole's trainers build an optimizer, which refuses a model without parameters.
        self.fake_loss = nn.Parameter(torch.zeros(1))

    def listed_scores(self, users: Tensor) -> Tensor:
        """Return ln G of every item [n, n_items] for users [n]."""
        rows = users.cpu().numpy()
        total = torch.zeros(len(rows), self.n_items, device=self.device)
        for rankings in self.rankings:
            items = torch.from_numpy(rankings[rows]).to(self.device, torch.int64)
            total.scatter_add_(1, items, self.weights.expand(items.shape))
        # Short rankings end in zeros.
        total[:, 0] = 0
        return total.log_()

    def candidate_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return ln of what the ranks among the candidates count in sum [n, K]; equal scores share the last rank."""
        total = torch.zeros(items.shape, device=self.device)
        for member in self.members:
            teacher = member.teacher
            with teacher.shared():
                scores = teacher.score(users.to(teacher.device), items.to(teacher.device)).float()
            scores = scores.masked_fill(items.to(scores.device) == 0, -torch.inf)
            ascending = scores.sort(dim=1).values
            ranks = items.shape[1] - torch.searchsorted(ascending, scores.contiguous())
            total += self.importance.of_ranks(ranks).to(self.device, torch.float32)
        return total.log_()

    def _evaluated_scores(self, users: Tensor) -> Tensor:
        """Return the logits [n, n_items] for RecBole's evaluation, which takes -inf for an item that it must hide."""
        scores = self.listed_scores(users)
        return scores.clamp_(min=torch.finfo(scores.dtype).min)

    def predict(self, interaction: Any) -> Tensor:
        """Return the logit of each pair [n]; each user's row is computed once, some users at a time."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        distinct, positions = users.unique(return_inverse=True)
        found = torch.empty(len(users), device=self.device)
        at_once = max(1, _PAIR_SCORES // self.n_items)
        for start in range(0, len(distinct), at_once):
            scores = self._evaluated_scores(distinct[start : start + at_once])
            pairs = ((positions >= start) & (positions < start + at_once)).nonzero().squeeze(1)
            found[pairs] = scores[positions[pairs] - start, items[pairs]]
        return found

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the users' logits of every item, flat [n * n_items]."""
        return self._evaluated_scores(interaction[self.USER_ID]).view(-1)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Several teachers as one: a :class:`~recbole_derrd.teacher.source.TeacherSource`.

    Attributes:
        members: what each teacher knows.
        config: RecBole's configuration of one of the teachers.
        dataset: RecBole's data set.
        importance: what a rank counts.
        count: items of each teacher's ranking that count.
        leader: which teacher's embeddings are used; None where none has any.
        starter: which teacher's scores a student may start at; None where none's are dot products of embeddings.
    """

    members: Sequence[StoredKnowledge]
    config: Any
    dataset: Any
    importance: RankWeighting
    count: int
    leader: int | None = None
    starter: int | None = None

    @property
    def key(self) -> str:
        """What distinguishes one ensemble from another, as a cache key."""
        content: list[Any] = [[member.folder.name for member in self.members], repr(self.importance), self.count]
        # Rankings of an approximate search make another ensemble.
        content.append([member.settings.search for member in self.members])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def hints(self) -> tuple[str, ...]:
        """Hint layers of the teacher whose embeddings are used."""
        return () if self.leader is None else self.members[self.leader].teacher_hints

    def model(self, *, among_candidates: bool = False) -> EnsembleModel:
        """Return the ensemble as a RecBole model."""
        model = EnsembleModel(
            self.config, self.dataset, self.members, self.importance, self.count, among_candidates=among_candidates
        )
        return model.to(self.config["device"]).eval()

    def load(self) -> EnsembleAdapter:
        """Return the ensemble in its adapter."""
        return EnsembleAdapter(self.model())

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
    """

    def __init__(
        self, folder: Path, ensemble: Ensemble, history: History, settings: BuildSettings | None = None
    ) -> None:
        """Open the knowledge; nothing is computed yet."""
        super().__init__(folder, ensemble, history, settings, ensemble.importance)
        self.ensemble = ensemble

    @property
    def members(self) -> Sequence[StoredKnowledge]:
        """What each teacher knows."""
        return self.ensemble.members

    def total_seconds(self) -> float:
        """Return how long building arrays took in this process, the teachers' own included."""
        return super().total_seconds() + sum(member.total_seconds() for member in self.members)

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
