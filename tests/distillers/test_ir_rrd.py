"""IR-RRD: the formula on plain floats, its gradients, what it implies, known values, training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.ir_rrd import IRRRDOptions, ItemSideRankingDistillation, two_sided_ranking_loss
from recbole_derrd.distillers.rrd import RelaxedRankingDistillation, RRDOptions
from recbole_derrd.errors import OptionError
from recbole_derrd.testing import LossContract, World, make_world, some_rows, step

from .test_rrd import naive_loss

SIZES = ItemSideRankingDistillation.test_settings


def some_world(folder: Path) -> World:
    """Give eighteen users and forty items; every item has some users left."""
    return make_world(folder, some_rows(18, 41, 8), n_items=41)


def build(world: World, seed: int = 5, epoch: int = 0, **options: Any) -> ItemSideRankingDistillation:
    """Build the method with small sizes and draw an epoch's rankings."""
    distiller = ItemSideRankingDistillation(IRRRDOptions(**{**SIZES, **options}), world.knowledge, world.student, seed)
    distiller.begin_epoch(epoch)
    return distiller


def sides(distiller: ItemSideRankingDistillation) -> tuple[Tensor, Tensor]:
    """Return the epoch's items of all users and users of all items."""
    assert distiller.user_side.items is not None
    assert distiller.item_side is not None and distiller.item_side.items is not None
    return distiller.user_side.items, distiller.item_side.items


def naive_forward(distiller: ItemSideRankingDistillation, world: World, batch: StepBatch) -> float:
    """Return L / rows user by user and item by item from the student's tables."""
    options, (items, users) = distiller.options, sides(distiller)
    scores = (world.student.model.users.weight @ world.student.model.items.weight.T).detach().double()
    total, ranked = 0.0, set()
    for user in batch.users.tolist():
        row = items[user].tolist()
        ranked.update(row)
        own = [float(scores[user, item]) for item in row]
        total += naive_loss(own[: options.k], own[options.k :])
    for item in ranked:
        own = [float(scores[user, item]) for user in users[item].tolist()]
        total += options.item_weight * naive_loss(own[: options.item_k], own[options.item_k :])
    return total / batch.rows


def normal(*shape: int, seed: int) -> Tensor:
    """Return seeded normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestIRRRD(LossContract):
    """The five kinds of test for IR-RRD."""

    method = "ir_rrd"
    reaches_other_users = True

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give a world in which every item has users left."""
        return some_world(tmp_path / "knowledge")

    # Reference loops

    @pytest.mark.parametrize("options", [{}, {"item_weight": 3.0}, {"interesting": "topk"}])
    def test_reference_forward(self, world: World, options: dict[str, Any]) -> None:
        """Prevents an item side over the batch's items, or over its rankings with repetitions."""
        distiller = build(world, **options)
        for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
            assert distiller(batch).item() == pytest.approx(naive_forward(distiller, world, batch), rel=1e-4)

    def test_reference_formula(self) -> None:
        parts = [normal(3, 4, seed=1), normal(3, 2, seed=2), normal(5, 2, seed=3), normal(5, 3, seed=4)]
        expected = [
            sum(naive_loss(*row) for row in zip(one.tolist(), other.tolist()))
            for one, other in ((parts[0], parts[1]), (parts[2], parts[3]))
        ]
        loss = two_sided_ranking_loss((parts[0], parts[1]), (parts[2], parts[3]), 0.3)
        assert loss.item() == pytest.approx(expected[0] + 0.3 * expected[1])

    def test_reference_forward_is_the_formula_of_listed_scores(self, world: World) -> None:
        """Values and gradients of the module are those of the readable formula on the full table of scores."""
        distiller = build(world)
        items, users = (part.long() for part in sides(distiller))
        weights = list(world.student.model.parameters())
        loss = distiller(self.batch)
        table = world.student.model.users.weight @ world.student.model.items.weight.T
        ranked = items[self.batch.users].unique()
        by_user = table[self.batch.users].gather(1, items[self.batch.users])
        by_item = table.T[ranked].gather(1, users[ranked])
        readable = two_sided_ranking_loss((by_user[:, :4], by_user[:, 4:]), (by_item[:, :2], by_item[:, 2:]), 0.5) / 8
        torch.testing.assert_close(loss, readable)
        for one, other in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(readable, weights)):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    def test_reference_user_side_is_rrd(self, world: World) -> None:
        """Without the item side it is RRD: the same draws, the same term."""
        options = RRDOptions(k=4, l=6, top_n=12, decay=3.0)
        rrd = RelaxedRankingDistillation(options, world.knowledge, world.student, 5)
        rrd.begin_epoch(3)
        assert torch.equal(build(world, epoch=3, item_weight=0.0)(self.batch), rrd(self.batch))

    # Gradients

    def test_gradcheck_all_inputs(self) -> None:
        parts = [normal(3, 4, seed=1), normal(3, 2, seed=2), normal(5, 2, seed=3), normal(5, 3, seed=4)]

        def loss(*scores: Tensor) -> Tensor:
            return two_sided_ranking_loss((scores[0], scores[1]), (scores[2], scores[3]), 0.3)

        assert torch.autograd.gradcheck(loss, tuple(part.requires_grad_() for part in parts))

    # Invariants

    @given(st.floats(-30, 30), st.integers(0, 1000))
    @settings(max_examples=30, deadline=None)
    def test_invariant_shifts(self, shift: float, seed: int) -> None:
        """Only differences within a user's list, and within an item's list, matter."""
        parts = [
            normal(3, 4, seed=seed),
            normal(3, 2, seed=seed + 1),
            normal(5, 2, seed=seed + 2),
            normal(5, 3, seed=9),
        ]
        one = two_sided_ranking_loss((parts[0], parts[1]), (parts[2], parts[3]), 0.3)
        moved = (parts[0] + shift, parts[1] + shift), (parts[2] - shift, parts[3] - shift)
        torch.testing.assert_close(two_sided_ranking_loss(*moved, 0.3), one)

    def test_invariant_item_weight_is_linear(self, world: World) -> None:
        alone, half, double = (build(world, item_weight=weight)(self.batch).item() for weight in (0.0, 0.5, 2.0))
        assert double - alone == pytest.approx(4 * (half - alone), rel=1e-4)

    def test_invariant_other_users_learn_from_the_item_side(self, world: World) -> None:
        """Users outside the batch are in the items' rankings; without the item side they are not reached."""
        outside = [user for user in range(1, 19) if user not in self.batch.users.tolist()]
        for weight, reached in ((0.5, True), (0.0, False)):
            world.student.model.zero_grad()
            build(world, item_weight=weight)(self.batch).backward()
            gradient = world.student.model.users.weight.grad
            assert gradient is not None and bool((gradient[outside] != 0).any()) is reached

    # Golden values

    def test_golden_equal_scores(self) -> None:
        """Origin: algorithms_de_rrd.md 3.5 and 5: ln(80!/40!) = 163.35 a user and ln(40!/20!) = 67.99 an item."""
        user_side, item_side = (torch.zeros(1, 40), torch.zeros(1, 40)), (torch.zeros(1, 20), torch.zeros(1, 20))
        loss = two_sided_ranking_loss(user_side, item_side, 0.5)
        assert loss.item() == pytest.approx(163.35 + 0.5 * 67.99, abs=0.01)

    def test_golden_module_at_zero_scores(self, world: World) -> None:
        """Three users at ln(10!/6!), and each distinct item of theirs at ln(5!/3!) = ln 20, halved, over eight rows."""
        torch.nn.init.zeros_(world.student.model.items.weight)
        distiller = build(world)
        items = {item for user in (1, 3, 4) for item in sides(distiller)[0][user].tolist()}
        expected = (3 * math.log(5040) + 0.5 * len(items) * math.log(20)) / 8
        assert distiller(self.batch).item() == pytest.approx(expected, rel=1e-5)

    # Optimisation

    def test_optimisation_both_sides_rise(self, world: World) -> None:
        """The listed items rise for their users, and the listed users for their items."""
        distiller = build(world, interesting="topk", item_weight=1.0)
        items, users = (part.long() for part in sides(distiller))
        batch = step(range(1, 19), [], [], rows=18)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)

        def margins() -> list[float]:
            with torch.no_grad():
                table = world.student.model.users.weight @ world.student.model.items.weight.T
            by_user, by_item = table[1:].gather(1, items[1:]), table.T[1:].gather(1, users[1:])
            return [float(one[:, :k].mean() - one[:, k:].mean()) for one, k in ((by_user, 4), (by_item, 2))]

        before, losses = margins(), []
        for _ in range(30):
            optimizer.zero_grad()
            loss = distiller(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
        assert all(after > first + 0.5 for first, after in zip(before, margins()))


class TestDrawing:
    """The epoch's rankings of both sides."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give a world in which every item has users left."""
        return some_world(tmp_path / "knowledge")

    def test_users_of_an_item(self, world: World) -> None:
        """Interesting users are of the teacher's head and in its order, none has the item, none is the padding user."""
        scores = (world.teacher.model.users.weight @ world.teacher.model.items.weight.T).detach().T
        _, users = sides(build(world))
        assert users.shape == (41, 5)
        for item in range(1, 41):
            strangers = [user for user in range(1, 19) if item not in world.seen(user)]
            order = sorted(strangers, key=lambda user: -float(scores[item, user]))
            row = users[item].tolist()
            assert len(set(row)) == 5 and set(row) <= set(strangers)
            assert set(row[:2]) <= set(order[:4]) and not set(row[2:]) & set(order[:4])
            assert [user for user in order if user in row[:2]] == row[:2]

    def test_each_side_has_its_own_decay(self, world: World) -> None:
        """At a small one the best are drawn each time, at a large one others too; the sides differ in it."""
        best_users = build(world, interesting="topk").user_side.items[1:, :4]
        _, best_of_items = sides(build(world, interesting="topk"))
        for sharp, others in (("item", "user"), ("user", "item")):
            options = {"decay": 0.01, "item_decay": 100.0}
            if sharp == "item":
                options = {"decay": 100.0, "item_decay": 0.01}
            items, users = sides(build(world, **options))
            same = {
                "user": torch.equal(items[1:, :4], best_users),
                "item": torch.equal(users[1:, :2], best_of_items[1:, :2]),
            }
            assert same == {sharp: True, others: False}

    def test_resumed_run_draws_what_an_uninterrupted_one_draws(self, world: World) -> None:
        through = build(world)
        for epoch in range(1, 8):
            through.begin_epoch(epoch)
        for one, other, earlier, seeded in zip(
            sides(through),
            sides(build(world, epoch=7)),
            sides(build(world, epoch=6)),
            sides(build(world, epoch=7, seed=6)),
        ):
            assert torch.equal(one, other) and not torch.equal(one, earlier) and not torch.equal(one, seeded)

    def test_one_generator_holds_all_that_a_checkpoint_needs(self, world: World) -> None:
        """What is drawn within an epoch comes from the generator that is saved."""
        first, second = (build(world, max_items=3, sample=0.5) for _ in range(2))
        batch = step(range(1, 13), [], [])
        for _ in range(5):
            first(batch)
        second.generator.set_state(first.generator.get_state())
        assert [first(batch).item() for _ in range(5)] == [second(batch).item() for _ in range(5)]

    def test_state_is_empty(self, world: World) -> None:
        """Rankings are no weights: a saved student must not hold them."""
        assert not build(world).state_dict() and not list(build(world).parameters())

    def test_forward_before_the_first_epoch(self, world: World) -> None:
        distiller = ItemSideRankingDistillation(IRRRDOptions(**SIZES), world.knowledge, world.student, seed=0)
        with pytest.raises(RuntimeError, match="begin_epoch"):
            distiller(step([1], [2], [3]))


class TestMaxItems:
    """ir_rrd_max_items: fewer items a step, the same term on average."""

    def test_unbiased(self, tmp_path: Path) -> None:
        """One item of n: each draw is n times that item's own, and the mean over all items is the whole item side."""
        world = some_world(tmp_path)
        batch = step([1, 3], [], [], rows=8)
        whole, part, alone = build(world), build(world, max_items=1), build(world, item_weight=0.0)
        items = whole.items_of(batch.users)
        user_side = alone(batch).item()
        assert whole.item_side is not None
        each = [0.5 * len(items) * whole.item_side(step([item], [], [], rows=8)).item() for item in items.tolist()]
        assert sum(each) / len(each) == pytest.approx(whole(batch).item() - user_side, rel=1e-4)
        found = {
            min(range(len(each)), key=lambda one: abs(each[one] - drawn))
            for drawn in (part(batch).item() - user_side for _ in range(80))
            if min(abs(one - drawn) for one in each) < 1e-3
        }
        assert len(found) > len(items) / 2

    def test_limit_above_what_there_is(self, tmp_path: Path) -> None:
        """A limit that is not reached draws no random number."""
        world = some_world(tmp_path)
        whole, part = build(world), build(world, max_items=1000)
        state = part.generator.get_state()
        assert torch.equal(part(LossContract.batch), whole(LossContract.batch))
        assert torch.equal(part.generator.get_state(), state)


class TestRefusals:
    """What the data or the other options do not allow, in a sentence."""

    def test_popular_item(self, tmp_path: Path) -> None:
        """Each item is known to all but four of twelve users."""
        world = make_world(tmp_path, [list(range(1, 21)) if user < 8 else [] for user in range(12)], n_items=21)
        with pytest.raises(OptionError, match="one has only 4 users who have not interacted") as caught:
            build(world)
        message = str(caught.value)
        assert "Lower ir_rrd_item_k and ir_rrd_item_l to 4 together, or filter items" in message
        assert "ir_rrd_item_weight: 0" in message
        assert torch.isfinite(build(world, item_l=2)(LossContract.batch))
        assert torch.isfinite(build(world, item_weight=0.0)(LossContract.batch))

    def test_busy_user(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, [list(range(1, 35))] * 12, n_items=41)
        with pytest.raises(OptionError, match=r"one has only 6 unobserved items\. Lower ir_rrd_k and ir_rrd_l to 6"):
            build(world)

    @pytest.mark.parametrize("side", ["", "item_"])
    def test_short_lists(self, side: str) -> None:
        with pytest.raises(OptionError, match=f"ir_rrd_{side}top_n = 3 is shorter than ir_rrd_{side}k = 5"):
            IRRRDOptions(**{f"{side}top_n": 3, f"{side}k": 5})


def test_swapped_scores_without_vectors(tmp_path: Path) -> None:
    """A student behind its scores alone is asked for pairs, and gives the same term and gradients."""
    from .test_listwise import ScoresOnly

    world = some_world(tmp_path)
    weights = list(world.student.model.parameters())
    expected = build(world)(LossContract.batch)
    bare = dataclasses.replace(world, student=ScoresOnly(world.student))  # type: ignore[arg-type]
    loss = build(bare)(LossContract.batch)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
