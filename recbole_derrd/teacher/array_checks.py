"""What the arrays of a teacher's knowledge may hold; and whether an entry on disk is what was written.

Each array is read once, from end to end, when a process first opens it: the checksum finds what has rotted or was
exchanged, the checks of its values what no snapshot of this plugin would have written. The result is not remembered for
a later run: rotten bits leave a file's time as it was. 60 MB (500 items for each of 30,000 users) take 0.2 s, 2 GB (a
million users) about 7 s; all of it is read in the first epoch anyway.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable

import numpy as np

from recbole_derrd.runtime.stored_arrays import DamagedFileError, RowReader, checksum, sealed, unsealed

Rows = np.ndarray[Any, Any]

ARRAY = "array.npy"
ABOUT = "about.json"
# What the description holds for this check, and nobody else.
_KEYS = ("entry", "checksum", "bytes")


@dataclasses.dataclass(frozen=True)
class Expected:
    """What an array must be.

    Args:
        dtype: its type.
        rows: how many rows; a multiple of it where ``repeated``.
        width: numbers in a row; None where any number will do.
        fault: says what is wrong with rows, the first of which has this number; None where nothing is.
        repeated: whether there are several such arrays, one below the other.
    """

    dtype: type[Any]
    rows: int
    width: int | None
    fault: Callable[[Rows, int], str | None]
    repeated: bool = False

    def refuse_shape(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Refuse an array that is another.

        Raises:
            DamagedFileError: what it is.
        """
        rows, width = shape
        fits = rows > 0 and rows % self.rows == 0 if self.repeated else rows == self.rows
        if not fits or width != (width if self.width is None else self.width) or width < 1 or dtype != self.dtype:
            raise DamagedFileError(f"it holds {dtype} {shape}")


def describe(folder: Path, entry: Path, about: dict[str, Any]) -> None:
    """Write the description of an array that lies in ``folder``, before it becomes ``entry``."""
    array = folder / ARRAY
    found = {"entry": f"{entry.parent.name}/{entry.name}", "checksum": checksum(array), "bytes": array.stat().st_size}
    (folder / ABOUT).write_text(sealed({**about, **found}), encoding="ascii")


def verified(folder: Path, entry: Path, expected: Expected) -> dict[str, Any]:
    """Read an array from end to end and return what is said of it beside it.

    Raises:
        DamagedFileError: it is not what was written as ``entry``, or not what is expected.
    """
    about = unsealed(folder / ABOUT)
    if about.get("entry") != f"{entry.parent.name}/{entry.name}":
        raise DamagedFileError(f"it is that of '{about.get('entry')}'")
    reader = RowReader(folder / ARRAY)
    expected.refuse_shape(reader.header.shape, reader.header.dtype)
    fault = None
    for first, rows in reader:
        fault = fault or expected.fault(rows, first)
    if reader.checksum != about.get("checksum"):
        raise DamagedFileError("its content is not what was written (checksum)" + (f": {fault}" if fault else ""))
    if fault:
        raise DamagedFileError(fault)
    return {name: value for name, value in about.items() if name not in _KEYS}


def fault_of_rankings(rows: Rows, first: int, count: int, entities: int, own: bool = False) -> str | None:
    """Say what is wrong with rankings of ids: each row is distinct ids from 1 on, then zeros.

    Args:
        rows: [n, N].
        first: number of the first of them.
        count: how many numbers there are for rows; those that are a multiple of it are of the padding id.
        entities: ids are below this.
        own: whether a row must not hold its own number.
    """
    numbers = np.arange(first, first + len(rows)) % count
    outside = _first((rows < 0) | (rows >= entities))
    if outside is not None:
        return f"row {first + outside[0]} holds {rows[outside]}, and ids go from 1 to {entities - 1}"
    if rows[numbers == 0].any():
        return "the padding row is not empty"
    empty = rows == 0
    behind = _first(empty[:, :-1] & ~empty[:, 1:])
    if behind is not None:
        return f"row {first + behind[0]} goes on behind its end"
    ordered = np.sort(rows, axis=1)
    twice = _first((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0))
    if twice is not None:
        return f"row {first + twice[0]} holds {ordered[twice]} twice"
    if own and ((rows == numbers[:, None]) & ~empty).any():
        return "a row holds its own number"
    return None


def fault_of_embeddings(rows: Rows, first: int) -> str | None:
    """Say where embeddings hold what is no finite number."""
    place = _first(~np.isfinite(rows))
    return None if place is None else f"row {first + place[0]} holds {rows[place]}"


def fault_of_scores(rows: Rows, first: int) -> str | None:
    """Say where scores hold NaN or inf; -inf is a valid score of a teacher's."""
    place = _first(np.isnan(rows) | (rows == np.inf))
    return None if place is None else f"row {first + place[0]} holds {rows[place]}"


def fault_of_ranks(rows: Rows, first: int, most: int) -> str | None:
    """Say where ranks are not from 1 to ``most``."""
    place = _first((rows < 1) | (rows > most))
    return None if place is None else f"row {first + place[0]} holds {rows[place]}, and ranks go from 1 to {most}"


def _first(wrong: Rows) -> tuple[int, int] | None:
    """Return row and column of the first place that is marked, or None."""
    if not wrong.any():
        return None
    row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return int(row), int(column)
