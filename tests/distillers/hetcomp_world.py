"""A small world with several teachers, each with earlier snapshots of itself, for the tests of HetComp."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from recbole_derrd.distillers.hetcomp import HetCompOptions, HeterogeneousDistillation
from recbole_derrd.teacher import GivenTeacher, StoredKnowledge

from .contract import TinyAdapter, TinyModel, World, make_world

SMALL: dict[str, Any] = {"k": 8, "observed": 2, "top_n": 12, "discrepancy_k": 6}
#: Seeds of each teacher's earlier snapshots and of its last; 2 is the world's own teacher.
TEACHERS = ((11, 12, 2), (21,), (31, 32))


class SeveralTeachers(StoredKnowledge):
    """What several teachers know, each with its earlier snapshots."""

    def __init__(self, folder: Path, world: World, seeds: Sequence[Sequence[int]], last_size: int = 6) -> None:
        history = world.history

        def loader(seed: int) -> Callable[[], TinyAdapter]:
            model = TinyModel(history.n_users, history.n_items, last_size, seed)
            return lambda: world.teacher if seed == 2 else TinyAdapter(model)

        self.loaders = [[loader(seed) for seed in of_teacher] for of_teacher in seeds]
        super().__init__(folder / "first", GivenTeacher(self.loaders[0][-1]), history)
        #: What each snapshot of each teacher knows.
        self.members = [
            [
                StoredKnowledge(folder / f"{index}-{place}", GivenTeacher(load), history)
                for place, load in enumerate(own)
            ]
            for index, own in enumerate(self.loaders)
        ]

    def trajectories(self, count: int) -> list[np.ndarray[Any, Any]]:
        """Return each teacher's rankings."""
        return [np.stack([snapshot.top_items(count) for snapshot in own]) for own in self.members]

    def observed_ranks(self) -> list[np.ndarray[Any, Any]]:
        """Return each teacher's ranks of the training items."""
        return [own[-1].observed_ranks()[0] for own in self.members]

    def order(self, teacher: int, snapshot: int, user: int, items: set[int]) -> list[int]:
        """Return these items as a snapshot ranks them, by a plain sort."""
        with torch.no_grad():
            scores = self.loaders[teacher][snapshot]().score_all(torch.tensor([user]))[0].tolist()
        return sorted(items, key=lambda item: -scores[item])


def world_of(
    folder: Path, rows: Sequence[Sequence[int]], n_items: int = 41, seeds: Sequence[Sequence[int]] = TEACHERS
) -> World:
    """Return a world whose knowledge is that of several teachers."""
    world = make_world(folder / "plain", rows, n_items)
    return dataclasses.replace(world, knowledge=SeveralTeachers(folder, world, seeds))


def build(
    world: World, seed: int = 5, epoch: int = 0, phase: int = 1, fused: bool = True, **options: Any
) -> HeterogeneousDistillation:
    """Build the method and begin an epoch; in phase 2 all users stand at the last snapshots."""
    world.student.fused = fused
    distiller = HeterogeneousDistillation(HetCompOptions(**{**SMALL, **options}), world.knowledge, world.student, seed)
    if phase == 2:
        state = distiller.state_dict()
        state["snapshot"][:] = distiller.counts - 1
        state["finished"].fill_(True)
        distiller.load_state_dict(state)
    distiller.begin_epoch(epoch)
    return distiller
