"""Tests against values computed by hand, and against scipy where it has no ties to treat otherwise."""

from __future__ import annotations

import importlib
import random

import pytest
from scipy import stats

from recbole_derrd.evaluation.metrics import bigger_is_better
from recbole_derrd.report.significance import holm, paired_t, wilcoxon_signed_rank


def test_paired_t_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 3.4641 with 2 degrees: p = 0.0371 (tables)."""
    assert paired_t([1, 3, 5], [0, 1, 2]) == pytest.approx(0.037090, abs=1e-6)
    assert paired_t([1, 3, 5], [0, 1, 2], bigger=False) == pytest.approx(1 - 0.037090, abs=1e-6)


def test_wilcoxon_by_hand() -> None:
    """Of the 2^5 signs of ranks 1 to 5, one gives a sum of 15; losing rank 1 leaves 14, which 2 of 32 reach."""
    base = [0.0] * 5
    assert wilcoxon_signed_rank([0.1, 0.2, 0.3, 0.4, 0.5], base) == 1 / 32
    assert wilcoxon_signed_rank([-0.1, 0.2, 0.3, 0.4, 0.5], base) == 2 / 32
    assert wilcoxon_signed_rank([-0.1, -0.2, -0.3, -0.4, -0.5], base, bigger=False) == 1 / 32
    assert wilcoxon_signed_rank([-0.1, -0.2, -0.3, -0.4, -0.5], base) == 1


def test_both_are_scipys_where_nothing_ties() -> None:
    draw = random.Random(3)
    for _ in range(20):
        ours, theirs = ([draw.random() for _ in range(8)] for _ in range(2))
        assert paired_t(ours, theirs) == pytest.approx(stats.ttest_rel(ours, theirs, alternative="greater").pvalue)
        wanted = stats.wilcoxon(ours, theirs, alternative="greater", method="exact").pvalue
        assert wilcoxon_signed_rank(ours, theirs) == pytest.approx(wanted)


def test_ties_count_against_ours() -> None:
    """An equal pair is the smallest loss; of equal differences the loss has the higher rank."""
    assert wilcoxon_signed_rank([0.5, 0.6, 0.7, 0.8, 0.1], [0.1, 0.1, 0.1, 0.1, 0.1]) == 2 / 32
    # Ranks 1 and 2 are shared by a win and a loss: the loss takes 2, leaving 15 - 2 = 13, which 3 of 32 reach.
    assert wilcoxon_signed_rank([1, -1, 2, 3, 4], [0] * 5) == 3 / 32
    assert wilcoxon_signed_rank([1, 1, 1], [1, 1, 1]) == 1 and paired_t([1, 1, 1], [1, 1, 1]) == 1


def test_too_little_to_say_anything() -> None:
    assert paired_t([1, 2], [0, 0]) is None and wilcoxon_signed_rank([1, 2], [0, 0]) is None
    assert paired_t([1.0, 2.0, 3.0], [0.5, 1.5, 2.5]) is None, "differences without spread"


def test_holm_by_hand() -> None:
    """0.01 * 4, 0.02 * 3, 0.03 * 2 (not below 0.06), 0.04 * 1 (not below 0.06)."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, None, 0.6]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_directions_are_recboles() -> None:
    metrics = importlib.import_module("recbole.evaluator.metrics")
    for name, kind in vars(metrics).items():
        if isinstance(kind, type) and issubclass(kind, metrics.AbstractMetric) and hasattr(kind, "smaller"):
            assert bigger_is_better(f"{name.lower()}@10") is not kind.smaller, name
