"""UnKD: the formula and the draw on plain floats, gradients, what it implies, known values, training, planted data."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import recbole_derrd.distillers.unkd as unkd_module
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.unkd import (
    UnbiasedDistillation,
    UnKDOptions,
    drawn_pairs,
    drawn_positions,
    pair_loss,
    popularity_groups,
)
from recbole_derrd.errors import OptionError
from recbole_derrd.testing import LossContract, World, assert_share_is_unbiased, make_world, some_rows, step

SIZES = UnbiasedDistillation.test_settings
GROUPS, PAIRS, N, T = SIZES["groups"], SIZES["pairs"], SIZES["top_n"], SIZES["decay"]


def build(world: World, seed: int = 5, epoch: int = 0, **options: Any) -> UnbiasedDistillation:
    """Build the method with small sizes and draw an epoch's pairs."""
    distiller = UnbiasedDistillation(UnKDOptions(**{**SIZES, **options}), world.knowledge, world.student, seed)
    distiller.begin_epoch(epoch)
    return distiller


def pairs_of(distiller: UnbiasedDistillation, user: int) -> list[list[tuple[int, int]]]:
    """Return a user's pairs, group by group."""
    assert distiller.items is not None
    row, per_group = distiller.items[user].tolist(), distiller.options.pairs
    pairs = list(zip(row[: len(row) // 2], row[len(row) // 2 :]))
    return [pairs[start : start + per_group] for start in range(0, len(pairs), per_group)]


def naive_groups(interactions: list[int], count: int) -> dict[int, int]:
    """Return the group of each item, by laying the interactions of all items in a row."""
    owners = [
        item for item in sorted(range(1, len(interactions)), key=lambda one: -interactions[one])
        for _ in range(interactions[item])
    ]  # fmt: skip
    first = {item: place for place, item in reversed(list(enumerate(owners)))}
    return {
        item: first[item] * count // len(owners) if item in first else count for item in range(1, len(interactions))
    }


def groups_of(world: World, count: int = GROUPS) -> dict[int, int]:
    """Return the group of each item of a world."""
    counts = Counter(world.history.items.tolist())
    return naive_groups([counts[item] for item in range(world.history.n_items)], count)


def parts_of(world: World, user: int, count: int = GROUPS, top_n: int = N) -> list[list[int]]:
    """Return each group's part of the teacher's ranking of a user, by plain sorts."""
    groups = groups_of(world, count)
    ranking = world.teacher_order(user)[:top_n]
    return [[item for item in ranking if groups[item] == group] for group in range(count)]


def naive_forward(distiller: UnbiasedDistillation, world: World, batch: StepBatch) -> float:
    """Return L_UnKD / rows pair by pair from the student's table."""
    scores = (world.student.model.users.weight @ world.student.model.items.weight.T).detach().double().tolist()
    return (
        sum(
            -math.log(1 / (1 + math.exp(scores[user][lower] - scores[user][higher])))
            for user in batch.users.tolist()
            for higher, lower in itertools.chain(*pairs_of(distiller, user))
            if higher
        )
        / batch.rows
    )


def naive_chances(length: int, decay: float) -> dict[tuple[int, int], float]:
    """Return the probability of each pair of positions, drawn one after the other."""
    weights = [math.exp(-place / decay) for place in range(length)]
    total = sum(weights)
    return {
        (a, b): weights[a] / total * weights[b] / (total - weights[a])
        + weights[b] / total * weights[a] / (total - weights[b])
        for a, b in itertools.combinations(range(length), 2)
    }


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Return seeded uniform numbers."""
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


counts_of_items = st.lists(st.integers(0, 20), min_size=2, max_size=20)


class TestUnKD(LossContract):
    """The five kinds of test for UnKD."""

    method = "unkd"

    # Reference loops

    @given(counts_of_items, st.integers(1, 6))
    @settings(max_examples=80, deadline=None)
    def test_reference_groups(self, counts: list[int], count: int) -> None:
        """By laying all interactions in a row; the padding item has a group of its own, whatever it counts."""
        if not any(counts):
            counts[0] = 1
        found = popularity_groups(torch.tensor([99, *counts]), count)
        assert found.dtype == torch.uint8 and found[0] == count
        assert dict(enumerate(found.tolist()[1:], 1)) == naive_groups([99, *counts], count)

    @pytest.mark.parametrize("options", [{}, {"groups": 1}, {"groups": 4, "pairs": 1}, {"top_n": 500, "decay": 0.1}])
    def test_reference_forward(self, world: World, options: dict[str, Any]) -> None:
        """Prevents pairs read by position in the batch, halves that do not belong together, and a turned sign."""
        distiller = build(world, **options)
        for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
            expected = naive_forward(distiller, world, batch)
            assert expected > 0 and distiller(batch).item() == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize(("length", "decay"), [(5, 1.5), (4, 20.0), (6, 0.8), (2, 1.0), (5, 1e9)])
    def test_reference_draw(self, length: int, decay: float) -> None:
        """Every pair as often as drawing one position after the other without replacement gives it."""
        draws = 30_000
        lower, higher = drawn_pairs(uniform(draws, 3), torch.full((draws,), float(length)).double(), decay)
        found = Counter(zip(lower.long().tolist(), higher.long().tolist()))
        expected = naive_chances(length, decay)
        assert set(found) <= set(expected)
        if length > 2:
            pairs = [pair for pair in expected if expected[pair] * draws > 5]
            observed, wanted = [found[pair] for pair in pairs], [expected[pair] for pair in pairs]
            scaled = [one * sum(observed) / sum(wanted) for one in wanted]
            assert sum(observed) > 0.99 * draws and stats.chisquare(observed, scaled).pvalue > 0.01

    # Gradients

    def test_gradcheck_scores(self) -> None:
        scores = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
        higher, lower = torch.tensor([[1, 3, 5, 0], [2, 7, 0, 4]]), torch.tensor([[3, 7, 1, 0], [6, 2, 0, 5]])

        def loss(own: Tensor) -> Tensor:
            return pair_loss(own.gather(1, higher), own.gather(1, lower), higher > 0)

        assert torch.autograd.gradcheck(loss, (scores,))

    # Invariants

    @given(counts_of_items, st.integers(1, 6))
    @settings(max_examples=80, deadline=None)
    def test_invariant_groups_have_equal_mass(self, counts: list[int], count: int) -> None:
        """Within the largest item; and no item of a later group is more popular than one of an earlier group."""
        interactions = torch.tensor([0, *counts])
        groups = popularity_groups(interactions, count)[1:].long()
        own = interactions[1:]
        for group in range(count):
            assert abs(int(own[groups == group].sum()) - sum(counts) / count) <= max(counts)
        for group in range(count - 1):
            earlier, later = own[groups <= group], own[groups > group]
            assert not len(earlier) or not len(later) or int(earlier.min()) >= int(later.max())

    @given(st.integers(1, 2000), st.floats(1e-3, 1e6), st.integers(0, 99))
    @settings(max_examples=80, deadline=None)
    def test_invariant_positions(self, length: int, decay: float, seed: int) -> None:
        """Within the part at any temperature, two different ones, and the larger number never comes earlier."""
        numbers, lengths = uniform(50, 3, seed=seed), torch.full((50,), float(length), dtype=torch.float64)
        numbers[0], numbers[1] = 0.0, 1 - 2**-53
        ordered = drawn_positions(numbers[:, 0].sort().values, lengths, decay)
        assert (ordered >= 0).all() and (ordered < length).all() and (ordered.diff() >= 0).all()
        if length > 1:
            lower, higher = drawn_pairs(numbers, lengths, decay)
            assert (lower >= 0).all() and (lower < higher).all() and (higher < length).all()

    @given(st.lists(st.floats(-50, 50), min_size=2, max_size=2), st.floats(-100, 100))
    @settings(max_examples=60, deadline=None)
    def test_invariant_of_the_loss(self, scores: list[float], shift: float) -> None:
        """A shift of all scores changes nothing; turning a pair round changes it by the difference."""
        higher, lower = torch.tensor([scores], dtype=torch.float64).split(1, dim=1)
        held = torch.tensor([[True]])
        loss = pair_loss(higher, lower, held)
        assert loss.item() >= 0
        torch.testing.assert_close(pair_loss(higher + shift, lower + shift, held), loss, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(pair_loss(lower, higher, held) - loss, (higher - lower)[:, 0])
        assert pair_loss(higher, lower, ~held).item() == 0

    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_invariant_huge_scores_stay_finite(self, world: World, size: float) -> None:
        with torch.no_grad():
            world.student.model.users.weight.mul_(size)
        loss = build(world)(self.batch)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(world.student.model.items.weight.grad).all()

    # Golden values

    def test_golden_pair(self) -> None:
        """Origin: algorithms_more.md, section 7, by independent code in float64: s_i = .8, s_j = .3."""
        better, worse = (torch.tensor([[score]], dtype=torch.float64) for score in (0.8, 0.3))
        assert pair_loss(better, worse, better > 0).item() == pytest.approx(0.4740769841801067, rel=1e-14)

    def test_golden_groups(self) -> None:
        """Twelve interactions: items of 5 and 2 begin in the first half, those of 2, 1, 1 and 1 in the second."""
        interactions = torch.tensor([0, 1, 5, 2, 0, 1, 2, 1])
        assert popularity_groups(interactions, 2).tolist() == [2, 1, 0, 0, 2, 1, 1, 1]
        assert popularity_groups(interactions, 3).tolist() == [3, 2, 0, 1, 3, 2, 1, 2]
        # One interaction is all of them.
        assert popularity_groups(torch.tensor([0, 1, 0]), 4).tolist() == [4, 0, 4]

    def test_golden_module(self, tmp_path: Path) -> None:
        """Two items a group and user: the pair is known, and the term is that of two differences."""
        world = make_world(tmp_path, [[], [1, 2], [1, 2], [1], [3, 4], [3]], n_items=5)
        for side, scores in ((world.student, (0.1, 0.4, 0.8, 0.3)), (world.teacher, (1.0, 2.0, 4.0, 3.0))):
            with torch.no_grad():
                side.model.users.weight.zero_()[:, 0] = 1.0
                side.model.items.weight[1:, 0] = torch.tensor(scores)
        distiller = build(world, pairs=1)
        # Item 1 has 3 of the 8 interactions, items 2 and 3 have 2 each, item 4 one: groups {1, 2} and {3, 4}.
        assert pairs_of(distiller, 1) == [[(2, 1)], [(3, 4)]]
        assert distiller(step([1], [], [])).item() == pytest.approx(
            math.log(1 + math.exp(0.1 - 0.4)) + 0.4740769841801067, rel=1e-6
        )

    def test_golden_module_at_zero_scores(self, world: World) -> None:
        """Three users of six pairs at ln 2 each, over eight rows."""
        torch.nn.init.zeros_(world.student.model.items.weight)
        assert build(world)(self.batch).item() == pytest.approx(3 * 6 * math.log(2) / 8, rel=1e-6)

    # Optimisation

    def test_optimisation_orders_the_groups(self, world: World) -> None:
        """The loss of one epoch's pairs falls, and over the epochs each group is in the teacher's order."""
        users = list(range(1, 13))
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)
        distiller = build(world, top_n=40, decay=20.0)

        def learn() -> float:
            optimizer.zero_grad()
            loss = distiller(step(users, [], [], rows=12))
            loss.backward()
            optimizer.step()
            return loss.item()

        def agreement() -> float:
            scores = (world.student.model.users.weight @ world.student.model.items.weight.T).detach()
            found = [
                stats.kendalltau(-scores[user][part].numpy(), range(len(part))).statistic
                for user in users
                for part in parts_of(world, user, top_n=40)
            ]
            return float(np.mean(found))

        before, losses = agreement(), [learn() for _ in range(10)]
        assert all(later < earlier for earlier, later in zip(losses, losses[1:]))
        for epoch in range(1, 150):
            distiller.begin_epoch(epoch)
            learn()
        assert before < 0.2 and agreement() > 0.5


class TestDrawing:
    """The epoch's pairs of all users."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give thirty users and sixty items, the first of which are the popular ones."""
        rows = [[item for item in row if item < 20 or (item + user) % 3 == 0] for user, row in
                enumerate(some_rows(30, 61, 25, seed=3))]  # fmt: skip
        return make_world(tmp_path / "knowledge", rows, n_items=61)

    @pytest.mark.parametrize("groups", [1, 2, 5])
    @pytest.mark.parametrize("at_once", [8192, 40, 1])
    def test_pairs(self, world: World, monkeypatch: pytest.MonkeyPatch, groups: int, at_once: int) -> None:
        """Two items of a group's part in the teacher's order; the same ones however many users are drawn for."""
        whole = build(world, groups=groups).items
        monkeypatch.setattr(unkd_module, "_DRAWN_AT_ONCE", at_once)
        distiller = build(world, groups=groups)
        assert distiller.items is not None and whole is not None
        assert torch.equal(distiller.items, whole) and not distiller.items[0].any()
        for user in range(1, 31):
            parts = parts_of(world, user, groups)
            for part, pairs in zip(parts, pairs_of(distiller, user)):
                if len(part) < 2:
                    assert pairs == [(0, 0)] * PAIRS
                    continue
                for higher, lower in pairs:
                    assert part.index(higher) < part.index(lower)

    def test_a_group_of_fewer_than_two_is_skipped_for_that_user(self, world: World) -> None:
        """And only there; what is reported counts them."""
        distiller = build(world, groups=5, top_n=11)
        held = [[len(part) >= 2 for part in parts_of(world, user, 5, top_n=11)] for user in range(1, 31)]
        assert not all(map(all, held)) and all(map(any, held))
        for user, of_user in enumerate(held, 1):
            found = pairs_of(distiller, user)
            assert [all(map(all, pairs)) for pairs in found] == of_user
            assert all(pairs == [(0, 0)] * PAIRS for pairs, there in zip(found, of_user) if not there)
        reported = distiller.diagnostics(world.history.lengths)["popularity_groups"]
        counts = Counter(world.history.items.tolist())
        groups = groups_of(world, 5)
        assert reported == {
            "items": [sum(1 for one in groups.values() if one == group) for group in range(5)],
            "interactions": [sum(counts[item] for item, one in groups.items() if one == group) for group in range(5)],
            "users": [sum(column) for column in zip(*held)],
        }

    def test_odds_of_a_draw(self, world: World) -> None:
        """Over many epochs, each group of a user as its part's positions ask for."""
        distiller, epochs, user = build(world), 500, 4
        parts = parts_of(world, user)
        found: list[Counter[tuple[int, int]]] = [Counter(), Counter()]
        for epoch in range(epochs):
            distiller.begin_epoch(epoch)
            for group, pairs in enumerate(pairs_of(distiller, user)):
                found[group].update((parts[group].index(one), parts[group].index(other)) for one, other in pairs)
        for part, observed in zip(parts, found):
            expected = {pair: chance * epochs * PAIRS for pair, chance in naive_chances(len(part), T).items()}
            likely = [pair for pair in expected if expected[pair] > 5]
            assert len(likely) > 4
            scale = sum(observed[pair] for pair in likely) / sum(expected[pair] for pair in likely)
            assert 0.9 < scale < 1.1
            numbers = [observed[pair] for pair in likely], [scale * expected[pair] for pair in likely]
            assert stats.chisquare(*numbers).pvalue > 0.01

    def test_resumed_run_draws_what_an_uninterrupted_one_draws(self, world: World) -> None:
        through = build(world)
        for epoch in range(1, 8):
            through.begin_epoch(epoch)
        assert through.items is not None
        same, earlier, seeded = (
            build(world, **one).items for one in ({"epoch": 7}, {"epoch": 6}, {"epoch": 7, "seed": 6})
        )
        assert same is not None and earlier is not None and seeded is not None
        assert torch.equal(through.items, same)
        assert not torch.equal(through.items, earlier) and not torch.equal(through.items, seeded)

    def test_forward_before_the_first_epoch(self, world: World) -> None:
        distiller = UnbiasedDistillation(UnKDOptions(**SIZES), world.knowledge, world.student, seed=0)
        with pytest.raises(RuntimeError, match="begin_epoch"):
            distiller(step([1], [2], [3]))

    def test_share_of_users_is_unbiased(self, world: World) -> None:
        assert_share_is_unbiased(build(world), build(world, sample=0.34), LossContract.batch)


class TestFewItems:
    """Users with nearly nothing left to rank, and options that do not fit."""

    @pytest.mark.parametrize("unobserved", range(5))
    def test_takes_what_there_is(self, tmp_path: Path, unobserved: int) -> None:
        world = make_world(tmp_path, [[1, 2], list(range(1, 31 - unobserved)), list(range(26, 31))], n_items=31)
        distiller = build(world, groups=1)
        loss = distiller(step([2], [], [], rows=2))
        assert loss.item() == pytest.approx(naive_forward(distiller, world, step([2], [], [], rows=2)), rel=1e-5)
        assert (loss.item() > 0) is (unobserved >= 2)
        loss.backward()
        gradient = world.student.model.items.weight.grad
        assert gradient is not None and torch.isfinite(gradient).all() and not gradient[0].any()

    def test_too_few_for_all_is_refused(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, [list(range(1, 30))] * 3, n_items=31)
        with pytest.raises(OptionError, match=r"Nearly all users \(3 of 3\) have too few unobserved items, one has 1"):
            build(world)

    def test_who_has_too_few_is_counted(self, tmp_path: Path) -> None:
        history = make_world(tmp_path, [list(range(1, 30)), [1], [2]], n_items=31).history
        note = UnbiasedDistillation.note(UnKDOptions(), history)
        assert note == ("1 of 3 users have fewer than one pair = 2 unobserved items: they have no part in this term.")

    def test_more_groups_than_pairs_in_the_ranking(self) -> None:
        with pytest.raises(OptionError, match="unkd_groups = 6 is more than half of unkd_top_n = 11"):
            UnKDOptions(groups=6, top_n=11)
        assert UnKDOptions(groups=5, top_n=11).groups == 5

    def test_items_of_no_interaction_are_in_no_group(self, tmp_path: Path) -> None:
        assert popularity_groups(torch.tensor([0, 0, 3, 0, 3]), 3).tolist() == [3, 3, 0, 3, 1]
        world = make_world(tmp_path, [[1, 2, 3, 4], [3, 4, 5, 6], [1, 5, 6, 2]], n_items=20)
        distiller = build(world, groups=2, top_n=19)
        assert distiller.items is not None and set(distiller.items.unique().tolist()) <= set(range(7))
        assert distiller.items.any()
        found = distiller.diagnostics(world.history.lengths)["popularity_groups"]
        assert sum(found["items"]) == 6 and sum(found["interactions"]) == 12


# Planted data: the right answer is known


TASTES, ITEMS_A_TASTE, POPULAR = 4, 30, 10


def planted(folder: Path) -> tuple[World, Tensor, Tensor]:
    """Return a world with a biased teacher, each user's taste and each item's.

    A third of the items of each taste have half of the interactions. The teacher knows every taste, and adds to these
    popular items, of any taste, more than the taste is worth.
    """
    tastes = torch.tensor([-1, *(item // ITEMS_A_TASTE for item in range(TASTES * ITEMS_A_TASTE))])
    of_users = torch.tensor([-1, *(user % TASTES for user in range(80))])
    popular = [item for item in range(1, len(tastes)) if (item - 1) % ITEMS_A_TASTE < POPULAR]
    rare = sorted(set(range(1, len(tastes))) - set(popular))
    rows = [
        [items[(3 * user + place) % len(items)] for items in (popular, rare) for place in range(3)]
        for user in range(80)
    ]
    world = make_world(folder, rows, len(tastes), student_size=TASTES + 1, teacher_size=TASTES + 1)
    bonus = torch.zeros(len(tastes), 1)
    bonus[popular] = 3.0
    with torch.no_grad():
        for table, own, last in (
            (world.teacher.model.users.weight, of_users, torch.ones(81, 1)),
            (world.teacher.model.items.weight, tastes, bonus),
        ):
            noise = 0.1 * torch.randn(len(own), TASTES, generator=torch.Generator().manual_seed(len(own)))
            table.copy_(torch.cat([torch.eye(TASTES)[own.clamp(min=0)] + noise, last], dim=1))
    return world, of_users, tastes


def learnt(folder: Path, groups: int) -> tuple[float, float]:
    """Return how many of the ten best rare items are of the user's taste, and of the ten best of all are popular."""
    world, of_users, tastes = planted(folder)
    distiller = build(world, groups=groups, pairs=4 // groups, top_n=120, decay=10.0)
    optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.03)
    for epoch in range(250):
        distiller.begin_epoch(epoch)
        optimizer.zero_grad()
        distiller(step(range(1, 81), [], [], rows=80)).backward()
        optimizer.step()
    scores = world.student.score_all(torch.arange(1, 81)).detach()
    scores[:, 0] = -torch.inf
    rare = torch.tensor([item > 0 and (item - 1) % ITEMS_A_TASTE >= POPULAR for item in range(len(tastes))])
    best = scores.masked_fill(~rare, -torch.inf).topk(10, dim=1).indices
    own = (tastes[best] == of_users[1:, None]).float().mean().item()
    return own, (~rare)[scores.topk(10, dim=1).indices].float().mean().item()


def test_planted_tastes_are_learnt_of_rare_items_too(tmp_path: Path) -> None:
    """From pairs of all items the student learns that rare ones are worse, by the taste below chance (a quarter)."""
    biased, unbiased = learnt(tmp_path / "one", 1), learnt(tmp_path / "two", 2)
    assert unbiased[0] > 0.7 and biased[0] < 0.25, (biased, unbiased)
    assert biased[1] > unbiased[1] + 0.1, (biased, unbiased)
