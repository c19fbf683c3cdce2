"""Whether one row of a table is better than another over the same seeds: paired one-sided tests, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Below this many pairs no test says anything.
MIN_PAIRS = 3


def paired_t(ours: Sequence[float], theirs: Sequence[float], *, bigger: bool = True) -> float | None:
    """Return the p-value of the paired t-test that ours are better on the mean.

    None where there are too few pairs, or where all differences are one number other than 0: they have no spread.
    """
    differences = _differences(ours, theirs, bigger)
    if len(differences) < MIN_PAIRS:
        return None
    if max(differences) - min(differences) <= 1e-12 * max(abs(value) for value in (*ours, *theirs, 1e-300)):
        return None if abs(differences[0]) > 1e-12 else 1.0
    from scipy.stats import ttest_rel

    signed = 1 if bigger else -1
    p = float(ttest_rel([signed * v for v in ours], [signed * v for v in theirs], alternative="greater").pvalue)
    return p if math.isfinite(p) else None


def wilcoxon_signed_rank(ours: Sequence[float], theirs: Sequence[float], *, bigger: bool = True) -> float | None:
    """Return the exact p-value of Wilcoxon's signed-rank test that ours are better; None with too few pairs.

    Ties count against ours: an equal pair is a loss, and of two differences of the same size the loss ranks higher.
    """
    differences = _differences(ours, theirs, bigger)
    if len(differences) < MIN_PAIRS:
        return None
    from scipy.stats import wilcoxon

    ordered = sorted(differences, key=lambda value: (round(abs(value), 12), value <= 0))
    signed = [rank if value > 1e-12 else -rank for rank, value in enumerate(ordered, 1)]
    return float(wilcoxon(signed, alternative="greater", method="exact").pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values in the same order; what is None is no comparison and stays None.

    The i-th smallest of m is multiplied by m - i + 1; none may be below the one before it, none above 1.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = highest
    return adjusted


def _differences(ours: Sequence[float], theirs: Sequence[float], bigger: bool) -> list[float]:
    if len(ours) != len(theirs):
        raise ValueError(f"pairs are needed, not {len(ours)} and {len(theirs)} values")
    return [(our - their) * (1 if bigger else -1) for our, their in zip(ours, theirs)]
