r"""Several teachers as one: the rank-importance ensemble.

For user u, teachers m and the rank of item i in teacher m's list of u's unobserved items,

    G_u(i) = sum_m w(rank of i in m's list),    w of ``importance.py``,

and the ensemble's logit is ln G_u(i): the order is that of G, softmax and sigmoid of it are G's shares and odds, and
an item in no list has -inf. SeongKu Kang et al.: "Distillation from Heterogeneous Models for Top-K Recommendation",
WWW 2023, equation 8. The authors' code keeps w of every item for every user (12.6 GB on CiteULike), this keeps
rankings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_derrd.adapters.rows import FixedAdapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import OptionError
from recbole_derrd.teacher.knowledge import Knowledge, knowledge_folder
from recbole_derrd.teacher.rank_weighting import RankWeighting

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
        count: items of each list that count.
        among_candidates: whether it is evaluated among fixed candidates. A list from the whole catalogue says nothing
            of most of them, so they are ranked by the teachers, which are then in memory together.
    """

    type = ModelType.TRADITIONAL
    own_adapter = EnsembleAdapter

    def __init__(
        self,
        config: Any,
        dataset: Any,
        members: Sequence[Knowledge],
        importance: RankWeighting,
        count: int,
        *,
        among_candidates: bool = False,
    ) -> None:
        """Open the rankings."""
        super().__init__(config, dataset)
        self.members, self.importance, self.among_candidates = list(members), importance, among_candidates
        self.rankings: list[np.ndarray[Any, Any]] = []
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
        """Return ln of the summed importances of the ranks among the candidates [n, K]; equal scores share the last."""
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
        """Return the logits [n, n_items] as RecBole judges them: it hides items by -inf, and these are hidden alone."""
        scores = self.listed_scores(users)
        return scores.clamp_(min=torch.finfo(scores.dtype).min)

    def predict(self, interaction: Any) -> Tensor:
        """Return the logit of each pair [n]; each user's row is made once, some users at a time."""
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


class EnsembleKnowledge(Knowledge):
    """What several teachers know together, as if they were one.

    Rankings and scores are the ensemble's; embeddings are those of the best teacher that has any; trajectories and the
    ranks of training items are every teacher's own.

    Args:
        cache: folder that the ensemble's rankings are kept in.
        members: what each teacher knows.
        history: training items of each user.
        fingerprint: of the training data.
        config: RecBole's configuration of one of the teachers.
        dataset: RecBole's data set.
        importance: what a rank counts.
        count: items of each teacher's list that count.
        leader: which teacher's embeddings are used; None where none has any.
        starter: which teacher's scores a student may start at; None where none's are dot products of embeddings.
        options: further arguments of :class:`Knowledge`.
    """

    def __init__(
        self,
        cache: Path,
        members: Sequence[Knowledge],
        history: History,
        fingerprint: str,
        *,
        config: Any,
        dataset: Any,
        importance: RankWeighting,
        count: int,
        leader: int | None = None,
        starter: int | None = None,
        **options: Any,
    ) -> None:
        """Open the knowledge; nothing is computed yet."""
        self.members, self.count, self.leader, self.starter = list(members), count, leader, starter
        self.importance = importance
        self._config, self._dataset = config, dataset
        hints = () if leader is None else self.members[leader].teacher_hints
        folder = knowledge_folder(cache, self.key, fingerprint)
        super().__init__(folder, self._ensemble, history, teacher_hints=hints, importance=importance, **options)

    @property
    def key(self) -> str:
        """What tells one ensemble from another."""
        content: list[Any] = [[member.folder.name for member in self.members], repr(self.importance), self.count]
        # What an approximate search has found is another ensemble.
        content += [member.search for member in self.members if member.search != "exact"]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def model(self, *, among_candidates: bool = False) -> EnsembleModel:
        """Return the ensemble as a RecBole model."""
        model = EnsembleModel(
            self._config, self._dataset, self.members, self.importance, self.count, among_candidates=among_candidates
        )
        return model.to(self._config["device"]).eval()

    def _ensemble(self) -> EnsembleAdapter:
        return EnsembleAdapter(self.model())

    def total_seconds(self) -> float:
        """Return how long what had to be made took in this process, the teachers' own rankings included."""
        return self.seconds + sum(member.total_seconds() for member in self.members)

    def forget_teacher(self) -> None:
        """Free the memory of all teachers."""
        super().forget_teacher()
        for member in self.members:
            member.forget_teacher()

    def embeddings(self, side: str, hint: str | None = None) -> np.ndarray[Any, Any]:
        """Return the embeddings of the best teacher that has any [n, d]; see :meth:`Knowledge.embeddings`."""
        return self.members[self.leader or 0].embeddings(side, hint)

    def neighbours(self, side: str, count: int, components: int, hint: str | None = None) -> np.ndarray[Any, Any]:
        """Return those of the best teacher that has embeddings; see :meth:`Knowledge.neighbours`."""
        return self.members[self.leader or 0].neighbours(side, count, components, hint)

    def score_embeddings(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return those of the best teacher whose scores are dot products; see :meth:`Knowledge.score_embeddings`."""
        return self.members[self.starter or 0].score_embeddings()

    def top_items(self, count: int) -> np.ndarray[Any, Any]:
        """Return the ensemble's rankings; see :meth:`Knowledge.top_items`.

        Raises:
            OptionError: the list is to be longer than those that it is made from.
        """
        count = min(count, self.n_items - 1)
        if count > self.count:
            raise OptionError(
                f"The ensemble's rankings of {count} items are made from rankings of {self.count} of each teacher, "
                f"which may hold too few: set ensemble_top_n to {count} or more."
            )
        return super().top_items(count)

    def trajectories(self, count: int) -> list[np.ndarray[Any, Any]]:
        """Return each teacher's rankings at each snapshot; see :meth:`Knowledge.trajectories`."""
        return [array for member in self.members for array in self._of(member, member.trajectories, count)]

    def observed_ranks(self) -> list[np.ndarray[Any, Any]]:
        """Return where each teacher ranks the training items; see :meth:`Knowledge.observed_ranks`."""
        return [array for member in self.members for array in self._of(member, member.observed_ranks)]

    @staticmethod
    def _of(member: Knowledge, ask: Any, *arguments: Any) -> Any:
        answer = ask(*arguments)
        member.forget_teacher()
        return answer
