"""Dual Correction Distillation: the formula on plain floats, its gradients, what it implies, known values, training."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import recbole_derrd.distillers.dcd as dcd_module
from recbole_derrd.adapters import Adapter
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.dcd import (
    DCDOptions,
    DualCorrectionDistillation,
    correction_weights,
    discrepancies,
    drawn_in_order,
    largest_in_order,
    ranks_of,
)
from recbole_derrd.distillers.rrd import relaxed_ranking_loss
from recbole_derrd.errors import OptionError, TrainingError
from recbole_derrd.testing import LossContract, World, history_of, make_world, some_rows, step

K, T, N = 4, 3.0, 12
#: Section 7 of the facts: the student's scores, the teacher's best six, what follows from them.
STUDENT = (0.1, 1.2, 0.8, 0.4, -0.5, 0.9, 0.2, 0.3)
TEACHER_S_BEST = (0, 1, 7, 4, 2, 6)
DIFFERENCES = (6, -1, 2, 4, -2, 0)
UNDER = (0.9950547536867305, 1e-5, 0.7615941559557649, 0.9640275800758169, 1e-5, 1e-5)
OVER = (1e-5, 0.46211715726000974, 1e-5, 1e-5, 0.7615941559557649, 1e-5)


def build(world: World, seed: int = 5, epoch: int = 0, **options: Any) -> DualCorrectionDistillation:
    """Build the method with small sizes and draw an epoch's items."""
    sizes = {"k": K, "t": T, "top_n": N, **options}
    distiller = DualCorrectionDistillation(DCDOptions(**sizes), world.knowledge, world.student, seed)
    distiller.begin_epoch(epoch)
    return distiller


def drawn(distiller: DualCorrectionDistillation) -> Tensor:
    """Return the epoch's items."""
    assert distiller.items is not None
    return distiller.items


def table(world: World) -> Tensor:
    """Return the student's scores of all users and items."""
    return (world.student.model.users.weight @ world.student.model.items.weight.T).detach()


def naive_rank(scores: list[float], item: int) -> int:
    """Return how many items of the catalogue, of which 0 is none, have a higher score."""
    return sum(1 for other in range(1, len(scores)) if scores[other] > scores[item])


def naive_weights(differences: list[int], t: float) -> list[float]:
    """Return the weights as the paper writes them."""
    return [max(math.tanh(max(difference / t, 0)), 1e-5) for difference in differences]


def naive_differences(world: World, user: int, top_n: int = N, unobserved: bool = False) -> dict[int, int]:
    """Return d of each of the teacher's best items, by plain sorts; training items may count nowhere."""
    scores = table(world)[user].tolist()
    for item in world.seen(user) if unobserved else ():
        scores[item] = -math.inf
    return {item: naive_rank(scores, item) - rank for rank, item in enumerate(world.teacher_order(user)[:top_n])}


def naive_loss(under: list[float], over: list[float]) -> float:
    """Return one user's loss from its scores as the formula says."""
    below = sum(map(math.exp, over))
    tails = [sum(map(math.exp, under[k:])) + below for k in range(len(under))]
    return -sum(math.log(math.exp(score) / tail) for score, tail in zip(under, tails))


def naive_forward(distiller: DualCorrectionDistillation, world: World, batch: StepBatch) -> float:
    """Return L_DCD / rows user by user from the student's table."""
    scores, total = table(world).double().tolist(), 0.0
    for user in batch.users.tolist():
        own = [scores[user][item] for item in drawn(distiller)[user].tolist()]
        total += naive_loss(own[: distiller.options.k], own[distiller.options.k :])
    return total / batch.rows


def catalogue(scores: tuple[float, ...] | list[float]) -> Tensor:
    """Return one user's scores with those of a padding item, which is above all and counts nowhere."""
    return torch.tensor([[1e9, *scores]], dtype=torch.float64)


some_scores = st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=12)


class TestDCD(LossContract):
    """The five kinds of test for DCD."""

    method = "dcd"

    # Reference loops

    @given(some_scores, st.integers(1, 12))
    @settings(max_examples=60, deadline=None)
    def test_reference_ranks(self, scores: list[float], depth: int) -> None:
        """Of all items, equal scores among them, and none above a depth of fewer."""
        depth = min(depth, len(scores))
        items = torch.arange(1, len(scores) + 1).unsqueeze(0)
        expected = [min(depth, naive_rank([1e9, *scores], item)) for item in items[0].tolist()]
        assert ranks_of(catalogue(scores), items, depth).tolist() == [expected]

    @given(st.lists(st.integers(-300, 300), min_size=1, max_size=9), st.floats(0.1, 50))
    @settings(max_examples=60, deadline=None)
    def test_reference_weights(self, differences: list[int], t: float) -> None:
        for sign in (1, -1):
            found = correction_weights(sign * torch.tensor(differences), t)
            assert found.dtype == torch.float64
            assert found.tolist() == pytest.approx(naive_weights([sign * one for one in differences], t), rel=1e-12)

    @pytest.mark.parametrize("interesting", ["sampled", "topk"])
    def test_reference_forward(self, world: World, interesting: str) -> None:
        """Prevents items read by position in the batch, and a split of the scores at the wrong column."""
        distiller = build(world, interesting=interesting)
        for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
            assert distiller(batch).item() == pytest.approx(naive_forward(distiller, world, batch), rel=1e-4)

    @pytest.mark.parametrize("counted", ["all", "unobserved"])
    def test_reference_largest_weights(self, world: World, counted: str) -> None:
        """By plain floats: the largest first, equal ones in the teacher's order."""
        before = table(world)
        items = drawn(build(world, interesting="topk", student_ranks=counted))
        assert torch.equal(table(world), before)
        for user in range(1, 13):
            differences = naive_differences(world, user, unobserved=counted == "unobserved")
            for sign, row in ((1, items[user, :K]), (-1, items[user, K:])):
                weights = dict(zip(differences, naive_weights([sign * one for one in differences.values()], T)))
                assert row.tolist() == sorted(weights, key=lambda item: -weights[item])[:K]

    # Gradients

    def test_gradcheck_scores(self) -> None:
        """Of the catalogue, through both sets; item 5 is in both, and the last position holds nothing."""
        scores = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
        items = torch.tensor([[3, 5, 1, 5, 7, 2], [6, 2, 0, 1, 4, 0]])

        def loss(own: Tensor) -> Tensor:
            listed = own.gather(1, items)
            return relaxed_ranking_loss(listed[:, :3], listed[:, 3:], items > 0)

        assert torch.autograd.gradcheck(loss, (scores,))

    # Invariants

    @given(some_scores, st.floats(0.1, 5), st.integers(-5, 5))
    @settings(max_examples=60, deadline=None)
    def test_invariant_only_the_order_of_scores_counts(self, scores: list[float], scale: float, shift: int) -> None:
        items = torch.arange(1, len(scores) + 1).unsqueeze(0)
        moved = [math.atan(scale * (score + shift)) for score in scores]
        assert torch.equal(*(ranks_of(catalogue(one), items, len(scores)) for one in (scores, moved)))

    @given(st.permutations(range(8)))
    @settings(max_examples=60, deadline=None)
    def test_invariant_differences_of_a_whole_ranking_cancel(self, order: list[int]) -> None:
        """Whoever is too low makes others too high."""
        items = torch.tensor([[one + 1 for one in order]])
        differences = discrepancies(ranks_of(catalogue(STUDENT), items, 8))
        assert int(differences.sum()) == 0
        agreed = sorted(range(8), key=lambda item: -STUDENT[item])
        assert bool((differences == 0).all()) is (list(order) == agreed)

    @given(st.lists(st.integers(-60, 60), min_size=1, max_size=9), st.floats(0.5, 20))
    @settings(max_examples=60, deadline=None)
    def test_invariant_of_the_weights(self, differences: list[int], t: float) -> None:
        """Within [1e-5, 1], never falling with d, and at most one of the two above the least."""
        ordered = torch.tensor(sorted(differences))
        under, over = correction_weights(ordered, t), correction_weights(-ordered, t)
        assert all((one >= 1e-5).all() and (one <= 1).all() for one in (under, over))
        assert (under.diff() >= 0).all() and (over.diff() <= 0).all()
        assert (torch.minimum(under, over) == 1e-5).all()

    @given(st.integers(0, 1000), st.sampled_from([0.1, 1.0, 3.0]))
    @settings(max_examples=30, deadline=None)
    def test_invariant_depth_of_the_students_ranking(self, seed: int, t: float) -> None:
        """Ranks beyond N + 20 T change no weight, to the last bit."""
        scores = torch.randn(3, 201, generator=torch.Generator().manual_seed(seed))
        items = torch.stack([torch.randperm(200)[:20] + 1 for _ in range(3)])
        weights = [
            [correction_weights(sign * discrepancies(ranks_of(scores, items, depth)), t) for sign in (1, -1)]
            for depth in (20 + math.ceil(20 * t), 200)
        ]
        assert all(torch.equal(*sides) for sides in zip(*weights))

    # Golden values

    def test_golden_differences(self) -> None:
        """Origin: algorithms_more.md, section 7, by independent code in float64; items from 1 here."""
        items = torch.tensor([TEACHER_S_BEST]) + 1
        ranks = ranks_of(catalogue(STUDENT), items, 8)
        assert ranks.tolist() == [[6, 0, 4, 7, 2, 5]]
        assert discrepancies(ranks).tolist() == [list(DIFFERENCES)]

    def test_golden_weights(self) -> None:
        """Origin: algorithms_more.md, section 7; T = 2."""
        differences = torch.tensor(DIFFERENCES)
        assert correction_weights(differences, 2.0).tolist() == pytest.approx(UNDER, rel=1e-14)
        assert correction_weights(-differences, 2.0).tolist() == pytest.approx(OVER, rel=1e-14)

    def test_golden_loss(self) -> None:
        """Origin: algorithms_more.md, section 7: (0, 7) drawn as under-, (5, 3) as over-estimated."""
        under, over = (torch.tensor([[STUDENT[item] for item in items]]).double() for items in ((0, 7), (5, 3)))
        assert relaxed_ranking_loss(under, over).item() == pytest.approx(3.1252560203390227, rel=1e-6)

    def test_golden_module(self, tmp_path: Path) -> None:
        """The module on section 7's scores: T 2, K 2, the largest weights are (0, 4) under and (2, 1) over."""
        teacher = (2.0, 1.5, 0.3, -0.2, 0.9, -1.0, 0.0, 1.1)
        world = make_world(tmp_path, [[]], n_items=9)
        for side, scores in ((world.student, STUDENT), (world.teacher, teacher)):
            with torch.no_grad():
                side.model.users.weight.zero_()[:, 0] = 1.0
                side.model.items.weight[1:, 0] = torch.tensor(scores)
        distiller = build(world, k=2, t=2.0, top_n=6, interesting="topk")
        assert (drawn(distiller)[1] - 1).tolist() == [0, 4, 2, 1]
        expected = naive_loss([0.1, -0.5], [0.8, 1.2])
        assert distiller(step([1], [], [])).item() == pytest.approx(expected, rel=1e-6)

    def test_golden_module_at_zero_scores(self, world: World) -> None:
        """Three users at ln(8! / 4!) = ln 1680 each, over eight rows."""
        torch.nn.init.zeros_(world.student.model.items.weight)
        assert build(world)(self.batch).item() == pytest.approx(3 * math.log(1680) / 8, rel=1e-5)

    # Optimisation

    def test_optimisation_corrects_the_ranks(self, world: World) -> None:
        """What is ranked too low rises above what is ranked too high; over the epochs the ranks near the teacher's."""
        users, depth = list(range(1, 13)), 30
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)
        distiller = build(world, interesting="topk", top_n=depth)
        items = drawn(distiller).long()

        def learn() -> float:
            optimizer.zero_grad()
            loss = distiller(step(users, [], [], rows=12))
            loss.backward()
            optimizer.step()
            return loss.item()

        def margin() -> float:
            scores = table(world).gather(1, items)[1:]
            return float((scores[:, :K].mean(dim=1) - scores[:, K:].mean(dim=1)).mean())

        def distance() -> float:
            """Return how many ranks the teacher's best items are off."""
            found = [abs(one) for user in users for one in naive_differences(world, user, depth).values()]
            return sum(found) / len(found)

        def agreement() -> float:
            orders = [(world.teacher_order(user)[:depth], table(world)[user]) for user in users]
            return sum(stats.kendalltau(-scores[order], range(depth)).statistic for order, scores in orders) / 12

        before, off, agreed = margin(), distance(), agreement()
        losses = [learn() for _ in range(10)]
        assert all(later < earlier for earlier, later in zip(losses, losses[1:])) and margin() > before + 1
        for epoch in range(1, 101):
            distiller.begin_epoch(epoch)
            learn()
        assert distance() < 0.9 * off and agreement() > agreed + 0.15


class TestDrawing:
    """The epoch's items of all users."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give thirty users and sixty items."""
        return make_world(tmp_path / "knowledge", some_rows(30, 61, 20, seed=3), n_items=61)

    def test_order_and_odds_of_a_draw(self) -> None:
        """Against the exact probabilities of drawing one after the other: w_a / W, then w_b / (W - w_a)."""
        weights = torch.tensor([0.9, 0.1, 0.0, 0.4, 0.2], dtype=torch.float64)
        generator = torch.Generator().manual_seed(1)
        uniform = torch.rand(20_000, 5, dtype=torch.float64, generator=generator)
        found = Counter(map(tuple, drawn_in_order(weights.expand(20_000, -1), uniform, 2).tolist()))
        total = float(weights.sum())
        expected = {
            (a, b): 20_000 * float(weights[a] / total * weights[b] / (total - weights[a]))
            for a, b in itertools.permutations((0, 1, 3, 4), 2)
        }
        assert set(found) == set(expected)
        assert stats.chisquare([found[pair] for pair in expected], list(expected.values())).pvalue > 0.01

    def test_equal_weights_are_taken_in_order(self) -> None:
        weights = torch.ones(2, 700, dtype=torch.float64)
        weights[1, 650] = 2
        found = largest_in_order(weights, 3)
        assert found.tolist() == [[0, 1, 2], [650, 0, 1]]

    @pytest.mark.parametrize("at_once", [8192, 40, 1])
    @pytest.mark.parametrize("interesting", ["sampled", "topk"])
    def test_sets(self, world: World, monkeypatch: pytest.MonkeyPatch, interesting: str, at_once: int) -> None:
        """Distinct items of the teacher's head on each side, and the same ones however many users are drawn for."""
        whole = drawn(build(world, interesting=interesting))
        monkeypatch.setattr(dcd_module, "_DRAWN_AT_ONCE", at_once)
        items = drawn(build(world, interesting=interesting))
        assert torch.equal(items, whole) and items.shape == (31, 2 * K) and not items[0].any()
        for user in range(1, 31):
            head = world.teacher_order(user)[:N]
            for row in (items[user, :K].tolist(), items[user, K:].tolist()):
                assert len(set(row)) == K and set(row) <= set(head)

    def test_ranks_of_some_users_at_a_time_change_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """As few as fit into a core's cache, and as few as fit into one search."""
        whole = drawn(build(world))
        monkeypatch.setattr("recbole_derrd.teacher.exact._FEWEST_USERS", 7)
        monkeypatch.setattr("recbole_derrd.teacher.exact._CACHED_SCORES", 1)
        assert torch.equal(drawn(build(world)), whole)
        monkeypatch.setattr("recbole_derrd.teacher.exact._CPU_SCORES", 1)
        assert torch.equal(drawn(build(world)), whole)

    def test_who_is_drawn_is_wrong(self, world: World) -> None:
        """The first K are of those that the student ranks too low, the last of those too high, where there are K."""
        checked = Counter[str]()
        for epoch in range(5):
            items = drawn(build(world, epoch=epoch, top_n=40))
            for user in range(1, 31):
                differences = naive_differences(world, user, 40)
                for side, sign, row in (("under", 1, items[user, :K]), ("over", -1, items[user, K:])):
                    # An item of the least weight is drawn once in thousands of times.
                    if sum(sign * one > 0 for one in differences.values()) >= K + 2:
                        checked[side] += 1
                        assert all(sign * differences[item] > 0 for item in row.tolist())
        assert checked["under"] > 100 and checked["over"] > 20

    def test_likelier_the_further_off(self, world: World) -> None:
        """Over many epochs, against a plain sequential draw with the weights of plain floats."""
        user, epochs = 4, 400
        differences = naive_differences(world, user)
        weights = torch.tensor(naive_weights(list(differences.values()), T), dtype=torch.float64)
        distiller = build(world)
        first: Counter[int] = Counter()
        for epoch in range(epochs):
            distiller.begin_epoch(epoch)
            first[int(drawn(distiller)[user, 0])] += 1
        expected = dict(zip(differences, (epochs * weights / weights.sum()).tolist()))
        likely = [item for item in expected if expected[item] > 5]
        assert len(likely) > 4
        observed = [first[item] for item in likely]
        assert sum(observed) >= epochs - 10
        scaled = [expected[item] * sum(observed) / sum(expected[one] for one in likely) for item in likely]
        assert stats.chisquare(observed, scaled).pvalue > 0.01

    def test_ranks_are_those_of_the_epoch(self, world: World) -> None:
        """A student that has changed is corrected elsewhere; one ranking for the whole run would be another method."""
        distiller = build(world, interesting="topk")
        before = drawn(distiller)
        with torch.no_grad():
            world.student.model.users.weight.neg_()
        distiller.begin_epoch(1)
        assert not torch.equal(drawn(distiller)[:, :K], before[:, :K])
        assert not torch.equal(drawn(distiller)[:, K:], before[:, K:])

    def test_training_items_count_in_the_students_ranks(self, tmp_path: Path) -> None:
        """A student with the teacher's scores: d is the number of training items above, nothing is ranked too high."""
        order = make_world(tmp_path / "all", [[]], n_items=21).teacher_order(1)
        seen = [order[place] for place in (1, 4, 12)]
        world = make_world(tmp_path, [seen], n_items=21, student_size=6)
        world.student.model.load_state_dict(world.teacher.model.state_dict())
        found = naive_differences(world, 1)
        assert list(found.values()) == [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3]
        distiller = build(world)
        assert discrepancies(distiller._student_ranks(1, 2)).tolist() == [list(found.values())]
        head = world.teacher_order(1)
        assert drawn(build(world, interesting="topk"))[1].tolist() == [*head[10:12], *head[3:5], *head[:K]]
        alone = build(world, student_ranks="unobserved")
        assert not discrepancies(alone._student_ranks(1, 2)).any()

    def test_scores_that_lie_in_the_students_memory_stay(self, world: World) -> None:
        """A student that ranks from a table of its own must not lose its training items by being looked at."""
        kept = table(world)
        expected = kept.clone()
        world.student.score_all = lambda users: kept[int(users[0]) : int(users[-1]) + 1]  # type: ignore[method-assign]
        build(world, student_ranks="unobserved")
        build(world)
        assert torch.equal(kept, expected)

    @pytest.mark.parametrize("training", [True, False])
    def test_drawing_leaves_no_trace(self, world: World, training: bool) -> None:
        """The global generator and the student's mode are as they were, and the student is looked at as it is used."""
        world.student.model.train(training)
        seen: list[bool] = []
        score_all = world.student.score_all

        def looked_at(users: Tensor) -> Tensor:
            seen.append(world.student.model.training or torch.is_grad_enabled())
            return score_all(users)

        world.student.score_all = looked_at  # type: ignore[method-assign]
        state = torch.get_rng_state()
        build(world)
        assert torch.equal(torch.get_rng_state(), state) and seen and not any(seen)
        assert world.student.model.training is training and world.student._shared is None

    def test_resumed_run_draws_what_an_uninterrupted_one_draws(self, world: World) -> None:
        """The draw depends on seed, epoch and the student's weights only."""
        through = build(world)
        for epoch in range(1, 8):
            through.begin_epoch(epoch)
        assert torch.equal(drawn(through), drawn(build(world, epoch=7)))
        for other in (build(world, epoch=6), build(world, epoch=7, seed=6)):
            assert not torch.equal(drawn(through)[:, :K], drawn(other)[:, :K])
            assert not torch.equal(drawn(through)[:, K:], drawn(other)[:, K:])

    def test_each_side_has_its_own_random_numbers(self, world: World) -> None:
        """Where all weights are equal, both sides would draw the same items by the same numbers."""
        torch.nn.init.zeros_(world.student.model.items.weight)
        items = drawn(build(world, t=1e9))
        assert not torch.equal(items[:, :K], items[:, K:])

    def test_list_longer_than_the_catalogue(self, world: World) -> None:
        """top_n 500 of 60 items: each ranking is what the user has not seen, and no padding is drawn."""
        items = drawn(build(world, top_n=500))
        for user in range(1, 31):
            row = items[user].tolist()
            assert set(row) <= set(world.teacher_order(user)) and len(set(row[:K])) == len(set(row[K:])) == K

    def test_forward_before_the_first_epoch(self, world: World) -> None:
        distiller = DualCorrectionDistillation(DCDOptions(k=K, top_n=N), world.knowledge, world.student, seed=0)
        with pytest.raises(RuntimeError, match="begin_epoch"):
            distiller(step([1], [2], [3]))

    @pytest.mark.parametrize("item", [5, 60])
    def test_a_student_that_has_diverged(self, world: World, item: int) -> None:
        with torch.no_grad():
            world.student.model.items.weight[item] = torch.nan
        with pytest.raises(TrainingError, match="The student's scores hold NaN"):
            build(world)

    def test_infinite_scores_have_ranks(self) -> None:
        scores = catalogue([-math.inf, 2.0, -math.inf, math.inf])
        assert ranks_of(scores, torch.tensor([[1, 2, 3, 4]]), 4).tolist() == [[2, 1, 2, 0]]


def naive_users_of(world: World, item: int, top_n: int) -> dict[int, int]:
    """Return d of each of the teacher's best users of an item who have not interacted with it, by plain sorts."""
    teacher = (world.teacher.model.users.weight @ world.teacher.model.items.weight.T).detach().T[item].tolist()
    student = table(world).T[item].tolist()
    strangers = [user for user in range(1, len(student)) if item not in world.seen(user)]
    best = sorted(strangers, key=lambda user: -teacher[user])[:top_n]
    return {user: naive_rank(student, user) - rank for rank, user in enumerate(best)}


class TestItemSide(LossContract):
    """Each item's ranking of users, corrected as well."""

    method = "dcd"
    base_options: ClassVar = {"k": K, "t": T, "top_n": N, "item_weight": 0.5}
    random_options: ClassVar = {"sample": 0.5}
    reaches_other_users = True

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give a world in which every item has users left."""
        return make_world(tmp_path / "knowledge", some_rows(30, 41, 6), n_items=41)

    def users_of_items(self, distiller: DualCorrectionDistillation) -> Tensor:
        assert distiller.item_side is not None
        return drawn(distiller.item_side)

    @pytest.mark.parametrize("weight", [0.5, 3.0])
    def test_reference_forward(self, world: World, weight: float) -> None:
        """The users' sum, and that of the batch's positive items, each once, over all of the batch's rows."""
        distiller = build(world, item_weight=weight)
        users, scores = self.users_of_items(distiller), table(world).double().T.tolist()
        for batch in (self.batch, step([12, 2], [5, 5, 8], [3], rows=3), step([1], [], [], rows=2)):
            expected = naive_forward(distiller, world, batch)
            for item in batch.positives.tolist():
                own = [scores[item][user] for user in users[item].tolist()]
                expected += weight * naive_loss(own[:K], own[K:]) / batch.rows
            assert distiller(batch).item() == pytest.approx(expected, rel=1e-4)

    def test_the_user_side_is_as_without(self, world: World) -> None:
        assert torch.equal(drawn(build(world, item_weight=2.0)), drawn(build(world)))
        assert build(world).item_side is None

    @pytest.mark.parametrize("student_ranks", ["all", "unobserved"])
    def test_users_with_the_largest_weights(self, world: World, student_ranks: str) -> None:
        """By ranks of users: of strangers of the item alone, or of all, none of them the padding user."""
        distiller = build(world, item_weight=1.0, interesting="topk", student_ranks=student_ranks)
        users = self.users_of_items(distiller)
        assert users.shape == (41, 2 * K) and not users[0].any()
        for item in range(1, 41):
            found = naive_users_of(world, item, N)
            if student_ranks == "unobserved":
                scores = table(world).T[item]
                strangers = [user for user in range(1, 31) if item not in world.seen(user)]
                higher = {user: sum(bool(scores[one] > scores[user]) for one in strangers) for user in found}
                found = {user: higher[user] - rank for rank, user in enumerate(found)}
            for sign, row in ((1, users[item, :K]), (-1, users[item, K:])):
                weights = naive_weights([sign * one for one in found.values()], T)
                best = sorted(range(len(weights)), key=lambda place: (-weights[place], place))[:K]
                assert row.tolist() == [list(found)[place] for place in best]

    def test_each_side_draws_by_its_own_numbers(self, tmp_path: Path) -> None:
        """As many users as items, nobody has anything, all weights alike: the same numbers would give the same draw."""
        world = make_world(tmp_path, [[] for _ in range(20)], n_items=21)
        torch.nn.init.zeros_(world.student.model.items.weight)
        distiller = build(world, item_weight=1.0, t=1e9, top_n=20)
        places = [
            [order.index(one) for one in row]
            for items, order_of in (
                (drawn(distiller), world.teacher_order),
                (self.users_of_items(distiller), lambda item: list(naive_users_of(world, item, 20))),
            )
            for row, order in [(items[1].tolist(), list(order_of(1)))]
        ]
        assert places[0] != places[1]

    def test_both_sides_learn(self, world: World) -> None:
        distiller = build(world, interesting="topk", item_weight=1.0)
        items, users = drawn(distiller).long(), self.users_of_items(distiller).long()
        batch = step(range(1, 31), range(1, 41), [], rows=30)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)

        def margins() -> list[float]:
            scores = table(world)
            sides = (scores[1:].gather(1, items[1:]), scores.T[1:].gather(1, users[1:]))
            return [float(side[:, :K].mean() - side[:, K:].mean()) for side in sides]

        before = margins()
        for _ in range(30):
            optimizer.zero_grad()
            distiller(batch).backward()
            optimizer.step()
        assert all(after > first + 0.3 for first, after in zip(before, margins()))

    def test_a_batch_of_users_only_is_refused(self, world: World) -> None:
        with pytest.raises(OptionError, match="dcd_item_weight needs the items of a batch"):
            build(world, item_weight=1.0)(StepBatch(torch.tensor([1, 2]), None, None, 2))

    def test_a_student_without_embeddings_is_refused(self, world: World) -> None:
        world.student.__class__ = Adapter
        with pytest.raises(OptionError, match="only students with embeddings"):
            build(world, item_weight=1.0)

    def test_items_that_nearly_all_have_seen_are_refused(self) -> None:
        everybody = history_of([list(range(1, 9)) for _ in range(9)], n_items=30)
        found = DualCorrectionDistillation.requirements(DCDOptions(k=4, item_weight=1.0, top_n=9), everybody)
        assert [one.side for one in found] == ["user", "item"] and "items" in (found[1].note() or "")


class TestFewItems:
    """Users with nearly nothing left to rank, and sizes that do not fit."""

    @pytest.mark.parametrize("unobserved", range(K + 1))
    @pytest.mark.parametrize("interesting", ["sampled", "topk"])
    def test_takes_what_there_is(self, tmp_path: Path, unobserved: int, interesting: str) -> None:
        """All items on each side, from the left, and the loss of plain floats; nothing of the padding item."""
        world = make_world(tmp_path, [[1, 2], list(range(1, 31 - unobserved)), [30]], n_items=31)
        distiller = build(world, interesting=interesting)
        row, left = drawn(distiller)[2].tolist(), sorted(world.teacher_order(2))
        for side in (row[:K], row[K:]):
            assert sorted(side[:unobserved]) == left and not any(side[unobserved:])
        assert bool((drawn(distiller)[[1, 3]] > 0).all()) and distiller.all_full is (unobserved == K)
        loss = distiller(step([2], [], [], rows=2))
        scores = table(world)[2].double()
        under, over = (scores[side[:unobserved]].tolist() for side in (row[:K], row[K:]))
        assert loss.item() == pytest.approx(naive_loss(under, over) / 2 if unobserved else 0.0, rel=1e-5, abs=1e-7)
        loss.backward()
        gradient = world.student.model.items.weight.grad
        assert gradient is not None and torch.isfinite(gradient).all() and not gradient[0].any()

    def test_too_few_for_all_is_refused_with_the_number(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, [list(range(1, 28))] * 3, n_items=31)
        with pytest.raises(OptionError, match=r"dcd_k = 4 .*only 3 unobserved.*Lower dcd_k to 3\b"):
            build(world)
        assert torch.isfinite(build(world, k=3)(step([1], [], [])))

    def test_more_than_the_catalogue_holds(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="Lower dcd_k to"):
            build(make_world(tmp_path, [[1], []], n_items=31), k=40, top_n=50)

    def test_ranking_shorter_than_k(self) -> None:
        with pytest.raises(OptionError, match="dcd_top_n = 5 is shorter than dcd_k = 8"):
            DCDOptions(k=8, top_n=5)
        assert DCDOptions(k=8, top_n=8).k == 8


def test_share_of_users_is_unbiased(tmp_path: Path) -> None:
    """One user of three: three times each user's own loss, whose mean is the whole term."""
    world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
    whole, part = build(world), build(world, sample=0.34)
    each = [3 * whole(step([user], [], [], rows=8)).item() for user in (1, 3, 4)]
    assert sum(each) / 3 == pytest.approx(whole(LossContract.batch).item(), rel=1e-5)
    losses = [part(LossContract.batch).item() for _ in range(60)]
    assert all(min(abs(loss - one) for one in each) < 1e-4 for loss in losses)
    assert {min(range(3), key=lambda one: abs(each[one] - loss)) for loss in losses} == {0, 1, 2}
