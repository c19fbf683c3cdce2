"""Writing files so that a reader sees the old content or the new, never half of either."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from recbole_derrd.errors import DistillError


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")


# What the disk or the folder is to blame for; any other error within a block is the block's own.
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


def _unwritable(target: Path, error: OSError) -> DistillError:
    return DistillError(
        f"Cannot write {target}: {error.strerror or error}. What was there before is untouched. Free space, or choose "
        "another folder."
    )


@contextlib.contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target``; it takes the target's place if the block succeeds.

    Raises:
        DistillError: the folder cannot be written or the disk is full; the target is as it was.
    """
    target = Path(target)
    partial = _partial_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush_to_disk(partial)
        os.replace(partial, target)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise _unwritable(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def building_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``target``; it becomes the target if the block succeeds.

    Where another process has built the same target meanwhile, theirs stays and ours is dropped: folders are
    named after their content, so the two are the same.
    """
    target = Path(target)
    partial = _partial_name(target)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                _flush_to_disk(path)
        try:
            os.replace(partial, target)
        except OSError:
            if not target.is_dir():
                raise
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
