"""A student's summed loss over the whole catalogue, by its embeddings where it has them, else block by block."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter, EmbeddingAdapter
from recbole_derrd.ops.full_softmax import sum_by_blocks, users_at_once


def full_softmax_sum(
    student: Adapter,
    users: Tensor,
    readable: Callable[[Tensor], Tensor],
    by_embeddings: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the users' summed loss of their scores of the whole catalogue, some users' scores in memory at a time.

    Args:
        student: the student.
        users: distinct users [n].
        readable: gives the summed loss of some users by autograd; for students without embeddings.
        by_embeddings: gives that of these users from their embeddings [n, d] and all items' [n_items, d], float32.
    """
    if not isinstance(student, EmbeddingAdapter):
        weights = [weight for weight in student.model.parameters() if weight.requires_grad]
        at_once = users_at_once(student.n_items, student.device)
        return sum_by_blocks(lambda low, high: readable(users[low:high]), len(users), at_once, weights)
    layer = student.hints[0]
    with student.shared():
        every = student.once("all items", lambda: student.item_embeddings(None, layer))
        own = student.user_embeddings(users, layer)
    with torch.autocast(device_type=student.device.type, enabled=False):
        return by_embeddings(own.float(), every.float())
