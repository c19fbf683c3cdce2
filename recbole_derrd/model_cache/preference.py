"""How often a model scores training or test items above validation items: a sign of what it was trained on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.adapters import adapter_of
from recbole_derrd.data.fingerprint import pairs_of
from recbole_derrd.data.prepare import Data

#: Users in the sample: enough for a standard error of 0.02, and quickly scored.
_USERS = 256
_SCORES_AT_ONCE = 2_000_000


@torch.no_grad()
def preference_for_training_items(model: Any, data: Data, *, seed: int) -> tuple[float, float]:
    """Return the mean over users of the share of pairs in which the training item is scored higher, and its error.

    Of user u with training items T_u, validation items V_u and scores s::

        share_u = 1 / (|T_u| |V_u|) sum_{t in T_u, v in V_u} ([s(u, t) > s(u, v)] + [s(u, t) = s(u, v)] / 2)

    A model of another random split was trained on equal shares of both: 1/2.

    Args:
        model: a RecBole model in evaluation mode.
        data: this run's data.
        seed: draws the sample of users.

    Returns:
        The mean and its standard error over users; (0.5, inf) where no user has both.
    """
    history = data.history
    return _preference(model, data, np.repeat(np.arange(history.n_users), history.lengths), history.items, seed)


@torch.no_grad()
def preference_for_test_items(model: Any, data: Data, *, seed: int) -> tuple[float, float]:
    """Return the same for this run's test items: a model that was not trained on them prefers none."""
    history, n_items = data.history, data.history.n_items
    train = np.repeat(np.arange(history.n_users), history.lengths) * n_items + history.items
    valid, test = (
        users.astype(np.int64) * n_items + items
        for users, items in (pairs_of(data.valid._dataset), pairs_of(data.test._dataset))
    )
    # An item that a user has in several splits may be known.
    keys = np.setdiff1d(test, np.concatenate([train, valid]))
    return _preference(model, data, keys // n_items, keys % n_items, seed)


def _preference(
    model: Any, data: Data, owners: np.ndarray[Any, Any], items: np.ndarray[Any, Any], seed: int
) -> tuple[float, float]:
    """Return how often a model scores some items of users, ordered by user, above their validation items."""
    adapter = adapter_of(model)
    users, held_out = pairs_of(data.valid._dataset)
    order = np.argsort(users, kind="stable")
    users, held_out = users[order], held_out[order]
    both = np.intersect1d(users, owners)
    if len(both) > _USERS:
        both = np.sort(np.random.default_rng(seed).choice(both, _USERS, replace=False))
    shares: list[float] = []
    rows = max(1, _SCORES_AT_ONCE // data.history.n_items)
    for start in range(0, len(both), rows):
        some = both[start : start + rows]
        with adapter.shared():
            scores = adapter.score_all(torch.from_numpy(some).to(adapter.device))
        for user, row in zip(some, scores):
            low, high = np.searchsorted(users, [user, user + 1])
            begin, end = np.searchsorted(owners, [user, user + 1])
            shares.append(share_above(row, items[begin:end], held_out[low:high]))
    if len(shares) < 2:
        return 0.5, math.inf
    return float(np.mean(shares)), float(np.std(shares, ddof=1) / math.sqrt(len(shares)))


def share_above(scores: Tensor, some: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> float:
    """Return the share of pairs in which one of some items is scored above one of others; ties count half.

    Args:
        scores: [n_items] one user's scores.
        some: items.
        others: items.
    """
    first = scores[torch.from_numpy(some).to(scores.device)]
    # Sorted, so that no table of pairs is made: how many are below each, and how many not above.
    ordered = scores[torch.from_numpy(others).to(scores.device)].sort().values
    below, not_above = (torch.searchsorted(ordered, first, right=right) for right in (False, True))
    return float((below + not_above).double().mean() / (2 * len(ordered)))
