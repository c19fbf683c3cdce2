"""NeuMF: a factor part and a network part, scored for lists without building every pair's input."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from recbole.model.general_recommender import NeuMF
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters.base import Adapter
from recbole_derrd.adapters.factors import rows
from recbole_derrd.adapters.pairs import in_chunks

#: Users whose hidden layer is held at once where no gradient is wanted.
_BLOCK_USERS = 8


def _block_numbers(device: torch.device) -> int:
    """Return how many numbers of the hidden layer are held at once: those that a CPU's cache holds (1 MB), or 64 MB."""
    return 1 << (18 if device.type == "cpu" else 24)


def _owner(model: type[Any], name: str) -> type[Any]:
    """Return the class that a method comes from; the mixin of distilled students only passes ``forward`` on."""
    ours = __package__.partition(".")[0]
    return next(kind for kind in model.__mro__ if name in vars(kind) and kind.__module__.partition(".")[0] != ours)


class NeuMFAdapter(Adapter):
    """NeuMF. Hint layers: the GMF embeddings, the MLP embeddings, or both end to end."""

    hints = ("gmf", "mlp", "concat")
    tables: ClassVar = {side: (f"{side}_mf_embedding", f"{side}_mlp_embedding") for side in ("user", "item")}

    @classmethod
    def catalogue_at_once(cls, model: type[Any]) -> bool:
        """RecBole predicts pair by pair, each with an input of its own; a subclass may predict something else."""
        return all(_owner(model, name).__module__ == NeuMF.__module__ for name in ("forward", "predict"))

    def _embeddings(self, side: str, ids: Tensor | None, hint: str | None) -> Tensor:
        tables = {"gmf": f"{side}_mf_embedding", "mlp": f"{side}_mlp_embedding"}
        layer = self.layer(hint)
        wanted = ("gmf", "mlp") if layer == "concat" else (layer,)
        return torch.cat([rows(getattr(self.model, tables[part]), ids) for part in wanted], dim=-1)

    def user_embeddings(self, users: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return the users' embeddings [n, d]."""
        return self._embeddings("user", users, hint)

    def item_embeddings(self, items: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return the items' embeddings [n, d]."""
        return self._embeddings("item", items, hint)

    def _numbers(self) -> int:
        """Count the numbers that one pair's network holds: its inputs, and each layer with what leads to it."""
        model = self.model
        return int(2 * (model.mf_embedding_size + model.mlp_embedding_size) + 3 * sum(model.mlp_hidden_size))

    def _drops_out(self) -> bool:
        return bool(self.model.training and self.model.mlp_train and self.model.dropout_prob > 0)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        if self._drops_out():
            # Dropout acts on each pair's own input, so the pairs are built.
            pairs = users.unsqueeze(1).expand_as(items)
            logits = in_chunks(self.model.forward, self._numbers(), pairs.reshape(-1), items.reshape(-1))
            return logits.view(items.shape)
        flat = items.reshape(-1)
        return self._logits(users, self._item_side(flat, items.shape))

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        if self._drops_out():
            every = torch.arange(self.n_items, device=self.device)
            return self.score(users, every.expand(len(users), -1))
        item_side = self.once("all items", lambda: self._item_side(None, (1, self.n_items)))
        if torch.is_grad_enabled():
            numbers = self.n_items * self._numbers()
            return in_chunks(lambda chunk: self._logits(chunk, item_side), numbers, users)
        return self._in_blocks(users, item_side)

    def _in_blocks(self, users: Tensor, item_side: tuple[Tensor | None, Tensor | None]) -> Tensor:
        hidden = item_side[1]
        pairs = _block_numbers(users.device) // (hidden.shape[-1] if hidden is not None else 1)
        n_items = max(1, min(self.n_items, pairs // _BLOCK_USERS))
        logits = torch.empty(len(users), self.n_items, device=users.device)
        for low in range(0, self.n_items, n_items):
            part = slice(low, low + n_items)
            factors, halves = (None if side is None else side[:, part] for side in item_side)
            for start in range(0, len(users), _BLOCK_USERS):
                chunk = slice(start, start + _BLOCK_USERS)
                logits[chunk, part] = self._logits(users[chunk], (factors, halves))
        return logits

    def _item_side(
        self, items: Tensor | None, shape: tuple[int, ...] | torch.Size
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the items alone contribute: the GMF factors [.., K, d] and their half of the first layer [.., K, h]."""
        model = self.model
        factors = rows(model.item_mf_embedding, items).view(*shape, -1) if model.mf_train else None
        hidden = None
        if model.mlp_train:
            first = model.mlp_layers.mlp_layers[1]
            half = functional.linear(rows(model.item_mlp_embedding, items), first.weight[:, model.mlp_embedding_size :])
            hidden = half.view(*shape, -1)
        return factors, hidden

    def _logits(self, users: Tensor, item_side: tuple[Tensor | None, Tensor | None]) -> Tensor:
        model = self.model
        factors, hidden = item_side
        weight, bias = model.predict_layer.weight.squeeze(0), model.predict_layer.bias
        logits: Tensor = bias
        if factors is not None:
            user = model.user_mf_embedding(users) * weight[: model.mf_embedding_size]
            # One product for all users where the items are the same for each.
            logits = logits + (
                user @ factors[0].T if factors.shape[0] == 1 else torch.bmm(factors, user.unsqueeze(2)).squeeze(2)
            )
        if hidden is not None:
            layers = list(model.mlp_layers.mlp_layers)
            first = layers[1]
            user = functional.linear(
                model.user_mlp_embedding(users), first.weight[:, : model.mlp_embedding_size], first.bias
            )
            output = user.unsqueeze(1) + hidden
            for layer in layers[2:]:
                output = layer(output)
            logits = logits + output @ weight[-output.shape[-1] :]
        return logits
