r"""Several teachers as one: an ensemble that adds up what the teachers' ranks count.

For user u, teachers m and the rank of item i in teacher m's ranking of u's unobserved items,

    G_u(i) = sum_m w(rank of i in m's ranking),    w of ``rank_weighting.py``,

and the ensemble's logit is ln G_u(i): the order is that of G, softmax and sigmoid of it are G's shares and odds, and
an item in no ranking has -inf. SeongKu Kang et al.: "Distillation from Heterogeneous Models for Top-K Recommendation",
WWW 2023, equation 8. The authors' code keeps w of every item for every user (12.6 GB on CiteULike), this keeps
rankings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_derrd.adapters.rows import FixedAdapter
from recbole_derrd.teacher.knowledge import Array
from recbole_derrd.teacher.rank_weighting import RankWeighting
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
        rank_weighting: what a rank counts.
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
        rank_weighting: RankWeighting,
        count: int,
        *,
        among_candidates: bool = False,
    ) -> None:
        """Open the rankings."""
        super().__init__(config, dataset)
        self.members, self.rank_weighting, self.among_candidates = list(members), rank_weighting, among_candidates
        self.rankings: list[Array] = []
        for member in self.members:
            self.rankings.append(member.top_items(count))
            # One teacher in memory at a time.
            member.forget_teacher()
        self.weights = self.rank_weighting.of_ranking(self.rankings[0].shape[1]).to(self.device, torch.float32)
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
            total += self.rank_weighting.of_ranks(ranks).to(self.device, torch.float32)
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
