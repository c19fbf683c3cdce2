"""The small worlds of the methods' own tests, on the CPU and on the device."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recbole_derrd.distillers import Distiller, Need, StepBatch
from recbole_derrd.errors import OptionError
from recbole_derrd.registry import method_class
from recbole_derrd.testing import TEACHERS, LossContract, World, make_world, some_rows, step

#: (users, items, most training items of a user), and the (student's, teacher's) dimensions of the larger world.
TINY, LARGE, DIMENSIONS = (30, 61, 15), (300, 2001, 40), (20, 64)


def contracts_of(method: str) -> list[type[LossContract]]:
    """Return the test classes of a method; none where it has no file of tests."""
    wanted = f"distillers.test_{method}"
    try:
        module = importlib.import_module(wanted)
    except ModuleNotFoundError as error:
        if error.name != wanted:
            raise
        return []
    return [
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, LossContract) and found.method == method
    ]


def variants_of(method: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, options) of a method: its ``test_settings``, and each with one option changed.

    Its own test classes add to them. Choices take each value, switches are turned over, and numbers of which 0 means
    "off" are switched on. So every branch that one option opens is taken, of methods to come as well.
    """
    kind = method_class(method)
    tested = [(contract.settings(), dict(contract.random_options)) for contract in contracts_of(method)]
    for base, drawn in tested or [(dict(kind.test_settings), {})]:
        changes: list[dict[str, Any]] = [{}, drawn]
        usual = kind.options_class(**base)
        for field in dataclasses.fields(kind.options_class):
            value, limits = getattr(usual, field.name), field.metadata
            # A preset is nothing but values of the other options.
            if field.name in ("weight", "preset") or field.name in drawn:
                continue
            if isinstance(value, bool):
                changes.append({field.name: not value})
            elif limits["choices"]:
                changes += [{field.name: choice} for choice in limits["choices"] if choice != value]
            elif field.name == "sample":
                changes.append({"sample": 0.5})
            elif limits["low"] == 0 and value == 0:
                changes.append({field.name: 6 if int in limits["kinds"] else 0.3})
        seen: list[dict[str, Any]] = []
        for change in changes:
            options = {**base, **change}
            if options in seen:
                continue
            seen.append(options)
            try:
                kind.options_class(**options)
            except OptionError:
                continue  # this one does not go with the others
            yield ", ".join(f"{name}: {value}" for name, value in change.items()) or "as in its tests", options


def world_on(folder: Path, size: str, method: str, device: torch.device) -> World:
    """Return a world whose student and teacher are on a device, as new; what the teacher knows is the folder's."""
    world = _world_on(folder, size, Need.TRAJECTORY in method_class(method).needs, device)
    world.student.model.zero_grad(set_to_none=True)
    return world


@functools.cache
def _world_on(folder: Path, size: str, several_teachers: bool, device: torch.device) -> World:
    users, items, most = TINY if size == "tiny" else LARGE
    rows = some_rows(users, items, most, seed=3)
    if several_teachers:
        world = make_world(folder / f"{size}-several", rows, items, teachers=TEACHERS)
    else:
        dimensions = {} if size == "tiny" else dict(zip(("student_size", "teacher_size"), DIMENSIONS))
        world = make_world(folder / size, rows, items, **dimensions)
    for side in (world.student, world.teacher):
        side.model.to(device)
        side.model.device = device
    return world


def batch_of(world: World, device: torch.device) -> StepBatch:
    """Return a batch of half of the users and of some items."""
    users = range(1, world.history.n_users, 2)
    positives = range(1, world.history.n_items, 5)
    negatives = range(3, world.history.n_items, 4)
    batch = step(users, positives, negatives, rows=2 * len(users))
    return dataclasses.replace(
        batch, **{name: getattr(batch, name).to(device) for name in ("users", "positives", "negatives")}
    )


def built(method: str, options: dict[str, Any], world: World, epoch: int, *, last_phase: bool = False) -> Distiller:
    """Build a method and begin an epoch; in the last phase of a method that has several."""
    kind = method_class(method)
    distiller = kind(kind.options_class(**options), world.knowledge, world.student, 5)
    if last_phase:
        state = distiller.state_dict()
        state["snapshot"][:] = (distiller.counts - 1).to(state["snapshot"].device)  # type: ignore[operator, union-attr]
        state["finished"].fill_(True)
        distiller.load_state_dict(state)
    distiller.begin_epoch(epoch)
    return distiller
