"""The schedule: its threshold, who moves, when all have arrived."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_derrd.distillers.hetcomp.curriculum import advance, is_finished, is_step, next_snapshots, ready, threshold

COUNTS = torch.tensor([4, 1, 3])


def test_golden_thresholds() -> None:
    """Origin: this project's specification, section 9."""
    found = [threshold(1.05, epoch, 10) for epoch in (0, 10, 20, 90, 100)]
    assert found == pytest.approx([1.05, 1.04475, 1.03953, 1.00368, 0.99867], abs=5e-6)
    assert threshold(1.05, 19, 10) == threshold(1.05, 10, 10) and threshold(1.05, 20, 5) == threshold(1.05, 40, 10)


def test_steps() -> None:
    assert [epoch for epoch in range(-1, 41) if is_step(epoch, 10)] == [10, 20, 30, 40]
    assert [epoch for epoch in range(-1, 4) if is_step(epoch, 1)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("kept", "current", "either", "closer"),
    [
        (0.50, 0.40, True, True),  # closer by a quarter
        (0.50, 0.49, False, False),  # closer by less than the bar
        (0.50, 0.50, False, False),
        (0.50, 0.51, True, False),  # further away
        (0.50, 0.00, True, True),
        (0.00, 0.00, True, True),  # 0 / 0 in the published code
        (0.00, 0.10, True, False),
    ],
)
def test_who_is_ready(kept: float, current: float, either: bool, closer: bool) -> None:
    both = torch.tensor([[kept]]), torch.tensor([[current]])
    assert ready(*both, 1.05, "closer_or_further").item() is either
    assert ready(*both, 1.05, "closer").item() is closer


class Fixed:
    """Discrepancies to each snapshot that are drawn anew whenever time passes."""

    def __init__(self, users: int, seed: int) -> None:
        self.users, self.generator = users, torch.Generator().manual_seed(seed)
        self.pass_time()

    def pass_time(self) -> None:
        """Draw new discrepancies [users, teachers, snapshots], some of them 0 and some equal to others."""
        self.table = torch.rand(self.users, len(COUNTS), 4, generator=self.generator).mul(8).round().div(8)

    def __call__(self, snapshots: Tensor) -> Tensor:
        """Return those to these snapshots."""
        return self.table.gather(2, snapshots.long().unsqueeze(2)).squeeze(2)


def naive_step(snapshot: list[list[int]], kept: list[list[float]], table: Tensor, bar: float | None, move: str) -> None:
    """Take the step in place, pair by pair, as the published pseudo-code says, but for 0 / 0."""
    for u, row in enumerate(snapshot):
        for m, v in enumerate(row):
            last = int(COUNTS[m]) - 1
            d = float(table[u, m, min(v + 1, last)])
            if bar is None:
                kept[u][m] = d
            elif v < last:
                ratio = kept[u][m] / d if d else float("inf")
                if ratio > bar or (move == "closer_or_further" and ratio < 1):
                    row[m] = v + 1
                    kept[u][m] = float(table[u, m, min(v + 2, last)])


@pytest.mark.parametrize("move", ["closer_or_further", "closer"])
@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_steps_are_those_of_the_pseudo_code(move: str, seed: int) -> None:
    """Snapshots never fall nor jump, and stop at each teacher's last."""
    distance = Fixed(7, seed)
    snapshot, kept = torch.zeros(7, 3, dtype=torch.int64), torch.zeros(7, 3)
    plain: tuple[list[list[int]], list[list[float]]] = snapshot.tolist(), kept.tolist()
    for epoch in range(10, 120, 10):
        bar = None if epoch == 10 else threshold(1.05, epoch, 10)
        before = snapshot
        snapshot, kept = advance(snapshot, kept, COUNTS, distance, bar, move)
        naive_step(*plain, distance.table, bar, move)
        assert snapshot.tolist() == plain[0] and kept.tolist() == plain[1]
        assert ((snapshot - before) >= 0).all() and ((snapshot - before) <= 1).all() and (snapshot < COUNTS).all()
        assert bar is not None or torch.equal(snapshot, before)
        distance.pass_time()


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_all_have_arrived_by_epoch_120(seed: int) -> None:
    """The threshold is below 1 from epoch 100 on, so whoever is at the first of four snapshots moves three times."""
    distance = Fixed(9, seed)
    snapshot, kept = torch.zeros(9, 3, dtype=torch.int64), torch.zeros(9, 3)
    for epoch in range(10, 130, 10):
        bar = None if epoch == 10 else threshold(1.05, epoch, 10)
        snapshot, kept = advance(snapshot, kept, COUNTS, distance, bar, "closer_or_further")
        if seed % 2:
            distance.pass_time()
    assert is_finished(snapshot, COUNTS)


def test_unchanged_students_wait_for_the_threshold() -> None:
    """With nothing learned the ratio is 1: nobody moves until epoch 100, then all do, three times."""
    table = torch.full((2, 3, 4), 0.5)
    snapshot, kept, seen = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), []
    for epoch in range(10, 130, 10):
        bar = None if epoch == 10 else threshold(1.05, epoch, 10)
        distance = lambda snapshots: table.gather(2, snapshots.unsqueeze(2)).squeeze(2)  # noqa: E731
        snapshot, kept = advance(snapshot, kept, COUNTS, distance, bar, "closer_or_further")
        seen.append(snapshot[0].tolist())
    assert seen == [[0, 0, 0]] * 9 + [[1, 0, 1], [2, 0, 2], [3, 0, 2]]


@given(st.lists(st.tuples(st.integers(0, 3), st.just(0), st.integers(0, 2)), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_finished_is_everybody(rows: list[tuple[int, int, int]]) -> None:
    snapshot = torch.tensor(rows)
    assert is_finished(snapshot, COUNTS) is all(row == (3, 0, 2) for row in rows)
    assert torch.equal(next_snapshots(snapshot, COUNTS), torch.minimum(snapshot + 1, torch.tensor([3, 0, 2])))


def test_rounded_finish_leaves_half_a_percent_behind() -> None:
    for behind, rounded in ((0, True), (4, True), (6, False)):
        snapshot = torch.tensor([[3, 0, 2]]).repeat(1000, 1)
        snapshot[:behind, 2] = 1
        assert is_finished(snapshot, COUNTS, "rounded") is rounded
        assert is_finished(snapshot, COUNTS) is (behind == 0)
