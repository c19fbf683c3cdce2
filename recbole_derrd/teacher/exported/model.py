"""A teacher's files as a RecBole model, so that it is asked and evaluated as every other teacher is.

An item that it does not know, and every item for a user that it does not know, has the score -inf, which is never
ranked.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_derrd.adapters.base import EmbeddingAdapter
from recbole_derrd.adapters.rows import FixedAdapter
from recbole_derrd.teacher.exported.matching import Matched


class ExportedEmbeddings(EmbeddingAdapter):
    """Scores are inner products of the files' embeddings."""

    trainable = False
    ranks_all = False
    hints: ClassVar[tuple[str, ...]] = ("embedding",)

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        table: Tensor = self.model.user_table
        return table if users is None else table[users]

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        table: Tensor = self.model.item_table
        return table if items is None else table[items]

    def _hidden(self, scores: Tensor, users: Tensor, items: Tensor | None = None) -> Tensor:
        """Return scores [B, K] with -inf where user or item is not known; a side that is all known has no mask."""
        model = self.model
        if model.known_users is not None:
            scores = scores.masked_fill(~model.known_users[users].view(scores.shape[0], -1), -torch.inf)
        if model.known_items is not None:
            known = model.known_items if items is None else model.known_items[items].view(scores.shape[0], -1)
            scores = scores.masked_fill(~known, -torch.inf)
        return scores

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        return self._hidden(super().score(users, items), users, items)

    def score_users(self, items: Tensor, users: Tensor) -> Tensor:
        """Return the logits [B, K] of users [B, K] for items [B]."""
        return self._hidden(super().score_users(items, users), users, items)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        return self._hidden(super().score_all(users), users)


class ExportedRankings(FixedAdapter):
    """Scores are the files' own, or -ln(rank) where they have none; an item in no ranking has -inf."""

    ranks_all = False

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        scores: Tensor = self.model.listed_scores(users)
        return scores


class ExportModel(GeneralRecommender):
    """The files as a model.

    Args:
        config: RecBole's configuration of a model on these data.
        dataset: RecBole's data set.
        matched: what the files say of its users and items.
    """

    type = ModelType.TRADITIONAL

    def __init__(self, config: Any, dataset: Any, matched: Matched) -> None:
        """Keep the arrays on the model's device."""
        super().__init__(config, dataset)
        known = {side: torch.from_numpy(one).to(self.device) for side, one in matched.known.items()}
        self.known_users, self.known_items = known.get("user"), known.get("item")
        if matched.embeddings is not None:
            self.user_table, self.item_table = (
                torch.from_numpy(matched.embeddings[side]).to(self.device) for side in ("user", "item")
            )
        if matched.rankings is not None:
            self._rankings = matched.rankings
        # RecBole's trainers build an optimizer, which refuses a model without parameters.
        self.fake_loss = nn.Parameter(torch.zeros(1))

    def other_parameter(self) -> dict[str, Any]:
        """Return the arrays that it serves with."""
        return {name: getattr(self, name) for name in ("user_table", "item_table") if hasattr(self, name)}

    def listed_scores(self, users: Tensor) -> Tensor:
        """Return the score of every item [n, n_items] for users [n]; -inf for items that are not in their rankings."""
        rankings, chosen = self._rankings, users.cpu()
        starts = torch.from_numpy(rankings.indptr)[chosen]
        lengths = torch.from_numpy(rankings.indptr)[chosen + 1] - starts
        rows = torch.arange(len(chosen)).repeat_interleave(lengths)
        within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths)[rows]
        places = starts[rows] + within
        given = -(within + 1).float().log() if rankings.scores is None else torch.from_numpy(rankings.scores)[places]
        scores = torch.full((len(chosen), self.n_items), -torch.inf)
        scores[rows, torch.from_numpy(rankings.items)[places]] = given
        return scores.to(self.device)

    def _evaluated(self, scores: Tensor) -> Tensor:
        """RecBole's evaluation takes -inf for an item that it must hide."""
        return scores.clamp(min=torch.finfo(scores.dtype).min)

    def predict(self, interaction: Any) -> Tensor:
        """Return the logit of each pair [n]."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        return self._evaluated(self.own_adapter(self).score(users, items.unsqueeze(1)).squeeze(1))

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the users' logits of every item, flat [n * n_items]."""
        return self._evaluated(self.own_adapter(self).score_all(interaction[self.USER_ID])).view(-1)

    own_adapter: ClassVar[Any] = None


class EmbeddingsModel(ExportModel):
    """Files of embeddings."""

    own_adapter = ExportedEmbeddings


class RankingsModel(ExportModel):
    """Files of rankings."""

    own_adapter = ExportedRankings
