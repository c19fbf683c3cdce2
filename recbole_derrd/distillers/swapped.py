"""A student and what the teacher knows with the sides swapped: what a method needs that ranks users for items."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter, EmbeddingAdapter
from recbole_derrd.teacher import Knowledge
from recbole_derrd.teacher.users import swapped

#: What sets the item side's draws apart from the user side's.
ITEM_SIDE = 1_000_000_007


class SwappedStudent:
    """A student that ranks users for items."""

    def __init__(self, student: Adapter) -> None:
        """Keep the student."""
        self._student = student
        self.model = student.model

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return self._student.device

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Share propagations within the block, as the student itself does."""
        with self._student.shared():
            yield

    def score(self, items: Tensor, users: Tensor) -> Tensor:
        """Return the logits [B, K] of users [B, K] for items [B]."""
        return self._student.score_users(items, users)

    def score_all(self, items: Tensor) -> Tensor:
        """Return the logits [B, n_users] of all users; of a student with embeddings only."""
        student = self._student
        assert isinstance(student, EmbeddingAdapter)
        with student.shared():
            layer = student.hints[0]
            users = student.once("all users of items", lambda: student.user_embeddings(None, layer))
            scores: Tensor = student.item_embeddings(items, layer) @ users.T
        return scores


def swapped_knowledge(knowledge: Knowledge) -> Any:
    """Return what the teacher knows, of which users are the items: their rankings, and who has been seen by whom."""
    return SimpleNamespace(
        history=swapped(knowledge.history),
        n_users=knowledge.n_items,
        n_items=knowledge.n_users,
        top_items=knowledge.top_users,
        known=lambda side: knowledge.known("user" if side == "item" else "item"),
    )
