"""Writing files so that a reader sees the old content or the new, never half of either, and one writer at a time.

Where several processes train together, the first one locks, builds and publishes, and all wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from recbole_derrd.errors import DistillError
from recbole_derrd.runtime.processes import barrier, broadcast, is_main_process

# What the disk or the folder is to blame for; any other error within a block is the block's own.
_CANNOT_WRITE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENOTEMPTY, errno.EFBIG, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG,
}  # fmt: skip
# What file systems without locks answer, some network file systems for one.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
#: Seconds between two looks at a lock that another run holds.
POLL_SECONDS = 0.2


def _flush_file(path: Path) -> None:
    # Windows flushes only what was opened for writing.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    """Bring the names in a folder to the disk: a rename is safe from a power cut only then."""
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no such thing; what they do for files is then all there is.
        if error.errno not in (errno.EINVAL, *_NO_LOCKS):
            raise
    finally:
        os.close(descriptor)


def _partial_prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _partial_name(target: Path) -> Path:
    return target.with_name(f"{_partial_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def _blaming_the_disk(target: Path) -> Iterator[None]:
    """Turn what a full disk or a read-only folder raises into a sentence."""
    try:
        yield
    except OSError as error:
        # numpy reports a full disk as "... requested and ... written", without a number.
        if error.errno not in _CANNOT_WRITE and not str(error).endswith(" written"):
            raise
        raise DistillError(
            f"Cannot write {target}: {error.strerror or error}. What was there before is untouched. Free space, or "
            "choose another folder."
        ) from error


@contextlib.contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target``; it takes the target's place if the block succeeds.

    Raises:
        DistillError: the folder cannot be written or the disk is full; the target is as it was.
    """
    target = Path(target)
    partial = _partial_name(target)
    try:
        with _blaming_the_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _flush_file(partial)
            os.replace(partial, target)
            _flush_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def remove_file(target: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        DistillError: the folder cannot be written.
    """
    with _blaming_the_disk(target):
        target.unlink(missing_ok=True)


def remove_entry(target: Path) -> None:
    """Remove a folder or a file that was found unusable, if it is there; a link itself, not what it leads to.

    Raises:
        DistillError: the folder cannot be written.
    """
    with _blaming_the_disk(target):
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _publish_folder(folder: Path, target: Path, *, unless_there: bool = False) -> None:
    """Bring a folder and all in it to the disk, then give it its name, or leave it if that may be taken and is."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            _flush_folder(path)
        else:
            _flush_file(path)
    try:
        os.replace(folder, target)
    except OSError:
        if unless_there and target.is_dir():
            return
        raise
    _flush_folder(target.parent)


@contextlib.contextmanager
def building_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``target``; it becomes the target if the block succeeds.

    Where another process has built the same target meanwhile, theirs stays and ours is dropped: folders are
    named after their content, so the two are the same.
    """
    target = Path(target)
    partial: Path = broadcast(_partial_name(target))
    try:
        with _blaming_the_disk(target):
            if is_main_process():
                partial.mkdir(parents=True)
            barrier()
            yield partial
            barrier()
            if is_main_process():
                _publish_folder(partial, target, unless_there=True)
            barrier()
    finally:
        if is_main_process():
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def working_folder(target: Path, *, anew: bool, marker: str) -> Iterator[Path]:
    """Give a folder beside ``target`` that outlives a killed process; it becomes the target if the block succeeds.

    To be used under the target's lock. An error leaves the folder, so that a later run goes on in it.

    Args:
        target: the folder to build.
        anew: empty what an earlier run has left.
        marker: file in the folder that says how far its other files are; it goes first, so that a process killed
            half way through the emptying leaves none that speaks of files that are gone.
    """
    target = Path(target)
    working = working_name(target)
    with _blaming_the_disk(working):
        if is_main_process():
            if anew:
                (working / marker).unlink(missing_ok=True)
                if working.is_dir():
                    shutil.rmtree(working)
            working.mkdir(parents=True, exist_ok=True)
            _remove_partials(working)
    barrier()
    # A whole training goes on here, and writes elsewhere as well.
    yield working
    barrier()
    with _blaming_the_disk(target):
        if is_main_process():
            (working / marker).unlink(missing_ok=True)
            if target.is_dir():  # found unusable, or it would not be built again
                shutil.rmtree(target)
            _publish_folder(working, target)
        barrier()


def working_name(target: Path) -> Path:
    """Return the folder in which ``target`` is built."""
    return target.with_name(f"{target.name}.training")


def _remove_partials(folder: Path, *targets: Path) -> None:
    """Remove what killed processes have left half written: of these targets, or all of a folder."""
    prefixes = tuple(_partial_prefix(target) for target in targets)
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(prefixes) if targets else (path.name[0] == "." and ".partial-" in path.name):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


@contextlib.contextmanager
def clearing_folder(folder: Path, suffix: str, lock_name: str) -> Iterator[None]:
    """Let one process at a time write a folder's files whose names are all new, such as records.

    Nobody writes such a name again, so what killed processes have left half written is removed here, under the lock:
    then no other process, on this machine or another, is writing there. Where there are no locks it stays.

    Args:
        folder: where the files are.
        suffix: how their names end.
        lock_name: the lock is ``.<lock_name>.lock`` in the folder.

    Raises:
        DistillError: the folder cannot be written or the disk is full.
    """
    file = folder / f".{lock_name}.lock"
    lock = FileLock(str(file))
    with _blaming_the_disk(folder):
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


@contextlib.contextmanager
def locked(target: Path, doing: str, *also: Path) -> Iterator[bool]:
    """Let one process at a time make ``target``; the lock dies with its process, however that ends.

    What killed processes have left half written of the target is removed. The empty lock file stays: were it removed,
    one run could lock the removed file and another a new one.

    Args:
        target: what is made; the lock is ``.<name>.lock`` beside it.
        doing: what the other run does, as in "Another run ...".
        also: further targets in the same folder that this lock guards.

    Yields:
        Whether another run held the lock before: look again then, for the target may be there.

    Raises:
        DistillError: the folder cannot be written or the disk is full.
    """
    # Processes that train together are one run: the first of them holds the lock for all.
    if not is_main_process():
        yield broadcast(None)
        barrier()
        return
    target = Path(target)
    file = target.with_name(f".{target.name}.lock")
    lock = FileLock(str(file))
    with _blaming_the_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_lock(file)
        waited = _acquire(lock, f"Another run {doing} ({target}). Waiting until it ends.")
    try:
        # Without locks, a partial file may be that of a run which still writes it.
        if lock.is_locked:
            _remove_partials(target.parent, target, *also)
        yield broadcast(waited)
        barrier()
    finally:
        lock.release()


def _refuse_foreign_lock(file: Path) -> None:
    """Refuse a lock file that no run has left: locking empties the file, also one that a link leads to.

    Raises:
        DistillError: what it is.
    """
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return
    what = None
    if not stat.S_ISREG(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "no regular file"
    elif status.st_size and not _is_marker(file):
        what = f"a file of {status.st_size} bytes"
    if what is not None:
        raise DistillError(f"'{file}' should be an empty lock file, and is {what}. Remove it, and start the run again.")


def try_writing(folder: Path) -> None:
    """Write a little to a folder and remove it, as an empty file can be made on a full disk too.

    Raises:
        OSError: what the system answers.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())


def _is_marker(file: Path) -> bool:
    """Say whether filelock has written it, as where a file system has no locks: a process and its machine, in lines."""
    with open(file, "rb") as content:
        return re.match(rb"\d+\n[^\n]+", content.read(300)) is not None


def _acquire(lock: BaseFileLock, notice: str) -> bool:
    try:
        lock.acquire(timeout=0)
        return False
    except Timeout:
        getLogger().warning(notice)
        lock.acquire(poll_interval=POLL_SECONDS)
        return True
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        getLogger().warning(f"There are no locks for {lock.lock_file}: do not let two runs use that folder at once.")
        return False
