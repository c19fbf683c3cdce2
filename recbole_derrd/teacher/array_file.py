"""An .npy file that is written range by range of its rows, and never held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


class ArrayFile:
    """Rows of an ``.npy`` file. Several processes may write ranges of their own to one file.

    Rows are written by file operations, not through a memory map: then a full disk raises an ``OSError`` and does not
    end the process, and written pages do not count as its memory. Rows that are never written are zeros.

    Args:
        path: a file that :meth:`create` has made.
    """

    def __init__(self, path: Path) -> None:
        """Read the shape."""
        self.path = Path(path)
        header = np.load(self.path, mmap_mode="r", allow_pickle=False)
        self.shape, self.dtype, self._start = header.shape, header.dtype, header.offset

    @classmethod
    def create(cls, path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> ArrayFile:
        """Make a file of zeros."""
        with open(path, "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + dtype.itemsize * shape[0] * shape[1])
        return cls(path)

    def write(self, start: int, rows: np.ndarray[Any, Any]) -> None:
        """Write rows [n, width] at row ``start``."""
        if rows.dtype != self.dtype or rows.shape[1] != self.shape[1] or start + len(rows) > self.shape[0]:
            raise ValueError(f"{rows.dtype} {rows.shape} at row {start} does not fit {self.dtype} {self.shape}.")
        with open(self.path, "r+b") as file:
            file.seek(self._start + start * self.shape[1] * self.dtype.itemsize)
            file.write(np.ascontiguousarray(rows).data)
