"""Losses over the whole catalogue, from embeddings and block by block: the same number, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import recbole_derrd.ops.full_softmax as full_softmax_module
from recbole_derrd.adapters import Adapter
from recbole_derrd.distillers.full_catalogue import full_softmax_sum
from recbole_derrd.testing.world import make_world, some_rows

from .test_listwise import ScoresOnly

USERS = torch.tensor([2, 6, 1, 5, 3])


def by_embeddings(own: Tensor, every: Tensor) -> Tensor:
    return (own @ every.T).square().sum()


@pytest.mark.parametrize("mixed", [False, True])
def test_embeddings_are_those_of_the_users_and_of_all_items(tmp_path: Path, mixed: bool) -> None:
    """Their products are float32 under mixed precision as well."""
    student = make_world(tmp_path, some_rows(6, 20, 5), 20).student

    def refused(users: Tensor) -> Tensor:
        raise AssertionError("the slow way")

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        found = full_softmax_sum(student, USERS, refused, by_embeddings)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, student.score_all(USERS).square().sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
def test_a_student_without_embeddings_is_asked_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    world = make_world(tmp_path, some_rows(6, 20, 5), 20)
    monkeypatch.setattr(full_softmax_module, "_BLOCK_SCORES", block)
    monkeypatch.setattr(full_softmax_module, "_FEWEST_USERS", 1)
    student: Adapter = ScoresOnly(world.student)
    asked: list[list[int]] = []

    def readable(users: Tensor) -> Tensor:
        asked.append(users.tolist())
        return student.score_all(users).square().sum()

    weights = list(world.student.model.parameters())
    plain = torch.autograd.grad(world.student.score_all(USERS).square().sum(), weights)
    found = torch.autograd.grad(full_softmax_sum(student, USERS, readable, by_embeddings), weights)
    for one, other in zip(found, plain):
        torch.testing.assert_close(one, other)
    size = max(1, block // 20)
    assert asked == [USERS[start : start + size].tolist() for start in range(0, 5, size)]
