"""One kind of array of a teacher's knowledge: its name, its shape, how it is built and how it is checked.

Each process builds the rows of its own users (or items) and writes them into one file, which the main process creates.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recbole_derrd.errors import DataError
from recbole_derrd.runtime.processes import barrier, is_main_process, shard_range
from recbole_derrd.teacher.array_checks import Expected
from recbole_derrd.teacher.array_file import ArrayFile
from recbole_derrd.teacher.source import LazyTeacher

#: Numbers that one chunk of scores of chosen items may pass through (64 MB of float32).
CHUNK_NUMBERS = 1 << 24

#: The description that is stored beside an array: plain values.
About = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """How arrays are built.

    Attributes:
        chunk: users (or items) scored at once; 0 fits it to the catalogue.
        show_progress: whether to show a progress bar.
        search: "exact", or "faiss" for approximate rankings of teachers with embeddings (see ``search.py``).
        snapshots: how many snapshots of a teacher are asked for its trajectory, the final one included.
    """

    chunk: int = 0
    show_progress: bool = False
    search: str = "exact"
    snapshots: int = 1

    def progress(self, what: str) -> str:
        """Return what a progress bar is called; empty where none is shown."""
        return what if self.show_progress else ""

    @property
    def suffix(self) -> str:
        """End of the name of an array that depends on the search."""
        return "" if self.search == "exact" else f"-{self.search}"


class ArrayBuilder(Protocol):
    """Builds one array."""

    @property
    def name(self) -> str:
        """What the array is called on disk, unique among those of one teacher; it names everything it depends on."""
        ...

    @property
    def expected(self) -> Expected:
        """Type, shape and values that the array must have."""
        ...

    def write(self, path: Path, teacher: LazyTeacher) -> About:
        """Write the array to an ``.npy`` file, in every process its own rows, and return its description."""
        ...


def create_shared(path: Path, rows: int, width: int, dtype: type[Any] = np.int32) -> ArrayFile:
    """Create the file in the main process and open it in all of them.

    Raises:
        DataError: this process does not see the file.
    """
    if is_main_process():
        ArrayFile.create(path, (rows, width), np.dtype(dtype))
    barrier()
    try:
        return ArrayFile(path)
    except OSError as error:
        raise DataError(
            f"This process does not see '{path}', which the first process has just made. Processes on several "
            "machines need a cache_dir and a checkpoint_dir on a file system that all of them share."
        ) from error


def own_rows(rows: int) -> tuple[int, int]:
    """Return (start, stop) of this process's share of so many rows, of which row 0 is padding and nobody's."""
    start, stop = shard_range(rows - 1)
    return start + 1, stop + 1


def describe(file: ArrayFile, **more: Any) -> About:
    """Return the description of a written array."""
    return {"shape": file.shape, "dtype": str(file.dtype), **more}
