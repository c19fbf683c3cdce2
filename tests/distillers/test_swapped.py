"""A student and what its teacher knows with the sides swapped, against the same things looked up in the other order."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch

from recbole_derrd.adapters import Adapter
from recbole_derrd.distillers.swapped import SwappedStudent, swapped_knowledge
from recbole_derrd.testing.world import make_world, some_rows


def test_scores_are_the_students_own(tmp_path: Path) -> None:
    """To scale: those of the first hint layer, as the student's are."""
    student = make_world(tmp_path, some_rows(6, 20, 5), 20).student
    swapped = SwappedStudent(student)
    items, users = torch.tensor([3, 19, 1]), torch.tensor([[1, 2], [6, 6], [4, 1]])
    whole = student.score_all(torch.arange(7)).T
    torch.testing.assert_close(swapped.score_all(items), whole[items])
    torch.testing.assert_close(swapped.score(items, users), whole[items].gather(1, users))
    assert swapped.device == student.device and swapped.model is student.model


def test_propagations_are_shared_as_the_students_own(tmp_path: Path) -> None:
    student = make_world(tmp_path, some_rows(6, 20, 5), 20).student
    made: list[int] = []
    with SwappedStudent(cast(Adapter, student)).shared():
        for _ in range(2):
            student.once("something", lambda: made.append(1))
    assert made == [1]


def test_users_are_the_items_of_what_the_teacher_knows(tmp_path: Path) -> None:
    world = make_world(tmp_path, some_rows(6, 20, 5), 20)
    swapped = swapped_knowledge(world.knowledge)
    assert (swapped.n_users, swapped.n_items) == (20, 7)
    assert np.array_equal(swapped.top_items(3), world.knowledge.top_users(3))
    for item in range(1, 20):
        seen = swapped.history.items[swapped.history.indptr[item] : swapped.history.indptr[item + 1]]
        assert set(seen) == {user for user in range(1, 7) if item in world.seen(user)}
    known = {"user": np.arange(3), "item": np.arange(5)}
    world.knowledge.known = known.get  # type: ignore[method-assign]
    assert swapped.known("user") is known["item"] and swapped.known("item") is known["user"]
