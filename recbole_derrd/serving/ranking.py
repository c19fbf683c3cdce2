"""The largest scores of a row, with numpy alone. Of equal scores the one of the smaller row number is first."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Entries of one block, see :func:`best`.
_BLOCK = 8


def best(scores: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Return where the ``count`` largest scores are, best first; of equal scores the first ones.

    A row is cut into blocks of 8 entries. At least ``count`` entries are as large as the ``count``-th largest maximum
    of the blocks, so that all that are wanted are among those: only these few are sorted.

    Args:
        scores: [n], without NaN. -inf marks what must not be found, so fewer may be returned.
        count: how many.
    """
    blocks = len(scores) // _BLOCK
    places = None
    if count < blocks:
        maxima = scores[: blocks * _BLOCK].reshape(_BLOCK, blocks).max(axis=0)
        least = np.partition(maxima, blocks - count)[blocks - count]
        if least > -np.inf:
            places = np.flatnonzero(scores >= least)
    if places is None:
        places = np.flatnonzero(scores > -np.inf)
    found: np.ndarray[Any, Any] = places[np.argsort(-scores[places], kind="stable")[:count]]
    return found
