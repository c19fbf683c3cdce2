"""Whole files and folders: a reader sees the old content or the new content, and never a half-written one.

Where several processes train together, the main process publishes folders, and the others wait for it. Only for that is
torch imported: what serves a model writes its lists without it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recbole_derrd.errors import DistillError

# Errors that the disk or the folder causes; any other error within a block comes from the block's own code.
_CANNOT_WRITE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENOTEMPTY, errno.EFBIG, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG,
}  # fmt: skip
#: Errors of file systems that lack an operation (locks, flushing a folder), as some network file systems do.
NOT_SUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def _flush_file(path: Path) -> None:
    # Windows flushes only what was opened for writing.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    """Flush the names in a folder to the disk: only then does a rename survive a power cut."""
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot flush a folder; what they do for files must be enough there.
        if error.errno not in (errno.EINVAL, *NOT_SUPPORTED):
            raise
    finally:
        os.close(descriptor)


def _partial_prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _partial_name(target: Path) -> Path:
    return target.with_name(f"{_partial_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def write_errors_named(target: Path) -> Iterator[None]:
    """Turn errors of a full disk or a read-only folder into a sentence that names the target.

    Raises:
        DistillError: the target cannot be written.
    """
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
        DistillError: the folder cannot be written or the disk is full; the target is as it was. Or it is a device or a
            pipe, whose place a file would take.
    """
    target = Path(target)
    partial = _partial_name(target)
    try:
        with write_errors_named(target):
            if target.exists() and not (target.is_file() or target.is_dir()):
                raise DistillError(f"Cannot write {target}: it is a device or a pipe. Name a file.")
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _flush_file(partial)
            os.replace(partial, target)
            _flush_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def remove_file(target: Path) -> None:
    """Remove a file, if it exists.

    Raises:
        DistillError: the folder cannot be written.
    """
    with write_errors_named(target):
        target.unlink(missing_ok=True)


def remove_path(target: Path) -> None:
    """Remove a folder or a file, if it exists; of a link, the link itself and not its target.

    Raises:
        DistillError: the folder cannot be written.
    """
    with write_errors_named(target):
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _publish_folder(folder: Path, target: Path, *, unless_there: bool = False) -> None:
    """Flush a folder and all files in it, then give it its name.

    Args:
        folder: the finished folder.
        target: its name.
        unless_there: keep a target that exists instead of raising an error.
    """
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
def building_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``target``; it becomes the target if the block succeeds.

    Without locks, another run may have built the same target meanwhile. Then that folder stays and this one is removed:
    targets are named after their content, so both hold the same.

    Args:
        target: the folder to build.
        replace: remove what lies at the target first; for a target that was unusable before the block began.

    Raises:
        DistillError: the folder cannot be written or the disk is full. Errors of the block itself pass unchanged.
    """
    from recbole_derrd.runtime.processes import barrier, broadcast, is_main_process

    target = Path(target)
    partial: Path = broadcast(_partial_name(target))
    try:
        if is_main_process():
            with write_errors_named(target):
                partial.mkdir(parents=True)
        barrier()
        yield partial
        barrier()
        if is_main_process():
            with write_errors_named(target):
                if replace:
                    remove_path(target)
                _publish_folder(partial, target, unless_there=True)
        barrier()
    finally:
        if is_main_process():
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def working_folder(target: Path, *, anew: bool, marker: str) -> Iterator[Path]:
    """Give a folder beside ``target`` that outlives a killed process; it becomes the target if the block succeeds.

    Use it under the target's lock. An error in the block leaves the folder, so that a later run continues in it. A
    folder or file that lies at the target is replaced: it was unusable, or it would not be built again.

    Args:
        target: the folder to build.
        anew: remove what an earlier run has left.
        marker: file in the folder that records how far its other files are. It is removed first, so that a process
            that is killed while it removes the others leaves no marker without its files.
    """
    from recbole_derrd.runtime.processes import barrier, is_main_process

    target = Path(target)
    working = working_name(target)
    with write_errors_named(working):
        if is_main_process():
            if anew:
                (working / marker).unlink(missing_ok=True)
                if working.is_dir():
                    shutil.rmtree(working)
            working.mkdir(parents=True, exist_ok=True)
            remove_partials(working)
    barrier()
    # A whole training may run in the block, and it writes to other places as well.
    yield working
    barrier()
    with write_errors_named(target):
        if is_main_process():
            (working / marker).unlink(missing_ok=True)
            remove_path(target)
            _publish_folder(working, target)
        barrier()


def working_name(target: Path) -> Path:
    """Return the folder in which :func:`working_folder` builds ``target``."""
    return target.with_name(f"{target.name}.training")


def remove_partials(folder: Path, *targets: Path) -> None:
    """Remove the partial files and folders that killed processes have left: of these targets, or all of a folder."""
    prefixes = tuple(_partial_prefix(target) for target in targets)
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(prefixes) if targets else (path.name[0] == "." and ".partial-" in path.name):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def try_writing(folder: Path) -> None:
    """Write a few bytes to a folder and remove them: a full disk still takes an empty file.

    Raises:
        OSError: the system's error.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
