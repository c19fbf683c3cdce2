"""Where a distilled student's own weights start: as RecBole draws them, or at its teacher's scores."""

from __future__ import annotations

import torch

from recbole_derrd.adapters import Adapter, EmbeddingAdapter
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.svd import score_factors
from recbole_derrd.teacher import Knowledge


def can_start(student_size: int, adapter: type[Adapter], size: int | None) -> bool:
    """Say whether a student of some dimensions can start at a teacher's scores.

    Args:
        student_size: dimensions of the student.
        adapter: the teacher's; its score must be the dot product of two embeddings.
        size: the teacher's ``embedding_size`` where it is known.
    """
    too_small = adapter.takes_start and size is not None and size < student_size
    return issubclass(adapter, EmbeddingAdapter) and not too_small


def check_start_size(student: int, teacher: int) -> None:
    """Refuse a teacher whose scores do not have the student's dimensions.

    Raises:
        OptionError: its embeddings have fewer.
    """
    if student > teacher:
        raise OptionError(
            f"warm_start: svd needs a teacher of at least the student's {student} dimensions; its embeddings have "
            f"{teacher}. Take a larger teacher, or warm_start: none."
        )


def warm_start(student: Adapter, knowledge: Knowledge) -> None:
    """Set the student's embeddings to the best approximation of its teacher's scores in its own dimensions.

    A truncated SVD of the teacher's score matrix (:func:`recbole_derrd.ops.svd.score_factors`), without the matrix. The
    padding rows stay as they are.

    Args:
        student: the student's adapter; it must take a start.
        knowledge: of a teacher whose score is the dot product of its embeddings; of several, the best such is taken.

    Raises:
        OptionError: the teacher's embeddings have fewer dimensions than the student's.
    """
    users, items = (torch.from_numpy(embeddings)[1:] for embeddings in knowledge.score_embeddings())
    size = student.item_embeddings(torch.ones(1, dtype=torch.long, device=student.device)).shape[1]
    check_start_size(size, users.shape[1])
    own_users, own_items = score_factors(users, items, size)
    with torch.no_grad():
        student.start_at(own_users.to(student.device), own_items.to(student.device))
