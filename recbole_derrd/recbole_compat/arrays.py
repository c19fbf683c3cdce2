"""Numpy's arrays and scalars from the bytes that a file holds of them: numbers only, of sizes that the bytes have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recbole_derrd.recbole_compat.placeholders import Described, Named
from recbole_derrd.recbole_compat.refusals import MalformedError

_NUMBERS = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split())
_KINDS = frozenset({"numpy.ndarray", "numpy.matrix"})
_MOST_DIMENSIONS = 32


def array_of(described: Described) -> np.ndarray[Any, Any] | None:
    """Return the array that ``numpy.core.multiarray._reconstruct`` and a state describe; None if not of numbers.

    A matrix comes as an array, which holds the same.
    """
    kind = described.arguments[0] if described.arguments else None
    if type(kind) is not Named or kind.path not in _KINDS or described.items or described.members:
        raise MalformedError("it describes an array in another way than numpy")
    state = described.state[0] if described.state else None
    if type(state) is not tuple or len(state) != 5:
        raise MalformedError("it describes an array in another way than numpy")
    _, shape, number, by_columns, content = state
    return _array(number, shape, by_columns, content)


def array_of_buffer(described: Described) -> np.ndarray[Any, Any] | None:
    """Return the array that ``numpy.core.numeric._frombuffer`` describes (pickle protocol 5)."""
    if len(described.arguments) != 4 or described.state or described.items or described.members:
        raise MalformedError("it describes an array in another way than numpy")
    content, number, shape, order = described.arguments
    return _array(number, shape, order == "F", content)


def scalar_of(described: Described) -> Any:
    """Return the number that ``numpy.core.multiarray.scalar`` describes; None if it is none."""
    if len(described.arguments) != 2 or described.state:
        raise MalformedError("it describes a number in another way than numpy")
    number, content = described.arguments
    array = _array(number, (), False, content)
    return None if array is None else array[()]


def bytes_of(value: Any) -> memoryview | bytes | None:
    """Return bytes, which older pickles hold as text; None if there are none."""
    if type(value) is memoryview:
        return value
    if type(value) is Described and value.maker.path == "__builtin__.bytes" and not value.arguments:
        return b""
    if type(value) is Described and value.maker.path == "_codecs.encode" and len(value.arguments) == 2:
        text, coding = value.arguments
        if type(text) is str and coding in ("latin1", "latin-1"):
            return text.encode("latin1")
    return None


def number_type(described: Any) -> np.dtype[Any] | None:
    """Return the type of number that ``numpy.dtype`` and a state describe; None if it is none."""
    if type(described) is not Described or described.maker.path != "numpy.dtype" or not described.arguments:
        raise MalformedError("it describes an array in another way than numpy")
    name = described.arguments[0]
    state = described.state[0] if described.state else (3, "|", None, None, None, -1, -1, 0)
    # Fields, sub-arrays and metadata stand in the rest of the state.
    plain = type(state) is tuple and len(state) == 8 and state[2:] == (None, None, None, -1, -1, 0)
    if type(name) is not str or name not in _NUMBERS or not plain or state[1] not in ("<", ">", "|", "="):
        return None
    return np.dtype(f"{state[1]}{name}")


def _array(number: Any, shape: Any, by_columns: Any, content: Any) -> np.ndarray[Any, Any] | None:
    kind = number_type(number)
    if kind is None:
        return None
    block = bytes_of(content)
    if block is None or type(by_columns) is not bool:
        raise MalformedError("it describes an array in another way than numpy")
    if type(shape) is not tuple or len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise MalformedError("it holds an array of no shape")
    if math.prod(shape) * kind.itemsize != len(block):
        raise MalformedError(f"it holds an array of shape {shape} that has other bytes")
    if not block:
        return np.empty(shape, dtype=kind.newbyteorder("="))
    flat = np.frombuffer(block, dtype="u1" if kind.kind == "b" else kind)
    # A byte of 2 is no truth value.
    own = flat != 0 if kind.kind == "b" else flat.astype(kind.newbyteorder("="))
    return own.reshape(shape, order="F" if by_columns else "C")
