"""Models that produce a user's whole row of scores at once: scores without vectors."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_derrd.backbones.base import ScoresOnly


class RowBackbone(ScoresOnly):
    """Autoencoders, diffusion models, and any model with RecBole's ``full_sort_predict``."""

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        output = self.model.full_sort_predict(Interaction({self.model.USER_ID: users}))
        # Shapes and devices differ between models: flat, [B, n_items], [1, B * n_items], some on the CPU only.
        scores: Tensor = torch.as_tensor(output).reshape(-1, self.n_items)
        return scores.to(self.device)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        return self.score_all(users).gather(1, items.long())


class CDAEBackbone(RowBackbone):
    """CDAE's ``full_sort_predict`` applies the output activation; its ``forward`` does not."""

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        logits: Tensor = self.model.forward(self.model.get_rating_matrix(users), users)
        return logits


class FixedBackbone(RowBackbone):
    """Models without gradients (Pop, ItemKNN, EASE ...): they can teach, but not learn."""

    trainable = False
