"""Ranking Distillation: the formula on plain floats, its gradients, what it implies, known values, training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recbole_derrd.distillers.negative_sampling as unobserved_module
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.rd import (
    RankingDistillation,
    RDOptions,
    dynamic_weights,
    estimated_ranks,
    hybrid_weights,
    position_weights,
    positions_in_rankings,
    weighted_positive_loss,
)
from recbole_derrd.errors import OptionError
from recbole_derrd.testing import LossContract, World, make_world, some_rows, step

K, Q = 4, 20


def build(world: World, seed: int = 5, epoch: int = 0, **options: Any) -> RankingDistillation:
    """Build the method with small sizes and dynamic weights from the start."""
    sizes = {"k": K, "negatives": Q, "start_epoch": 0, "position_lambda": 3.0, **options}
    distiller = RankingDistillation(RDOptions(**sizes), world.knowledge, world.student, seed)
    distiller.begin_epoch(epoch)
    return distiller


def naive_weights(scores: list[float], negatives: list[float] | None, n_items: int, options: RDOptions) -> list[float]:
    """Return one user's weights as the paper describes them."""
    position = [math.exp(-r / options.position_lambda) for r in range(len(scores))]
    position = [weight / sum(position) for weight in position]
    if negatives is None:
        return position
    hybrid = []
    for r, score in enumerate(scores):
        above = sum(negative > score for negative in negatives)
        rank = math.floor((n_items - 1) * above / len(negatives))
        hybrid.append(position[r] * math.tanh(max(options.mu * (rank - r), 0)))
    return [weight / sum(hybrid) for weight in hybrid] if options.normalise and sum(hybrid) else hybrid


def naive_forward(distiller: RankingDistillation, world: World, batch: StepBatch) -> float:
    """Return L_RD / rows user by user from the student's tables."""
    total = 0.0
    scores = (world.student.model.users.weight @ world.student.model.items.weight.T).detach().double()
    for user in batch.users.tolist():
        listed = [float(scores[user, item]) for item in world.teacher_order(user)[: distiller.options.k]]
        negatives = None
        if distiller.negatives is not None:
            negatives = [float(scores[user, item]) for item in distiller.negatives[user].tolist()]
        weights = naive_weights(listed, negatives, world.history.n_items - 1, distiller.options)
        total -= sum(w * math.log(1 / (1 + math.exp(-score))) for w, score in zip(weights, listed))
    return total / batch.rows


scores = st.lists(st.floats(-20, 20), min_size=1, max_size=6)


class TestRD(LossContract):
    """The five kinds of test for RD."""

    method = "rd"

    # Reference loops

    @pytest.mark.parametrize("epoch", [0, 2])
    @pytest.mark.parametrize("options", [{}, {"normalise": False}, {"mu": 2.0, "position_lambda": 0.5}, {"k": 1}])
    def test_reference_forward(self, world: World, options: dict[str, Any], epoch: int) -> None:
        """Prevents ranks from 1 on one side, negatives of another user, and dynamic weights before their time."""
        distiller = build(world, epoch=epoch, **{**options, "start_epoch": 1})
        assert (distiller.negatives is None) is (epoch == 0)
        for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
            assert distiller(batch).item() == pytest.approx(naive_forward(distiller, world, batch), rel=1e-5)

    def test_reference_ranks_by_counting(self) -> None:
        """The binary search counts those strictly above, ties included."""
        generator = torch.Generator().manual_seed(1)
        mine = torch.randint(0, 5, (6, 3), generator=generator).float()
        negatives = torch.randint(0, 5, (6, 8), generator=generator).float()
        above = (negatives.unsqueeze(1) > mine.unsqueeze(2)).sum(dim=2)
        assert torch.equal(estimated_ranks(mine, negatives, 101), (100 * above / 8).floor())

    def test_reference_places(self) -> None:
        """Each drawn item's position by a plain search."""
        generator = torch.Generator().manual_seed(2)
        rankings = torch.stack([torch.randperm(12, generator=generator)[:5] + 1 for _ in range(6)]).int()
        drawn = torch.randint(1, 13, (6, 9), generator=generator).int()
        expected = [
            [row.index(item) if item in row else -1 for item in wanted]
            for row, wanted in zip(rankings.tolist(), drawn.tolist())
        ]
        assert positions_in_rankings(rankings, drawn).tolist() == expected

    @pytest.mark.parametrize("noise", [1e-6, -1e-6])
    def test_reference_an_item_is_never_above_itself(
        self, world: World, monkeypatch: pytest.MonkeyPatch, noise: float
    ) -> None:
        """The student's products round differently from call to call; an item that is drawn from the list does not."""
        distiller = build(world, negatives=200)
        expected = naive_forward(distiller, world, self.batch)
        score, calls = world.student.score, []

        def rounded(users: Any, items: Any) -> Any:
            calls.append(noise)
            return score(users, items) + sum(calls)

        monkeypatch.setattr(world.student, "score", rounded)
        assert distiller(self.batch).item() == pytest.approx(expected, rel=1e-4)

    # Gradients

    def test_gradcheck_logits(self) -> None:
        generator = torch.Generator().manual_seed(2)
        logits, weights = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda s: weighted_positive_loss(s, weights.abs()), (logits.requires_grad_(),))

    def test_gradcheck_weights_have_none(self, world: World) -> None:
        """A gradient through the weights would push items down to be weighed less: they are constants."""
        weights = torch.rand(2, 3, requires_grad=True)
        loss = weighted_positive_loss(torch.randn(2, 3, requires_grad=True), weights).sum()
        loss.backward()
        assert weights.grad is None
        distiller = build(world)
        distiller(self.batch).backward()
        only_negatives = set(distiller.negatives[self.batch.users].flatten().tolist()) - set(
            distiller.rankings[self.batch.users].flatten().tolist()
        )
        assert only_negatives and (world.student.model.items.weight.grad[list(only_negatives)] == 0).all()

    # Invariants

    @given(scores, st.floats(0.01, 10))
    @settings(max_examples=60, deadline=None)
    def test_invariant_higher_scores_cost_less(self, row: list[float], rise: float) -> None:
        logits = torch.tensor([row], dtype=torch.float64)
        weights = position_weights(len(row), 2.0).double()
        loss = weighted_positive_loss(logits, weights)
        assert (loss >= 0).all() and (weighted_positive_loss(logits + rise, weights) < loss).all()

    @given(st.integers(1, 50), st.floats(1e-3, 1e3))
    @settings(max_examples=60, deadline=None)
    def test_invariant_position_weights_sum_to_one_and_fall(self, count: int, position_lambda: float) -> None:
        weights = position_weights(count, position_lambda)
        assert weights.sum().item() == pytest.approx(1, abs=1e-5) and (weights.diff() <= 0).all()

    @given(scores, scores, st.floats(-5, 5))
    @settings(max_examples=60, deadline=None)
    def test_invariant_ranks_ignore_shifts_and_order(self, mine: list[float], rest: list[float], shift: float) -> None:
        """Ranks are about order: a shift of all, or another order of the negatives, changes nothing."""
        one, other = (
            torch.tensor([mine], dtype=torch.float64).round(),
            torch.tensor([rest], dtype=torch.float64).round(),
        )
        ranks = estimated_ranks(one, other, 100)
        assert torch.equal(estimated_ranks(one + round(shift), other.flip(1) + round(shift), 100), ranks)
        assert (ranks >= 0).all() and (ranks <= 99).all()

    @given(st.lists(st.integers(0, 40), min_size=2, max_size=8), st.floats(0.01, 2))
    @settings(max_examples=60, deadline=None)
    def test_invariant_items_in_place_weigh_nothing(self, ranks: list[int], mu: float) -> None:
        """Normalised weights sum to 1 or, where every item is in place, are all 0 and no NaN."""
        dynamic = dynamic_weights(torch.tensor([ranks], dtype=torch.float32), mu)
        weights = hybrid_weights(position_weights(len(ranks), 3.0), dynamic, normalise=True)[0]
        misplaced = torch.tensor([rank > place for place, rank in enumerate(ranks)])
        assert torch.equal(weights > 0, misplaced)
        assert weights.sum().item() == pytest.approx(float(misplaced.any()), abs=1e-5)

    def test_invariant_huge_scores_stay_finite(self) -> None:
        logits = torch.tensor([[1e4, -1e4]]).requires_grad_()
        loss = weighted_positive_loss(logits, torch.tensor([0.5, 0.5]))
        loss.sum().backward()
        assert loss.item() == pytest.approx(5e3) and torch.isfinite(logits.grad).all()  # type: ignore[arg-type]

    # Golden values

    def test_golden_equal_scores(self) -> None:
        """Origin: at logit 0 the term is ln 2 times the sum of the weights, 1."""
        loss = weighted_positive_loss(torch.zeros(2, 10), position_weights(10, 1.0))
        assert loss.tolist() == pytest.approx([math.log(2)] * 2)

    def test_golden_position_weights(self) -> None:
        """Origin: the geometric sum; with lambda = 1 the first of ten has (1 - 1/e) / (1 - e^-10) = 0.632149."""
        assert position_weights(10, 1.0)[0].item() == pytest.approx(0.632149, abs=1e-6)

    def test_golden_dynamic_weight_by_hand(self) -> None:
        """By hand: 3 of 4 above, 101 items: rank 75; at place 1 with mu 0.01 the weight is tanh 0.74 = 0.629145."""
        ranks = estimated_ranks(torch.tensor([[9.0, 1.5]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 101)
        assert ranks.tolist() == [[0, 75]]
        assert dynamic_weights(ranks, 0.01).tolist()[0] == pytest.approx([0, 0.629145], abs=1e-6)

    def test_golden_module_at_zero_scores(self, world: World) -> None:
        """Nothing is above anything: position weights alone give three users ln 2 over eight rows, dynamic ones 0."""
        torch.nn.init.zeros_(world.student.model.items.weight)
        assert build(world, start_epoch=1)(self.batch).item() == pytest.approx(3 * math.log(2) / 8, rel=1e-5)
        assert build(world)(self.batch).item() == 0

    # Optimisation

    @pytest.mark.parametrize("start_epoch", [0, 1])
    def test_optimisation_teacher_s_items_rise(self, world: World, start_epoch: int) -> None:
        distiller = build(world, start_epoch=start_epoch)
        users = torch.arange(1, 13)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)

        def hits() -> int:
            order = world.student.score_all(users).argsort(dim=1, descending=True)
            ranked = [
                [item for item in row if item and item not in world.seen(user)]
                for user, row in enumerate(order.tolist(), 1)
            ]
            return sum(len(set(ranked[user - 1][:K]) & set(world.teacher_order(user)[:K])) for user in range(1, 13))

        before = hits()
        for _ in range(40):
            optimizer.zero_grad()
            distiller(step(users.tolist(), [], [], rows=12)).backward()
            optimizer.step()
        assert hits() > before + 12


class TestDrawing:
    """The epoch's unobserved items of all users."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give thirty users and sixty items."""
        return make_world(tmp_path / "knowledge", some_rows(30, 61, 20, seed=3), n_items=61)

    @pytest.mark.parametrize("at_once", [1 << 19, 40, 1])
    def test_negatives_are_unobserved(self, world: World, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
        """Wherever the blocks of users end; more draws than items are allowed."""
        monkeypatch.setattr(unobserved_module, "_DRAWN_AT_ONCE", at_once)
        negatives = build(world, negatives=200).negatives
        assert negatives is not None and negatives.shape == (31, 200)
        for user in range(1, 31):
            assert not set(negatives[user].tolist()) & (world.seen(user) | {0})

    @pytest.mark.parametrize("at_once", [1 << 19, 40, 1])
    def test_positions_are_of_the_users_own_rankings(
        self, world: World, monkeypatch: pytest.MonkeyPatch, at_once: int
    ) -> None:
        """Wherever the blocks of users end."""
        monkeypatch.setattr(unobserved_module, "_DRAWN_AT_ONCE", at_once)
        distiller = build(world)
        assert distiller.negatives is not None and distiller.positions is not None
        # Half the memory of what ids take.
        assert distiller.positions.dtype == torch.int16
        for user in range(1, 31):
            ranking, drawn = distiller.rankings[user].tolist(), distiller.negatives[user].tolist()
            expected = [ranking.index(item) if item in ranking else -1 for item in drawn]
            assert distiller.positions[user].tolist() == expected

    def test_resumed_run_draws_what_an_uninterrupted_one_draws(self, world: World) -> None:
        through = build(world, start_epoch=3)
        assert through.negatives is None
        for epoch in range(1, 8):
            through.begin_epoch(epoch)
            assert (through.negatives is None) is (epoch < 3)
        assert torch.equal(through.negatives, build(world, epoch=7).negatives)
        assert not torch.equal(through.negatives, build(world, epoch=6).negatives)
        assert not torch.equal(through.negatives, build(world, epoch=7, seed=6).negatives)

    def test_drawing_leaves_the_global_generator_alone(self, world: World) -> None:
        state = torch.get_rng_state()
        build(world)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("unobserved", [K - 1, 1])
    def test_too_few_is_refused_with_the_number(self, tmp_path: Path, unobserved: int) -> None:
        world = make_world(tmp_path, [list(range(1, 31 - unobserved))] * 2, n_items=31)
        with pytest.raises(OptionError, match=rf"rd_k = {K} is more.*Lower rd_k to {unobserved},"):
            build(world)
        assert torch.isfinite(build(world, k=unobserved)(step([1, 2], [], [])))

    def test_user_who_knows_everything(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="too few unobserved items, one has 0"):
            build(make_world(tmp_path, [list(range(1, 31))] * 2, n_items=31))


def test_share_of_users_is_unbiased(tmp_path: Path) -> None:
    world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
    whole, part = build(world), build(world, sample=0.34)
    each = [3 * whole(step([user], [], [], rows=8)).item() for user in (1, 3, 4)]
    losses = [part(LossContract.batch).item() for _ in range(60)]
    assert all(min(abs(loss - one) for one in each) < 1e-4 for loss in losses)
    assert {min(range(3), key=lambda one: abs(each[one] - loss)) for loss in losses} == {0, 1, 2}
