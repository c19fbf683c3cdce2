"""Checks of a stored array: whether it is what was written, and whether its values can be a teacher's.

Each process reads an array once from end to end, when it first opens it. The checksum finds flipped bits and exchanged
files; the checks of the values find what no version of this plugin would have written. A later run checks again: a
flipped bit leaves the file's time unchanged. 60 MB (500 items for each of 30,000 users) take 0.2 s, 2 GB (a million
users) about 7 s; the first epoch reads all of it anyway.
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
# Parts of the description that serve these checks alone.
_KEYS = ("cache_entry", "checksum", "bytes")


@dataclasses.dataclass(frozen=True)
class Expected:
    """Type, shape and values that an array must have.

    Attributes:
        dtype: its type.
        rows: how many rows; where ``repeated``, any multiple of it.
        width: numbers in a row; None where any width is right.
        fault: takes rows and the number of the first of them, and returns what is wrong with them, or None.
        repeated: whether several such arrays are stored one below the other.
    """

    dtype: type[Any]
    rows: int
    width: int | None
    fault: Callable[[Rows, int], str | None]
    repeated: bool = False

    def refuse_shape(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Refuse an array of another type or shape.

        Raises:
            DamagedFileError: its type and shape.
        """
        rows, width = shape
        fits = rows > 0 and rows % self.rows == 0 if self.repeated else rows == self.rows
        if not fits or width != (width if self.width is None else self.width) or width < 1 or dtype != self.dtype:
            raise DamagedFileError(f"it holds {dtype} {shape}")


def write_description(folder: Path, name: str, about: dict[str, Any]) -> None:
    """Write the description of the array in a folder.

    Args:
        folder: where the array is being built.
        name: the array's own name, so that it is not mistaken for another.
        about: the builder's own part of the description.
    """
    array = folder / ARRAY
    found = {"cache_entry": name, "checksum": checksum(array), "bytes": array.stat().st_size}
    (folder / ABOUT).write_text(sealed({**about, **found}), encoding="ascii")


def verified(folder: Path, name: str, expected: Expected) -> dict[str, Any]:
    """Read an array from end to end and return its description, as the builder wrote it.

    Raises:
        DamagedFileError: it is not what was written under this name, or not what is expected.
    """
    about = unsealed(folder / ABOUT)
    if about.get("cache_entry") != name:
        raise DamagedFileError(f"it is that of '{about.get('cache_entry')}'")
    reader = RowReader(folder / ARRAY)
    expected.refuse_shape(reader.header.shape, reader.header.dtype)
    fault = None
    for first, rows in reader:
        fault = fault or expected.fault(rows, first)
    if reader.checksum != about.get("checksum"):
        raise DamagedFileError("its content is not what was written (checksum)" + (f": {fault}" if fault else ""))
    if fault:
        raise DamagedFileError(fault)
    return {key: value for key, value in about.items() if key not in _KEYS}


def fault_of_rankings(rows: Rows, first: int, count: int, entities: int, own: bool = False) -> str | None:
    """Return what is wrong with rankings of ids: each row is distinct ids from 1 on, then zeros.

    Args:
        rows: [n, N].
        first: number of the first of them.
        count: rows of one array; where several lie one below the other, each begins with the padding id's row.
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
    """Return where embeddings are not finite numbers."""
    place = _first(~np.isfinite(rows))
    return None if place is None else f"row {first + place[0]} holds {rows[place]}"


def fault_of_scores(rows: Rows, first: int) -> str | None:
    """Return where scores are NaN or inf; -inf is a valid score."""
    place = _first(np.isnan(rows) | (rows == np.inf))
    return None if place is None else f"row {first + place[0]} holds {rows[place]}"


def fault_of_ranks(rows: Rows, first: int, most: int) -> str | None:
    """Return where ranks are not from 1 to ``most``."""
    place = _first((rows < 1) | (rows > most))
    return None if place is None else f"row {first + place[0]} holds {rows[place]}, and ranks go from 1 to {most}"


def _first(wrong: Rows) -> tuple[int, int] | None:
    """Return row and column of the first marked place, or None."""
    if not wrong.any():
        return None
    row, column = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    return int(row), int(column)
