"""Relaxed Ranking Distillation: the formula on plain floats, its gradients, what it implies, known values, training."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import recbole_derrd.distillers.rrd as rrd_module
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.rrd import RelaxedRankingDistillation, RRDOptions, relaxed_ranking_loss
from recbole_derrd.errors import OptionError
from recbole_derrd.testing import LossContract, World, make_world, some_rows, step

K, L = 4, 6


def normal(*shape: int, seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return seeded normal numbers."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive_loss(interesting: list[float], uninteresting: list[float]) -> float:
    """Return the loss of one user as the paper writes it, the second sum over the uninteresting items only."""
    below = sum(math.exp(score) for score in uninteresting)
    return -sum(
        math.log(math.exp(score) / (sum(math.exp(later) for later in interesting[k:]) + below))
        for k, score in enumerate(interesting)
    )


def naive_losses(interesting: Tensor, uninteresting: Tensor) -> Tensor:
    """Return the loss of every row."""
    rows = zip(interesting.tolist(), uninteresting.tolist())
    return torch.tensor([naive_loss(*row) for row in rows], dtype=torch.float64)


def drawn(distiller: RelaxedRankingDistillation) -> Tensor:
    """Return the epoch's items."""
    assert distiller.items is not None
    return distiller.items


def build(
    world: World, seed: int = 5, epoch: int = 0, fused: bool = True, **options: Any
) -> RelaxedRankingDistillation:
    """Build the method with small sizes and draw an epoch's items."""
    world.student.fused = fused
    sizes = {"k": K, "l": L, "top_n": 12, "decay": 3.0, **options}
    distiller = RelaxedRankingDistillation(RRDOptions(**sizes), world.knowledge, world.student, seed)
    distiller.begin_epoch(epoch)
    return distiller


def naive_forward(distiller: RelaxedRankingDistillation, world: World, batch: StepBatch) -> float:
    """Return L_RRD / rows user by user: dot products, then the formula."""
    options, total = distiller.options, 0.0
    users, items = (
        part.detach().double() for part in (world.student.model.users.weight, world.student.model.items.weight)
    )
    for user in batch.users.tolist():
        scores = [float(users[user] @ items[item]) for item in drawn(distiller)[user].tolist()]
        ordered = len(scores) if options.ranking == "full" else options.k
        total += naive_loss(scores[:ordered], scores[ordered:])
    return total / batch.rows


scores = st.floats(-30, 30, allow_nan=False)
rankings = st.tuples(st.lists(scores, min_size=1, max_size=6), st.lists(scores, max_size=6))


def as_rows(ranking: tuple[list[float], list[float]]) -> tuple[Tensor, Tensor]:
    """Return one user's scores as tensors of one row."""
    interesting, uninteresting = ranking
    return (
        torch.tensor([interesting], dtype=torch.float64),
        torch.tensor(uninteresting, dtype=torch.float64).view(1, -1),
    )


class TestRRD(LossContract):
    """The five kinds of test for RRD."""

    method = "rrd"

    # Reference loops

    @pytest.mark.parametrize(("k", "l"), [(1, 1), (1, 5), (5, 1), (4, 7), (3, 0)])
    @pytest.mark.parametrize("scale", [0.1, 3.0])
    def test_reference_naive_floats(self, k: int, l: int, scale: float) -> None:  # noqa: E741
        """Prevents an off-by-one in the tail, which leaves a loss that still falls."""
        interesting, uninteresting = normal(6, k, seed=1, scale=scale), normal(6, l, seed=2, scale=scale)
        torch.testing.assert_close(
            relaxed_ranking_loss(interesting, uninteresting), naive_losses(interesting, uninteresting)
        )

    @pytest.mark.parametrize("ranking", ["relaxed", "full"])
    @pytest.mark.parametrize("interesting", ["sampled", "topk"])
    def test_reference_forward(self, world: World, ranking: str, interesting: str) -> None:
        """Prevents items read by position in the batch, and a split of the scores at the wrong column."""
        distiller = build(world, ranking=ranking, interesting=interesting)
        for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
            assert distiller(batch).item() == pytest.approx(naive_forward(distiller, world, batch), rel=1e-4)

    def test_reference_plackett_luce(self) -> None:
        """With L = 0 it is the Plackett-Luce likelihood: drawing the items one by one, softmax by softmax."""
        logits = normal(5, 6, seed=3)
        picks = [-logits[:, k:].log_softmax(dim=1)[:, 0] for k in range(6)]
        torch.testing.assert_close(relaxed_ranking_loss(logits, torch.empty(5, 0)), torch.stack(picks).sum(dim=0))

    def test_reference_gradients_equal_the_naive_form(self) -> None:
        """A detached tail would leave the values as they are."""
        first = [normal(4, 5, seed=1).requires_grad_(), normal(4, 3, seed=2).requires_grad_()]
        second = [part.detach().clone().requires_grad_() for part in first]
        relaxed_ranking_loss(*first).sum().backward()
        interesting, uninteresting = (part.exp() for part in second)
        tails = [interesting[:, k:].sum(dim=1) + uninteresting.sum(dim=1) for k in range(5)]
        (-(interesting / torch.stack(tails, dim=1)).log()).sum().backward()
        for ours, naive in zip(first, second):
            torch.testing.assert_close(ours.grad, naive.grad)

    # Gradients

    @pytest.mark.parametrize("l", [0, 1, 4])
    def test_gradcheck_both_inputs(self, l: int) -> None:  # noqa: E741
        parts = (normal(3, 5, seed=4).requires_grad_(), normal(3, l, seed=5).requires_grad_())
        assert torch.autograd.gradcheck(relaxed_ranking_loss, parts if l else (parts[0], parts[1].detach()))

    # Invariants

    @given(rankings, st.floats(-50, 50))
    @settings(max_examples=60, deadline=None)
    def test_invariant_shift(self, ranking: tuple[list[float], list[float]], shift: float) -> None:
        """Only differences of scores matter."""
        interesting, uninteresting = as_rows(ranking)
        torch.testing.assert_close(
            relaxed_ranking_loss(interesting + shift, uninteresting + shift),
            relaxed_ranking_loss(interesting, uninteresting),
            rtol=1e-6,
            atol=1e-8,
        )

    @given(rankings, st.randoms(use_true_random=False))
    @settings(max_examples=60, deadline=None)
    def test_invariant_order_of_uninteresting_is_free(
        self, ranking: tuple[list[float], list[float]], random: Any
    ) -> None:
        """What "relaxed" means."""
        shuffled = list(ranking[1])
        random.shuffle(shuffled)
        torch.testing.assert_close(
            relaxed_ranking_loss(*as_rows((ranking[0], shuffled))), relaxed_ranking_loss(*as_rows(ranking))
        )

    @given(st.lists(st.integers(-20, 20), min_size=2, max_size=5, unique=True), st.lists(scores, max_size=5))
    @settings(max_examples=40, deadline=None)
    def test_invariant_teacher_s_order_is_the_best(self, interesting: list[int], uninteresting: list[float]) -> None:
        """Prevents a list read back to front: scores that fall along the list must cost least of all orders."""
        best = sorted(map(float, interesting), reverse=True)
        orders = torch.tensor(list(itertools.permutations(best)), dtype=torch.float64)
        rest = torch.tensor(uninteresting, dtype=torch.float64).expand(len(orders), -1)
        losses = relaxed_ranking_loss(orders, rest)
        assert (losses[0] <= losses + 1e-9 * losses.abs() + 1e-9).all()
        # Without uninteresting items, which may outweigh all others, the order matters and its reverse is the worst.
        calm = relaxed_ranking_loss(orders, rest[:, :0])
        assert (calm[0] <= calm + 1e-9).all() and (calm[-1] >= calm - 1e-9).all() and calm[-1] > calm[0] + 0.5

    @given(rankings)
    @settings(max_examples=60, deadline=None)
    def test_invariant_not_negative(self, ranking: tuple[list[float], list[float]]) -> None:
        """A negative log-likelihood of something that is no distribution can fall below 0."""
        assert (relaxed_ranking_loss(*as_rows(ranking)) >= -1e-9).all()

    @given(
        st.lists(st.floats(-5, 5), min_size=1, max_size=6),
        st.lists(st.floats(-5, 5), min_size=1, max_size=6),
        st.integers(0, 5),
        st.floats(0.5, 10),
    )
    @settings(max_examples=60, deadline=None)
    def test_invariant_uninteresting_cost(
        self, interesting: list[float], uninteresting: list[float], which: int, rise: float
    ) -> None:
        """Raising an uninteresting item's score must raise the loss, as must one uninteresting item more."""
        raised = list(uninteresting)
        raised[which % len(raised)] += rise
        loss, higher, longer = (
            relaxed_ranking_loss(*as_rows((interesting, rest))).item()
            for rest in (uninteresting, raised, [*uninteresting, 0.0])
        )
        assert higher > loss and longer > loss

    @given(st.lists(rankings, min_size=2, max_size=2))
    @settings(max_examples=30, deadline=None)
    def test_invariant_users_are_independent(self, pair: list[tuple[list[float], list[float]]]) -> None:
        """Prevents a sum over the wrong dimension."""
        (a, b), (c, d) = pair
        interesting, uninteresting = min(len(a), len(c)), min(len(b), len(d))
        rows = [(x[:interesting], y[:uninteresting]) for x, y in ((a, b), (c, d))]
        together = relaxed_ranking_loss(*(torch.cat(parts) for parts in zip(*(as_rows(row) for row in rows))))
        apart = torch.cat([relaxed_ranking_loss(*as_rows(row)) for row in rows])
        assert together.shape == (2,)
        torch.testing.assert_close(together, apart)

    # Golden values

    @pytest.mark.parametrize(("k", "l", "value"), [(40, 40, 163.35), (20, 20, 67.99), (100, 200, 551.67)])
    def test_golden_equal_scores(self, k: int, l: int, value: float) -> None:  # noqa: E741
        """Origin: ln((K + L)! / L!), algorithms_de_rrd.md 3.5; 163.35 agrees with the authors' training log."""
        loss = relaxed_ranking_loss(torch.zeros(2, k), torch.zeros(2, l))
        assert loss.tolist() == pytest.approx([value, value], abs=0.006)
        assert loss[0].item() == pytest.approx(math.lgamma(k + l + 1) - math.lgamma(l + 1), rel=1e-6)

    def test_golden_by_hand(self) -> None:
        """By hand, with scores ln 4, ln 2 above ln 1, ln 3: -ln 4/10 - ln 2/6 = ln 7.5."""
        interesting, uninteresting = torch.tensor([[4.0, 2.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
        assert relaxed_ranking_loss(interesting, uninteresting).item() == pytest.approx(math.log(7.5), rel=1e-6)

    def test_golden_module_at_zero_scores(self, world: World) -> None:
        """Three users at ln(10! / 6!) = ln 5040 each, over eight rows."""
        torch.nn.init.zeros_(world.student.model.items.weight)
        expected = 3 * math.log(5040) / 8
        assert build(world)(self.batch).item() == pytest.approx(expected, rel=1e-5)

    # Optimisation

    def test_optimisation_sgd_ranks_as_the_teacher(self) -> None:
        """Ten steps lift the interesting above the uninteresting, in the teacher's order, from the reverse of it."""
        interesting = (0.1 * torch.arange(4.0)).expand(3, 4).clone().requires_grad_()
        uninteresting = torch.full((3, 6), 0.5).requires_grad_()
        optimizer = torch.optim.SGD([interesting, uninteresting], lr=0.5)
        for _ in range(10):
            optimizer.zero_grad()
            relaxed_ranking_loss(interesting, uninteresting).sum().backward()
            optimizer.step()
        assert (interesting[:, :-1] > interesting[:, 1:]).all()
        assert (interesting.amin(dim=1) > uninteresting.amax(dim=1)).all()

    def test_optimisation_student_learns_the_list(self, world: World) -> None:
        """The module's own items must rise in the student, in order and above the rest."""
        distiller = build(world, interesting="topk")
        users = torch.arange(1, 13)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)

        def margin() -> float:
            with torch.no_grad():
                scores = world.student.score(users, drawn(distiller)[users].long())
            return float((scores[:, :K].mean(dim=1) - scores[:, K:].mean(dim=1)).mean())

        before, losses = margin(), []
        for _ in range(10):
            optimizer.zero_grad()
            loss = distiller(step(users.tolist(), [], [], rows=12))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert all(later < earlier for earlier, later in zip(losses, losses[1:]))
        assert margin() > before + 1


class TestFused:
    """fast with and without kernels: the same term within rounding."""

    @pytest.mark.parametrize("ranking", ["relaxed", "full"])
    def test_same_loss_and_gradients(self, tmp_path: Path, ranking: str) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        results = []
        for fused in (True, False):
            distiller = build(world, ranking=ranking, fused=fused)
            loss = distiller(LossContract.batch)
            weights = [world.student.model.users.weight, world.student.model.items.weight]
            results.append([loss.detach(), *torch.autograd.grad(loss, weights)])
        for one, other in zip(*results):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class TestSample:
    """rrd_sample: fewer users a step, the same term on average."""

    @pytest.mark.parametrize("fused", [True, False])
    def test_unbiased_over_all_draws(self, tmp_path: Path, fused: bool) -> None:
        """One user of three: the only possible losses are three times each user's own, whose mean is the whole term."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        whole, part = build(world, fused=fused), build(world, fused=fused, sample=0.34)
        each = [3 * whole(step([user], [], [], rows=8)).item() for user in (1, 3, 4)]
        assert sum(each) / 3 == pytest.approx(whole(LossContract.batch).item(), rel=1e-5)
        losses = [part(LossContract.batch).item() for _ in range(600)]
        which = [min(range(3), key=lambda one: abs(each[one] - loss)) for loss in losses]
        assert all(loss == pytest.approx(each[one], rel=1e-5) for loss, one in zip(losses, which))
        assert stats.chisquare([which.count(one) for one in range(3)]).pvalue > 0.01

    def test_all_users_draw_nothing(self, world_and_state: tuple[World, Tensor]) -> None:
        """At 1 the generator stays where it was, and every user is ranked."""
        world, state = world_and_state
        distiller = build(world, sample=1.0)
        assert distiller(LossContract.batch).item() == pytest.approx(
            naive_forward(distiller, world, LossContract.batch), rel=1e-4
        )
        assert torch.equal(distiller.generator.get_state(), state)

    @pytest.fixture
    def world_and_state(self, tmp_path: Path) -> tuple[World, Tensor]:
        """Give a world, and the state of a generator that has not drawn."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        return world, torch.Generator().manual_seed(5).get_state()

    def test_drawing_goes_on_from_a_saved_state(self, world_and_state: tuple[World, Tensor]) -> None:
        """What a training checkpoint keeps of the method is its generator's state; the epoch's items depend on none."""
        first, second = (build(world_and_state[0], sample=0.5) for _ in range(2))
        for _ in range(5):
            first(LossContract.batch)
        second.generator.set_state(first.generator.get_state())
        second.begin_epoch(3)
        first.begin_epoch(3)
        assert torch.equal(drawn(first), drawn(second))
        batch = step(range(1, 13), [], [])
        assert [first(batch).item() for _ in range(5)] == [second(batch).item() for _ in range(5)]


class TestOverflow:
    """Scores that exp() cannot hold; the authors' code gives inf here, a clipped one no gradient."""

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_scores_of_ten_thousand(self, sign: float) -> None:
        interesting = torch.full((2, 3), sign * 1e4).requires_grad_()
        uninteresting = torch.full((2, 5), -sign * 1e4).requires_grad_()
        loss = relaxed_ranking_loss(interesting, uninteresting)
        # Either the interesting items only compete with each other (ln 3!), or each loses by 20,000 + ln 5.
        expected = math.log(6) if sign > 0 else 3 * (2e4 + math.log(5))
        assert loss.tolist() == pytest.approx([expected] * 2, rel=1e-3)  # float32 steps by 0.001 at 10,000
        loss.sum().backward()
        gradients = (interesting.grad, uninteresting.grad)
        assert all(grad is not None and torch.isfinite(grad).all() for grad in gradients)
        if sign < 0:
            torch.testing.assert_close(interesting.grad, -torch.ones(2, 3))
            torch.testing.assert_close(uninteresting.grad, torch.full((2, 5), 0.6), rtol=1e-3, atol=0)

    def test_wild_scores_in_one_list(self) -> None:
        interesting = torch.tensor([[1e4, -1e4, 0.0, 90.0]]).requires_grad_()
        uninteresting = torch.tensor([[-1e4, 1e4, 88.0]]).requires_grad_()
        loss = relaxed_ranking_loss(interesting, uninteresting)
        assert loss.item() == pytest.approx(math.log(2) + 2e4 + 1e4 + 9910, rel=1e-5)
        loss.sum().backward()
        assert interesting.grad is not None and torch.isfinite(interesting.grad).all()
        assert interesting.grad[0, 1:].tolist() == pytest.approx([-1, -1, -1], abs=1e-4)


class TestDrawing:
    """The epoch's items of all users."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give thirty users and sixty items."""
        return make_world(tmp_path / "knowledge", some_rows(30, 61, 20, seed=3), n_items=61)

    @pytest.mark.parametrize("at_once", [8192, 4, 1])
    @pytest.mark.parametrize("interesting", ["sampled", "topk"])
    @pytest.mark.parametrize("ranking", ["relaxed", "full"])
    def test_sets(
        self, world: World, monkeypatch: pytest.MonkeyPatch, interesting: str, ranking: str, at_once: int
    ) -> None:
        """A training item among the uninteresting ones would be pushed down: the opposite of what the base loss asks.

        Drawing in blocks of users must not read another block's history.
        """
        monkeypatch.setattr(rrd_module, "_DRAWN_AT_ONCE", at_once)
        items = drawn(build(world, interesting=interesting, ranking=ranking))
        assert items.shape == (31, K + L)
        for user in range(1, 31):
            order = world.teacher_order(user)
            top, rest = items[user, :K].tolist(), items[user, K:].tolist()
            assert 0 not in top + rest
            assert len(set(top)) == K and len(set(rest)) == L
            assert set(top) <= set(order[:12])
            assert [item for item in order if item in top] == top  # the teacher's order
            assert not set(rest) & (set(order[:12]) | world.seen(user))

    @pytest.mark.parametrize("at_once", [8192, 4])
    def test_kept_exclusions_change_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
        """Sorted anew in each epoch, where there are too many to keep, or kept: the same items in every epoch."""
        monkeypatch.setattr(rrd_module, "_DRAWN_AT_ONCE", at_once)
        epochs = []
        for kept in (1 << 25, 0):
            monkeypatch.setattr(rrd_module, "_KEPT_PAIRS", kept)
            distiller = build(world)
            assert bool(distiller._excluded) is bool(kept)
            items = [drawn(distiller)]
            for epoch in (1, 2):
                distiller.begin_epoch(epoch)
                items.append(drawn(distiller))
            epochs.append(torch.stack(items))
        assert torch.equal(*epochs)

    def test_topk_is_the_head_of_the_list(self, world: World) -> None:
        """Only the interesting items stay from epoch to epoch; the uninteresting ones are drawn anew."""
        distiller = build(world, interesting="topk")
        items = [drawn(distiller).clone()]
        distiller.begin_epoch(1)
        items.append(drawn(distiller))
        for user in range(1, 31):
            assert items[0][user, :K].tolist() == world.teacher_order(user)[:K]
        assert torch.equal(items[0][:, :K], items[1][:, :K])
        assert not torch.equal(items[0][:, K:], items[1][:, K:])

    def test_full_ranking_orders_the_uninteresting_by_the_teacher(self, world: World) -> None:
        """The ablation draws the same items, and puts them in the teacher's order."""
        relaxed, full = (drawn(build(world, ranking=ranking)) for ranking in ("relaxed", "full"))
        assert torch.equal(full[:, :K], relaxed[:, :K])
        for user in range(1, 31):
            rest = full[user, K:].tolist()
            assert sorted(rest) == sorted(relaxed[user, K:].tolist())
            assert rest == [item for item in world.teacher_order(user) if item in rest]

    def test_same_seed_same_items(self, world: World) -> None:
        torch.manual_seed(1)
        first = drawn(build(world, epoch=7))
        torch.manual_seed(2)
        assert torch.equal(first, drawn(build(world, epoch=7)))
        assert not torch.equal(first, drawn(build(world, epoch=7, seed=6)))

    def test_epochs_differ(self, world: World) -> None:
        """Items drawn once for the whole run would be another method."""
        distiller = build(world)
        epochs = [drawn(distiller).clone()]
        for epoch in range(1, 6):
            distiller.begin_epoch(epoch)
            epochs.append(drawn(distiller).clone())
        for one, other in itertools.combinations(epochs, 2):
            assert (one[1:, :K] != other[1:, :K]).any() and (one[1:, K:] != other[1:, K:]).any()

    def test_resumed_run_draws_what_an_uninterrupted_one_draws(self, world: World) -> None:
        """State carried from epoch to epoch would be lost with the process."""
        through = build(world)
        for epoch in range(1, 8):
            through.begin_epoch(epoch)
        assert torch.equal(drawn(through), drawn(build(world, epoch=7)))

    def test_drawing_leaves_the_global_generator_alone(self, world: World) -> None:
        """The student's random stream must be that of the plain model."""
        state = torch.get_rng_state()
        build(world)
        assert torch.equal(torch.get_rng_state(), state)

    def test_better_ranks_are_likelier_and_others_are_uniform(self, world: World) -> None:
        """Over many epochs: the first rank nearly always, the last seldom; all others of a user equally often."""
        user = 4
        order = world.teacher_order(user)
        distiller = build(world)
        top: Counter[int] = Counter()
        rest: Counter[int] = Counter()
        for epoch in range(400):
            distiller.begin_epoch(epoch)
            row = drawn(distiller)[user].tolist()
            top.update(row[:K])
            rest.update(row[K:])
        assert top[order[0]] > 300 and 0 < top[order[11]] < 40
        assert set(rest) == set(order[12:])
        # Items of one epoch exclude each other, so the statistic is a little smaller than chi-square's: cautious.
        assert stats.chisquare([rest[item] for item in order[12:]]).pvalue > 0.01

    def test_no_uninteresting_items(self, world: World) -> None:
        """rrd_l: 0 ranks the interesting items alone."""
        for interesting in ("sampled", "topk"):
            distiller = build(world, l=0, interesting=interesting)
            first = drawn(distiller).clone()
            assert first.shape == (31, K)
            distiller.begin_epoch(1)
            assert torch.equal(first, drawn(distiller)) is (interesting == "topk")
            assert torch.isfinite(distiller(step([1, 2], [], [])))

    def test_the_first_items_have_others_below_them_in_each_epoch(self, world: World) -> None:
        """However few those are."""
        distiller = build(world, l=1, interesting="topk")
        first = drawn(distiller).clone()
        distiller.begin_epoch(1)
        assert torch.equal(first[:, :K], drawn(distiller)[:, :K]) and (first[:, K] != drawn(distiller)[:, K]).any()

    def test_list_longer_than_the_catalogue(self, world: World) -> None:
        """top_n 500 of 60 items: each list is cut so that L items are left to be uninteresting."""
        items = drawn(build(world, top_n=500))
        for user in range(1, 31):
            order = world.teacher_order(user)
            assert set(items[user, :K].tolist()) <= set(order[:-L])
            assert set(items[user, K:].tolist()) == set(order[-L:])

    def test_forward_before_the_first_epoch(self, world: World) -> None:
        options = RRDOptions(k=K, l=L, top_n=12)
        distiller = RelaxedRankingDistillation(options, world.knowledge, world.student, seed=0)
        with pytest.raises(RuntimeError, match="begin_epoch"):
            distiller(step([1], [2], [3]))


def world_with_busy_user(folder: Path, unobserved: int) -> World:
    """Give three users and thirty items; user 2 has this many unobserved ones."""
    rows = [[1, 2], list(range(1, 31 - unobserved)), [30]]
    return make_world(folder, rows, n_items=31)


class TestFewItems:
    """Users with nearly nothing left to rank."""

    @pytest.mark.parametrize("spare", [0, 1, 3])
    @pytest.mark.parametrize("interesting", ["sampled", "topk"])
    def test_just_enough(self, tmp_path: Path, spare: int, interesting: str) -> None:
        """A list of 12 would leave such a user fewer than L items: the list is cut, nothing repeats, no padding."""
        world = world_with_busy_user(tmp_path, K + L + spare)
        for epoch in range(20):
            row = drawn(build(world, interesting=interesting, epoch=epoch))[2].tolist()
            order = world.teacher_order(2)
            assert set(row) <= set(order) and len(set(row)) == K + L
            assert set(row[:K]) <= set(order[: K + spare]) and set(row[K:]) == set(order[K + spare :])

    @pytest.mark.parametrize("unobserved", [1, K + L - 1])
    def test_too_few_for_all_is_refused_with_the_number(self, tmp_path: Path, unobserved: int) -> None:
        """A few such users have shorter rankings, see test_preconditions.py."""
        world = make_world(tmp_path, [list(range(1, 31 - unobserved))] * 3, n_items=31)
        with pytest.raises(OptionError, match=rf"\b{K + L}\b.*only {unobserved} unobserved") as caught:
            build(world)
        assert f"Lower rrd_k and rrd_l to {unobserved} together" in str(caught.value)

    def test_users_who_know_everything(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=r"Nearly all users \(3 of 3\) have too few unobserved items, one has 0"):
            build(make_world(tmp_path, [list(range(1, 31))] * 3, n_items=31))

    def test_sizes_that_just_fit(self, tmp_path: Path) -> None:
        """The check must not refuse what works: user 1 has 28 unobserved items of 30."""
        world = make_world(tmp_path, [[1, 2]], n_items=31)
        assert sorted(drawn(build(world, k=20, l=8, top_n=25))[1].tolist()) == world_items(world, 1)
        with pytest.raises(OptionError):
            build(world, k=20, l=9, top_n=25)


def world_items(world: World, user: int) -> list[int]:
    """Return the user's unobserved items, sorted."""
    return sorted(world.teacher_order(user))


@pytest.mark.parametrize("interesting", ["sampled", "topk"])
def test_list_shorter_than_k_is_refused(tmp_path: Path, interesting: str) -> None:
    """K items cannot be drawn from a list of fewer: a mistake in the options, not a traceback from topk."""
    world = make_world(tmp_path, some_rows(5, 41, 5), n_items=41)
    with pytest.raises(OptionError, match="rrd_top_n"):
        build(world, k=8, top_n=5, interesting=interesting)


def test_a_ranking_of_just_k_items_is_enough() -> None:
    assert RRDOptions(k=5, top_n=5).k == 5
    with pytest.raises(OptionError, match="rrd_top_n = 4 is shorter than rrd_k = 5"):
        RRDOptions(k=5, top_n=4)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("gaps", [False, True])
def test_cumulative_sums_are_those_of_logarithms(scale: float, gaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients, with positions that hold no item and without."""
    torch.manual_seed(3)
    scores = scale * torch.randn(40, 12, dtype=torch.float64)
    held = torch.rand(40, 12) < 0.7 if gaps else None
    found = []
    for least in (rrd_module._LEAST_SUM, torch.inf):
        monkeypatch.setattr(rrd_module, "_LEAST_SUM", least)
        one = scores.clone().requires_grad_()
        losses = relaxed_ranking_loss(one[:, :7], one[:, 7:], held)
        losses.sum().backward()
        found.append((losses.detach(), one.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_sum_that_vanishes_beside_the_largest_logit_is_kept() -> None:
    """exp(-1000) is 0 in double precision, and its logarithm is not."""
    scores = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    loss = relaxed_ranking_loss(scores, scores[:, :0])
    loss.sum().backward()
    assert loss.item() == 0 and torch.isfinite(scores.grad).all()
    assert relaxed_ranking_loss(scores.flip(1), scores[:, :0]).item() == 3000
