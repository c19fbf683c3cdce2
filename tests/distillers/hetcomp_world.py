"""A small world with several teachers, each with earlier snapshots of itself, for the tests of HetComp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_derrd.distillers.hetcomp import HetCompOptions, HeterogeneousDistillation
from recbole_derrd.testing import TEACHERS, World, make_world


def world_of(
    folder: Path, rows: Sequence[Sequence[int]], n_items: int = 41, seeds: Sequence[Sequence[int]] = TEACHERS
) -> World:
    """Return a world whose knowledge is that of several teachers."""
    return make_world(folder, rows, n_items, teachers=seeds)


def build(
    world: World, seed: int = 5, epoch: int = 0, phase: int = 1, fused: bool = True, **options: Any
) -> HeterogeneousDistillation:
    """Build the method and begin an epoch; in phase 2 all users stand at the last snapshots."""
    world.student.fused = fused
    given = HetCompOptions(**{**HeterogeneousDistillation.test_settings, **options})
    distiller = HeterogeneousDistillation(given, world.knowledge, world.student, seed)
    if phase == 2:
        state = distiller.state_dict()
        state["snapshot"][:] = distiller.counts - 1
        state["finished"].fill_(True)
        distiller.load_state_dict(state)
    distiller.begin_epoch(epoch)
    return distiller
