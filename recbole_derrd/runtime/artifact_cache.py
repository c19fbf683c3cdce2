"""Artifacts on disk: each is built once, is whole or absent, and every later run reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Callable, Optional, TypeVar

from recbole_derrd.errors import UnreadableError
from recbole_derrd.runtime.files import building_folder, working_folder, working_name
from recbole_derrd.runtime.locks import locked
from recbole_derrd.runtime.machine_errors import refuse_limit
from recbole_derrd.runtime.processes import barrier, broadcast, is_main_process
from recbole_derrd.runtime.stored_arrays import DamagedFileError

T = TypeVar("T")
#: Fills an empty folder, and returns the artifact.
Build = Callable[[Path], T]
#: Returns the artifact that a folder holds, or None where it lacks something. Raises DamagedFileError, or an OSError.
Read = Callable[[Path], Optional[T]]


@dataclasses.dataclass(frozen=True)
class Resumable:
    """A build that continues where a killed process has stopped.

    Attributes:
        marker: file in the folder that records how far its other files are, such as a training checkpoint. It is not a
            part of the artifact.
        anew: whether to ignore what a killed process has left, unless its artifact is complete.
    """

    marker: str
    anew: bool = False


class ArtifactCache:
    """Artifacts under keys: sub-folders of one folder, each built by whichever run asks for it first.

    A key must name everything that the artifact depends on. The cache guarantees:

    - **Killed at any moment.** A folder under its final name is complete. A build fills a folder beside it, which is
      flushed to the disk and then renamed. The next build of the key removes what a killed one has left; a
      :class:`Resumable` build continues there.
    - **Several runs at once.** One run builds. The others wait for its lock, which ends with its process, and then read
      the artifact. On a file system without locks, each of them builds, and the folder that is complete first stays;
      there, two runs must not resume one build at once, of which the log warns.
    - **Several processes of one run.** The main process alone reads, locks and publishes. ``build`` runs in every
      process, with the same folder, and every process returns the main process's artifact.
    - **Damage.** If ``read`` raises DamagedFileError, the log names the folder and the fault, once a process, and the
      artifact is built again. The damaged folder stays until the new one is complete.
    - **Limits of the machine are no damage.** If memory, open files, rights or the disk prevent reading, that is raised
      as a sentence, and nothing is built or removed.

    Args:
        folder: where the artifacts are; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        """Remember the folder; nothing is read or written yet."""
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Return the folder of an artifact, whether it exists or not."""
        return self.folder / key

    def get(self, key: str, read: Read[T]) -> T | None:
        """Return an artifact without waiting for any run that builds it; None where it is absent or unusable.

        Raises:
            DistillError: the machine does not let it be read.
        """
        return self._read(self.path(key), read)

    def get_or_build(
        self, key: str, build: Build[T], read: Read[T], *, doing: str, resumable: Resumable | None = None
    ) -> T:
        """Return an artifact, and build it first where it is absent or unusable.

        Args:
            key: its name.
            build: fills the folder that it is given and returns the artifact, as ``read`` will from now on. Its errors
                pass unchanged, and nothing is published.
            read: returns the artifact that a folder holds.
            doing: what a run that builds it does, for the log of a run that waits: "Another run ...".
            resumable: how the build continues after its process was killed; None where it starts again.

        Raises:
            DistillError: the folder cannot be read or written.
        """
        found = self.get(key, read)
        if found is not None:
            return found
        with locked(self.path(key), doing):
            return self._found_or_built(key, build, read, resumable)

    @contextlib.contextmanager
    def borrow(
        self, key: str, build: Build[T], read: Read[T], *, doing: str, resumable: Resumable | None = None
    ) -> Iterator[T]:
        """Give an artifact for one block: other runs wait meanwhile, and it is removed if the block succeeds.

        See :meth:`get_or_build` for the arguments.
        """
        with locked(self.path(key), doing):
            yield self._found_or_built(key, build, read, resumable)
            barrier()
            if is_main_process():
                shutil.rmtree(self.path(key), ignore_errors=True)

    def _found_or_built(self, key: str, build: Build[T], read: Read[T], resumable: Resumable | None) -> T:
        # Another run may have built it while this one waited for the lock.
        found = self.get(key, read)
        if found is not None:
            return found
        path = self.path(key)
        if resumable is None:
            with building_folder(path, replace=broadcast(os.path.lexists(path))) as folder:
                built = build(folder)
        else:
            # A process may have been killed between its last file and the renaming.
            left = self._read(working_name(path), read)
            anew = left is None and resumable.anew
            with working_folder(path, anew=anew, marker=resumable.marker) as folder:
                built = build(folder) if left is None else left
        answer: T = broadcast(built)
        return answer

    @staticmethod
    def _read(path: Path, read: Read[T]) -> T | None:
        # One process reads for all: between two reads, another run may publish the artifact.
        answer: T | None = broadcast(_usable(path, read) if is_main_process() else None)
        return answer


def _usable(path: Path, read: Read[T]) -> T | None:
    """Read a folder; None where it is absent or unusable."""
    if not os.path.lexists(path):
        return None
    try:
        return read(path)
    except DamagedFileError as error:
        if isinstance(error.__cause__, OSError):
            _refuse_unreadable(path, error.__cause__)
        _warn_once(f"'{path}' is damaged: {error}. It counts as missing and is built again.")
        return None
    except (FileNotFoundError, NotADirectoryError):
        # It is incomplete, or another run is replacing it.
        return None
    except OSError as error:
        _refuse_unreadable(path, error)
        raise


def _refuse_unreadable(path: Path, error: OSError) -> None:
    """Raise the sentence for an artifact that the system does not give; it may be sound."""
    refuse_limit(error)
    raise UnreadableError(
        f"'{path}' cannot be read: {error.strerror or error}. Make it readable, or remove it; it is then built again."
    ) from error


@functools.cache
def _warn_once(warning: str) -> None:
    # A run reads several times, as it waits for other runs.
    getLogger().warning(warning)
