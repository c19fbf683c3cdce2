"""How a student of some bytes is trained: settings of its two trainings, from the sizes of the data alone.

Tried on CiteULike and ml-100k alone, one seed each. First a wide student in float32 learns from the teacher, by both
sides of the ranking and the whole catalogue; it is often better than its teacher. Then a student in few bits learns
from that one, through its quantiser, by softmaxes over the whole catalogue alone, in steps of some hundred users.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from recbole_derrd.shrinking.budget import Split

#: Dimensions of the wide student at most; more cost time.
_WIDE = 128
#: Users of one step of the second training.
_USERS_A_STEP = 512
#: Rows of one step of the first, and rows from which on a step takes four times as many.
_ROWS_A_STEP, _MANY_ROWS = 1024, 300_000


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the settings depend on.

    Attributes:
        users: users of the data set.
        items: its items.
        interactions: its training interactions.
        teacher: the teacher's dimensions; None where its score is no dot product of two embeddings.
    """

    users: int
    items: int
    interactions: int
    teacher: int | None

    @property
    def wide(self) -> int:
        """Dimensions of the wide student."""
        most = min(_WIDE, self.users, self.items)
        return most if self.teacher is None else min(most, self.teacher)


def wide_settings(sizes: Sizes) -> dict[str, Any]:
    """Return the settings of the first training: the wide student, in float32."""
    many = sizes.interactions >= _MANY_ROWS
    starts = sizes.teacher is not None
    return {
        "embedding_size": sizes.wide,
        "distillers": ["ir_rrd", "listwise"],
        # From the teacher's own best approximation few epochs do; from chance more are needed.
        "warm_start": "svd" if starts else "none",
        "epochs": 12 if starts else 200,
        "eval_step": 2 if starts else 5,
        "stopping_step": 3,
        "checkpoint_step": 1,
        "learning_rate": 0.002 if many else 0.001,
        "weight_decay": 1e-6,
        "train_batch_size": 4 * _ROWS_A_STEP if many else _ROWS_A_STEP,
        "ir_rrd_max_items": 2048,
        "listwise_sample": 0.1,
        **_small_catalogue(sizes),
    }


def _small_catalogue(sizes: Sizes) -> dict[str, Any]:
    """Return rankings that leave users and items of a small data set enough others."""
    items, users = sizes.items // 8, sizes.users // 8
    if min(items, users) >= 500:
        return {}
    own, other = max(2, min(40, items // 4)), max(2, min(20, users // 4))
    return {
        "ir_rrd_top_n": max(own, min(500, items)), "ir_rrd_k": own, "ir_rrd_l": own,
        "ir_rrd_item_top_n": max(other, min(500, users)), "ir_rrd_item_k": other, "ir_rrd_item_l": other,
    }  # fmt: skip


def coded_settings(sizes: Sizes, split: Split) -> dict[str, Any]:
    """Return the settings of the second training: a student in few bits, taught by the wide one."""
    steps = max(1, math.ceil(sizes.users / _USERS_A_STEP))
    rows = max(1, math.ceil(sizes.interactions / steps))
    # So many of the users are in a batch of these rows, were all alike.
    distinct = sizes.users * (1 - (1 - 1 / sizes.users) ** rows)
    return {
        "embedding_size": split.size,
        "student_bits": split.bits,
        "user_bits": split.user_bits,
        "distillers": ["listwise"],
        "base_weight": 0.0,
        "warm_start": "svd",
        "listwise_weight": 1.0,
        "listwise_labels": 0.1,
        "listwise_sample": min(1.0, round(_USERS_A_STEP / distinct, 4)),
        # One bit changes its sign at large steps alone.
        "learning_rate": 0.01 if split.bits == 1 else 0.003,
        "learning_rate_end": 0.001 if split.bits == 1 else 0.0003,
        "weight_decay": 0.0,
        "train_batch_size": rows,
        "epochs": 30,
        "eval_step": 2,
        "stopping_step": 30,
        "checkpoint_step": 1,
    }
