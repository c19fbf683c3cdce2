"""Models that are a dot product of two vectors, without a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.backbones.base import VectorBackbone


def rows(table: Any, ids: Tensor | None) -> Tensor:
    """Return the rows of an embedding; all where no ids are given."""
    weight: Tensor = table.weight if ids is None else table(ids)
    return weight


class FactorBackbone(VectorBackbone):
    """Two embedding tables (BPR, LINE)."""

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        return rows(self.model.user_embedding, users)

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return rows(self.model.item_embedding, items)


class ENMFBackbone(FactorBackbone):
    """ENMF weights each dimension; the weight goes with the item."""

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return super()._items(items, layer) * self.model.H_i.weight


class SimpleXBackbone(VectorBackbone):
    """SimpleX mixes a user with the user's history and scores by cosine."""

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        model = self.model
        users = torch.arange(self.n_users, device=self.device) if users is None else users
        history = model.item_emb(model.history_item_id[users])
        mixed = model.get_UI_aggregation(model.user_emb(users), history, model.history_item_len[users])
        return functional.normalize(mixed, dim=1)

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return functional.normalize(rows(self.model.item_emb, items), dim=1)


class DMFBackbone(VectorBackbone):
    """DMF's vectors are the outputs of its two towers."""

    hints = ("tower",)

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        users = torch.arange(self.n_users, device=self.device) if users is None else users
        vectors: Tensor = self.model.user_fc_layers(self.model.get_user_embedding(users))
        return vectors

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        every: Tensor = self.once("towers", self.model.get_item_embedding)
        return every if items is None else every[items]


class FISMBackbone(VectorBackbone):
    """FISM's user is the scaled sum of the history; both biases ride on two more dimensions."""

    hints = ("history",)

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        model = self.model
        users = torch.arange(self.n_users, device=self.device) if users is None else users
        history = model.item_src_embedding(model.history_item_matrix[users])
        summed = (history * model.mask_mat[users].unsqueeze(2)).sum(dim=1)
        scale = model.history_lens[users].clamp(min=1).float().pow(-model.alpha).unsqueeze(1)
        bias = model.user_bias[users].unsqueeze(1)
        return torch.cat([scale * summed, bias, torch.ones_like(bias)], dim=1)

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        vectors = rows(self.model.item_dst_embedding, items)
        bias = (self.model.item_bias if items is None else self.model.item_bias[items]).unsqueeze(1)
        return torch.cat([vectors, torch.ones_like(bias), bias], dim=1)
