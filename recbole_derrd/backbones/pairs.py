"""Models that can score a pair only by running their network on it: scores without vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_derrd.backbones.base import ScoresOnly


class PairBackbone(ScoresOnly):
    """Models whose ``forward(users, items)`` gives a pair's logit (NNCF, ConvNCF, NAIS)."""

    def _pair_logits(self, users: Tensor, items: Tensor) -> Tensor:
        logits: Tensor = self.model.forward(users, items)
        return logits.reshape(-1)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        pairs = users.unsqueeze(1).expand_as(items)
        return self._pair_logits(pairs.reshape(-1), items.reshape(-1)).view(items.shape)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items], one user at a time to bound the memory of the pairs' inputs."""
        every = torch.arange(self.n_items, device=self.device)
        return torch.stack([self._pair_logits(user.expand_as(every), every) for user in users])


class GCMCBackbone(PairBackbone):
    """GCMC decodes pairs of encoded nodes; the encoder runs once per step."""

    def _pair_logits(self, users: Tensor, items: Tensor) -> Tensor:
        model = self.model
        encode = lambda: model.GcEncoder(model.user_features, model.item_features)  # noqa: E731
        user_nodes, item_nodes = self.once("encoded", encode)
        classes: Tensor = model.BiDecoder(user_nodes, item_nodes, users, items)
        return classes[:, 1]

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        with self.shared():
            return super().score(users, items)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        with self.shared():
            return super().score_all(users)
