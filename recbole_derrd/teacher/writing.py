"""Asking a frozen teacher for what it knows and writing the answers, some users at a time.

Each process writes the rows of its own users (or items) of one file, which the first has made.
"""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_derrd.adapters import Adapter, RowAdapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import DataError
from recbole_derrd.runtime.processes import barrier, is_main_process, shard_range
from recbole_derrd.teacher.array_file import ArrayFile
from recbole_derrd.teacher.exact import DIVERGED, ExactSearch
from recbole_derrd.teacher.neighbours import entities_at_once, nearest, principal_components
from recbole_derrd.teacher.search import ApproximateSearch
from recbole_derrd.teacher.users import UserSearch, swapped

#: Numbers that one chunk of chosen items' scores may pass through (64 MB of float32).
_CHUNK_NUMBERS = 1 << 24

#: What is said of an array beside it.
About = dict[str, Any]


def _made(path: Path, rows: int, width: int, dtype: type[Any] = np.int32) -> ArrayFile:
    """Make the file in the first process and open it in all."""
    if is_main_process():
        ArrayFile.create(path, (rows, width), np.dtype(dtype))
    barrier()
    try:
        return ArrayFile(path)
    except OSError as error:
        raise DataError(
            f"This process does not see '{path}', which the first process has just made. Processes on several "
            "machines need a cache_dir and a checkpoint_dir on a file system that all of them share."
        ) from error


def _about(file: ArrayFile, **more: Any) -> About:
    return {"shape": file.shape, "dtype": str(file.dtype), **more}


@torch.no_grad()
def write_embeddings(path: Path, adapter: Adapter, side: str, hint: str | None) -> About:
    """Write the embeddings of all users or items [n, d], float32."""
    with adapter.shared():
        embeddings = adapter.embeddings(side, None, hint).float().cpu().numpy()
    # In parts: the answers for all entries at once would be a quarter of the embeddings again.
    if not all(np.isfinite(part).all() for part in np.array_split(embeddings, max(1, len(embeddings) >> 16))):
        raise DataError("The teacher's embeddings hold values that are not finite numbers; train the teacher anew.")
    if not is_main_process():
        return {}
    # Not np.save: on a full disk numpy may lose the last 4 KB without a word.
    count, width = embeddings.shape
    file = ArrayFile.create(path, (count, width), embeddings.dtype)
    file.write(0, embeddings)
    return _about(file)


@torch.no_grad()
def fill_rankings(
    file: ArrayFile,
    search: ExactSearch | ApproximateSearch | UserSearch,
    start: int,
    stop: int,
    *,
    first_row: int = 0,
    progress: str = "",
) -> None:
    """Write the rankings of users (or items) start .. stop - 1; other processes may write those of others meanwhile.

    Args:
        file: where to.
        search: gives the rankings.
        start: the first.
        stop: behind the last.
        first_row: row of the file that belongs to number 0.
        progress: what the bar is called; none is shown if empty.
    """
    with search.adapter.shared():
        chunks = range(start, stop, search.chunk)
        for low in tqdm(chunks, desc=progress, ncols=100, disable=not progress):
            file.write(first_row + low, search.rankings(low, min(low + search.chunk, stop)).cpu().numpy())


@torch.no_grad()
def write_top_items(
    path: Path, adapter: Adapter, history: History, count: int, *, chunk: int, progress: bool, approximate: bool
) -> About:
    """Write each user's ``count`` best unobserved items [n_users, count], int32."""
    file = _made(path, history.n_users, count)
    with adapter.shared():
        exact = ExactSearch(adapter, history, count, chunk)
        search = ApproximateSearch(exact) if approximate else exact
        start, stop = shard_range(history.n_users - 1)
        fill_rankings(file, search, start + 1, stop + 1, progress="Teacher's rankings" if progress else "")
    return _about(file, **search.about)


@torch.no_grad()
def write_top_users(path: Path, adapter: Adapter, history: History, count: int, *, chunk: int, progress: bool) -> About:
    """Write each item's ``count`` best users that have no training interaction with it [n_items, count], int32."""
    file = _made(path, history.n_items, count)
    search = UserSearch(adapter, swapped(history), count, chunk)
    start, stop = shard_range(history.n_items - 1)
    fill_rankings(file, search, start + 1, stop + 1, progress="Teacher's rankings of users" if progress else "")
    return _about(file)


def write_top_scores(path: Path, adapter: Adapter, rankings: np.ndarray[Any, Any]) -> About:
    """Write the logits of rankings' items, 0 where there is none [n_users, count], float32."""
    file = _made(path, len(rankings), rankings.shape[1], np.float32)
    start, stop = shard_range(len(rankings) - 1)
    rows = max(1, _CHUNK_NUMBERS // (16 * max(1, rankings.shape[1])))
    with adapter.shared():
        for low in range(start + 1, stop + 1, rows):
            high = min(low + rows, stop + 1)
            items = torch.from_numpy(rankings[low:high]).long()
            scores = listed_scores(adapter, torch.arange(low, high), items).masked_fill_(items == 0, 0)
            # -inf is a valid score of a teacher's.
            if (scores.isnan() | scores.isposinf()).any():
                raise DataError("The teacher's scores hold NaN or inf; train the teacher anew.")
            file.write(low, scores.numpy())
    return _about(file)


@torch.no_grad()
def write_snapshots(
    path: Path, snapshots: Sequence[Callable[[], Adapter]], history: History, count: int, *, chunk: int, progress: bool
) -> About:
    """Write each snapshot's rankings one below the other [snapshots * n_users, count], int32."""
    rows = len(snapshots) * history.n_users
    getLogger().info(f"Rankings of {len(snapshots)} snapshots of the teacher take {4 * rows * count / 1e6:,.0f} MB.")
    file = _made(path, rows, count)
    start, stop = shard_range(history.n_users - 1)
    for index, load in enumerate(snapshots):
        search = ExactSearch(load(), history, count, chunk)
        shown = f"Snapshot {index + 1} of {len(snapshots)}" if progress else ""
        fill_rankings(file, search, start + 1, stop + 1, first_row=index * history.n_users, progress=shown)
    return _about(file, snapshots=len(snapshots))


@torch.no_grad()
def write_observed_ranks(path: Path, adapter: Adapter, history: History) -> About:
    """Write the rank of each training interaction among its user's, from 1 [interactions, 1], int32."""
    file = _made(path, len(history.items), 1)
    start, stop = shard_range(history.n_users - 1)
    low = start + 1
    while low <= stop:
        # As many users as their longest history leaves room for; few, as the others are padded to its length.
        widest = np.maximum.accumulate(np.maximum(history.lengths[low : stop + 1], 1))
        fit = int(np.searchsorted(128 * widest * np.arange(1, len(widest) + 1), _CHUNK_NUMBERS, side="right"))
        high = low + max(1, fit)
        file.write(int(history.indptr[low]), _ranks_within(adapter, history, low, high)[:, None])
        low = high
    return _about(file)


def _ranks_within(adapter: Adapter, history: History, low: int, high: int) -> np.ndarray[Any, Any]:
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
    # A score of -inf is a teacher's own as well: what is not held goes behind it.
    order = order.gather(1, empty.gather(1, order).to(torch.uint8).argsort(dim=1, stable=True))
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(1, held.shape[1] + 1).expand_as(order))
    return ranks.numpy()[held].astype(np.int32)


@torch.no_grad()
def write_neighbours(
    path: Path, embeddings: np.ndarray[Any, Any], count: int, components: int, device: torch.device, *, progress: str
) -> About:
    """Write the ids of each entity's nearest others, nearest first [n, count], int32; row 0 is padding.

    Args:
        path: where to.
        embeddings: of all entities, the padding id's first [n, d].
        count: neighbours of each.
        components: principal components that distances are taken in.
        device: where they are computed.
        progress: what the bar is called; none is shown if empty.
    """
    file = _made(path, len(embeddings), count)
    real = principal_components(torch.from_numpy(embeddings[1:]).to(device), components)
    # Distances stay as they are, and are rounded less.
    real = real - real.mean(dim=0)
    squares = real.square().sum(dim=1)
    at_once = entities_at_once(len(real), device)
    start, stop = shard_range(len(real))
    for low in tqdm(range(start, stop, at_once), desc=progress, ncols=100, disable=not progress):
        found = nearest(real, low, min(low + at_once, stop), count, squares)
        file.write(low + 1, (found + 1).to(torch.int32).cpu().numpy())
    return _about(file, components=components)


@torch.no_grad()
def listed_scores(adapter: Adapter, users: Tensor, items: Tensor) -> Tensor:
    """Return the logits [n, K] of items [n, K] for users [n], computed in chunks of users; on the CPU."""
    parts = []
    # Models that score whole rows do so however short the rankings are.
    whole_rows = adapter.n_items if isinstance(adapter, RowAdapter) else 1
    rows = max(1, _CHUNK_NUMBERS // max(16 * items.shape[1], whole_rows))
    with adapter.shared():
        for start in range(0, len(users), rows):
            chosen = slice(start, start + rows)
            scores = adapter.score(users[chosen].to(adapter.device), items[chosen].to(adapter.device))
            parts.append(scores.float().cpu())
    return torch.cat(parts)
