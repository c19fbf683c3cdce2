"""Sampling: the distributions of the formulas, and set logic against brute force."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from recbole_derrd.ops import sampling
from recbole_derrd.ops.sampling import exclusion_keys, sample_outside, sample_subsets, sample_top_positions

#: A right sampler passes a chi-square test at this level; the seeds are fixed, so it passes always or never.
LEVEL = 0.01


def seeded(seed: int) -> torch.Generator:
    """Return a generator of its own."""
    return torch.Generator().manual_seed(seed)


def full(rows: int, length: int) -> Tensor:
    """Return the same length for every row."""
    return torch.full((rows,), length)


def distinct(rows: Tensor) -> bool:
    """Say whether no row holds a number twice."""
    ordered = rows.sort(dim=1).values
    return bool((ordered[:, 1:] > ordered[:, :-1]).all())


class TestTopPositions:
    """sample_top_positions."""

    def test_inclusion_by_rank(self) -> None:
        """A rank counted twice or a lost decay shifts the whole curve.

        Origin: integral over arrival times of independent exponential clocks (numpy, not this code). The table of
        algorithms_de_rrd.md 3.2 has the same, up to 0.01.
        """
        rows = 8000
        positions = sample_top_positions(full(rows, 500), 40, 10.0, 500, seeded(0))
        share = positions.flatten().bincount(minlength=500) / rows
        assert share[:10].min() > 0.997
        for rank, expected in ((20, 0.984), (30, 0.802), (40, 0.449), (50, 0.194), (60, 0.076), (80, 0.011)):
            assert share[rank - 1].item() == pytest.approx(expected, abs=0.02), rank

    def test_small_case_matches_successive_draws(self) -> None:
        """Every set of 2 of 4 ranks as often as drawing one after the other without replacement gives it."""
        decay, rows = 1.5, 20_000
        chance = [math.exp(-rank / decay) for rank in range(1, 5)]
        total = sum(chance)
        expected = {
            (a, b): sum(chance[x] / total * chance[y] / (total - chance[x]) for x, y in ((a, b), (b, a)))
            for a, b in itertools.combinations(range(4), 2)
        }
        drawn = Counter(map(tuple, sample_top_positions(full(rows, 4), 2, decay, 4, seeded(1)).tolist()))
        assert set(drawn) <= set(expected)
        observed = [drawn[pair] for pair in expected]
        assert stats.chisquare(observed, [rows * share for share in expected.values()]).pvalue > LEVEL

    @pytest.mark.parametrize("near", [0.0, 0.7, 1.4])
    @pytest.mark.parametrize("length", [4, 6])
    def test_far_ranks_are_drawn_as_if_one_by_one(
        self, monkeypatch: pytest.MonkeyPatch, near: float, length: int
    ) -> None:
        """With few near ranks the far ones win often: each set still as often as by successive draws.

        The lists are cut by their length, so the far ranks' weight must be cut as well.
        """
        monkeypatch.setattr(sampling, "_NEAR", near)
        decay, rows = 1.5, 20_000
        chance = [math.exp(-rank / decay) for rank in range(1, length + 1)]
        total = sum(chance)
        expected = {
            (a, b): sum(chance[x] / total * chance[y] / (total - chance[x]) for x, y in ((a, b), (b, a)))
            for a, b in itertools.combinations(range(length), 2)
        }
        drawn = Counter(map(tuple, sample_top_positions(full(rows, length), 2, decay, 7, seeded(1)).tolist()))
        assert set(drawn) <= set(expected)
        observed = [drawn[pair] for pair in expected]
        assert stats.chisquare(observed, [rows * share for share in expected.values()]).pvalue > LEVEL

    @pytest.mark.parametrize("near", [0.0, 1.0])
    def test_far_ranks_are_those_of_plain_floats(self, monkeypatch: pytest.MonkeyPatch, near: float) -> None:
        """The same random numbers through the formulas, list by list: the same positions."""
        monkeypatch.setattr(sampling, "_NEAR", near)
        count, decay, longest, lengths = 3, 2.0, 12, [12, 9, 5, 3] * 300
        ranks = range(1, longest + 1)
        drawn, near_ranks = seeded(6), int(count + near * decay)
        uniform = torch.rand(len(lengths), near_ranks, dtype=torch.float64, generator=drawn).tolist()
        of_first = torch.rand(len(lengths), dtype=torch.float64, generator=drawn).tolist()
        times, late = [], []
        for row, length in enumerate(lengths):
            arrivals = [-math.log(u) * math.exp(rank / decay) for u, rank in zip(uniform[row], ranks)][:length]
            weight = sum(math.exp(-rank / decay) for rank in range(near_ranks + 1, length + 1))
            first = -math.log(of_first[row]) / weight if weight else math.inf
            times.append(dict(enumerate(arrivals)))
            if first < sorted(arrivals)[count - 1]:
                late.append((row, first))
        far = torch.rand(len(late), longest - near_ranks, dtype=torch.float64, generator=drawn).tolist()
        for (row, first), own in zip(late, far):
            arrivals = [-math.log(u) * math.exp(rank / decay) for u, rank in zip(own, ranks[near_ranks:])]
            arrivals = arrivals[: lengths[row] - near_ranks]
            times[row].update((near_ranks + at, time - min(arrivals) + first) for at, time in enumerate(arrivals))
        expected = [sorted(sorted(one, key=one.__getitem__)[:count]) for one in times]
        found = sample_top_positions(torch.tensor(lengths), count, decay, longest, seeded(6)).tolist()
        assert len(late) > 4 and found == expected

    def test_inclusion_does_not_depend_on_what_is_called_near(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same ranks as often with all drawn one by one, with the usual near ones, and with hardly any."""
        shares = []
        for near in (1e9, 8.0, 0.5):
            monkeypatch.setattr(sampling, "_NEAR", near)
            positions = sample_top_positions(full(8000, 500), 40, 10.0, 500, seeded(4))
            shares.append(positions.flatten().bincount(minlength=500) / 8000)
        pooled = sum(shares) / 3
        # Four standard errors of a difference of two shares, and eight draws where shares are next to 0 or 1.
        slack = 4 * (2 * pooled * (1 - pooled) / 8000).sqrt() + 1e-3
        assert ((shares[0] - shares[1]).abs() < slack).all() and ((shares[0] - shares[2]).abs() < slack).all()

    def test_few_numbers_are_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Drawing all 500 ranks of every list would be half of an epoch's drawing."""
        sizes, own = [], torch.rand
        monkeypatch.setattr(
            torch, "rand", lambda shape, **given: (sizes.append(math.prod(shape)), own(shape, **given))[1]
        )
        sample_top_positions(full(1000, 500), 40, 10.0, 500, seeded(0))
        assert sum(sizes) < 140 * 1000

    @pytest.mark.parametrize("decay", [1.0, 0.01])
    def test_sharpness_that_underflows_exp(self, decay: float) -> None:
        """exp(-500) is 0 in float32: drawing by probabilities would fail or run out of ranks."""
        positions = sample_top_positions(full(300, 500), 40, decay, 500, seeded(0))
        assert distinct(positions) and positions.min() >= 0 and positions.max() < (60 if decay == 1 else 40)

    def test_sharpest_draw_is_the_top(self) -> None:
        positions = sample_top_positions(full(20, 50), 7, 1e-3, 50, seeded(0))
        assert torch.equal(positions, torch.arange(7).expand(20, 7))

    @given(st.lists(st.integers(3, 30), min_size=1, max_size=8), st.floats(0.05, 1e6), st.integers(0, 999))
    @settings(max_examples=60, deadline=None)
    def test_within_lengths_ascending_distinct(self, lengths: list[int], decay: float, seed: int) -> None:
        """A position beyond a short list would point at its padding zeros."""
        positions = sample_top_positions(torch.tensor(lengths), 3, decay, 30, seeded(seed))
        assert positions.dtype == torch.int64 and positions.shape == (len(lengths), 3)
        for row, length in zip(positions.tolist(), lengths):
            assert row == sorted(set(row)) and row[0] >= 0 and row[-1] < length

    def test_list_of_just_enough(self) -> None:
        """A user with exactly K listed items gets them all, in order."""
        positions = sample_top_positions(torch.tensor([3, 9]), 3, 50.0, 9, seeded(0))
        assert positions[0].tolist() == [0, 1, 2]

    def test_rows_differ_and_seed_decides(self) -> None:
        """Noise shared by all rows would give every user the same ranks."""
        draw = lambda seed: sample_top_positions(full(50, 100), 10, 20.0, 100, seeded(seed))  # noqa: E731
        assert len(draw(0).unique(dim=0)) > 40
        assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


class TestSubsets:
    """sample_subsets."""

    @pytest.mark.parametrize(("size", "count"), [(6, 1), (5, 2), (6, 3), (5, 4)])
    def test_uniform_over_all_subsets(self, size: int, count: int) -> None:
        """Floyd's algorithm with a slip still gives distinct numbers, but favours some."""
        rows = 12_000
        drawn = sample_subsets(full(rows, size), count, seeded(3)).sort(dim=1).values
        counts = Counter(map(tuple, drawn.tolist()))
        subsets = list(itertools.combinations(range(size), count))
        assert set(counts) <= set(subsets)
        assert stats.chisquare([counts[subset] for subset in subsets]).pvalue > LEVEL

    @given(st.lists(st.integers(4, 40), min_size=1, max_size=8), st.integers(0, 999))
    @settings(max_examples=60, deadline=None)
    def test_distinct_and_below_each_size(self, sizes: list[int], seed: int) -> None:
        drawn = sample_subsets(torch.tensor(sizes), 4, seeded(seed))
        assert drawn.dtype == torch.int64 and drawn.shape == (len(sizes), 4)
        for row, size in zip(drawn.tolist(), sizes):
            assert len(set(row)) == 4 and min(row) >= 0 and max(row) < size

    @pytest.mark.parametrize("size", [1, 2, 17])
    def test_whole_set(self, size: int) -> None:
        """Rejection sampling would stall here."""
        drawn = sample_subsets(full(30, size), size, seeded(0)).sort(dim=1).values
        assert torch.equal(drawn, torch.arange(size).expand(30, size))

    @pytest.mark.parametrize(("size", "count"), [(1000, 120), (300, 60), (130, 120), (40, 1)])
    def test_both_ways_replace_what_floyd_replaces(self, size: int, count: int) -> None:
        """Few are taken, some of them by what took the place of another; or many are."""
        sizes = torch.tensor([size, size + 1, 2 * size, size] * 20)
        uniform = torch.rand(len(sizes), count, dtype=torch.float64, generator=seeded(7)).tolist()
        drawn = sample_subsets(sizes, count, seeded(7)).tolist()
        for row, numbers in enumerate(uniform):
            expected: list[int] = []
            for j, number in enumerate(numbers, int(sizes[row]) - count):
                pick = int(number * (j + 1))
                expected.append(j if pick in expected else pick)
            assert drawn[row] == expected

    def test_large_sizes_reach_every_number(self) -> None:
        """Uniform numbers of 24 bits, float32's, would skip every odd item of a catalogue this large."""
        drawn = sample_subsets(full(100, 2**26), 3, seeded(0))
        assert 0.3 < (drawn % 2).double().mean() < 0.7 and drawn.max() > 2**25

    def test_mixed_sizes_are_each_uniform(self) -> None:
        """A size taken from another row keeps the numbers valid where it is smaller, but not uniform."""
        sizes = torch.tensor([4, 9]).repeat(6000)
        drawn = sample_subsets(sizes, 2, seeded(5))
        for size in (4, 9):
            counts = drawn[sizes == size].flatten().bincount(minlength=size)
            assert len(counts) == size and stats.chisquare(counts.numpy()).pvalue > LEVEL


@st.composite
def exclusions(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """Draw a number of items, padding included, and each row's excluded items: unsorted, repeated, with padding."""
    n_items = draw(st.integers(2, 15))
    row = st.lists(st.integers(0, n_items - 1), max_size=2 * n_items)
    return n_items, draw(st.lists(row, min_size=1, max_size=6))


def prepared(rows: list[list[int]], n_items: int, order_seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return exclusion_keys of these rows, their pairs shuffled."""
    pairs = [(row, item) for row, items in enumerate(rows) for item in items]
    order = torch.randperm(len(pairs), generator=seeded(order_seed)).tolist()
    row_ids = torch.tensor([pairs[i][0] for i in order], dtype=torch.int64)
    items = torch.tensor([pairs[i][1] for i in order], dtype=torch.int64)
    return exclusion_keys(row_ids, items, len(rows), n_items)


class TestOutside:
    """exclusion_keys and sample_outside."""

    @given(exclusions(), st.integers(0, 999))
    @settings(max_examples=150, deadline=None)
    def test_against_set_logic(self, case: tuple[int, list[list[int]]], seed: int) -> None:
        """An off-by-one in the binary search gives an excluded item only beside runs of excluded ones."""
        n_items, rows = case
        allowed = [set(range(1, n_items)) - set(row) for row in rows]
        rows = [row for row, left in zip(rows, allowed) if left]
        allowed = [left for left in allowed if left]
        if not rows:
            return
        count = min(len(left) for left in allowed)
        keys, offsets = prepared(rows, n_items, seed)
        drawn = sample_outside(keys, offsets, n_items, count, seeded(seed))
        assert drawn.dtype == torch.int64 and drawn.shape == (len(rows), count)
        for row, left in zip(drawn.tolist(), allowed):
            assert len(set(row)) == count and set(row) <= left

    @given(exclusions())
    @settings(max_examples=100, deadline=None)
    def test_rows_with_room_to_the_last_item(self, case: tuple[int, list[list[int]]]) -> None:
        """Asked for all that is allowed, each row alone must give exactly that: the map of ranks to items is onto."""
        n_items, rows = case
        for row in rows:
            left = set(range(1, n_items)) - set(row)
            # A full row before and an empty row after: neighbours in ``keys`` must not be counted.
            keys, offsets = prepared([list(range(1, n_items - len(left))), row, []], n_items)
            if left:
                drawn = sample_outside(keys, offsets, n_items, len(left), seeded(0))
                assert set(drawn[1].tolist()) == left

    @given(exclusions())
    @settings(max_examples=60, deadline=None)
    def test_keys_and_offsets(self, case: tuple[int, list[list[int]]]) -> None:
        """Offsets count each row's distinct real items; keys ascend, which the binary search needs."""
        n_items, rows = case
        keys, offsets = prepared(rows, n_items)
        assert (keys.dtype, offsets.dtype) == (torch.int32, torch.int64)
        sizes = [len(set(row) - {0}) for row in rows]
        assert offsets.tolist() == [0, *itertools.accumulate(sizes)]
        assert keys.tolist() == [
            number * n_items + item - before
            for number, row in enumerate(rows)
            for before, item in enumerate(sorted(set(row) - {0}))
        ]
        assert keys.tolist() == sorted(keys.tolist())

    def test_keys_that_32_bits_do_not_hold(self) -> None:
        """Row 2 of a catalogue of 2^30 items: its keys begin at 2^31."""
        n_items = 2**30
        keys, offsets = prepared([[5], [], [7, n_items - 1]], n_items)
        assert keys.dtype == torch.int64 and keys.tolist() == [5, 2 * n_items + 7, 3 * n_items - 2]
        assert offsets.tolist() == [0, 1, 1, 3]

    @pytest.mark.parametrize("excluded", [[], [1], [9], [1, 2, 3], [7, 8, 9], [2, 4, 5, 8]])
    def test_uniform_over_allowed(self, excluded: list[int]) -> None:
        """Each allowed item, and each pair of them, as often as any other."""
        n_items, rows = 10, 6000
        keys, offsets = prepared([excluded] * rows, n_items)
        drawn = sample_outside(keys, offsets, n_items, 2, seeded(2)).sort(dim=1).values
        counts = Counter(map(tuple, drawn.tolist()))
        pairs = list(itertools.combinations(sorted(set(range(1, n_items)) - set(excluded)), 2))
        assert set(counts) <= set(pairs)
        assert stats.chisquare([counts[pair] for pair in pairs]).pvalue > LEVEL

    def test_large_ids_do_not_overflow(self) -> None:
        """row * n_items passes 2^31 with a million users and items; int32 keys would wrap round in silence."""
        n_rows, n_items = 5000, 1_000_000
        rows = torch.tensor([0, n_rows - 1, n_rows - 1])
        keys, offsets = exclusion_keys(rows, torch.tensor([5, 1, n_items - 1]), n_rows, n_items)
        assert keys.tolist() == [5, (n_rows - 1) * n_items + 1, (n_rows - 1) * n_items + n_items - 2]
        drawn = sample_outside(keys, offsets, n_items, 3, seeded(0))
        assert drawn.min() > 0 and drawn.max() < n_items and drawn[-1].max() < n_items - 1

    def test_rows_that_allow_fewer_end_in_zeros(self) -> None:
        """Of one row two items are left, of one none, of one all."""
        excluded = [[1, 2, 4, 5, 7, 8], list(range(1, 9)), []]
        rows = torch.tensor([row for row, items in enumerate(excluded) for _ in items])
        keys, offsets = exclusion_keys(rows, torch.tensor([item for items in excluded for item in items]), 3, 9)
        for seed in range(20):
            drawn = sample_outside(keys, offsets, 9, 5, seeded(seed)).tolist()
            assert sorted(drawn[0]) == [0, 0, 0, 3, 6] and drawn[1] == [0] * 5
            assert len({*drawn[2]}) == 5 and min(drawn[2]) > 0

    def test_seed_decides(self) -> None:
        keys, offsets = prepared([[1, 2]] * 20, 50)
        draw = lambda seed: sample_outside(keys, offsets, 50, 5, seeded(seed))  # noqa: E731
        assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
        assert len(draw(0).unique(dim=0)) == 20
