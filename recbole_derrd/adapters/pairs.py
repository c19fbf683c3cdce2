"""Models that can score a pair only by running their network on it."""

from __future__ import annotations

import functools
from typing import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recbole_derrd.adapters.base import Adapter
from recbole_derrd.adapters.factors import rows

#: Numbers that the networks of one chunk of pairs may hold (64 MB of float32).
_CHUNK_NUMBERS = 1 << 24


def in_chunks(run: Callable[..., Tensor], numbers: int, *columns: Tensor) -> Tensor:
    """Return ``run(*columns)``, for so many rows at a time that their networks fit.

    A list or a catalogue has many more pairs than the model's own loss: their networks are run again in the backward
    pass instead of being kept, with the same dropout.

    Args:
        run: gives a row of its result for each row of the columns.
        numbers: what the networks of one row hold.
        columns: its arguments, of one length.
    """
    size = max(1, _CHUNK_NUMBERS // numbers)
    if len(columns[0]) <= size:
        return run(*columns)
    again = functools.partial(checkpoint, run, use_reentrant=False) if torch.is_grad_enabled() else run
    return torch.cat([again(*chunk) for chunk in zip(*(column.split(size) for column in columns))])


class PairAdapter(Adapter):
    """Models whose ``forward(users, items)`` gives a pair's logit."""

    def _numbers(self) -> int:
        """Count the numbers that one pair's network holds at its widest."""
        return 1024

    def _pair_logits(self, users: Tensor, items: Tensor) -> Tensor:
        logits: Tensor = self.model.forward(users, items)
        return logits.reshape(-1)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        pairs = users.unsqueeze(1).expand_as(items)
        logits = in_chunks(self._pair_logits, self._numbers(), pairs.reshape(-1), items.reshape(-1))
        return logits.view(items.shape)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        every = torch.arange(self.n_items, device=self.device)
        return self.score(users, every.expand(len(users), -1))


class EmbeddedPairAdapter(PairAdapter):
    """NNCF and ConvNCF: a network over two embeddings, which are their hint layer though not their score."""

    hints = ("embedding",)

    def user_embeddings(self, users: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return the users' embeddings [n, d]."""
        self.layer(hint)
        return rows(self.model.user_embedding, users)

    def item_embeddings(self, items: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return the items' embeddings [n, d]."""
        self.layer(hint)
        return rows(self.model.item_embedding, items)


class NNCFAdapter(EmbeddedPairAdapter):
    """NNCF convolves the neighbours of both sides for each pair."""

    def _numbers(self) -> int:
        return int(2 * self.model.neigh_num * (self.model.num_conv_kernel + self.model.neigh_embedding_size))


class ConvNCFAdapter(EmbeddedPairAdapter):
    """ConvNCF convolves the outer product of the two embeddings."""

    def _numbers(self) -> int:
        return int(self.model.user_embedding.embedding_dim**2)


class NAISAdapter(PairAdapter):
    """NAIS attends over the user's whole history for each item; its ``full_sort_predict`` alone applies a sigmoid."""

    def _numbers(self) -> int:
        return int(self.model.history_item_matrix.shape[1] * (self.model.embedding_size + self.model.weight_size))

    def logit_work(self) -> int:
        """Return the multiply-adds of one logit: an attention network over the longest history."""
        return int(self.model.history_item_matrix.shape[1] * self.model.embedding_size * (1 + self.model.weight_size))

    def _pair_logits(self, users: Tensor, items: Tensor) -> Tensor:
        model = self.model
        known = model.history_lens[users] > 0
        if known.all():
            return super()._pair_logits(users, items)
        # Attention over no history is 0 / 0; what remains of such a user's logit is the item's bias.
        logits: Tensor = model.bias[items]
        return logits.index_put((known.nonzero().squeeze(1),), super()._pair_logits(users[known], items[known]))
