"""Methods that add nothing to a training's loss, which no table shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from logging import getLogger
from typing import Any


class SilentTerms:
    """Which methods' terms were 0 in every batch so far.

    Args:
        distillers: the methods, of which those without a weight are said to have no effect elsewhere.
    """

    def __init__(self, distillers: Iterable[Any]) -> None:
        """Start before the first epoch."""
        self._silent = {one.name for one in distillers if getattr(one.options, "weight", 1)}
        self._epochs = 0

    def see(self, means: Mapping[str, float]) -> None:
        """Take in an epoch's mean of each term, or of their sum alone, which tells them not apart."""
        self._epochs += 1
        if "sum" in means:
            self._silent.clear()
        self._silent -= {name for name, mean in means.items() if mean}

    def warn(self) -> None:
        """Name them, after any epoch."""
        for name in sorted(self._silent) if self._epochs else ():
            getLogger().warning(
                f"{name} taught the student nothing: its term was 0 in every batch. Its lists or the teacher's may be "
                "too short to have an order, or its weight in this phase is 0."
            )
