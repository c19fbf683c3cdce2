"""Arrays made of a teacher's scores of chosen items: of its rankings' items, and of the training items."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter, RowAdapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import DataError
from recbole_derrd.teacher import array_builder
from recbole_derrd.teacher.array_builder import About, BuildSettings, create_shared, describe, own_rows
from recbole_derrd.teacher.array_checks import Expected, fault_of_ranks, fault_of_scores
from recbole_derrd.teacher.exact import DIVERGED
from recbole_derrd.teacher.knowledge import Array
from recbole_derrd.teacher.source import LazyTeacher


@torch.no_grad()
def listed_scores(adapter: Adapter, users: Tensor, items: Tensor) -> Tensor:
    """Return the logits [n, K] of items [n, K] for users [n], computed in chunks of users; on the CPU."""
    parts = []
    # Models that score whole rows do so however few items are listed.
    whole_rows = adapter.n_items if isinstance(adapter, RowAdapter) else 1
    rows = max(1, array_builder.CHUNK_NUMBERS // max(16 * items.shape[1], whole_rows))
    with adapter.shared():
        for start in range(0, len(users), rows):
            chosen = slice(start, start + rows)
            scores = adapter.score(users[chosen].to(adapter.device), items[chosen].to(adapter.device))
            parts.append(scores.float().cpu())
    return torch.cat(parts)


@dataclasses.dataclass(frozen=True)
class TopScores:
    """The logits of the items in each user's ranking, 0 where there is none [n_users, count], float32.

    Attributes:
        rankings: what :class:`~recbole_derrd.teacher.ranking_arrays.TopItems` has built.
        settings: the search that has found them.
    """

    rankings: Array
    settings: BuildSettings

    @property
    def name(self) -> str:
        """What the array is called."""
        return f"top-scores-{self.rankings.shape[1]}{self.settings.suffix}"

    @property
    def expected(self) -> Expected:
        """Numbers that may be -inf."""
        return Expected(np.float32, len(self.rankings), self.rankings.shape[1], fault_of_scores)

    def write(self, path: Path, teacher: LazyTeacher) -> About:
        """Score the rankings' items, some users at a time."""
        file = create_shared(path, len(self.rankings), self.rankings.shape[1], np.float32)
        start, stop = own_rows(len(self.rankings))
        rows = max(1, array_builder.CHUNK_NUMBERS // (16 * max(1, self.rankings.shape[1])))
        with teacher.adapter.shared():
            for low in range(start, stop, rows):
                high = min(low + rows, stop)
                items = torch.from_numpy(self.rankings[low:high]).long()
                scores = listed_scores(teacher.adapter, torch.arange(low, high), items).masked_fill_(items == 0, 0)
                # -inf is a valid score of a teacher.
                if (scores.isnan() | scores.isposinf()).any():
                    raise DataError("The teacher's scores hold NaN or inf; train the teacher again.")
                file.write(low, scores.numpy())
        return describe(file)


@dataclasses.dataclass(frozen=True)
class ObservedRanks:
    """The rank of each training interaction among its user's, from 1 [interactions, 1], int32."""

    history: History

    @property
    def name(self) -> str:
        """What the array is called."""
        return "observed-ranks"

    @property
    def expected(self) -> Expected:
        """Ranks up to the longest history."""
        fault = functools.partial(fault_of_ranks, most=int(self.history.lengths.max()))
        return Expected(np.int32, len(self.history.items), 1, fault)

    @torch.no_grad()
    def write(self, path: Path, teacher: LazyTeacher) -> About:
        """Rank each user's training items, some users at a time."""
        history = self.history
        file = create_shared(path, len(history.items), 1)
        low, stop = own_rows(history.n_users)
        while low < stop:
            # As many users as their longest history leaves room for: the others are padded to its length.
            widest = np.maximum.accumulate(np.maximum(history.lengths[low:stop], 1))
            sizes = 128 * widest * np.arange(1, len(widest) + 1)
            high = low + max(1, int(np.searchsorted(sizes, array_builder.CHUNK_NUMBERS, side="right")))
            file.write(int(history.indptr[low]), _ranks_within(teacher.adapter, history, low, high)[:, None])
            low = high
        return describe(file)


def _ranks_within(adapter: Adapter, history: History, low: int, high: int) -> Array:
    """Return the ranks of users low .. high - 1 [interactions]; equal scores in the order of their items."""
    lengths = history.lengths[low:high]
    held = np.arange(max(1, lengths.max())) < lengths[:, None]
    empty = torch.from_numpy(~held)
    items = torch.zeros(held.shape, dtype=torch.int64)
    items[~empty] = torch.from_numpy(history.items[history.indptr[low] : history.indptr[high]])
    scores = listed_scores(adapter, torch.arange(low, high), items).masked_fill(empty, -torch.inf)
    if scores.isnan().any():
        raise DataError(DIVERGED)
    order = scores.argsort(dim=1, descending=True, stable=True)
    # A teacher may score an item -inf as well: padding goes behind it.
    order = order.gather(1, empty.gather(1, order).to(torch.uint8).argsort(dim=1, stable=True))
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(1, held.shape[1] + 1).expand_as(order))
    return ranks.numpy()[held].astype(np.int32)
