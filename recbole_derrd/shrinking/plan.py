"""How a student of some bytes is trained: its settings, from the sizes of the data alone."""

from __future__ import annotations

from typing import Any

from recbole_derrd.experiment.plans import Sizes, small_steps, softmax_settings
from recbole_derrd.shrinking.budget import Split

#: One bit changes its sign at large steps alone.
_ONE_BIT = {"learning_rate": 0.01, "learning_rate_end": 0.001}
#: Codes of more bits an item begin near their best, and are there after fewer epochs if there are few interactions.
_MANY_BITS, _FEW_EPOCHS, _EPOCHS = 160, 10, 30


def coded_settings(sizes: Sizes, split: Split) -> dict[str, Any]:
    """Return the settings of a student in few bits, taught by the refined teacher."""
    short = split.size * split.bits > _MANY_BITS and not sizes.many
    return {
        **softmax_settings(sizes),
        "teacher_refine": True,
        "embedding_size": split.size,
        "student_bits": split.bits,
        "user_bits": split.user_bits,
        **(_ONE_BIT if split.bits == 1 else {}),
        "epochs": _FEW_EPOCHS if short else _EPOCHS,
    }


def codebook_settings(sizes: Sizes, codebooks: int, size: int) -> dict[str, Any]:
    """Return the settings of a student in so many codebooks, of so many dimensions, taught by the refined teacher."""
    return {
        **softmax_settings(sizes),
        "teacher_refine": True,
        "embedding_size": size,
        "student_codebooks": codebooks,
        # Codes stay as they begin, and codebooks and users are soon at their best, on Gowalla too.
        "epochs": _FEW_EPOCHS,
    }


def plain_settings(sizes: Sizes, item_bytes: int, *, users: bool) -> dict[str, Any]:
    """Return the settings of a student that learns without a teacher, its embeddings put into 8 bits afterwards.

    Args:
        sizes: of the data.
        item_bytes: bytes of an item, which are its dimensions.
        users: whether the users are put into 8 bits too.
    """
    return {
        "distillers": [], "warm_start": "none", "embedding_size": item_bytes, "store_bits": 8, "store_users": users,
        "epochs": 300, "eval_step": 5, "stopping_step": 3, "fast": "all", **small_steps(sizes),
    }  # fmt: skip
