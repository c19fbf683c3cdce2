"""Writing files so that a reader sees the old content or the new, never half of either."""

from __future__ import annotations

import contextlib
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
        raise DistillError(
            f"Cannot write {target}: {error.strerror or error}. An earlier version of it, if any, is untouched."
        ) from error
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
        raise DistillError(f"Cannot write {target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
