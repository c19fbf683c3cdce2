"""Which values RecBole takes for missing, and how many of them some columns of a data file hold."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: What pandas reads as no value in a column of any type, by its documentation.
NO_VALUE = frozenset(
    [
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
        "NULL", "NaN", "None", "n/a", "nan", "null",
    ]
)  # fmt: skip
# Python's float() reads these as not a number as well.
_NAN = frozenset(
    sign + "".join(letters)
    for sign in ("", "+", "-")
    for letters in itertools.product(*((letter, letter.upper()) for letter in "nan"))
)
_BLANK = frozenset(b" \t\x0b\x0c\x1c\x1d\x1e\x1f")


def is_missing(value: str, *, number: bool) -> bool:
    """Say whether a value of a column counts as missing: of a column of numbers also NaN, however it is written."""
    return value in NO_VALUE or (number and value.strip() in _NAN)


@dataclasses.dataclass
class Missing:
    """The missing values of one column.

    Attributes:
        count: how many there are.
        line: line of the first.
        value: what stands there.
    """

    count: int = 0
    line: int = 0
    value: str = ""

    def add(self, count: int, line: int, value: str) -> None:
        """Count more of them, from this line on."""
        if not self.count:
            self.line, self.value = line, value
        self.count += count


def _table(values: frozenset[str]) -> tuple[Array, list[bytes], int]:
    known = sorted(value.encode() for value in values if value)
    firsts = np.zeros(256, dtype=bool)
    firsts[[value[0] for value in known]] = True
    return firsts, known, max(map(len, known))


_TABLES = {False: _table(NO_VALUE), True: _table(NO_VALUE | _NAN)}
_IS_BLANK = np.isin(np.arange(256), list(_BLANK))


def missing_fields(block: Array, starts: Array, ends: Array, *, number: bool) -> Array:
    """Return which fields of a column count as missing, in order, without a look at each.

    Args:
        block: the bytes of some whole lines, as uint8.
        starts: where each field of the column starts in it.
        ends: where each ends, not included; the byte there is no part of any field.
        number: whether it is a column of numbers.
    """
    if number:
        starts, ends = _without_blanks(block, starts, ends)
    lengths = ends - starts
    firsts, known, longest = _TABLES[number]
    empty = lengths == 0
    # A field of blanks alone is no number, and RecBole refuses it.
    found = [np.flatnonzero(empty)]
    candidates = np.flatnonzero(firsts[block[starts]] & (lengths <= longest) & ~empty)
    for value in known if len(candidates) else ():
        fields = candidates[lengths[candidates] == len(value)]
        for place, byte in enumerate(value):
            fields = fields[block[starts[fields] + place] == byte]
        found.append(fields)
    return np.sort(np.concatenate(found))


def _without_blanks(block: Array, starts: Array, ends: Array) -> tuple[Array, Array]:
    """Move the bounds of fields inwards past blanks; of a field of blanks alone one is left."""
    while True:
        blank = _IS_BLANK[block[starts]] & (ends - starts > 1)
        if not blank.any():
            break
        starts = starts + blank
    while True:
        blank = _IS_BLANK[block[ends - 1]] & (ends - starts > 1)
        if not blank.any():
            return starts, ends
        ends = ends - blank
