"""The arrays of one teacher's knowledge on disk: built where they are missing, checked, and memory-mapped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from recbole_derrd.errors import DataError
from recbole_derrd.runtime.artifact_cache import ArtifactCache
from recbole_derrd.runtime.files import write_errors_named
from recbole_derrd.runtime.processes import barrier, is_main_process
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.teacher.array_builder import About, ArrayBuilder
from recbole_derrd.teacher.array_checks import ARRAY, verified, write_description
from recbole_derrd.teacher.knowledge import Array
from recbole_derrd.teacher.source import LazyTeacher

#: Raised whenever the content of the stored arrays or of their descriptions changes: older ones are then not found.
KNOWLEDGE_FORMAT = 2


class ArrayStore:
    """Arrays in one folder, each an artifact of its own (see :class:`~recbole_derrd.runtime.artifact_cache`).

    Args:
        folder: where the arrays are, named after the teacher's cache key.
        teacher: what they are built from; it is loaded for what is not on disk.

    Attributes:
        seconds: how long building took in this process.
    """

    def __init__(self, folder: Path, teacher: LazyTeacher) -> None:
        """Remember where the arrays are; nothing is read yet."""
        self.teacher = teacher
        self.seconds = 0.0
        self._cache = ArtifactCache(folder)
        #: The description of each array that this process has checked.
        self._checked: dict[str, About] = {}

    @property
    def folder(self) -> Path:
        """Where the arrays are."""
        return self._cache.folder

    def open(self, builder: ArrayBuilder) -> Array:
        """Return an array, memory-mapped; build it first where it is missing or damaged.

        Raises:
            DataError: the teacher's answers are unusable, or the file has vanished since it was checked.
            DistillError: the folder cannot be read or written.
        """
        path = self._cache.path(self._key(builder))
        self.description(builder)
        try:
            # Copy-on-write: torch wants writable memory, and the file stays as it is.
            array: np.ndarray[Any, Any] = np.load(path / ARRAY, mmap_mode="c", allow_pickle=False)
            return array
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"The teacher's knowledge in '{path}' cannot be opened any more: {error}. Start the run again: "
                "what is missing is built again."
            ) from error

    def description(self, builder: ArrayBuilder) -> About:
        """Return the description of an array; build it first where it is missing or damaged."""
        key = self._key(builder)
        if key not in self._checked:
            self._checked[key] = self._cache.get_or_build(
                key,
                lambda folder: self._build(folder, key, builder),
                lambda folder: verified(folder, self._full_name(key), builder.expected),
                doing="builds arrays of this teacher's knowledge",
            )
        return self._checked[key]

    @staticmethod
    def _key(builder: ArrayBuilder) -> str:
        return f"{builder.name}-v{KNOWLEDGE_FORMAT}"

    def _full_name(self, key: str) -> str:
        # With the folder: an array that was copied from another teacher's is not this one's.
        return f"{self.folder.name}/{key}"

    def _build(self, folder: Path, key: str, builder: ArrayBuilder) -> About:
        started = time.perf_counter()
        with kept_random_state():
            # Loaded first: an error while the teacher is read is no error of writing.
            _ = self.teacher.adapter
            with write_errors_named(self._cache.path(key)):
                about = builder.write(folder / ARRAY, self.teacher)
                # The checksum covers the rows of all processes.
                barrier()
                about["seconds"] = time.perf_counter() - started
                if is_main_process():
                    write_description(folder, self._full_name(key), about)
        self.seconds += time.perf_counter() - started
        return about
