"""Arrays of top-N rankings: each user's best items, each item's best users, the rankings of a teacher's snapshots."""

from __future__ import annotations

import dataclasses
import functools
from logging import getLogger
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_derrd.adapters import Adapter
from recbole_derrd.data.history import History
from recbole_derrd.teacher.array_builder import About, BuildSettings, create_shared, describe, own_rows
from recbole_derrd.teacher.array_checks import Expected, fault_of_rankings
from recbole_derrd.teacher.array_file import ArrayFile
from recbole_derrd.teacher.exact import ExactSearch
from recbole_derrd.teacher.search import ApproximateSearch
from recbole_derrd.teacher.source import LazyTeacher
from recbole_derrd.teacher.users import UserSearch, swapped


class Search(Protocol):
    """Finds rankings of users (or items), ``chunk`` of them at once."""

    adapter: Adapter
    chunk: int

    def rankings(self, start: int, stop: int) -> Tensor:
        """Return the rankings of numbers start .. stop - 1 [stop - start, count], int32."""
        ...


def expected_rankings(rows: int, width: int, entities: int, *, own: bool = False, repeated: bool = False) -> Expected:
    """Return what rankings of ids must be; ``own`` where a row must not hold its own number."""
    fault = functools.partial(fault_of_rankings, count=rows, entities=entities, own=own)
    return Expected(np.int32, rows, width, fault, repeated)


@torch.no_grad()
def fill_rankings(
    file: ArrayFile, search: Search, start: int, stop: int, *, first_row: int = 0, progress: str = ""
) -> None:
    """Write the rankings of users (or items) start .. stop - 1; other processes may write others meanwhile.

    Args:
        file: where to.
        search: gives the rankings.
        start: the first.
        stop: behind the last.
        first_row: row of the file that belongs to number 0.
        progress: what the progress bar is called; none is shown if empty.
    """
    with search.adapter.shared():
        chunks = range(start, stop, search.chunk)
        for low in tqdm(chunks, desc=progress, ncols=100, disable=not progress):
            file.write(first_row + low, search.rankings(low, min(low + search.chunk, stop)).cpu().numpy())


@dataclasses.dataclass(frozen=True)
class TopItems:
    """Each user's ``count`` best unobserved items [n_users, count], int32."""

    history: History
    count: int
    settings: BuildSettings

    @property
    def name(self) -> str:
        """What the array is called."""
        return f"top-items-{self.count}{self.settings.suffix}"

    @property
    def expected(self) -> Expected:
        """Rankings of items."""
        return expected_rankings(self.history.n_users, self.count, self.history.n_items)

    @torch.no_grad()
    def write(self, path: Path, teacher: LazyTeacher) -> About:
        """Search for each user's best items."""
        file = create_shared(path, self.history.n_users, self.count)
        with teacher.adapter.shared():
            exact = ExactSearch(teacher.adapter, self.history, self.count, self.settings.chunk)
            search = ApproximateSearch(exact) if self.settings.search == "faiss" else exact
            start, stop = own_rows(self.history.n_users)
            fill_rankings(file, search, start, stop, progress=self.settings.progress("Teacher's rankings"))
        return describe(file, **search.about)


@dataclasses.dataclass(frozen=True)
class TopUsers:
    """Each item's ``count`` best users that have no training interaction with it [n_items, count], int32; exact."""

    history: History
    count: int
    settings: BuildSettings

    @property
    def name(self) -> str:
        """What the array is called."""
        return f"top-users-{self.count}"

    @property
    def expected(self) -> Expected:
        """Rankings of users."""
        return expected_rankings(self.history.n_items, self.count, self.history.n_users)

    @torch.no_grad()
    def write(self, path: Path, teacher: LazyTeacher) -> About:
        """Search for each item's best users."""
        file = create_shared(path, self.history.n_items, self.count)
        search = UserSearch(teacher.adapter, swapped(self.history), self.count, self.settings.chunk)
        start, stop = own_rows(self.history.n_items)
        fill_rankings(file, search, start, stop, progress=self.settings.progress("Teacher's rankings of users"))
        return describe(file)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """The rankings of each of a teacher's snapshots, one below the other [snapshots * n_users, count], int32."""

    history: History
    count: int
    settings: BuildSettings

    @property
    def name(self) -> str:
        """What the array is called."""
        return f"trajectory-{self.settings.snapshots}-{self.count}"

    @property
    def expected(self) -> Expected:
        """Rankings of items, once for each snapshot that the teacher has."""
        return expected_rankings(self.history.n_users, self.count, self.history.n_items, repeated=True)

    @torch.no_grad()
    def write(self, path: Path, teacher: LazyTeacher) -> About:
        """Search for each user's best items, once a snapshot; one snapshot is in memory at a time."""
        with teacher.source.snapshots(self.settings.snapshots) as earlier:
            loads = [*earlier, lambda: teacher.adapter]
            rows = len(loads) * self.history.n_users
            megabytes = 4 * rows * self.count / 1e6
            getLogger().info(f"Rankings of {len(loads)} snapshots of the teacher take {megabytes:,.0f} MB.")
            file = create_shared(path, rows, self.count)
            start, stop = own_rows(self.history.n_users)
            for index, load in enumerate(loads):
                search = ExactSearch(load(), self.history, self.count, self.settings.chunk)
                shown = self.settings.progress(f"Snapshot {index + 1} of {len(loads)}")
                fill_rankings(file, search, start, stop, first_row=index * self.history.n_users, progress=shown)
        return describe(file, snapshots=len(loads))
