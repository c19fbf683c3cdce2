"""The arrays of an export, memory-mapped: ``.npy`` files, and safetensors, a JSON text before bare numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_derrd.runtime.stored_arrays import DamagedFileError, Header

#: The kinds of numbers of an export, by safetensors' names for them.
_KINDS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "U8": np.dtype("u1")}
_LONGEST_HEAD = 1 << 16


def mapped(path: Path, kind: type[np.generic], dimensions: int) -> np.ndarray[Any, Any]:
    """Map an ``.npy`` file.

    Raises:
        DamagedFileError: it is no array of this kind.
    """
    with open(path, "rb") as file:
        header = Header(file, path.stat().st_size)
    if header.dtype != kind or len(header.shape) != dimensions or header.fortran:
        raise DamagedFileError(f"'{path.name}' holds {header.dtype} {header.shape}")
    return _mapped(path, header.dtype, header.start, header.shape)


def _mapped(path: Path, kind: np.dtype[Any], start: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if not math.prod(shape):
        return np.zeros(shape, kind)
    # A bare view: a memmap's own bookkeeping costs more than the product of a short list.
    return np.asarray(np.memmap(path, kind, "r", start, shape))


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write arrays in the format of safetensors: 8 bytes of length, a JSON text, the numbers one after the other."""
    names = {kind: name for name, kind in _KINDS.items()}
    head: dict[str, Any] = {}
    place = 0
    for name, array in arrays.items():
        head[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [place, place]}
        place += array.nbytes
        head[name]["data_offsets"][1] = place
    text = json.dumps(head).encode("ascii")
    # The numbers begin at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())


def read_safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Map the arrays of a safetensors file.

    Raises:
        DamagedFileError: it is none.
    """
    whole = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LONGEST_HEAD, whole):
                raise DamagedFileError(f"'{path.name}' does not begin as safetensors do")
            head = json.loads(file.read(length))
        found = {}
        for name, entry in head.items():
            kind, shape = _KINDS[entry["dtype"]], tuple(entry["shape"])
            low, high = entry["data_offsets"]
            if high - low != math.prod(shape) * kind.itemsize or not 0 <= low <= high <= whole - 8 - length:
                raise DamagedFileError(f"'{name}' of '{path.name}' is not whole")
            found[name] = _mapped(path, kind, 8 + length + low, shape)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"'{path.name}' does not begin as safetensors do") from error
    return found
