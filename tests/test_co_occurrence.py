"""The co-occurrence graph against plain counting, whatever the size of its blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recbole_derrd.data.co_occurrence as module
from recbole_derrd.data.co_occurrence import CoOccurrence, co_occurrence_graph
from recbole_derrd.data.history import History
from recbole_derrd.testing import history_of, some_rows


def naive_edges(sets: Sequence[set[int]], count: int) -> dict[tuple[int, int], float]:
    """Return (B + B^T) / 2 of entities 1, 2 ... with these sets, by a plain sort of shared members."""
    edges: dict[tuple[int, int], float] = {}
    for one, own in enumerate(sets, 1):
        shared = {other: len(own & theirs) for other, theirs in enumerate(sets, 1) if other != one and own & theirs}
        for other in sorted(shared, key=lambda other: (-shared[other], other))[:count]:
            for edge in ((one, other), (other, one)):
                edges[edge] = edges.get(edge, 0.0) + 0.5
    return edges


def sets_of(rows: Sequence[Sequence[int]], n_items: int, side: str) -> list[set[int]]:
    """Return each user's items, or each item's users."""
    if side == "user":
        return [set(row) for row in rows]
    return [{user for user, row in enumerate(rows, 1) if item in row} for item in range(1, n_items)]


def listed(graph: CoOccurrence) -> dict[tuple[int, int], float]:
    """Return the graph's entries."""
    rows = np.repeat(np.arange(len(graph.indptr) - 1), np.diff(graph.indptr))
    return dict(zip(zip(rows.tolist(), graph.neighbours.tolist()), graph.weights.tolist()))


def check(rows: Sequence[Sequence[int]], n_items: int, side: str, count: int) -> None:
    """Compare a graph with plain counting."""
    expected = naive_edges(sets_of(rows, n_items, side), count)
    graph = co_occurrence_graph(history_of(rows, n_items), side, count)
    found = listed(graph)
    assert set(found) == set(expected) and len(graph.neighbours) == len(expected)
    degrees = {one: sum(weight for edge, weight in expected.items() if edge[0] == one) for one, _ in expected}
    for (one, other), weight in found.items():
        assert weight == pytest.approx(expected[one, other] / math.sqrt(degrees[one] * degrees[other]), rel=1e-6)
    assert graph.indptr[0] == graph.indptr[1] == 0 and graph.neighbours.dtype == np.int32
    for start, stop in zip(graph.indptr, graph.indptr[1:]):
        assert (np.diff(graph.neighbours[start:stop]) > 0).all()


@given(
    st.lists(st.sets(st.integers(1, 8)), min_size=1, max_size=12), st.sampled_from(["user", "item"]), st.integers(1, 5)
)
@settings(max_examples=100, deadline=None)
def test_edges_and_weights_are_those_of_plain_counting(rows: list[set[int]], side: str, count: int) -> None:
    """Ties, entities that share nothing, and rows without any item among them."""
    check([sorted(row) for row in rows], 9, side, count)


@pytest.mark.parametrize("block", [1, 50, 700, 1 << 22])
@pytest.mark.parametrize("side", ["user", "item"])
def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch, side: str, block: int) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    check([*some_rows(60, 41, 25, seed=1), [], []], 41, side, 4)


def test_ties_of_many_sizes() -> None:
    """Shared items from 1 to 70, more than one of each power of two: the strongest are found among all."""
    rows = [list(range(1, 71)), *(list(range(1, 2 + size)) for size in range(70)), *[[1]] * 20]
    check(rows, 71, "user", 3)


def test_repeated_interactions_count_once() -> None:
    pairs = np.array([(1, 1), (2, 1), (1, 1), (3, 2), (1, 2), (1, 2)])
    found = listed(co_occurrence_graph(History.of_pairs(pairs[:, 0], pairs[:, 1], 4, 3), "user", 1))
    assert set(found) == {(1, 2), (2, 1), (1, 3), (3, 1)}


def test_nobody_shares_anything() -> None:
    graph = co_occurrence_graph(history_of([[1], [2], []], 4), "user", 5)
    assert graph.indptr.tolist() == [0] * 5 and len(graph.neighbours) == len(graph.weights) == 0
