"""Neighbourhood Knowledge Distillation: formula on plain floats, gradients, what it implies, known values, training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import recbole_derrd.distillers.nkd as nkd_module
from recbole_derrd.distillers.nkd import NeighbourhoodDistillation, NKDOptions, direction_errors, drawn_mixing, mixed
from recbole_derrd.distillers.projector import MeanProjector, dropped, mean_of_networks
from recbole_derrd.errors import OptionError
from recbole_derrd.testing import (
    LossContract,
    TinyAdapter,
    World,
    assert_share_is_unbiased,
    make_world,
    some_rows,
    step,
)

SIZES = NeighbourhoodDistillation.test_settings


def build(world: World, seed: int = 5, **options: Any) -> NeighbourhoodDistillation:
    """Build the method with small sizes."""
    distiller = NeighbourhoodDistillation(NKDOptions(**{**SIZES, **options}), world.knowledge, world.student, seed)
    distiller.begin_epoch(0)
    return distiller


def naive_neighbours(embeddings: list[list[float]], count: int) -> list[list[int]]:
    """Return each row's nearest others by a plain sort of distances; row 0 is padding."""
    real = range(1, len(embeddings))
    return [[]] + [
        sorted(
            (other for other in real if other != one), key=lambda other: math.dist(embeddings[one], embeddings[other])
        )[:count]
        for one in real
    ]


def naive_map(projector: MeanProjector, vector: list[float]) -> list[float]:
    """Return the mean of the networks of one vector, number by number."""
    parts = [part.detach().double().tolist() for part in projector.parameters()]
    outputs = []
    for first, bias, second, second_bias in zip(*parts):
        hidden = [
            max(0.0, bias[unit] + sum(vector[place] * first[place][unit] for place in range(len(vector))))
            for unit in range(len(bias))
        ]
        outputs.append(
            [
                second_bias[unit] + sum(hidden[place] * second[place][unit] for place in range(len(hidden)))
                for unit in range(len(second_bias))
            ]
        )
    return [sum(column) / len(outputs) for column in zip(*outputs)]


def cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine of two embeddings of plain floats."""
    return sum(x * y for x, y in zip(one, other)) / (math.hypot(*one) * math.hypot(*other))


embeddings = st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=4)


class TestNKD(LossContract):
    """The five kinds of test for NKD."""

    method = "nkd"
    # A neighbour need not be in the batch.
    reaches_other_users: ClassVar[bool] = True

    # Reference loops

    def test_reference_forward_without_neighbours(self, world: World) -> None:
        """With nothing but the entity itself there is nothing to draw: every number of the term by plain floats."""
        distiller = build(world, mixing="constant", own_share=1.0)
        total = 0.0
        for side, weight, ids in (("user", 1.0, [1, 3, 4]), ("item", 0.5, [2, 7, 9, 5, 7])):
            student, teacher = (
                getattr(one.model, f"{side}s").weight.detach().double().tolist()
                for one in (world.student, world.teacher)
            )
            for entity in ids:
                total += weight * (1 - cosine(naive_map(distiller.projectors[side], student[entity]), teacher[entity]))
        assert distiller(self.batch).item() == pytest.approx(total / 8, rel=1e-5)

    def test_reference_both_sides_are_mixed_with_one_neighbour(self, world: World) -> None:
        """With half of each, every user's error is that of one of its three neighbours, the same in both models."""
        distiller = build(world, mixing="constant", own_share=0.5)
        tables = [one.model.users.weight.detach().double().tolist() for one in (world.student, world.teacher)]
        near = naive_neighbours(tables[1], 3)
        seen = set()
        for _ in range(40):
            error = distiller(step([4], [], [])).item()
            known = []
            for other in near[4]:
                halves = [[(x + y) / 2 for x, y in zip(table[4], table[other])] for table in tables]
                known.append(1 - cosine(naive_map(distiller.projectors["user"], halves[0]), halves[1]))
            match = min(range(3), key=lambda place: abs(known[place] - error))
            assert error == pytest.approx(known[match], rel=1e-4)
            seen.add(match)
        assert seen == {0, 1, 2}, "each of the neighbours is drawn"

    @pytest.mark.parametrize("components", [150, 2])
    def test_reference_neighbours(self, world: World, components: int) -> None:
        found = world.knowledge.neighbours("item", 4, components)
        table = torch.from_numpy(world.knowledge.embeddings("item")).double()
        if components == 2:
            centred = table[1:] - table[1:].mean(dim=0)
            table[1:, :2] = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
            table = table[:, :2]
        assert found.shape == (41, 4) and not found[0].any()
        assert found[1:].tolist() == naive_neighbours(table.tolist(), 4)[1:]

    # Gradients

    def test_gradcheck_mixture_and_direction(self) -> None:
        generator = torch.Generator().manual_seed(2)
        own, other, targets, share = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)

        def loss(own: Tensor, other: Tensor) -> Tensor:
            return direction_errors(mixed(own, other, share), targets)

        assert torch.autograd.gradcheck(loss, (own.requires_grad_(), other.requires_grad_()))

    def test_gradcheck_networks(self) -> None:
        generator = torch.Generator().manual_seed(3)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

        assert torch.autograd.gradcheck(mean_of_networks, (drawn(2, 3, 4), drawn(2, 4, 5), drawn(2, 5), drawn(2, 5, 3),
                                                           drawn(2, 3)))  # fmt: skip

    def test_gradcheck_neighbours_learn_too(self, world: World) -> None:
        distiller = build(world, mixing="constant", own_share=0.5)
        distiller(step([4], [], [])).backward()
        moved = world.student.model.users.weight.grad.abs().sum(dim=1).nonzero().squeeze(1).tolist()
        assert len(moved) == 2 and 4 in moved and set(moved) - {4} <= set(world.knowledge.neighbours("user", 3, 150)[4])

    # Invariants

    @given(embeddings, st.floats(0.01, 100))
    @settings(max_examples=60, deadline=None)
    def test_invariant_length_does_not_matter(self, rows: list[list[float]], scale: float) -> None:
        projected = torch.tensor(rows, dtype=torch.float64)
        projected = projected + projected.sign() + (projected == 0)
        targets = projected.flip(1) + 0.3
        error = direction_errors(projected, targets)
        torch.testing.assert_close(direction_errors(scale * projected, targets), error)
        assert (error >= -1e-9).all() and (error <= 2 + 1e-9).all()
        torch.testing.assert_close(direction_errors(scale * targets, targets), torch.zeros(len(rows)).double())

    @given(st.floats(0, 1), st.sampled_from(["soft", "hard", "entity", "constant"]))
    @settings(max_examples=40, deadline=None)
    def test_invariant_shares_are_a_on_average(self, own_share: float, mixing: str) -> None:
        drawn = drawn_mixing(mixing, own_share, (400, 50), torch.Generator().manual_seed(1))
        assert drawn.shape == {"entity": (400, 1), "constant": ()}.get(mixing, (400, 50))
        share = drawn.expand(400, 50)
        wanted = 0.5 if mixing == "entity" else own_share
        assert share.mean().item() == pytest.approx(wanted, abs=0.05 if mixing == "entity" else 0.02)
        assert share.min() >= 0 and share.max() <= (2 * own_share if mixing == "soft" else 1)

    @given(embeddings, st.floats(-1, 2))
    @settings(max_examples=60, deadline=None)
    def test_invariant_an_entity_mixed_with_itself_is_itself(self, rows: list[list[float]], share: float) -> None:
        own = torch.tensor(rows, dtype=torch.float64)
        torch.testing.assert_close(mixed(own, own, torch.tensor(share)), own)
        assert torch.equal(mixed(own, own + 1, torch.tensor(0.0)), own + 1)

    def test_invariant_dropout_keeps_the_mean_and_zeroes_its_share(self) -> None:
        kept = dropped(torch.ones(200, 500), 0.3, torch.Generator().manual_seed(4))
        assert kept.mean().item() == pytest.approx(1, abs=0.01)
        assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
        whole = torch.randn(3, 4)
        assert dropped(whole, 0.0, torch.Generator()) is whole

    def test_invariant_a_vector_of_zeros_has_no_nan(self) -> None:
        zero = torch.zeros(2, 3, requires_grad=True)
        error = direction_errors(zero, torch.ones(2, 3))
        error.sum().backward()
        assert error.tolist() == [1, 1] and zero.grad is not None and torch.isfinite(zero.grad).all()

    # Golden values

    def test_golden_directions_by_hand(self) -> None:
        """By hand: the same way 0, a right angle 1, the opposite way 2, (3, 4) and (1, 0) 1 - 3/5."""
        one = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
        other = torch.tensor([[5.0, 0.0], [0.0, 3.0], [-2.0, -2.0], [1.0, 0.0]])
        assert direction_errors(one, other).tolist() == pytest.approx([0, 1, 2, 0.4], abs=1e-6)

    def test_golden_mixture_by_hand(self) -> None:
        """By hand: 3/4 of (4, 0) and 1/4 of (0, 8)."""
        assert mixed(torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 8.0]]), torch.tensor(0.75)).tolist() == [[3, 2]]

    def test_golden_networks_by_hand(self) -> None:
        """By hand: x = 2; relu(2 * 1 - 1) * 3 + 1 = 4 and relu(2 * -1 + 0) * 5 + 2 = 2; their mean is 3."""
        parts = ([[[1.0]], [[-1.0]]], [[-1.0], [0.0]], [[[3.0]], [[5.0]]], [[1.0], [2.0]])
        assert mean_of_networks(torch.full((2, 1, 1), 2.0), *map(torch.tensor, parts)).tolist() == [[3]]

    # Optimisation

    def test_optimisation_points_where_the_teacher_does(self, world: World) -> None:
        distiller = build(world, dropout=0.1)
        batch = step(list(range(1, 13)), list(range(1, 41)), [], rows=12)
        trained = [*world.student.model.parameters(), *distiller.parameters()]
        optimizer = torch.optim.Adam(trained, lr=0.02)
        losses = []
        for _ in range(120):
            optimizer.zero_grad()
            loss = distiller(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


class CubedAdapter(TinyAdapter):
    """Another hint layer, in which others are near."""

    hints = ("embedding", "cubed")

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        embeddings = super()._users(users, "embedding")
        return embeddings**3 if layer == "cubed" else embeddings

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        embeddings = super()._items(items, "embedding")
        return embeddings**3 if layer == "cubed" else embeddings


class GraphAdapter(TinyAdapter):
    """Calls its layers as graph models do."""

    hints = ("final", "ego")


class TestKnowing:
    """What is refused, and what is read."""

    def test_neighbours_are_of_the_layer_and_the_components_that_were_asked_for(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41, teacher_hints=CubedAdapter.hints)
        world.teacher.__class__ = CubedAdapter
        built = [build(world, **options) for options in ({}, {"components": 2}, {"teacher_hint": "cubed"})]
        known = [
            world.knowledge.neighbours("item", 3, *asked)
            for asked in ((150,), (2,), (150, "cubed"), (150, "embedding"))
        ]
        assert [distiller.neighbours["item"].tolist() for distiller in built] == [part.tolist() for part in known[:3]]
        assert (known[0] == known[3]).all() and (known[1] != known[0]).any() and (known[2] != known[0]).any()

    @pytest.mark.parametrize("mixing", ["soft", "hard", "entity"])
    def test_student_and_teacher_are_mixed_by_shares_of_their_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixing: str
    ) -> None:
        shares = []

        def watched(own: Tensor, neighbours: Tensor, share: Tensor) -> Tensor:
            shares.append(share)
            return mixed(own, neighbours, share)

        monkeypatch.setattr(nkd_module, "mixed", watched)
        build(make_world(tmp_path, some_rows(12, 41, 10), n_items=41), mixing=mixing)(LossContract.batch)
        assert len(shares) == 4
        for student, teacher in (shares[:2], shares[2:]):
            width = min(student.shape[1], teacher.shape[1])
            assert not torch.equal(student[:, :width], teacher[:, :width])

    def test_networks_have_the_sizes_and_the_dropout_that_were_asked_for(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        usual, wide = build(world).projectors["user"], build(world, hidden_size=7, num_experts=3).projectors["user"]
        assert usual.first.shape == (2, 4, 3) and usual.second.shape == (2, 3, 6), "half the teacher's 6 between"
        assert wide.first.shape == (3, 4, 7) and wide.second.shape == (3, 7, 6)
        narrow = make_world(tmp_path / "narrow", some_rows(12, 41, 10), n_items=41, teacher_size=1)
        assert build(narrow).projectors["user"].first.shape == (2, 4, 1), "one unit where half of the size is none"
        still, moving = (build(world, mixing="constant", own_share=1.0, dropout=share) for share in (0.0, 0.4))
        assert still(LossContract.batch) == still(LossContract.batch)
        assert moving(LossContract.batch) != moving(LossContract.batch)

    @pytest.mark.parametrize("seed", [0, 1, 7])
    def test_the_first_weights_are_not_the_random_numbers_of_the_noise(self, seed: int, tmp_path: Path) -> None:
        projector = build(make_world(tmp_path, some_rows(5, 20, 3), 20), seed).projectors["user"]
        networks, _, hidden = projector.first.shape
        noise = torch.Generator().manual_seed(seed)
        of_noise = MeanProjector(*projector.sizes, networks, hidden, 0.0, noise)
        assert not torch.isclose(projector.first, of_noise.first).any()

    def test_a_share_of_both_sides_is_unbiased(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        for batch in (step([1, 3, 4], [], []), step([], [2, 7, 9], [5, 7])):
            whole, part = (build(world, mixing="constant", own_share=1.0, sample=share) for share in (1.0, 0.34))
            assert_share_is_unbiased(whole, part, batch)

    def test_more_neighbours_than_others(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(4, 9, 3), n_items=9)
        with pytest.raises(OptionError, match="of 4 users each has 3 others"):
            build(world, neighbours=4)
        assert torch.isfinite(build(world, neighbours=3)(step([1, 2], [1], [2])))

    def test_more_neighbours_than_other_items(self, tmp_path: Path) -> None:
        """Of both sides: here it is the items that are fewer."""
        world = make_world(tmp_path, some_rows(12, 6, 3), n_items=6)
        with pytest.raises(OptionError, match="of 5 items each has 4 others"):
            build(world, neighbours=5)
        assert torch.isfinite(build(world, neighbours=4)(step([1], [2], [3])))

    def test_twins_are_neighbours_and_none_is_its_own(self, tmp_path: Path) -> None:
        """Equal embeddings are at distance 0, and so is an entity of its own."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        with torch.no_grad():
            world.teacher.model.items.weight[5] = world.teacher.model.items.weight[9]
        found = world.knowledge.neighbours("item", 3, 150)
        assert found[5][0] == 9 and found[9][0] == 5
        assert all(item not in row for item, row in enumerate(found.tolist()) if item)

    def test_layers(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        assert build(world).hints.layer == "embedding" and build(world, hint="twice").hints.teacher_layer == "twice"
        other = build(world, teacher_hint="twice")
        assert torch.equal(other.hints.targets["user"], 2 * build(world).hints.targets["user"])
        with pytest.raises(OptionError, match="no hint layer 'once'"):
            build(world, hint="once")
        with pytest.raises(OptionError, match="one layer each"):
            NKDOptions(hint="gmf+mlp")

    def test_the_input_layer_of_a_graph_model_is_its_tables(self, tmp_path: Path) -> None:
        world = make_world(tmp_path / "student", some_rows(12, 41, 10), n_items=41)
        world.student.__class__ = GraphAdapter
        assert build(world).hints.layer == "ego" and build(world, hint="final").hints.layer == "final"
        world = make_world(tmp_path / "teacher", some_rows(12, 41, 10), n_items=41, teacher_hints=GraphAdapter.hints)
        world.teacher.__class__ = GraphAdapter
        assert build(world).hints.teacher_layer == "ego"
        assert build(world, teacher_hint="final").hints.teacher_layer == "final"

    def test_a_model_of_whole_users_is_refused(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        batch = step([1], [], [])
        whole = type(batch)(batch.users, None, None, 1)
        with pytest.raises(OptionError, match="trained on whole users"):
            build(world)(whole)

    def test_lists_are_the_same_in_any_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        world = make_world(tmp_path / "one", some_rows(12, 300, 10), n_items=300)
        whole = world.knowledge.neighbours("item", 5, 150)
        monkeypatch.setattr("recbole_derrd.teacher.neighbours._CPU_SCORES", 1)
        monkeypatch.setattr("recbole_derrd.teacher.neighbours._FEWEST_USERS", 7)
        again = make_world(tmp_path / "two", some_rows(12, 300, 10), n_items=300)
        assert (again.knowledge.neighbours("item", 5, 150) == whole).all()
