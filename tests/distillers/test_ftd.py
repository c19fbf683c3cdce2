"""Full Topology Distillation: the formula as slow loops, its gradients, what it implies, known values, training."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.ftd import (
    FTDOptions,
    FullTopologyDistillation,
    pairs_scale,
    topology_loss,
    unit_rows,
)
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.topology import gram_distance
from recbole_derrd.testing import LossContract, TinyAdapter, World, make_world, some_rows, step


def build(world: World, seed: int = 5, **options: Any) -> FullTopologyDistillation:
    """Build the method."""
    return FullTopologyDistillation(FTDOptions(**options), world.knowledge, world.student, seed)


def cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine of two embeddings of plain floats; 0 where one of them is 0."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(x * y for x, y in zip(one, other)) / lengths if lengths else 0.0


def naive_distance(student: list[list[float]], teacher: list[list[float]]) -> float:
    """Return the sum over all ordered pairs of the squared difference of cosines."""
    places = range(len(student))
    return sum((cosine(teacher[e], teacher[f]) - cosine(student[e], student[f])) ** 2 for e in places for f in places)


def rows_of(world: World, role: str, users: list[int], items: list[int], scale: float = 1) -> list[list[float]]:
    """Return embeddings of these users and items as plain floats."""
    model = getattr(world, role).model
    rows = torch.cat([model.users.weight[users], model.items.weight[items]]).detach().double()
    return (scale * rows).tolist()


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return seeded normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Squares of smaller numbers, and so lengths, lose digits.
numbers = st.floats(-5, 5).map(lambda one: one if abs(one) > 1e-100 else 0.0)
matrices = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=2, max_size=5)


class TestFTD(LossContract):
    """The five kinds of test for FTD."""

    method = "ftd"
    random_options: ClassVar = {"sample": 0.5}

    # Reference loops

    @pytest.mark.parametrize("fused", [True, False])
    def test_reference_forward(self, world: World, fused: bool) -> None:
        """Of the batch's users and items, item 7 once, users with items as well."""
        world.student.fused = fused
        users, items = [1, 3, 4], [2, 5, 7, 9]
        expected = naive_distance(*(rows_of(world, role, users, items) for role in ("student", "teacher")))
        assert build(world)(self.batch).item() == pytest.approx(expected / 8, rel=1e-5)

    @pytest.mark.parametrize("distance", [gram_distance, topology_loss])
    def test_reference_distance(self, distance: Any) -> None:
        student, teacher = normal(6, 3, seed=1), normal(6, 5, seed=2)
        found = distance(unit_rows(student), unit_rows(teacher)).item()
        assert found == pytest.approx(naive_distance(student.tolist(), teacher.tolist()), rel=1e-12)

    def test_reference_hint_layers(self, world: World) -> None:
        """Another layer is looked at; a layer that is twice the tables has the same directions."""
        world.student.__class__, world.teacher.__class__ = CubedAdapter, CubedAdapter
        users, items = [1, 3, 4], [2, 5, 7, 9]
        tables = [rows_of(world, role, users, items) for role in ("student", "teacher")]
        cubes = [[[value**3 for value in row] for row in table] for table in tables]
        for options, expected in (
            ({}, naive_distance(*tables)),
            ({"hint": "cubed"}, naive_distance(cubes[0], tables[1])),
            ({"hint": "cubed", "teacher_hint": "twice"}, naive_distance(cubes[0], tables[1])),
        ):
            assert build(world, **options)(self.batch).item() == pytest.approx(expected / 8, rel=1e-5)

    # Gradients

    @pytest.mark.parametrize("distance", [gram_distance, topology_loss])
    def test_gradcheck_distance(self, distance: Any) -> None:
        student, teacher = normal(5, 3, seed=1).requires_grad_(), unit_rows(normal(5, 4, seed=2))
        assert torch.autograd.gradcheck(lambda rows: distance(unit_rows(rows), teacher), (student,))

    def test_gradcheck_zeros(self) -> None:
        """A division by a length of 0 would end a training with NaN."""
        rows = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
        gram_distance(unit_rows(rows), unit_rows(torch.tensor([[1.0], [2.0]]))).backward()
        assert rows.grad is not None and torch.isfinite(rows.grad).all()
        assert rows.grad[0].tolist() == [0, 0] and unit_rows(rows)[0].tolist() == [0, 0]

    # Invariants

    @given(matrices, st.floats(0.01, 100), st.integers(0, 1000))
    @settings(max_examples=60, deadline=None)
    def test_invariant_lengths_and_turns_do_not_matter(self, rows: list[list[float]], scale: float, seed: int) -> None:
        """Only directions towards each other count: not lengths, not where all of them point, not the order."""
        student = torch.tensor(rows, dtype=torch.float64)
        teacher, turn = normal(len(rows), 4, seed=seed), torch.linalg.qr(normal(3, 3, seed=seed + 1)).Q
        loss = lambda s, t: topology_loss(unit_rows(s), unit_rows(t))  # noqa: E731
        expected, order = loss(student, teacher), torch.randperm(len(rows))
        for other in (loss(scale * student @ turn, 3 * teacher), loss(student[order], teacher[order])):
            torch.testing.assert_close(other, expected, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(loss(student, student @ turn), torch.zeros(()).double(), atol=1e-9, rtol=0)

    @given(matrices, st.integers(0, 1000))
    @settings(max_examples=60, deadline=None)
    def test_invariant_gram_is_the_sum_over_pairs(self, rows: list[list[float]], seed: int) -> None:
        """Values and gradients, in double precision."""
        student = unit_rows(torch.tensor(rows, dtype=torch.float64)).requires_grad_()
        teacher = unit_rows(normal(len(rows), 4, seed=seed))
        found = [distance(student, teacher) for distance in (gram_distance, topology_loss)]
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
        gradients = [torch.autograd.grad(one, student)[0] for one in found]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("shift", [0.0, 3.0])
    @pytest.mark.parametrize("apart", [1.0, 0.01])
    def test_invariant_float32_is_accurate(self, shift: float, apart: float) -> None:
        """Large numbers are subtracted: the error is below 1e-6 n^2, where all point one way and are alike as well."""
        n = 3000
        teacher = normal(n, 20, seed=1) + shift
        student = teacher + apart * normal(n, 20, seed=2)
        exact = [unit_rows(rows) for rows in (student, teacher)]
        near = [rows.float() for rows in exact]
        exact[0].requires_grad_(), near[0].requires_grad_()
        wanted, found = topology_loss(*exact), gram_distance(*near)
        assert abs(found.item() - wanted.item()) < 1e-6 * n**2
        gradients = [torch.autograd.grad(*pair)[0].double() for pair in ((wanted, exact[0]), (found, near[0]))]
        error, size = (torch.linalg.vector_norm(one) for one in (gradients[1] - gradients[0], gradients[0]))
        assert error < 0.02 * size

    def test_invariant_a_student_that_is_its_teacher_has_no_loss(self) -> None:
        """A sum of squares below 0 would be rounding."""
        rows = unit_rows(normal(500, 8, seed=1).float()).requires_grad_()
        losses = [gram_distance(rows, rows[:, order]) for order in ([1, 0, *range(2, 8)], range(8), range(7, -1, -1))]
        assert all(0 <= loss.item() < 1e-6 * 500**2 for loss in losses)

    @pytest.mark.parametrize(("whole", "drawn"), [(5, 2), (6, 4), (7, 7), (1, 1), (0, 0)])
    def test_invariant_share_is_unbiased_over_all_draws(self, whole: int, drawn: int) -> None:
        student, teacher = unit_rows(normal(whole, 3, seed=1)), unit_rows(normal(whole, 4, seed=2))
        draws = [list(chosen) for chosen in combinations(range(whole), drawn)]
        sums = [pairs_scale(whole, drawn) * topology_loss(student[draw], teacher[draw]).item() for draw in draws]
        assert sum(sums) / len(sums) == pytest.approx(topology_loss(student, teacher).item(), rel=1e-9)

    # Golden values

    @pytest.mark.parametrize("distance", [gram_distance, topology_loss])
    def test_golden_four_entities(self, distance: Any) -> None:
        """Computed in float64 with numpy, from the matrices of cosines."""
        student = torch.tensor([[1.0, 0], [1, 1], [0, 2], [-1, 1]]).double()
        teacher = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [1, -1, 2]]).double()
        assert distance(unit_rows(student), unit_rows(teacher)).item() == pytest.approx(2.9239903950784303, rel=1e-12)

    def test_golden_two_entities_by_hand(self) -> None:
        """By hand: cosines 3/5 and 0; the pair counts twice, each entity with itself nothing: 2 * 9 / 25."""
        student, teacher = torch.tensor([[3.0, 4], [2, 0]]).double(), torch.tensor([[0.0, 5], [1, 0]]).double()
        assert topology_loss(unit_rows(student), unit_rows(teacher)).item() == pytest.approx(18 / 25)

    # Optimisation

    def test_optimisation_student_comes_near_the_teacher_s_topology(self, tmp_path: Path) -> None:
        """From a teacher of its own size the student can learn all of it."""
        world = make_world(tmp_path, some_rows(12, 21, 10), n_items=21, student_size=6)
        distiller, batch = build(world), step(range(1, 13), range(1, 21), [], rows=12)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)
        losses = []
        for _ in range(150):
            optimizer.zero_grad()
            loss = distiller(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.02 * losses[0]


class CubedAdapter(TinyAdapter):
    """Another hint layer, with other directions."""

    hints = ("embedding", "twice", "cubed")

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        return super()._users(users, "embedding") ** 3 if layer == "cubed" else super()._users(users, layer)

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return super()._items(items, "embedding") ** 3 if layer == "cubed" else super()._items(items, layer)


class UnequalAdapter(TinyAdapter):
    """Items of fewer dimensions than users."""

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return super()._items(items, layer)[:, :-1]


class TestKnowing:
    """What is drawn, and what is refused."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give twelve users and forty items."""
        return make_world(tmp_path / "knowledge", some_rows(12, 41, 10), n_items=41)

    def test_a_share_is_drawn_of_users_and_items_together(self, world: World) -> None:
        """Every entity as often as any other, the term right on average."""
        whole, part = build(world), build(world, sample=0.5)
        batch = step([1, 3, 4], [2, 7, 9], [5, 7, 11])
        counts: dict[tuple[str, int], int] = {}
        for _ in range(400):
            users, items, size = part.topology.draw(batch, 0.5, part.generator)
            assert len(users) + len(items) == 4 and size == 8
            for one in [("user", user) for user in users.tolist()] + [("item", item) for item in items.tolist()]:
                counts[one] = counts.get(one, 0) + 1
        assert set(counts) == {("user", one) for one in (1, 3, 4)} | {("item", one) for one in (2, 5, 7, 9, 11)}
        assert all(150 < count < 250 for count in counts.values())
        mean = sum(part(batch).item() for _ in range(1000)) / 1000
        assert mean == pytest.approx(whole(batch).item(), rel=0.05)

    def test_two_are_drawn_at_least(self, world: World) -> None:
        """Of one entity there is no pair: the term would be 0 for ever."""
        part = build(world, sample=0.01)
        assert all(part(step([1, 3], [2], [])).item() > 0 for _ in range(5))

    @pytest.mark.parametrize("batch", [step([], [], []), step([1], [], []), step([], [2], [])])
    def test_without_a_pair_there_is_nothing(self, world: World, batch: StepBatch) -> None:
        for share in (1.0, 0.5):
            assert build(world, sample=share)(batch).item() == pytest.approx(0, abs=1e-6)

    def test_whole_users_are_refused(self, world: World) -> None:
        some = torch.tensor([1])
        for items in ((None, None), (some, None), (None, some)):
            with pytest.raises(OptionError, match="FTD needs the items"):
                build(world)(StepBatch(some, *items, rows=1))

    def test_users_and_items_of_different_sizes_are_refused(self, world: World) -> None:
        world.student.__class__ = UnequalAdapter
        with pytest.raises(OptionError, match="student's embeddings have 4 dimensions for users and 3 for items"):
            build(world)

    def test_a_teacher_s_users_and_items_of_different_sizes_are_refused(self, world: World) -> None:
        world.teacher.__class__ = UnequalAdapter
        with pytest.raises(OptionError, match="teacher's embeddings have 6 dimensions for users and 5 for items"):
            build(world)
