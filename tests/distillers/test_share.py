"""Drawing a share of a batch's entities: how many, how likely, and what their sum is multiplied by."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch
from scipy import stats

from recbole_derrd.distillers.de import DEOptions
from recbole_derrd.distillers.rrd import RRDOptions
from recbole_derrd.distillers.subsampling import epoch_seed, subsample
from recbole_derrd.errors import OptionError


@pytest.mark.parametrize(
    ("size", "share", "count"),
    [(10, 0.5, 5), (10, 0.24, 2), (10, 0.26, 3), (3, 0.01, 1), (1, 0.5, 1), (7, 0.99, 7), (900, 0.25, 225)],
)
def test_count_and_scale(size: int, share: float, count: int) -> None:
    ids = torch.arange(100, 100 + size)
    chosen, scale = subsample(ids, share, torch.Generator().manual_seed(0))
    assert len(chosen) == count == len(chosen.unique()) and scale == size / count
    assert set(chosen.tolist()) <= set(ids.tolist())


def test_every_subset_as_often_as_any_other() -> None:
    ids, generator = torch.tensor([3, 8, 9, 11, 20]), torch.Generator().manual_seed(1)
    seen = Counter(tuple(sorted(subsample(ids, 0.4, generator)[0].tolist())) for _ in range(5000))
    assert set(seen) == set(combinations(ids.tolist(), 2))
    assert stats.chisquare(list(seen.values())).pvalue > 0.01


@pytest.mark.parametrize(("size", "share"), [(10, 1.0), (0, 1.0), (0, 0.3)])
def test_nothing_to_choose_draws_nothing(size: int, share: float) -> None:
    generator = torch.Generator().manual_seed(2)
    state, ids = generator.get_state(), torch.arange(size)
    chosen, scale = subsample(ids, share, generator)
    assert chosen is ids and scale == 1 and torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("options", [DEOptions, RRDOptions])
@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_limits(options: type[DEOptions] | type[RRDOptions], share: float) -> None:
    assert options().sample == 1
    with pytest.raises(OptionError, match="sample"):
        options(sample=share)


def test_a_seed_of_each_epoch_is_one_that_generators_take() -> None:
    """Large seeds and long trainings too; no two epochs of a training share one."""
    for seed in (0, 1, 2020, 2**32 - 1, 2**62):
        seeds = [epoch_seed(seed, epoch) for epoch in (-1, 0, 1, 2, 10_000)]
        assert len(set(seeds)) == 5 and all(0 <= one < 2**63 for one in seeds)
        torch.Generator().manual_seed(max(seeds))
