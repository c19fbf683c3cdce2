"""The blockwise search for the largest scores: against torch.topk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import recbole_derrd.ops.top_k as topn_module
from recbole_derrd.ops.top_k import ranks_in_rows, top_scores

BLOCK, LONG = topn_module._BLOCK, topn_module._LONG


def assert_as_topk(scores: Tensor, count: int) -> None:
    """Values are topk's; the indices are distinct and lead to them."""
    values, indices = top_scores(scores, count)
    assert values.shape == indices.shape == (len(scores), count)
    assert torch.equal(values, scores.topk(count, dim=1).values)
    assert torch.equal(scores.gather(1, indices), values)
    assert all(len(set(row)) == count for row in indices.tolist())


def some_scores(rows: int, width: int, kind: str, seed: int) -> Tensor:
    """Return scores of a kind that a search could stumble over."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, width, generator=generator)
    if kind == "ties":
        scores = torch.randint(0, 3, (rows, width), generator=generator).float()
    elif kind == "equal":
        scores = torch.zeros(rows, width)
    elif kind == "mostly minus infinity":
        scores[torch.rand(rows, width, generator=generator) < 0.999] = -torch.inf
    elif kind == "infinite":
        scores = torch.where(scores > 2, torch.inf, -torch.inf)
    elif kind == "rising":
        scores = scores.sort(dim=1).values
    elif kind == "falling":
        scores = scores.sort(dim=1, descending=True).values
    return scores


KINDS = ["random", "ties", "equal", "mostly minus infinity", "infinite", "rising", "falling"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 7, LONG - 1, LONG, LONG + 1, 5 * LONG + 7, 8 * LONG, 8 * LONG + 8, 70_001])
@pytest.mark.parametrize("count", [1, 10, 300])
def test_equals_topk(kind: str, width: int, count: int) -> None:
    """Around every border: short rows, one level of blocks, two levels, a remainder that fills no block."""
    assert_as_topk(some_scores(3, width, kind, seed=width), min(count, width))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 4),
    width=st.integers(1, 400),
    share=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
)
def test_equals_topk_on_many_levels(rows: int, width: int, share: float, kind: str, seed: int) -> None:
    """With the limits of speed lowered, short rows go through several levels of blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topn_module, "_LONG", BLOCK)
        patch.setattr(topn_module, "_TIMES_WANTED", BLOCK)
        assert_as_topk(some_scores(rows, width, kind, seed), int(share * width))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    assert_as_topk(some_scores(2, 3 * LONG, "random", 0).to(dtype), 20)


def test_other_layouts_are_left_as_they_are() -> None:
    """A product with a transposed table may come transposed; reading must neither fail nor write."""
    scores = some_scores(3 * LONG + 5, 4, "random", 0)
    before = scores.clone()
    assert_as_topk(scores.T, 20)
    assert_as_topk(scores.T[1:, 3:], 20)
    assert_as_topk(scores[:, 0].expand(2, -1), 20)
    assert torch.equal(scores, before)


@pytest.mark.parametrize("where", [0, LONG, 5 * LONG + 6])
def test_nan_comes_first(where: int) -> None:
    """The teacher's lists look for NaN in the first column alone."""
    scores = some_scores(2, 5 * LONG + 7, "random", 0)
    scores[1, where] = torch.nan
    values, indices = top_scores(scores, 3)
    assert values.isnan().tolist() == [[False] * 3, [True, False, False]]
    assert indices[1, 0] == where


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, LONG - 1, LONG, 5 * LONG + 7, 70_001])
@pytest.mark.parametrize("depth", [1, 300])
def test_ranks_count_the_higher_scores(kind: str, width: int, depth: int) -> None:
    """As far as the depth; ties have the rank of the first of them."""
    scores = some_scores(3, width, kind, seed=width)
    depth = min(depth, width)
    best = scores.topk(min(2 * depth, width), dim=1).values
    wanted = torch.cat([best, scores[:, :20], torch.full((3, 1), -torch.inf)], dim=1)
    ranks = ranks_in_rows(scores, wanted, depth)
    counted = torch.stack([(scores > one.unsqueeze(1)).sum(dim=1) for one in wanted.T], dim=1)
    assert torch.equal(ranks, counted.clamp(max=depth))


@pytest.mark.parametrize("width", [LONG, LONG + 1])
def test_more_are_wanted_than_there_are_blocks(width: int) -> None:
    """A row that is long, and yet too short for so many."""
    scores, count = some_scores(2, width, "random", seed=3), width // BLOCK + 5
    assert_as_topk(scores, count)
    wanted = scores[:, :50]
    counted = (scores.unsqueeze(1) > wanted.unsqueeze(2)).sum(dim=2)
    assert torch.equal(ranks_in_rows(scores, wanted, count), counted.clamp(max=count))


def test_ranks_sort_only_what_reaches_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise they would be as slow as sorting all."""
    sorted_sizes: list[int] = []
    sort = topn_module.np.sort
    monkeypatch.setattr(topn_module.np, "sort", lambda row: sorted_sizes.append(len(row)) or sort(row))
    scores = some_scores(4, 20_000, "random", seed=1)
    ranks_in_rows(scores, scores[:, :5], 100)
    assert len(sorted_sizes) == 4 and min(sorted_sizes) >= 100 and max(sorted_sizes) < 200
