"""Hierarchical Topology Distillation: formula as slow loops, gradients, what it implies, known values, training."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recbole_derrd.distillers.htd as htd_module
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.de import DEOptions, DistillationExperts
from recbole_derrd.distillers.ftd import topology_loss, unit_rows
from recbole_derrd.distillers.htd import (
    HierarchicalTopologyDistillation,
    HTDOptions,
    drawn_members,
    grouped_loss,
    prototype_loss,
    prototypes,
)
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.topology import grouped_distance
from recbole_derrd.testing import LossContract, World, assert_share_is_unbiased, make_world, some_rows, step

from .test_ftd import UnequalAdapter, cosine, normal, rows_of

USERS, ITEMS = [1, 3, 4], [2, 5, 7, 9]


def build(world: World, seed: int = 5, **options: Any) -> HierarchicalTopologyDistillation:
    """Build the method with small sizes."""
    given = HTDOptions(**{**HierarchicalTopologyDistillation.test_settings, **options})
    distiller = HierarchicalTopologyDistillation(given, world.knowledge, world.student, seed)
    distiller.begin_epoch(0)
    return distiller


def naive_groups(distiller: Any, world: World, users: list[int], items: list[int]) -> list[int]:
    """Return the group of each entity: the largest of the assignment network's outputs, items' groups behind users'."""
    groups = []
    for side, ids in (("user", users), ("item", items)):
        bank = distiller.assignment.banks[0][side]
        for entity in ids:
            vector = getattr(world.teacher.model, f"{side}s").weight[entity].double()
            outputs = (bank.select.T.double() @ vector + bank.select_bias.double()).tolist()
            groups.append(outputs.index(max(outputs)) + (len(outputs) if side == "item" else 0))
    return groups


def naive_within(student: list[list[float]], teacher: list[list[float]], groups: list[int]) -> float:
    """Return the sum over ordered pairs of one group whose teacher's cosine is positive."""
    places, total = range(len(groups)), 0.0
    for e in places:
        for f in places:
            wanted = cosine(teacher[e], teacher[f])
            if groups[e] == groups[f] and wanted > 0:
                total += (cosine(student[e], student[f]) - wanted) ** 2
    return total


def naive_prototypes(rows: list[list[float]], groups: list[int]) -> list[list[float]]:
    """Return the mean of the members of each group that has any."""
    members = [[row for row, own in zip(rows, groups) if own == group] for group in sorted(set(groups))]
    return [[sum(column) / len(own) for column in zip(*own)] for own in members]


def naive_between(student: list[list[float]], teacher: list[list[float]], groups: list[int], topology: str) -> float:
    """Return the sum over groups and entities, or over pairs of groups."""
    means = [naive_prototypes(rows, groups) for rows in (student, teacher)]
    others = [student, teacher] if topology == "entities" else means
    return sum(
        (cosine(mine, own) - cosine(theirs, wanted)) ** 2
        for mine, theirs in zip(*means)
        for own, wanted in zip(*others)
    )


def naive_assignment(world: World, distiller: Any, seed: int, rows: int = 1) -> float:
    """Return GA by DE itself, whose items count half: of an item that is positive and negative, whole."""
    options = DEOptions(num_experts=3, hidden_size=5)
    experts = DistillationExperts(options, world.knowledge, world.student, 0)
    experts.load_state_dict(distiller.assignment.state_dict())
    experts.tau = distiller.assignment.tau
    experts.generator.manual_seed(seed)
    total: float = experts(step(USERS, [], [])).item()
    # The noise goes on where the users' ended; each item alone, as DE would draw for all of them at once.
    drawn = -torch.log(-torch.log(torch.rand(len(ITEMS), 3, generator=experts.generator)))
    bank = experts.banks[0]["item"]
    teacher = world.teacher.model.items.weight[ITEMS].detach()
    weights = ((bank.logits(teacher) + drawn) / experts.tau).softmax(dim=1)
    mapped = bank(world.student.model.items.weight[ITEMS], weights)
    return (total + (teacher - mapped).square().sum().item()) / rows


groupings = st.lists(st.integers(0, 3), min_size=2, max_size=7)


class TestHTD(LossContract):
    """The five kinds of test for HTD."""

    method = "htd"
    random_options: ClassVar = {"members": 2, "sample": 0.5}

    # Reference loops

    @pytest.mark.parametrize("fused", [True, False])
    @pytest.mark.parametrize("topology", ["entities", "groups"])
    def test_reference_topology(self, world: World, topology: str, fused: bool) -> None:
        """Prevents users in items' groups, prototypes of unit embeddings, and a lost condition."""
        world.student.fused = fused
        distiller = build(world, alpha=1.0, topology=topology, num_groups=2)
        groups = naive_groups(distiller, world, USERS, ITEMS)
        assert len(set(groups)) < 7, "some share a group"
        student, teacher = (rows_of(world, role, USERS, ITEMS) for role in ("student", "teacher"))
        expected = naive_within(student, teacher, groups) + naive_between(student, teacher, groups, topology)
        assert distiller(self.batch).item() == pytest.approx(expected / 8, rel=1e-5)

    @pytest.mark.parametrize("tau", [1.0, 0.3])
    def test_reference_assignment(self, world: World, tau: float) -> None:
        """Every entity once, with its own side's networks and noise of its own."""
        distiller = build(world, alpha=0.0, members=None)
        distiller.assignment.tau = tau
        distiller.generator.manual_seed(11)
        expected = naive_assignment(world, distiller, seed=11, rows=8)
        assert distiller(self.batch).item() == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
    def test_reference_alpha(self, world: World, alpha: float) -> None:
        losses = []
        for share in (1.0, 0.0, alpha):
            distiller = build(world, alpha=share)
            distiller.generator.manual_seed(3)
            losses.append(distiller(self.batch).item())
        assert losses[2] == pytest.approx(alpha * losses[0] + (1 - alpha) * losses[1], rel=1e-5)

    @pytest.mark.parametrize("within", [grouped_distance, grouped_loss])
    def test_reference_within_groups(self, within: Any) -> None:
        student, teacher, groups = normal(9, 3, seed=1), normal(9, 5, seed=2), [4, 0, 2, 0, 4, 4, 1, 2, 0]
        found = within(unit_rows(student), unit_rows(teacher), torch.tensor(groups), torch.ones(6).double())
        assert found.item() == pytest.approx(naive_within(student.tolist(), teacher.tolist(), groups), rel=1e-12)

    # Gradients

    @pytest.mark.parametrize("within", [grouped_distance, grouped_loss])
    def test_gradcheck_within_groups(self, within: Any) -> None:
        teacher, groups = unit_rows(normal(7, 4, seed=2)), torch.tensor([0, 2, 0, 2, 2, 1, 0])
        weights = torch.tensor([1.0, 3.0, 0.5]).double()
        student = normal(7, 3, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda rows: 2 * within(unit_rows(rows), teacher, groups, weights), (student,))

    def test_gradcheck_prototypes_have_none(self) -> None:
        """Gradients of entities alone; nothing through the means."""
        teacher, groups = unit_rows(normal(5, 4, seed=2)), torch.tensor([0, 1, 0, 1, 0])
        student = normal(5, 3, seed=1).requires_grad_()
        means = [unit_rows(prototypes(rows, groups, 2)) for rows in (student, teacher)]
        assert not means[0].requires_grad
        assert torch.autograd.gradcheck(lambda rows: prototype_loss(unit_rows(rows), teacher, *means), (student,))

    def test_gradcheck_who_learns_from_what(self, world: World) -> None:
        """The topology teaches the student alone; the assignment teaches all networks, and the student."""
        for alpha, learns in ((1.0, False), (0.0, True), (0.5, True)):
            distiller = build(world, alpha=alpha)
            world.student.model.zero_grad()
            distiller(self.batch).backward()
            for parameter in distiller.parameters():
                assert (parameter.grad is not None and bool((parameter.grad != 0).any())) is learns
            assert (world.student.model.users.weight.grad[USERS] != 0).any(dim=1).all()
            assert (world.student.model.items.weight.grad[ITEMS] != 0).any(dim=1).all()

    # Invariants

    @given(groupings, st.integers(0, 1000))
    @settings(max_examples=60, deadline=None)
    def test_invariant_blocks_are_the_whole_matrix(self, groups: list[int], seed: int) -> None:
        """Values and gradients of the kernel and of its twin; empty groups and groups of one are among them."""
        n = len(groups)
        student, teacher = unit_rows(normal(n, 3, seed=seed)).requires_grad_(), unit_rows(normal(n, 4, seed=seed + 1))
        weights = torch.tensor([1.0, 2.0, 0.5, 7.0]).double()
        found = [within(student, teacher, torch.tensor(groups), weights) for within in (grouped_distance, grouped_loss)]
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(*(torch.autograd.grad(3 * one, student)[0] for one in found), rtol=1e-9, atol=1e-12)

    @given(st.integers(0, 1000))
    @settings(max_examples=30, deadline=None)
    def test_invariant_one_group_of_near_entities_is_ftd(self, seed: int) -> None:
        """With positive cosines everywhere and one group, the first sum is FTD's."""
        teacher, student = unit_rows(normal(6, 4, seed=seed).abs() + 0.1), unit_rows(normal(6, 3, seed=seed + 1))
        found = grouped_distance(student, teacher, torch.zeros(6, dtype=torch.int64), torch.ones(1).double())
        torch.testing.assert_close(found, topology_loss(student, teacher))

    @given(groupings, st.permutations(range(4)))
    @settings(max_examples=60, deadline=None)
    def test_invariant_names_of_groups_are_free(self, groups: list[int], names: list[int]) -> None:
        rows, renamed = normal(len(groups), 3, seed=1), torch.tensor([names[group] for group in groups])
        found, other = prototypes(rows, torch.tensor(groups), 4), prototypes(rows, renamed, 4)
        torch.testing.assert_close(other[torch.tensor(names)], found)
        expected = naive_prototypes(rows.tolist(), groups)
        present = sorted(set(groups))
        torch.testing.assert_close(found[present], torch.tensor(expected).double())
        assert (found[[one for one in range(4) if one not in present]] == 0).all()

    @given(groupings, st.integers(2, 4), st.integers(0, 1000))
    @settings(max_examples=60, deadline=None)
    def test_invariant_members_are_drawn_once(self, groups: list[int], most: int, seed: int) -> None:
        """So many of each group and no more, and the weight that makes up for the others."""
        chosen, weights = drawn_members(torch.tensor(groups), 4, most, torch.Generator().manual_seed(seed))
        assert len(set(chosen.tolist())) == len(chosen)
        for group in range(4):
            size, drawn = groups.count(group), sum(groups[place] == group for place in chosen.tolist())
            assert drawn == min(size, most)
            if drawn > 1:
                assert weights[group].item() == pytest.approx(size * (size - 1) / (drawn * (drawn - 1)))

    def test_invariant_members_are_unbiased(self) -> None:
        """Over all draws of two of a group of five, and of another that is whole."""
        groups = torch.tensor([0, 1, 0, 0, 1, 0, 0])
        student, teacher = unit_rows(normal(7, 3, seed=1)), unit_rows(normal(7, 4, seed=2).abs())
        found, generator = {}, torch.Generator().manual_seed(1)
        for _ in range(500):
            chosen, weights = drawn_members(groups, 2, 2, generator)
            value = grouped_loss(student[chosen], teacher[chosen], groups[chosen], weights).item()
            found[tuple(sorted(place for place in chosen.tolist() if groups[place] == 0))] = value
        assert set(found) == set(combinations([0, 2, 3, 5, 6], 2))
        whole = grouped_loss(student, teacher, groups, torch.ones(2)).item()
        assert sum(found.values()) / len(found) == pytest.approx(whole, rel=1e-5)

    def test_invariant_all_members_draw_nothing(self) -> None:
        generator = torch.Generator().manual_seed(1)
        state = generator.get_state()
        chosen, weights = drawn_members(torch.tensor([1, 1, 0]), 3, None, generator)
        assert chosen.tolist() == [0, 1, 2] and weights.tolist() == [1, 1, 1]
        assert torch.equal(generator.get_state(), state)

    # Golden values

    @pytest.mark.parametrize("within", [grouped_distance, grouped_loss])
    def test_golden_four_entities(self, within: Any) -> None:
        """Computed in float64 with numpy, from the matrices of cosines; groups (0, 0, 1, 1)."""
        rows = torch.tensor([[1.0, 0], [1, 1], [0, 2], [-1, 1]]).double()
        other = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [1, -1, 2]]).double()
        groups = torch.tensor([0, 0, 1, 1])
        student, teacher = unit_rows(rows), unit_rows(other)
        means = [unit_rows(prototypes(one, groups, 2)) for one in (rows, other)]
        one = torch.ones(2).double()
        assert within(student, teacher, groups, one).item() == pytest.approx(0.3501700857389405, rel=1e-9)
        assert prototype_loss(student, teacher, *means).item() == pytest.approx(0.7932543814965685, rel=1e-9)
        assert prototype_loss(*means, *means).item() == pytest.approx(0.04, rel=1e-9)

    @pytest.mark.parametrize("within", [grouped_distance, grouped_loss])
    def test_golden_a_negative_cosine_does_not_count(self, within: Any) -> None:
        """By hand: the teacher's two point away from each other, the student's one way."""
        student, teacher = unit_rows(torch.ones(2, 1)), torch.tensor([[1.0], [-1.0]])
        assert within(student, teacher, torch.zeros(2, dtype=torch.int64), torch.ones(1)).item() == 0

    @pytest.mark.parametrize("within", [grouped_distance, grouped_loss])
    def test_golden_a_cosine_of_zero_does_not_count(self, within: Any) -> None:
        """By hand: the teacher's two are orthogonal, the student's are not."""
        student, teacher = unit_rows(torch.tensor([[1.0, 0.0], [1.0, 1.0]])), torch.eye(2)
        assert within(student, teacher, torch.zeros(2, dtype=torch.int64), torch.ones(1)).item() == pytest.approx(
            0, abs=1e-9
        )

    def test_golden_parameter_count(self, tmp_path: Path) -> None:
        """That of DE with as many experts, by the authors' log of DE: d_s = 20, d_t = 200, 30 groups."""
        world = make_world(tmp_path, some_rows(3, 5, 1), n_items=5, student_size=20, teacher_size=200)
        distiller = HierarchicalTopologyDistillation(HTDOptions(), world.knowledge, world.student, seed=0)
        assert sum(parameter.numel() for parameter in distiller.parameters()) == 1_470_600 + 12_060

    # Optimisation

    @pytest.mark.parametrize("alpha", [1.0, 0.5])
    def test_optimisation_student_comes_near_the_teacher_s_topology(self, tmp_path: Path, alpha: float) -> None:
        world = make_world(tmp_path, some_rows(12, 21, 10), n_items=21, student_size=6)
        distiller, batch = build(world, alpha=alpha), step(range(1, 13), range(1, 21), [], rows=12)
        optimizer = torch.optim.Adam([*world.student.model.parameters(), *distiller.parameters()], lr=0.03)
        losses = []
        for _ in range(200):
            optimizer.zero_grad()
            loss = distiller(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-10:]) < (0.1 if alpha == 1 else 0.5) * sum(losses[:10])


class TestKnowing:
    """What is drawn, what changes with the epoch, and what is refused."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give twelve users and forty items."""
        return make_world(tmp_path / "knowledge", some_rows(12, 41, 10), n_items=41)

    def test_temperature_falls_with_the_epochs(self, world: World) -> None:
        distiller = build(world, temperature_start=8.0, temperature_end=2.0, temperature_epochs=4)
        for epoch, tau in ((0, 8.0), (1, 8.0), (3, 4.0), (5, 2.0), (50, 2.0)):
            distiller.begin_epoch(epoch)
            assert distiller.assignment.tau == pytest.approx(tau)
        with pytest.raises(OptionError, match="htd_temperature_end must not be above"):
            HTDOptions(temperature_end=2.0)
        assert HTDOptions(temperature_end=1.0).temperature_end == 1.0, "a temperature that stays"

    @pytest.mark.parametrize("epoch", [0, 1001])
    def test_finite_at_every_temperature(self, world: World, epoch: int) -> None:
        distiller = build(world)
        distiller.begin_epoch(epoch)
        loss = distiller(step([1, 2, 3], [4, 5], [6], rows=3))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(
            torch.isfinite(one.grad).all() for one in [*distiller.parameters(), *world.student.model.parameters()]
        )

    @pytest.mark.parametrize("batch", [step([1, 3, 4], [], []), step([], [2, 7, 9], [5, 7])])
    def test_a_share_of_both_sides_is_unbiased(self, world: World, batch: StepBatch) -> None:
        whole, part = (build(world, alpha=0.0, sample=share) for share in (1.0, 0.34))
        assert_share_is_unbiased(whole, part, batch)

    def test_members_of_a_step_are_right_on_average(self, world: World) -> None:
        batch = step(range(1, 13), range(1, 41), [], rows=12)
        whole, part = (build(world, alpha=1.0, members=most) for most in (None, 3))
        losses = [part(batch).item() for _ in range(300)]
        assert len(set(losses)) > 200
        assert sum(losses) / 300 == pytest.approx(whole(batch).item(), rel=0.05)

    def test_a_few_members_do_not_limit_small_groups(self, world: World) -> None:
        batch = step([1, 3, 4], [2, 7], [9])
        assert build(world, alpha=1.0, members=64)(batch).item() == pytest.approx(
            build(world, alpha=1.0, members=None)(batch).item(), rel=1e-6
        )

    def test_an_accelerator_makes_the_whole_matrix_of_few(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Asking for the groups' sizes would stop its queue of work; of many entities a matrix is too large."""
        calls: list[str] = []
        for name in ("grouped_distance", "grouped_loss"):
            whole = getattr(htd_module, name)
            monkeypatch.setattr(
                htd_module, name, lambda *given, name=name, whole=whole: (calls.append(name), whole(*given))[1]
            )
        assert htd_module.takes_blocks(torch.device("cpu"), 2) and htd_module.takes_blocks(torch.device("cuda"), 8193)
        assert not htd_module.takes_blocks(torch.device("cuda"), 8192)
        build(world)(LossContract.batch)
        monkeypatch.setattr(htd_module, "takes_blocks", lambda *_: False)
        build(world)(LossContract.batch)
        assert calls == ["grouped_distance", "grouped_loss"]

    @pytest.mark.parametrize("num_groups", [3, 40])
    def test_diagnostics_count_the_groups(self, world: World, num_groups: int) -> None:
        """Groups of one are used as well."""
        distiller = build(world, num_groups=num_groups)
        found = distiller.diagnostics(world.history.lengths)["groups"]
        for side, ids in (("user", list(range(1, 13))), ("item", list(range(1, 41)))):
            groups = naive_groups(distiller, world, *((ids, []) if side == "user" else ([], ids)))
            largest = max(groups.count(group) for group in groups) / len(ids)
            assert found[side] == {"used": len(set(groups)), "largest": round(largest, 6)}

    def test_whole_users_are_refused(self, world: World) -> None:
        with pytest.raises(OptionError, match="HTD needs the items"):
            build(world)(StepBatch(torch.tensor([1]), None, None, rows=1))

    def test_users_and_items_of_different_sizes_are_refused(self, world: World) -> None:
        world.student.__class__ = UnequalAdapter
        with pytest.raises(OptionError, match="HTD compares users with items"):
            build(world)

    def test_several_layers_are_refused(self) -> None:
        with pytest.raises(OptionError, match="htd_hint and htd_teacher_hint name one layer each"):
            HTDOptions(hint="gmf+mlp")

    def test_layers(self, world: World) -> None:
        """The assignment and the topology look at the layers that were asked for."""
        usual, twice = build(world), build(world, hint="twice", teacher_hint="embedding")
        assert twice.topology.hints.layer == "twice" and twice.assignment.hints[0] is twice.topology.hints
        assert torch.equal(twice.topology.hints.targets["user"], usual.topology.hints.targets["user"])
