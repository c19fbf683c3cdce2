r"""By what a teacher's scores are multiplied, so that their softmax teaches.

Scores may be multiplied by any number without a change in a ranking, and models differ in it: a user's best item lies 5
to 9 above the median one for BPRs that were trained to their end, 15 for a LightGCN, below 1 for a linear model of
similarities. A softmax does depend on it. Of large scores it is nearly the best item alone, of small ones nearly
uniform. So

    c = 5 / spread  where the spread is below 4 or above 10, else 1,    spread = mean_u (max_i t_ui - median_i t_ui)

over some of the users that the teacher knows and all items that it knows, training items too. The bounds leave alone
what temperatures were chosen for. Of a teacher that scores a few items of each user, as rankings from elsewhere do, the
median is not known, and neither is the spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.ops.full_softmax import users_at_once

#: Users that a spread is measured over: its standard error is then some 2 % of it.
_USERS = 256
_LEAST, _MOST, _WANTED = 4.0, 10.0, 5.0


def best_above_median(scores: Tensor) -> Tensor:
    """Return how far users' best scores lie above their median ones.

    Args:
        scores: [n, m] of all items; -inf where there is no score.

    Returns:
        At least 0, for each user whose best and median scores are both numbers.
    """
    distance = scores.amax(dim=1) - scores.median(dim=1).values
    return distance[distance.isfinite()]


def automatic_scale(spread: float) -> float:
    """Return what scores of a spread are multiplied by; 1 for a spread that is no positive number.

    Example:
        >>> automatic_scale(20.0), automatic_scale(6.0), automatic_scale(0.5)
        (0.25, 1.0, 10.0)
    """
    if not (math.isfinite(spread) and spread > 0) or _LEAST <= spread <= _MOST:
        return 1.0
    return _WANTED / spread


@torch.no_grad()
def spread_of(teacher: Adapter, known: Mapping[str, np.ndarray[Any, Any]] | None = None) -> float:
    """Return the spread of a teacher's scores, over users at equal distances in the order of their ids; NaN if none.

    Args:
        teacher: the teacher.
        known: by "user" and "item", bool [n], whom it knows; a side that is missing it knows whole.
    """
    known = known or {}
    users, items = (
        _known(known.get(side), count).to(teacher.device)
        for side, count in (("user", teacher.n_users), ("item", teacher.n_items))
    )
    if not (len(users) and len(items)):
        return math.nan
    count = min(_USERS, len(users))
    users = users[torch.linspace(0, len(users) - 1, count, device=teacher.device).round().long()]
    with teacher.shared():
        chunks = users.split(users_at_once(teacher.n_items, teacher.device))
        found = [best_above_median(teacher.score_all(chunk)[:, items].float()) for chunk in chunks]
    return float(torch.cat(found).double().mean())


def _known(mask: np.ndarray[Any, Any] | None, count: int) -> Tensor:
    """Return the ids that a teacher knows, without the padding id."""
    return torch.arange(1, count) if mask is None else torch.from_numpy(1 + np.flatnonzero(mask[1:]))
