"""One ranking of several: against plain dictionaries, with ties, gaps and short rankings."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_derrd.distillers.hetcomp.rank_fusion import fused_history, fused_rankings
from recbole_derrd.teacher import RankWeighting


def naive_merge(rankings: list[list[int]], weights: list[float], count: int) -> tuple[list[int], list[float]]:
    """Add up the weights in a dictionary and sort."""
    sums: dict[int, float] = {}
    for ranking in rankings:
        for weight, item in zip(weights, ranking):
            if item:
                sums[item] = sums.get(item, 0.0) + weight
    best = sorted(sums, key=lambda item: (-sums[item], item))[:count]
    missing = count - len(best)
    return best + [0] * missing, [sums[item] for item in best] + [0.0] * missing


@st.composite
def rankings(draw: st.DrawFn) -> list[list[list[int]]]:
    """Some rows of some teachers' rankings, of ids 1 .. 9, short ones ending in zeros."""
    rows, teachers, length = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 7))

    def one() -> list[int]:
        held = draw(st.permutations(range(1, 10)))[: draw(st.integers(0, length))]
        return held + [0] * (length - len(held))

    return [[one() for _ in range(teachers)] for _ in range(rows)]


@given(rankings(), st.integers(1, 12), st.sampled_from(["power", "exponential"]))
@settings(max_examples=150, deadline=None)
def test_merged_lists_are_those_of_a_dictionary(rankings: list[list[list[int]]], count: int, kind: str) -> None:
    """Ids, sums and the order of equals; padding never enters."""
    weights = RankWeighting(kind).of_ranking(len(rankings[0][0]))
    ids, sums = fused_rankings(torch.tensor(rankings, dtype=torch.int32), weights, count)
    expected = [naive_merge(row, weights.tolist(), count) for row in rankings]
    assert ids.tolist() == [items for items, _ in expected]
    torch.testing.assert_close(sums, torch.tensor([values for _, values in expected], dtype=torch.float64))


def test_one_teacher_s_list_is_kept() -> None:
    rankings = torch.tensor([[[7, 2, 9, 4]], [[3, 1, 0, 0]]])
    ids, sums = fused_rankings(rankings, RankWeighting().of_ranking(4), 3)
    assert ids.tolist() == [[7, 2, 9], [3, 1, 0]] and (sums[:, :2] > 0).all() and sums[1, 2] == 0


def test_equal_sums_are_in_the_order_of_ids() -> None:
    """By hand: 5 and 2 have ranks 1 and 2 of one teacher each, the other way round."""
    ids, _ = fused_rankings(torch.tensor([[[5, 2, 8], [2, 5, 3]]]), torch.tensor([3.0, 2.0, 1.0]), 4)
    assert ids.tolist() == [[2, 5, 3, 8]]


def test_many_equals_are_in_the_order_of_ids() -> None:
    """Sorting as many as this keeps no order that it is not asked to keep."""
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1)) + 1
    ids, _ = fused_rankings(order.view(1, 2, 20), torch.ones(20), 40)
    assert ids.tolist() == [list(range(1, 41))]


def test_weights_are_added_in_the_order_of_the_teachers() -> None:
    """In another order the last digit may be another one."""
    generator = torch.Generator().manual_seed(1)
    rankings = torch.stack([torch.randperm(30, generator=generator) + 1 for _ in range(5)]).unsqueeze(0)
    weights = torch.rand(30, generator=generator)
    ids, sums = fused_rankings(rankings, weights, 30)
    by_item = torch.zeros(31)
    for ranking in rankings[0]:
        by_item[ranking] += weights
    assert torch.equal(sums[0], by_item[ids[0]])


def test_no_weight_at_all_is_still_an_item() -> None:
    ids, _ = fused_rankings(torch.tensor([[[5, 2, 0]]]), torch.tensor([1.0, 0.0, 0.0]), 3)
    assert ids.tolist() == [[5, 2, 0]]


def test_unlisted_items_count_as_rank_n_plus_1() -> None:
    """What the subtraction is for: full rankings cut to N merge as if the rest had all the same rank N + 1."""
    random, n, power = np.random.default_rng(0), 4, 0.3
    full = [random.permutation(9) + 1 for _ in range(3)]
    ids, _ = fused_rankings(
        torch.tensor(np.stack([order[:n] for order in full])[None]), RankWeighting(power=power).of_ranking(n), 9
    )
    listed = {int(item) for order in full for item in order[:n]}
    total = {item: sum(min(list(order).index(item) + 1, n + 1) ** -power for order in full) for item in sorted(listed)}
    assert [item for item in ids[0].tolist() if item] == sorted(
        listed, key=lambda item: (-round(total[item], 12), item)
    )


def test_merged_history() -> None:
    """Users without, with fewer and with more training items than wanted; against a plain sort."""
    indptr, items = np.array([0, 0, 3, 3, 8]), np.array([2, 5, 9, 1, 3, 4, 6, 7])
    ranks = [np.array([2, 1, 3, 5, 1, 2, 4, 3], dtype=np.int32), np.array([3, 1, 2, 1, 4, 2, 3, 5], dtype=np.int32)]
    weights = RankWeighting(power=0.5).of_ranking(5)
    table = weights.tolist()
    expected = []
    for user in range(4):
        own = range(indptr[user], indptr[user + 1])
        best = sorted(own, key=lambda at: (-(table[ranks[0][at] - 1] + table[ranks[1][at] - 1]), items[at]))
        expected.append(([int(items[at]) for at in best] + [0] * 4)[:4])
    assert fused_history(ranks, indptr, items, weights, 4).tolist() == expected
    assert fused_history(ranks, indptr, items, weights, 0).shape == (4, 0)
    assert fused_history(ranks[:1], indptr, items, weights, 2).tolist() == [[0, 0], [5, 2], [0, 0], [3, 4]]
