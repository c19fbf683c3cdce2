"""The vectors of one side of an export, in float32, few bits or codebooks, decoded a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import numpy as np

from recbole_derrd.runtime.stored_arrays import DamagedFileError
from recbole_derrd.serving.arrays import mapped, read_safetensors
from recbole_derrd.serving.codes import decode, row_bytes
from recbole_derrd.serving.codewords import CODEWORDS, codeword_products, codeword_sums

#: Numbers of the rows that are decoded at once (1 MB of float32, which a processor's cache holds).
_BLOCK = 1 << 18
#: Queries up to which products of codewords are looked up.
_FEW_QUERIES = 16
Rows = Union[slice, "np.ndarray[Any, Any]"]


class Vectors:
    """One side's vectors.

    Args:
        arrays: ``embeddings``, or ``codes`` and ``scales``.
        size: dimensions.
        bits: bits of a dimension, 32 for float32.
        unit: unit of the scales.
        count: rows that there must be.

    Raises:
        DamagedFileError: the arrays are not those of so many vectors.
    """

    def __init__(self, arrays: dict[str, np.ndarray[Any, Any]], size: int, bits: int, unit: float, count: int) -> None:
        """Check the arrays."""
        self._arrays, self._unit = arrays, unit
        self.size, self.bits, self.count = size, bits, count
        wanted: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {"embeddings": ((count, size), np.float32)}
        if bits != 32:
            wanted = {"codes": ((count, row_bytes(size, bits)), np.uint8), "scales": ((count,), np.float16)}
        found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        if found != {name: (shape, np.dtype(kind)) for name, (shape, kind) in wanted.items()}:
            raise DamagedFileError(f"the vectors are not {count:,} of {size} dimensions in {bits} bits")

    def rows(self, which: Rows) -> np.ndarray[Any, Any]:
        """Return these rows, float32 [n, size]."""
        if self.bits == 32:
            return self._arrays["embeddings"][which]
        codes, scales = self._arrays["codes"][which], self._arrays["scales"][which]
        return decode(codes, scales, self._unit, self.bits, self.size)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray[Any, Any]]]:
        """Yield every row in blocks: at once where they need no decoding."""
        step = self.count if "embeddings" in self._arrays else max(1, _BLOCK // self.size)
        for start in range(0, self.count, step):
            part = slice(start, min(start + step, self.count))
            yield part, self.rows(part)

    def products(self, queries: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the inner products of queries [n, size] with every row, float32 [n, rows]."""
        scores = np.empty((len(queries), self.count), np.float32)
        for part, block in self.blocks():
            np.matmul(queries, block.T, out=scores[:, part])
        return scores


class CodewordVectors(Vectors):
    """One side's vectors as sums of codewords; to what searches them they are float32.

    Args:
        arrays: ``codes`` and ``codebooks``.
        size: dimensions.
        codebooks: how many there must be.
        count: rows that there must be.

    Raises:
        DamagedFileError: the arrays are not those of so many vectors.
    """

    def __init__(self, arrays: dict[str, np.ndarray[Any, Any]], size: int, codebooks: int, count: int) -> None:
        """Check the arrays; the codebooks are kept in memory as float32."""
        self._arrays = arrays
        self.size, self.bits, self.count = size, 32, count
        codes, given = arrays.get("codes"), arrays.get("codebooks")
        if codes is None or given is None or len(arrays) != 2 or not self._whole(codes, given, codebooks):
            raise DamagedFileError(f"the vectors are not {count:,} of {size} dimensions in {codebooks} codebooks")
        if not np.isfinite(given).all():
            raise DamagedFileError("the codebooks hold what is no finite number")
        if given.shape[1] < CODEWORDS and int(codes.max()) >= given.shape[1]:
            raise DamagedFileError("the codes name codewords that there are not")
        self._codebooks = given.astype(np.float32)

    def _whole(self, codes: np.ndarray[Any, Any], given: np.ndarray[Any, Any], codebooks: int) -> bool:
        kinds = codes.dtype == np.uint8 and given.dtype == np.float16
        shaped = given.ndim == 3 and (len(given), given.shape[2]) == (codebooks, self.size)
        return kinds and shaped and codes.shape == (self.count, codebooks) and 1 <= given.shape[1] <= CODEWORDS

    def rows(self, which: Rows) -> np.ndarray[Any, Any]:
        """Return these rows, float32 [n, size]."""
        return codeword_sums(self._arrays["codes"][which], self._codebooks)

    def products(self, queries: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the inner products of queries with every row; of many queries it is quicker to add the rows up."""
        if len(queries) > _FEW_QUERIES:
            return super().products(queries)
        return codeword_products(queries, self._arrays["codes"], self._codebooks)


def open_vectors(folder: Path, side: str, embedding: dict[str, Any], count: int) -> Vectors:
    """Map the vectors of a side of an export.

    Raises:
        DamagedFileError: they are not what the card says.
    """
    size, bits = embedding["size"], embedding.get(f"{side}_bits", embedding["bits"])
    codebooks = embedding.get("item_codebooks", 0) if side == "item" else 0
    if codebooks and bits != 32:
        raise DamagedFileError(f"its items are in {codebooks} codebooks and in {bits} bits")
    if embedding["format"] == "safetensors":
        arrays = read_safetensors(folder / f"{side}s.safetensors")
    elif codebooks:
        arrays = {
            "codes": mapped(folder / f"{side}s.codes.npy", np.uint8, 2),
            "codebooks": mapped(folder / f"{side}s.codebooks.npy", np.float16, 3),
        }
    elif bits == 32:
        arrays = {"embeddings": mapped(folder / f"{side}s.npy", np.float32, 2)}
    else:
        arrays = {
            "codes": mapped(folder / f"{side}s.codes.npy", np.uint8, 2),
            "scales": mapped(folder / f"{side}s.scales.npy", np.float16, 1),
        }
    if codebooks:
        return CodewordVectors(arrays, size, codebooks, count)
    return Vectors(arrays, size, bits, (embedding["units"] or {}).get(side, 1.0), count)
