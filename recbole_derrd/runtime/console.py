"""What the console shows of a run beside warnings: chosen lines of its log, and one progress bar a training."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm

#: ``getLogger().info(text, extra=SHOWN)`` is a line that the console shows; others are in the log file alone.
SHOWN = {"shown": True}
#: A line that no console shows, not even with ``verbose``: what it says is printed.
PRINTED = {"shown": False}


def shows_bars(wanted: bool) -> bool:
    """Return whether bars are shown: where they are wanted, on a terminal; a file would get a line for each step."""
    with contextlib.suppress(AttributeError, ValueError):
        return wanted and sys.stderr.isatty()
    return False


def where_no_bar(wanted: bool) -> dict[str, Any]:
    """Return the ``extra`` of a line that the console shows where no bar says as much."""
    return {} if shows_bars(wanted) else SHOWN


class ConsoleFilter(logging.Filter):
    """Lets warnings and chosen lines through, or with ``verbose`` everything but what is printed."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._default = verbose

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the console shows the line."""
        return record.levelno >= logging.WARNING or bool(getattr(record, "shown", self._default))


class ConsoleHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes above the bars and not into them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class TrainingBar:
    """One bar for all epochs of a training, which goes when it ends; nothing where bars are not shown."""

    def __init__(self, what: str, epochs: int, batches: int, *, show: bool, begun: int = 0) -> None:
        """Open the bar.

        Args:
            what: the training, in a few words.
            epochs: how many it has at most.
            batches: of an epoch.
            show: whether there is a bar at all.
            begun: epochs that an earlier process has done.
        """
        self._epochs, self._share, self._best = epochs, 1 / max(batches, 1), ""
        self._bar = None
        if show:
            width = min(100, shutil.get_terminal_size().columns)
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
            self._bar = tqdm(desc=what, total=epochs, initial=begun, ncols=width, bar_format=form, leave=False)

    def batch(self) -> None:
        """Move on by a batch."""
        if self._bar is not None:
            self._bar.update(min(self._share, max(self._epochs - self._bar.n, 0)))

    def epoch(self, number: int) -> None:
        """Say which epoch begins."""
        if self._bar is not None:
            # What is trained before the epochs (RaCT's stages) has moved the bar as well.
            self._bar.n = min(number, self._epochs)
            self._bar.set_postfix_str(f"epoch {number} of {self._epochs}{self._best}", refresh=False)

    def best(self, metric: str, value: float) -> None:
        """Say how good the model is so far."""
        self._best = f", best {metric} {value:.4f}"

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
