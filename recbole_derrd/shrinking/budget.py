"""What may be spent on an item, and the ways to spend it: dimensions, and bits of each."""

from __future__ import annotations

import dataclasses
import re

from recbole_derrd.errors import OptionError
from recbole_derrd.ops.packing import STEP_BYTES, packed_size
from recbole_derrd.ops.residual import CODEWORDS

#: Bits that a student can be trained in, fewest first.
BITS = (1, 2, 4, 8)
#: Splits of fewer dimensions are not looked at.
_FEWEST_DIMENSIONS = 4
#: Dimensions that a codebook may be worth.
_DIMENSIONS_A_CODEBOOK = (16, 32)
#: Bytes of a number of a codebook.
_CODEBOOK_BYTES = 2
#: Above so many bits a dimension, codebooks gain nothing.
_MOST_BITS = 2
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclasses.dataclass(frozen=True)
class Split:
    """Dimensions and bits of each, of a student's items; and bits of its users."""

    size: int
    bits: int
    user_bits: int = 32

    @property
    def item_bytes(self) -> int:
        """Bytes of an item's codes, without the step's two."""
        return packed_size(self.size, self.bits)

    @property
    def user_bytes(self) -> int:
        """Bytes of a user, with the step's two where there is one."""
        return 4 * self.size if self.user_bits == 32 else packed_size(self.size, self.user_bits) + STEP_BYTES

    def total(self, n_users: int, n_items: int) -> int:
        """Return the bytes of so many users and items, steps included."""
        return n_users * self.user_bytes + n_items * (self.item_bytes + STEP_BYTES)

    @property
    def dimensions_and_bits(self) -> str:
        """Dimensions and bits as tables write them: "80 x 1 bit"."""
        return f"{self.size} x {self.bits} bit{'' if self.bits == 1 else 's'}"

    def __str__(self) -> str:
        """Say it in words."""
        users = "" if self.user_bits == 32 else f", users in {self.user_bits} bits"
        return f"{self.size} dimensions in {self.bits} bit{'' if self.bits == 1 else 's'}{users}"


@dataclasses.dataclass(frozen=True)
class Codebooks:
    """Codebooks of a student's items, a byte of an item each, and the student's dimensions."""

    number: int
    size: int

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.number} codebook{'' if self.number == 1 else 's'} of {self.size} dimensions"


@dataclasses.dataclass(frozen=True)
class Budget:
    """What may be spent: exactly one of the three.

    Attributes:
        item_bytes: bytes of an item's codes; the users stay float32.
        size: bytes of all users and items together, a number or e.g. "1MB"; the users are in 8 bits.
        times: how many times smaller than the teacher the whole shall be.
    """

    item_bytes: int | None = None
    size: str | int | None = None
    times: float | None = None

    def check(self) -> None:
        """Refuse none, several, and what is no size.

        Raises:
            OptionError: what to write.
        """
        given = [value for value in (self.item_bytes, self.size, self.times) if value is not None]
        if len(given) != 1:
            raise OptionError(
                "How small? Write one of --bytes=20 (an item), --size=1MB (the whole) and --times=40 (smaller)."
            )
        if self.size is not None:
            read_size(self.size)
        if self.times is not None and not self.times > 1:
            raise OptionError(f"--times must be above 1, but is {self.times}.")

    def codebooks(self, items: int, most: int) -> Codebooks | None:
        """Return codebooks that take no more of an item's bytes than a row's scale in bits does; None if none do.

        Args:
            items: of the catalogue, the padding included.
            most: the most dimensions that the student may have.
        """
        number = self.item_bytes
        sizes = [] if number is None else sizes_of_codebooks(number, most)
        if number is None or not sizes:
            return None
        size = min(sizes[0], items * STEP_BYTES // (number * CODEWORDS * _CODEBOOK_BYTES))
        # With fewer dimensions than signs of as many bytes they would gain nothing.
        return Codebooks(number, size) if size >= min(most, 8 * number) else None

    def splits(self, users: int, items: int, teacher_bytes: int, most: int) -> list[Split]:
        """Return the ways to spend it; ids include the padding."""
        if self.item_bytes is not None:
            return splits_of_bytes(self.item_bytes, most)
        if self.size is not None:
            return splits_of_total(read_size(self.size), users, items, most)
        total, least = int(teacher_bytes / (self.times or 1)), least_total(users, items)
        try:
            return splits_of_total(total, users, items, most)
        except OptionError as error:
            possible = int(10 * teacher_bytes / least) / 10
            hint = f" Give --times={possible:g} or less." if total < least < teacher_bytes and possible > 1 else ""
            raise OptionError(f"The model has {teacher_bytes:,} bytes. {error}{hint}") from error


def sizes_of_codebooks(codebooks: int, most: int) -> list[int]:
    """Return the dimensions that a student in so many codebooks may have, largest first; none where bits do as well.

    Args:
        codebooks: a byte of an item each.
        most: the most dimensions that the student may have.
    """
    if 8 * codebooks > _MOST_BITS * most:
        return []
    return sorted({min(most, dimensions * codebooks) for dimensions in _DIMENSIONS_A_CODEBOOK}, reverse=True)


def splits_of_bytes(item_bytes: int, most: int) -> list[Split]:
    """Return the ways to spend so many bytes on an item's codes, fewest bits first.

    Args:
        item_bytes: bytes of an item's codes.
        most: the most dimensions that the student may have (the teacher's: more hold nothing that it knows).

    Raises:
        OptionError: there is none.
    """
    _refuse_narrow(most)
    kept = _ways(item_bytes, most)
    if not kept:
        # In 8 bits a byte is a dimension, and a quarter of the bytes may be left over.
        possible = [one for one in range(1, 2 * most) if _ways(one, most)]
        last = possible[-1]
        which = f"from 1 to {last}" if len(possible) == last else f"one of {', '.join(map(str, possible))}"
        raise OptionError(
            f"{item_bytes:,} bytes an item {'are too many' if item_bytes > last else 'cannot be spent'} for a teacher "
            f"of {most} dimensions: give {which} (a byte is 8 dimensions of one bit, or one of 8 bits)."
        )
    return kept


def _ways(item_bytes: int, most: int) -> list[Split]:
    found = [Split(min(8 * item_bytes // bits, most), bits) for bits in BITS]
    # Held to the teacher's dimensions, fewer bits would leave bytes unused that more bits can take.
    return [split for split in found if split.size >= _FEWEST_DIMENSIONS and 4 * split.item_bytes >= 3 * item_bytes]


def _refuse_narrow(most: int) -> None:
    if most < _FEWEST_DIMENSIONS:
        raise OptionError(
            f"A student in few bits has {_FEWEST_DIMENSIONS} dimensions or more, and a teacher of {most} cannot give "
            "it more than its own: take a larger teacher."
        )


def splits_of_total(total: int, n_users: int, n_items: int, most: int) -> list[Split]:
    """Return the ways to spend so many bytes on all users and items together, the users in 8 bits, fewest bits first.

    Args:
        total: bytes of the whole.
        n_users: users, the padding included.
        n_items: items, the padding included.
        most: the most dimensions.

    Raises:
        OptionError: there is none.
    """
    _refuse_narrow(most)
    found = []
    for bits in BITS:
        fitting = (Split(size, bits, 8) for size in range(most, _FEWEST_DIMENSIONS - 1, -1))
        first = next((split for split in fitting if split.total(n_users, n_items) <= total), None)
        if first is not None:
            found.append(first)
    if not found:
        raise OptionError(
            f"{total:,} bytes are too few for {n_users - 1:,} users and {n_items - 1:,} items: the smallest student "
            f"takes {least_total(n_users, n_items):,}."
        )
    return found


def least_total(n_users: int, n_items: int) -> int:
    """Return the bytes of the smallest student of so many users and items, the padding included."""
    return Split(_FEWEST_DIMENSIONS, BITS[0], 8).total(n_users, n_items)


def read_size(given: str | int) -> int:
    """Return the bytes of a size as one writes it: 1MB, 250 kB, 4096; a number is of bytes.

    Raises:
        OptionError: it is none.
    """
    text = str(given)
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kMG]?B)?\s*", text, re.IGNORECASE)
    unit = _UNITS.get((match[2] or "").upper()) if match else None
    if match is None or unit is None or not float(match[1]):
        raise OptionError(f"--size cannot be '{text}'. Write bytes with a unit, e.g. 1MB or 250kB.")
    return int(float(match[1]) * unit)
