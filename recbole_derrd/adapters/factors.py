"""Models that are a dot product of two embeddings, without a graph."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters.base import EmbeddingAdapter


def rows(table: Any, ids: Tensor | None) -> Tensor:
    """Return the rows of an embedding; all where no ids are given."""
    weight: Tensor = table.weight if ids is None else table(ids)
    return weight


@torch.no_grad()
def turn_tables(model: Any, rotation: Tensor) -> None:
    """Turn the rows of a model's two tables in place; the padding rows stay."""
    for weight in (model.user_embedding.weight, model.item_embedding.weight):
        weight[1:] = weight[1:] @ rotation.to(weight)


class FactorAdapter(EmbeddingAdapter):
    """Two embedding tables, and whatever a subclass makes of them."""

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        return rows(self.model.user_embedding, users)

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return rows(self.model.item_embedding, items)


class TwoTablesAdapter(FactorAdapter):
    """Two embedding tables as they are (BPR, LINE)."""

    takes_start = True
    tables: ClassVar = {"user": ("user_embedding",), "item": ("item_embedding",)}
    rotates = True

    def turn(self, rotation: Tensor) -> None:
        """Turn both tables."""
        turn_tables(self.model, rotation)

    def start_at(self, users: Tensor, items: Tensor) -> None:
        """Fill the tables."""
        with torch.no_grad():
            self.model.user_embedding.weight[1:] = users
            self.model.item_embedding.weight[1:] = items


class ENMFAdapter(FactorAdapter):
    """ENMF weights each dimension; the weight goes with the item. Its training drops out user dimensions."""

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        dropped: Tensor = self.model.dropout(super()._users(users, layer))
        return dropped

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        weighted: Tensor = super()._items(items, layer) * self.model.H_i.weight
        return weighted


#: Numbers that one chunk of users may take where a model reads every user's whole history (64 MB of float32).
_CHUNK_NUMBERS = 1 << 24


class HistoryAdapter(EmbeddingAdapter):
    """A user's vector is made of the user's history: all users at once would be users x history x dimensions."""

    def _from_history(self, users: Tensor) -> Tensor:
        raise NotImplementedError

    def _numbers(self) -> int:
        """Count the numbers that one user's vector passes through."""
        raise NotImplementedError

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        if users is not None:
            return self._from_history(users)
        every = torch.arange(self.n_users, device=self.device)
        rows_at_once = max(1, _CHUNK_NUMBERS // self._numbers())
        return torch.cat([self._from_history(chunk) for chunk in every.split(rows_at_once)])


class SimpleXAdapter(HistoryAdapter):
    """SimpleX mixes a user with the user's history and scores by cosine."""

    def _numbers(self) -> int:
        return int(self.model.history_item_id.shape[1] * self.model.embedding_size)

    def _from_history(self, users: Tensor) -> Tensor:
        model = self.model
        history = model.item_emb(model.history_item_id[users])
        mixed = model.get_UI_aggregation(model.user_emb(users), history, model.history_item_len[users])
        return functional.normalize(model.dropout(mixed), dim=1)

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return functional.normalize(rows(self.model.item_emb, items), dim=1)


class DMFAdapter(HistoryAdapter):
    """DMF's embeddings are the outputs of its two towers; they end in relu, so a unit may be dead."""

    hints = ("tower",)

    def _numbers(self) -> int:
        # DMF writes a user's history into a row over the whole catalogue.
        return self.n_items

    def _from_history(self, users: Tensor) -> Tensor:
        embeddings: Tensor = self.model.user_fc_layers(self.model.get_user_embedding(users))
        return embeddings

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        every: Tensor = self.once("towers", self._every_item)
        return every if items is None else every[items]

    def _every_item(self) -> Tensor:
        """Do what ``get_item_embedding`` does, without turning every interaction into a Python number each time."""
        if self._by_item is None:
            by_item = self.model.interaction_matrix.T.tocoo()
            index = torch.from_numpy(np.stack([by_item.row, by_item.col]).astype(np.int64))
            values = torch.from_numpy(by_item.data.astype(np.float32))
            self._by_item = torch.sparse_coo_tensor(index, values, by_item.shape).to(self.device).coalesce()
        # In half precision the sparse product has no backward pass.
        with torch.autocast(self.device.type, enabled=False):
            linear = torch.sparse.mm(self._by_item, self.model.item_linear.weight.t())
        embeddings: Tensor = self.model.item_fc_layers(linear)
        return embeddings

    _by_item: Tensor | None = None


class FISMAdapter(HistoryAdapter):
    """FISM's user is the scaled sum of the history; both biases ride on two more dimensions.

    Its ``forward`` applies a sigmoid (and its loss a second one); its ``full_sort_predict`` gives these logits.
    """

    hints = ("history",)

    def _numbers(self) -> int:
        return int(self.model.history_item_matrix.shape[1] * self.model.embedding_size)

    def _from_history(self, users: Tensor) -> Tensor:
        model = self.model
        history = model.item_src_embedding(model.history_item_matrix[users])
        summed = (history * model.mask_mat[users].unsqueeze(2)).sum(dim=1)
        # A user without training items has a sum of 0; the scale must not make it 0 * inf.
        scale = model.history_lens[users].clamp(min=1).float().pow(-model.alpha).unsqueeze(1)
        bias = model.user_bias[users].unsqueeze(1)
        return torch.cat([scale * summed, bias, torch.ones_like(bias)], dim=1)

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        embeddings = rows(self.model.item_dst_embedding, items)
        bias = (self.model.item_bias if items is None else self.model.item_bias[items]).unsqueeze(1)
        return torch.cat([embeddings, torch.ones_like(bias), bias], dim=1)


class NCEPLRecAdapter(EmbeddingAdapter):
    """NCE-PLRec's two factors are solved for in closed form, without gradients: it can teach, but not learn."""

    hints = ("factors",)
    trainable = False

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        factors = self.model.user_embeddings.to(self.device)
        wanted: Tensor = factors if users is None else factors[users]
        return wanted.float()

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        factors = self.model.item_embeddings.to(self.device).T
        wanted: Tensor = factors if items is None else factors[items]
        return wanted.float()
