r"""Vectors that are sums of codewords, one of each codebook, added up with numpy alone.

A row's code q_l names a codeword of codebook l. The row is

    x = Σ_l C_l[q_l],

in float32 and in the order of the codebooks, as :mod:`recbole_derrd.compression.codebook_table` adds them up: every
number is the same to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Codewords of a codebook at most, so that a code is a byte.
CODEWORDS = 256
#: Numbers that are added up at once (512 kB of float32, which a processor's cache holds twice).
_BLOCK = 1 << 17


def codeword_sums(codes: np.ndarray[Any, Any], codebooks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return float32 [n, d].

    Args:
        codes: uint8 [n, codebooks], each below the number of codewords.
        codebooks: float32 [codebooks, codewords, d].

    Example:
        >>> codebooks = np.array([[[1.0], [2.0]], [[0.5], [0.25]]], dtype=np.float32)
        >>> codeword_sums(np.array([[1, 0]], dtype=np.uint8), codebooks).tolist()
        [[2.5]]
    """
    count, size = len(codes), codebooks.shape[2]
    step = max(1, _BLOCK // size)
    rows = np.empty((count, size), np.float32)
    spare = np.empty((min(step, count), size), np.float32)
    for start in range(0, count, step):
        part, out = codes[start : start + step], rows[start : start + step]
        more = spare[: len(out)]
        # No code is beyond its codebook; to be told to clip saves numpy a copy.
        np.take(codebooks[0], part[:, 0], axis=0, out=out, mode="clip")
        for codebook, own in zip(codebooks[1:], part[:, 1:].T):
            np.take(codebook, own, axis=0, out=more, mode="clip")
            out += more
    return rows


def codeword_products(
    queries: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], codebooks: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return the inner products of queries with the rows, float32 [queries, n], without adding the rows up.

    Each codeword is multiplied once, and a row's product is the sum of its codewords': equal to the row's own product
    within rounding.

    Args:
        queries: float32 [queries, d].
        codes: uint8 [n, codebooks], each below the number of codewords.
        codebooks: float32 [codebooks, codewords, d].

    Example:
        >>> codebooks = np.array([[[1.0], [2.0]], [[0.5], [0.25]]], dtype=np.float32)
        >>> codeword_products(np.array([[2.0]], np.float32), np.array([[1, 0]], np.uint8), codebooks).tolist()
        [[5.0]]
    """
    scores = np.zeros((len(queries), len(codes)), np.float32)
    spare = np.empty(len(codes), np.float32)
    for own, query in zip(scores, queries):
        for table, column in zip(codebooks @ query, codes.T):
            np.take(table, column, out=spare, mode="clip")
            own += spare
    return scores
