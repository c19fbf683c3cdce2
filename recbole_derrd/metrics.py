"""RecBole's metrics: which way is better, and how much of a gap is recovered."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

#: RecBole's metrics that are better when they are small.
_SMALLER_IS_BETTER = frozenset({"rmse", "mae", "logloss", "averagepopularity", "giniindex"})


def bigger_is_better(metric: str) -> bool:
    """Return the right direction of a metric such as ``ndcg@10``."""
    return metric.partition("@")[0].lower() not in _SMALLER_IS_BETTER


def gap_recovered(teacher: float, student: float, distilled: float, *, bigger: bool = True) -> float | None:
    """Return (distilled - student) / (teacher - student): 1 closes the gap. None where the teacher is not better.

    Args:
        teacher: the teacher's value of a metric.
        student: that of the plain student.
        distilled: that of the distilled student.
        bigger: whether larger values of the metric are better.
    """
    gap = teacher - student
    better = gap > 0 if bigger else gap < 0
    return (distilled - student) / gap if better else None


def is_within_noise(differences: Sequence[float]) -> bool:
    """Say whether the mean of these differences, one a seed, is no larger than its standard error.

    Of a gap like that no share can be recovered. One seed says nothing of its noise.
    """
    if len(differences) < 2:
        return False
    return abs(statistics.fmean(differences)) <= statistics.stdev(differences) / math.sqrt(len(differences))
