r"""The first of two stages of a search: inner products estimated from one bit a dimension.

Each item's vector v is kept as the signs s of x = R (v − c), with the mean c of all items and a rotation R, and one
factor (Gao and Long, "RaBitQ", SIGMOD 2024, their estimator before its division by norms):

    ⟨u, v⟩ ≈ ⟨u, c⟩ + |x|² / |x|₁ · ⟨R u, s⟩.

It is exact where R u and x are parallel, and right on average over random R. The query stays in float32. ⟨R u, s⟩ is a
sum over words of 16 signs: of each word a table of 2^16 numbers holds what its signs add up to, so that an item of 64
dimensions takes 4 lookups and 8 bytes. Vectors in few bits are rotated already; those of one bit are not centred
either, so that the estimate is their score.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_derrd.serving.vectors import Vectors

_WORD = 16
#: Items at once: what they need stays in the processor's cache.
_BLOCK = 1 << 16
#: What the bits of each byte stand for, lowest first: float32 [256, 8].
_SIGNS = ((np.arange(256)[:, np.newaxis] >> np.arange(8)) % 2 * 2 - 1).astype(np.float32)


class Signs:
    """The signs of all items' vectors, in memory: ⌈d / 16⌉ · 2 + 4 bytes an item.

    Args:
        vectors: the items'.
    """

    def __init__(self, vectors: Vectors) -> None:
        """Read every vector, once for their mean and once for their signs."""
        count, size = vectors.count, vectors.size
        parts = [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
        self._centre = np.zeros(size, np.float32)
        if vectors.bits > 1:
            total = np.zeros(size)
            for part in parts:
                total += vectors.rows(part).sum(axis=0, dtype=np.float64)
            self._centre = (total / count).astype(np.float32)
        self._rotation = rotation(size) if vectors.bits == 32 else None
        self._words = np.empty((-(-size // _WORD), count), np.uint16)
        self._factors = np.empty(count, np.float32)
        for part in parts:
            turned = self._turned(vectors.rows(part) - self._centre)
            packed = np.zeros((len(turned), 2 * len(self._words)), np.uint8)
            packed[:, : -(-size // 8)] = np.packbits(turned > 0, axis=1, bitorder="little")
            self._words[:, part] = packed.view("<u2").T
            lengths = np.abs(turned).sum(axis=1)
            self._factors[part] = (turned**2).sum(axis=1) / np.where(lengths > 0, lengths, 1)

    def products(self, query: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the estimated inner products of a query [size] with every item, float32 [items]."""
        tables = self._tables(self._turned(query))
        shift = query @ self._centre
        found = np.empty(len(self._factors), np.float32)
        spare = np.empty(min(_BLOCK, len(found)), np.float32)
        for start in range(0, len(found), _BLOCK):
            part = slice(start, start + _BLOCK)
            out = found[part]
            more = spare[: len(out)]
            # No word is beyond its table; to be told to clip saves numpy a copy.
            np.take(tables[0], self._words[0, part], out=out, mode="clip")
            for table, words in zip(tables[1:], self._words[1:, part]):
                np.take(table, words, out=more, mode="clip")
                out += more
            out *= self._factors[part]
            out += shift
        return found

    def _turned(self, vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return vectors if self._rotation is None else vectors @ self._rotation

    def _tables(self, query: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """Return, of each word, what its signs make of a query: float32 [2^16] each."""
        padded = np.zeros(_WORD * len(self._words), np.float32)
        padded[: len(query)] = query
        halves = _SIGNS @ padded.reshape(-1, 8).T
        return [(halves[:, j + 1, np.newaxis] + halves[:, j]).reshape(-1) for j in range(0, halves.shape[1], 2)]


def rotation(size: int) -> np.ndarray[Any, Any]:
    """Return a random orthogonal matrix, float32 [size, size], always the same one."""
    made: np.ndarray[Any, Any] = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0].astype(np.float32)
    return made
