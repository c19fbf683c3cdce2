"""Stored tables as a RecBole model, so that evaluation and timing are those of every other model."""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_derrd.adapters import EmbeddingAdapter
from recbole_derrd.compression.recipe import Tables
from recbole_derrd.compression.tables import Table


class CompressedAdapter(EmbeddingAdapter):
    """Fixed embeddings: nothing here is trained."""

    trainable = False

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        embeddings: Tensor = self.model.user_embeddings(users)
        return embeddings

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        embeddings: Tensor = self.model.item_embeddings()
        return embeddings if items is None else embeddings[items]


class CompressedModel(GeneralRecommender):
    """A teacher's compressed embeddings.

    Items are decoded once and stay decoded, as a graph model's propagated embeddings do: latency is that of float32
    embeddings of this size, bytes are those of the stored tables.

    Args:
        config: RecBole's configuration of the teacher.
        dataset: RecBole's data set.
        tables: what is stored.
    """

    type = ModelType.TRADITIONAL
    own_adapter = CompressedAdapter

    def __init__(self, config: Any, dataset: Any, tables: Tables) -> None:
        """Keep the tables."""
        super().__init__(config, dataset)
        self.tables = tables
        # RecBole's trainers build an optimizer, which refuses a model without parameters.
        self.fake_loss = nn.Parameter(torch.zeros(1))
        self._decoded: Tensor | None = None

    def other_parameter(self) -> dict[str, Tensor]:
        """Return what is stored; its bytes are the model's."""
        sides: tuple[tuple[str, Table], ...] = (("user", self.tables.users), ("item", self.tables.items))
        return {f"{side}_{name}": array for side, table in sides for name, array in table.arrays().items()}

    def user_embeddings(self, users: Tensor | None = None) -> Tensor:
        """Return users' embeddings [n, d], float32."""
        return self.tables.users.rows(None if users is None else users.cpu()).to(self.device)

    def item_embeddings(self) -> Tensor:
        """Return all items' embeddings [n_items, d], float32."""
        if self._decoded is None:
            self._decoded = self.tables.items.rows().to(self.device)
        return self._decoded

    def predict(self, interaction: Any) -> Tensor:
        """Return the score of each pair [n]."""
        items = self.item_embeddings()[interaction[self.ITEM_ID]]
        return (self.user_embeddings(interaction[self.USER_ID]) * items).sum(dim=1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the users' scores of every item, flat [n * n_items]."""
        return (self.user_embeddings(interaction[self.USER_ID]) @ self.item_embeddings().T).view(-1)
