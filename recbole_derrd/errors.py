"""Errors that are the user's to mend: one or two sentences, what is wrong and what to do."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class DistillError(Exception):
    """A mistake in what the user gave. The command line prints it alone and exits with code 2."""


class OptionError(DistillError):
    """An option that is unknown, of the wrong type or out of its range."""


class DataError(DistillError):
    """Data that cannot be used: empty, missing, or not the data that a teacher was trained on."""


class CheckpointError(DistillError):
    """A file that is no usable checkpoint."""


class UnreadableError(CheckpointError):
    """A file that the system does not give; it may be sound."""


class TrainingError(DistillError):
    """Training that went wrong for a reason that a user can mend, such as a loss that is not a number."""


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word most like ``word``, or None where none is alike."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?", or a list of what is known where nothing is alike.

    Example:
        >>> did_you_mean("rdd", ["de", "rrd"])
        " Did you mean 'rrd'?"
    """
    known = sorted(set(known))
    match = nearest(word, known)
    return f" Did you mean '{match}'?" if match else f" Known are: {', '.join(known)}."


def shown(value: Any) -> str:
    """Return a value that was read from a file as short text, however large or deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    short.maxlevel = 4
    try:
        return short.repr(value)
    except ValueError:  # Python writes no number of thousands of digits.
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
