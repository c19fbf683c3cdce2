"""The settings of trainings that nobody tunes, from the sizes of the data alone.

Students in few bits, and the refined teachers of data with many interactions, learn by softmaxes over the whole
catalogue (``listwise``), towards the teacher and towards the users' own items (``listwise_labels``), in about a dozen
large steps an epoch. With few interactions a refined teacher learns the teacher's order on both sides (``ir_rrd``).
Tried on CiteULike (-a and -t too), ml-100k, ml-1m and Gowalla.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from recbole_derrd.config.options.schema import AUTO
from recbole_derrd.data.prepare import Data

#: Dimensions of a refined teacher at most, and those of one that learns from a model without embeddings.
_MOST, _WITHOUT_EMBEDDINGS = 256, 128
#: Users of one step, and steps of an epoch: an item learns in each, a user in one, and neither may run ahead.
_USERS_A_STEP, _STEPS = 512, 12
#: Rows of one step, which are in memory together, and scores of an epoch, which take minutes. Larger data have more
#: steps, and not all of their users pass by in each epoch.
_MOST_ROWS, _MOST_SCORES = 1 << 20, 4e9
#: Interactions from which on a refined teacher learns more from the users than from the teacher's order: the 115,000
#: of CiteULike are too few, the 168,000 of citeulike-a are not, and on ml-100k there is no difference.
_ENOUGH_ROWS = 150_000
#: Interactions from which on steps are larger, and trainings longer.
_MANY_ROWS = 300_000
#: Rows of a step where the student's own loss takes part; of many interactions it takes four times as many.
_ROWS_A_STEP = 1024


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the settings of a training depend on.

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

    @classmethod
    def of(cls, data: Data, teacher: int | None) -> Sizes:
        """Return those of a run's data."""
        history = data.history
        return cls(history.n_users - 1, history.n_items - 1, len(history.items), teacher)

    @property
    def refined(self) -> int:
        """Dimensions of the refined teacher: the teacher's own, as far as they can be of use."""
        wanted = _WITHOUT_EMBEDDINGS if self.teacher is None else min(self.teacher, _MOST)
        return min(wanted, self.users, self.items)

    @property
    def many(self) -> bool:
        """Whether there are many interactions: then trainings are longer, in larger steps."""
        return self.interactions >= _MANY_ROWS

    @property
    def enough(self) -> bool:
        """Whether the users' own items teach a refined teacher more than the teacher's order does."""
        return self.interactions >= _ENOUGH_ROWS


def refining(sizes: Sizes) -> dict[str, Any]:
    """Return the settings of a teacher's second training."""
    size = {"embedding_size": sizes.refined}
    if sizes.enough and sizes.teacher is not None:
        return {**size, **softmax_settings(sizes), "epochs": 30}
    return {**size, **_by_rankings(sizes)}


def softmax_settings(sizes: Sizes) -> dict[str, Any]:
    """Return what trainings by softmaxes over the whole catalogue share."""
    steps = max(1, min(_STEPS, math.ceil(sizes.users / _USERS_A_STEP)), math.ceil(sizes.interactions / _MOST_ROWS))
    rows = max(1, math.ceil(sizes.interactions / steps))
    users = max(_USERS_A_STEP, min(sizes.users / steps, _MOST_SCORES / sizes.items / steps))
    # So many of the users are in a batch of these rows, were all alike.
    distinct = sizes.users * (1 - (1 - 1 / sizes.users) ** rows)
    return {
        "distillers": ["listwise"],
        "base_weight": 0.0,
        "teacher_scale": AUTO,
        "warm_start": "svd",
        "listwise_weight": 1.0,
        "listwise_labels": 0.1,
        "listwise_sample": min(1.0, round(users / distinct, 4)),
        "learning_rate": 0.003,
        "learning_rate_end": 0.0003,
        "weight_decay": 0.0,
        "train_batch_size": rows,
        "eval_step": 2,
        # Steps become smaller until the last one: no training ends early.
        "stopping_step": 30,
        "checkpoint_step": 1,
    }


def small_steps(sizes: Sizes) -> dict[str, Any]:
    """Return rows of a step and learning rate where the student's own loss takes part."""
    if sizes.many:
        return {"train_batch_size": 4 * _ROWS_A_STEP, "learning_rate": 0.002}
    return {"train_batch_size": _ROWS_A_STEP, "learning_rate": 0.001}


def _by_rankings(sizes: Sizes) -> dict[str, Any]:
    """Return the settings of a training by the student's own loss and the teacher's rankings."""
    starts = sizes.teacher is not None
    return {
        "distillers": ["ir_rrd", "listwise"],
        "teacher_scale": AUTO,
        # From the teacher's own best approximation few epochs do; from chance more are needed.
        "warm_start": "svd" if starts else "none",
        "epochs": 12 if starts else 200,
        "eval_step": 2 if starts else 5,
        "stopping_step": 3,
        "checkpoint_step": 1,
        **small_steps(sizes),
        "weight_decay": 1e-6,
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
