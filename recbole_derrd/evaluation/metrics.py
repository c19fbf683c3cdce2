"""RecBole's metrics: which way is better, how much of a gap is recovered, and what is noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

#: RecBole's metrics that are better when they are small.
_SMALLER_IS_BETTER = frozenset({"rmse", "mae", "logloss", "averagepopularity", "giniindex"})


def bigger_is_better(metric: str) -> bool:
    """Return the right direction of a metric such as ``ndcg@10``."""
    return metric.partition("@")[0].lower() not in _SMALLER_IS_BETTER


def gap_recovered(
    teacher: float, student: float, distilled: float, *, bigger: bool = True, error: float | None = None
) -> float | None:
    """Return (distilled - student) / (teacher - student): 1 closes the gap.

    None where the teacher is not better, or by no more than noise.

    Args:
        teacher: the teacher's value of a metric.
        student: that of the plain student.
        distilled: that of the distilled student.
        bigger: whether larger values of the metric are better.
        error: standard error of teacher - student, if it is known.

    Example:
        >>> round(gap_recovered(teacher=0.30, student=0.27, distilled=0.285), 2)
        0.5
        >>> gap_recovered(teacher=0.30, student=0.29, distilled=0.295, error=0.01) is None
        True
    """
    gap = teacher - student
    better = gap > 0 if bigger else gap < 0
    noise = error is not None and within_noise(gap, error)
    return (distilled - student) / gap if better and not noise else None


def within_noise(difference: float, error: float) -> bool:
    """Return whether a difference is smaller than twice its standard error."""
    return abs(difference) < 2 * error


def paired_error(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the standard error of the difference of two means, from the means of the same groups of users.

    None where there are fewer than two groups, or the groups are not the same.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        return None
    differences = [one - other for one, other in zip(ours, theirs)]
    return statistics.stdev(differences) / math.sqrt(len(differences))


def shown_metric(value: float) -> str:
    """Write a metric with four digits, "-" where it is undefined: its split is left out, or has no such metric."""
    return f"{value:.4f}" if math.isfinite(value) else "-"


def percent(share: float | None) -> str:
    """Write a share as a whole number of percent, "-" where there is none; never "-0 %"."""
    return "-" if share is None or not math.isfinite(share) else f"{round(100 * share)} %"


def is_within_noise(differences: Sequence[float]) -> bool:
    """Say whether the mean of these differences, one a seed, is no larger than its standard error.

    Of a gap like that no share can be recovered. One seed says nothing of its noise.
    """
    if len(differences) < 2:
        return False
    return abs(statistics.fmean(differences)) <= statistics.stdev(differences) / math.sqrt(len(differences))
