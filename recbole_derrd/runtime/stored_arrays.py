"""Reading what lies on disk with suspicion: headers before memory is taken, bytes against their checksum.

A checksum (CRC-32) finds every flipped bit and every exchanged or truncated file; it is no protection from an attacker.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

#: Numbers alone: objects would be code, texts and times are nothing that is stored here.
_KINDS = "biuf"
#: Bytes that are read at once.
_BLOCK = 1 << 22
#: A description is a few hundred bytes; a file that claims to be one and is not must not fill the memory.
_LONGEST_TEXT = 1 << 20


class DamagedFileError(Exception):
    """What a file holds is not what was written; the message is the reason, as in "The file is damaged: ..."."""


class Header:
    """What the head of an ``.npy`` file says of the array behind it.

    Args:
        file: open at its start.
        size: bytes of the whole file, which must be those of the head and the array.

    Raises:
        DamagedFileError: there is no array of numbers of just this size.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        """Read the head."""
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, self.fortran, dtype = read(file)
        except OSError:
            raise
        # What numpy's parser of a Python literal raises at arbitrary bytes is not declared.
        except Exception as error:
            raise DamagedFileError("it does not begin as an .npy file does") from error
        if dtype.kind not in _KINDS or dtype.fields is not None:
            raise DamagedFileError(f"it holds {dtype} and not numbers")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise DamagedFileError(f"its shape is {shape}")
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = dtype
        self.start = file.tell()
        expected = self.start + dtype.itemsize * math.prod(shape)
        if size != expected:
            raise DamagedFileError(f"it has {size:,} bytes, and an array {shape} of {dtype} takes {expected:,}")


def _opened(path: Path) -> IO[bytes]:
    # A pipe would wait for a writer.
    if not path.is_file():
        raise DamagedFileError("it is no regular file" if path.exists() else "it is missing")
    try:
        return open(path, "rb")
    except OSError as error:
        raise DamagedFileError(f"it cannot be read ({error.strerror or error})") from error


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """Read an ``.npy`` file of numbers into memory.

    Raises:
        DamagedFileError: it is none, or not whole.
    """
    with _opened(path) as file:
        try:
            Header(file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DamagedFileError(f"it cannot be read ({error})") from error
    return array


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    found = 0
    with _opened(path) as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


class RowReader:
    """Reads an ``.npy`` file of rows from its start to its end, some rows at a time, and adds up its checksum.

    Args:
        path: the file.

    Attributes:
        header: what the file says of itself.
        checksum: of what has been read.

    Raises:
        DamagedFileError: it is no array of rows, or not whole.
    """

    def __init__(self, path: Path) -> None:
        """Read the head."""
        self._path = path
        with _opened(path) as file:
            self.header = Header(file, os.fstat(file.fileno()).st_size)
        if len(self.header.shape) != 2 or self.header.fortran or not self.header.dtype.isnative:
            raise DamagedFileError(f"its shape is {self.header.shape}")
        self.checksum = 0

    def __iter__(self) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """Yield (number of the first row, rows); they are written over by the next."""
        rows, width = self.header.shape
        row_bytes = max(1, width * self.header.dtype.itemsize)
        at_once = max(1, _BLOCK // row_bytes)
        with _opened(self._path) as file:
            self.checksum = zlib.crc32(file.read(self.header.start))
            block = np.empty((min(at_once, rows), width), self.header.dtype)
            for first in range(0, rows, at_once):
                part = block[: min(at_once, rows - first)]
                view = part.data.cast("B") if part.size else memoryview(b"")
                if file.readinto(view) != len(view):  # type: ignore[attr-defined]
                    raise DamagedFileError("it ends before its last row")
                self.checksum = zlib.crc32(view, self.checksum)
                yield first, part


def sealed(content: dict[str, Any]) -> str:
    """Return a JSON text of plain values that says whether it is still what was written."""
    return json.dumps({**content, "seal": _seal(content)}, indent=1) + "\n"


def unsealed(path: Path) -> dict[str, Any]:
    """Read what :func:`sealed` has written to a file.

    Raises:
        DamagedFileError: it is missing, or not what was written.
    """
    with _opened(path) as file:
        text = file.read(_LONGEST_TEXT + 1)
    try:
        content = json.loads(text[:_LONGEST_TEXT].decode("ascii"))
        seal = content.pop("seal")
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedFileError(f"'{path.name}' is no description that this version writes") from error
    if type(seal) is not int or seal != _seal(content):
        raise DamagedFileError(f"'{path.name}' is not what was written")
    found: dict[str, Any] = content
    return found


def is_sealed(content: dict[str, Any]) -> bool:
    """Say whether content that has a seal is what :func:`sealed` was given."""
    plain = {name: value for name, value in content.items() if name != "seal"}
    return type(content.get("seal")) is int and content["seal"] == _seal(plain)


def _seal(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode("ascii"))
