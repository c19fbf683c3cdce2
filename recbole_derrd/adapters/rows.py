"""Models that produce a user's whole row of scores at once: scores without embeddings."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_derrd.adapters.base import Adapter
from recbole_derrd.ops.listed_scores import distinct_positions

#: A logit that is a history's similarities to an item: some hundred numbers, in a product that is slower than torch's.
_SIMILARITIES = 1 << 12


class RowAdapter(Adapter):
    """Autoencoders, diffusion models, and any model with RecBole's ``full_sort_predict``."""

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        output = self.model.full_sort_predict(Interaction({self.model.USER_ID: users}))
        # Shapes, types and devices differ between models: flat, [B, n_items], [1, B * n_items], some on the CPU only.
        scores: Tensor = torch.as_tensor(output).reshape(-1, self.n_items)
        return scores.to(self.device).float()

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        return self.score_all(users).gather(1, items.long())

    def logit_work(self) -> int:
        """Return the multiply-adds of one logit of a row: of a network its parameters, shared out over the items."""
        return max(1, sum(one.numel() for one in self.own_parameters()) // int(self.n_items))

    def score_users(self, items: Tensor, users: Tensor) -> Tensor:
        """Return the logits [B, K] of users [B, K] for items [B]; each user's row is made once."""
        distinct, positions = distinct_positions(users.long(), self.n_users)
        scores = self.score_all(distinct)
        return scores[positions, items.long().unsqueeze(1)]


class DrawingAdapter(RowAdapter):
    """Models that draw random numbers at every prediction, also in evaluation (MacridVAE, DiffRec, Random).

    A teacher always gives the same users the same scores (asked for in other company, a user may draw others), and
    leaves the student's random stream as it found it.
    """

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        if self.model.training:
            return super().score_all(users)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            return super().score_all(users)


class CDAEAdapter(RowAdapter):
    """CDAE's ``full_sort_predict`` applies the output activation; its ``forward`` does not."""

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        logits: Tensor = self.model.forward(self.model.get_rating_matrix(users), users)
        return logits


class RecVAEAdapter(RowAdapter):
    """RecVAE trains its encoder with dropout on the input and its decoder without; its terms must do the same."""

    _dropout: float | None = None

    def observed_forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Remember the dropout of the phase that the base loss is in."""
        self._dropout = kwargs["dropout_prob"] if "dropout_prob" in kwargs else args[1]
        return forward(*args, **kwargs)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        dropout = self.model.dropout_prob if self._dropout is None else self._dropout
        # Not forward of the mixin: what it remembers is the base loss's phase.
        logits: Tensor = self.model.forward(self.model.get_rating_matrix(users), dropout)[0]
        return logits


class FixedAdapter(RowAdapter):
    """Models without gradients (Pop, ItemKNN, EASE ...): they can teach, but not learn."""

    trainable = False

    def logit_work(self) -> int:
        """Return the multiply-adds of one logit: of EASE and its like, a history's similarities to the item."""
        dense = isinstance(getattr(self.model, "item_similarity", None), np.ndarray)
        return _SIMILARITIES if dense else super().logit_work()


class ADMMSLIMAdapter(FixedAdapter):
    """ADMM-SLIM adds fresh noise of 1e-5 at every prediction; a teacher's lists must not depend on it."""

    def score_all(self, users: Tensor) -> Tensor:
        """Return the noiseless scores [B, n_items]."""
        model = self.model
        history = model.interaction_matrix[users.cpu().numpy(), :].toarray()
        if model.center_columns:
            scores = (history - model.item_means) @ model.item_similarity + model.item_means
        else:
            scores = history @ model.item_similarity
        return torch.from_numpy(scores).to(self.device).float()


class RandomAdapter(DrawingAdapter):
    """Random, which gives everyone the same row: it can teach, but not learn."""

    trainable = False
