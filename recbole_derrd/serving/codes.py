r"""Vectors of few bits: how a row of codes becomes numbers again, with numpy alone.

Dimension j of a row takes the bits j · b ... j · b + b − 1 of its bytes, lowest bit first, for b = 8, 4, 3, 2 or 1.
So byte c holds the 8 / b codes q of the dimensions from 8c / b on, the first of them in its lowest bits:
q_j = (byte >> (j · b mod 8)) mod 2^b. Of 3 bits, three bytes hold eight codes, as one number of 24 bits, lowest byte
first. Bits beyond the last dimension are 0. A code stands for

    x_j = (q_j − (2^b − 1) / 2) · step,     step = scale · unit,

with the row's float16 ``scale`` and the table's float32 ``unit``: levels ±1/2, ±3/2 ... steps. One bit is a sign.
It is what :mod:`recbole_derrd.compression` writes, and every number is the same to the bit.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


def row_bytes(size: int, bits: int) -> int:
    """Return the bytes of a row of codes: ⌈size · bits / 8⌉."""
    return -(-size * bits // 8)


@functools.lru_cache(maxsize=4)
def _levels(bits: int) -> np.ndarray[Any, Any]:
    """Return what the codes in each word stand for, in steps: float32 [256, 8 / bits], of 3 bits [4096, 4]."""
    word = 12 if bits == 3 else 8
    shifts = np.arange(0, word, bits)
    codes = (np.arange(2**word)[:, np.newaxis] >> shifts) % 2**bits
    levels: np.ndarray[Any, Any] = codes.astype(np.float32) - np.float32((2**bits - 1) / 2)
    return levels


def _words(codes: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Return the words that :func:`_levels` has rows of: bytes, of 3 bits the two halves of each three bytes."""
    if bits != 3:
        return codes
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 3))).reshape(len(codes), -1, 3).astype(np.uint16)
    low, middle, high = padded[..., 0], padded[..., 1], padded[..., 2]
    words: np.ndarray[Any, Any] = np.stack([low | (middle & 15) << 8, middle >> 4 | high << 4], axis=2)
    return words.reshape(len(codes), -1)


def decode(
    codes: np.ndarray[Any, Any], scales: np.ndarray[Any, Any], unit: float, bits: int, size: int
) -> np.ndarray[Any, Any]:
    """Return float32 [n, size].

    Args:
        codes: uint8 [n, ⌈size · bits / 8⌉].
        scales: float16 [n].
        unit: of the table.
        bits: 8, 4, 3, 2 or 1.
        size: dimensions.

    Example:
        >>> codes = np.array([[0xF0]], dtype=np.uint8)  # the codes 0 and 15
        >>> decode(codes, np.array([1.0], dtype=np.float16), unit=0.1, bits=4, size=2).round(2).tolist()
        [[-0.75, 0.75]]
    """
    steps = scales.astype(np.float32) * np.float32(unit)
    if bits == 8:
        levels = codes.astype(np.float32) - np.float32(127.5)
    else:
        # Many times as fast as levels[codes]; no word is beyond the table, and to be told to clip saves numpy a copy.
        levels = np.take(_levels(bits), _words(codes, bits), axis=0, mode="clip").reshape(len(codes), -1)[:, :size]
    decoded: np.ndarray[Any, Any] = levels * steps[:, np.newaxis]
    return decoded
