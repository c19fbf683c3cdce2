"""How a student of some bytes is trained: its settings, from the sizes of the data alone.

The teacher is trained on first (``teacher_refine``). A student in few bits learns from it, through its quantiser, by
softmaxes over the whole catalogue alone, in about a dozen steps an epoch.
"""

from __future__ import annotations

import math
from typing import Any

from recbole_derrd.experiment.refine import Sizes
from recbole_derrd.shrinking.budget import Split

#: Users of one step, and steps of an epoch: an item learns in each, a user in one, and neither may run ahead.
_USERS_A_STEP, _STEPS = 512, 12
#: One bit changes its sign at large steps alone.
_ONE_BIT = {"learning_rate": 0.01, "learning_rate_end": 0.001}
_MORE_BITS = {"learning_rate": 0.003, "learning_rate_end": 0.0003}
#: Codes of more bits an item begin near their best, and are there after fewer epochs.
_MANY_BITS, _FEW_EPOCHS, _EPOCHS = 160, 10, 30


def coded_settings(sizes: Sizes, split: Split) -> dict[str, Any]:
    """Return the settings of a student in few bits, taught by the refined teacher."""
    steps = max(1, min(_STEPS, math.ceil(sizes.users / _USERS_A_STEP)))
    rows = max(1, math.ceil(sizes.interactions / steps))
    # So many of the users are in a batch of these rows, were all alike.
    distinct = sizes.users * (1 - (1 - 1 / sizes.users) ** rows)
    return {
        "teacher_refine": True,
        "embedding_size": split.size,
        "student_bits": split.bits,
        "user_bits": split.user_bits,
        "distillers": ["listwise"],
        "base_weight": 0.0,
        "warm_start": "svd",
        "listwise_weight": 1.0,
        "listwise_labels": 0.1,
        "listwise_sample": min(1.0, round(max(_USERS_A_STEP, sizes.users / steps) / distinct, 4)),
        **(_ONE_BIT if split.bits == 1 else _MORE_BITS),
        "weight_decay": 0.0,
        "train_batch_size": rows,
        "epochs": _FEW_EPOCHS if split.size * split.bits > _MANY_BITS else _EPOCHS,
        "eval_step": 2,
        # Steps become smaller until the last one: no training ends early.
        "stopping_step": 30,
        "checkpoint_step": 1,
    }


def plain_settings(item_bytes: int, *, users: bool) -> dict[str, Any]:
    """Return the settings of a student that learns without a teacher, its embeddings put into 8 bits afterwards.

    Args:
        item_bytes: bytes of an item, which are its dimensions.
        users: whether the users are put into 8 bits too.
    """
    return {
        "distillers": [], "warm_start": "none", "embedding_size": item_bytes, "store_bits": 8, "store_users": users,
        "epochs": 300, "eval_step": 5, "stopping_step": 3, "train_batch_size": 1024, "learning_rate": 0.001,
        "fast": "all",
    }  # fmt: skip
