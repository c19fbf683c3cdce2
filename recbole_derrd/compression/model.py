"""Stored tables as a RecBole model, so that evaluation and timing are those of every other model."""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_derrd.adapters import VectorBackbone
from recbole_derrd.compression.recipe import Tables
from recbole_derrd.compression.tables import Table


class CompressedBackbone(VectorBackbone):
    """Fixed vectors: nothing here is trained."""

    trainable = False

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        vectors: Tensor = self.model.user_vectors(users)
        return vectors

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        vectors: Tensor = self.model.item_vectors()
        return vectors if items is None else vectors[items]


class CompressedModel(GeneralRecommender):
    """A teacher's compressed vectors.

    Items are decoded once and stay decoded, as a graph model's propagated vectors do: latency is that of float32
    vectors of this size, bytes are those of the stored tables.

    Args:
        config: RecBole's configuration of the teacher.
        dataset: RecBole's data set.
        tables: what is stored.
    """

    type = ModelType.TRADITIONAL
    backbone_class = CompressedBackbone

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

    def user_vectors(self, users: Tensor | None = None) -> Tensor:
        """Return users' vectors [n, d], float32."""
        return self.tables.users.rows(None if users is None else users.cpu()).to(self.device)

    def item_vectors(self) -> Tensor:
        """Return all items' vectors [n_items, d], float32."""
        if self._decoded is None:
            self._decoded = self.tables.items.rows().to(self.device)
        return self._decoded

    def predict(self, interaction: Any) -> Tensor:
        """Return the score of each pair [n]."""
        items = self.item_vectors()[interaction[self.ITEM_ID]]
        return (self.user_vectors(interaction[self.USER_ID]) * items).sum(dim=1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the users' scores of every item, flat [n * n_items]."""
        return (self.user_vectors(interaction[self.USER_ID]) @ self.item_vectors().T).view(-1)
