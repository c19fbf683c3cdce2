"""Locks between runs: one run at a time builds a target, and a lock dies with its process, however that ends."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from recbole_derrd.errors import DistillError
from recbole_derrd.runtime.files import NOT_SUPPORTED, remove_partials, write_errors_named
from recbole_derrd.runtime.processes import barrier, broadcast, is_main_process

#: Seconds between two attempts to take a lock that another run holds.
POLL_SECONDS = 0.2


@contextlib.contextmanager
def locked(target: Path, doing: str, *also: Path, tidy: bool = False) -> Iterator[bool]:
    """Let one run at a time build ``target``; the main process holds the lock for all processes of its run.

    Partial files of the target that killed processes have left are removed. The empty lock file stays: if it were
    removed, one run could lock the removed file and another run a new one. Newer versions of filelock notice that on a
    local disk, but none does on every network file system.

    Args:
        target: the file or folder to build; the lock is ``.<name>.lock`` beside it.
        doing: what the other run does, as in "Another run ...".
        also: further targets in the same folder that this lock guards.
        tidy: remove the lock file at the end, where the user chose the folder, and two runs at once would at worst end
            one of them with an error: never where a training or a cache is guarded.

    Yields:
        Whether another run held the lock before: if so, check again whether the target exists.

    Raises:
        DistillError: the folder cannot be written or the disk is full.
    """
    if not is_main_process():
        yield broadcast(None)
        barrier()
        return
    target = Path(target)
    file = target.with_name(f".{target.name}.lock")
    lock = FileLock(str(file))
    with write_errors_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_lock(file)
        waited = _acquire(lock, f"Another run {doing} ({target}). Waiting until it ends.")
    try:
        # Without a lock, a partial file may belong to a run that still writes it.
        if lock.is_locked:
            remove_partials(target.parent, target, *also)
        yield broadcast(waited)
        barrier()
    finally:
        if tidy and lock.is_locked:
            # Windows removes no open file.
            with contextlib.suppress(OSError):
                file.unlink()
        lock.release()


@contextlib.contextmanager
def clearing_folder(folder: Path, suffix: str, lock_name: str) -> Iterator[None]:
    """Let one process at a time write files under new names into a folder, such as records.

    No later process writes such a name again, so partial files of killed processes are removed here. The lock makes
    sure that no other process is writing there; without locks, partial files stay.

    Args:
        folder: where the files are.
        suffix: how their names end.
        lock_name: the lock is ``.<lock_name>.lock`` in the folder.

    Raises:
        DistillError: the folder cannot be written or the disk is full.
    """
    file = folder / f".{lock_name}.lock"
    lock = FileLock(str(file))
    with write_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_lock(file)
        _acquire(lock, f"Another run writes to {folder}. Waiting until it ends.")
    try:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                for path in folder.glob(f".*{suffix}.partial-*"):
                    path.unlink()
        yield
    finally:
        lock.release()


def _refuse_foreign_lock(file: Path) -> None:
    """Refuse a lock file that no run has left: locking empties the file, even one behind a link.

    Raises:
        DistillError: what the file is.
    """
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return
    what = None
    if not stat.S_ISREG(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "no regular file"
    elif status.st_size and not _is_filelock_marker(file):
        what = f"a file of {status.st_size} bytes"
    if what is not None:
        raise DistillError(f"'{file}' should be an empty lock file, and is {what}. Remove it, and start the run again.")


def _is_filelock_marker(file: Path) -> bool:
    """Return whether filelock wrote the file: its fallback without system locks writes process id and machine."""
    with open(file, "rb") as content:
        return re.match(rb"\d+\n[^\n]+", content.read(300)) is not None


def _acquire(lock: BaseFileLock, notice: str) -> bool:
    """Take the lock, and return whether another run held it."""
    try:
        lock.acquire(timeout=0)
        return False
    except Timeout:
        getLogger().warning(notice)
        lock.acquire(poll_interval=POLL_SECONDS)
        return True
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_SUPPORTED:
            raise
        getLogger().warning(f"There are no locks for {lock.lock_file}: do not let two runs use that folder at once.")
        return False
