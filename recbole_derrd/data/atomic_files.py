"""A data set's files: which they are, and whether they have changed."""

from __future__ import annotations

import functools
import glob
import hashlib
from pathlib import Path
from typing import Any


def data_files(config: Any) -> dict[str, str]:
    """Return size and hash of each of a data set's files, by name: what says later whether they have changed.

    Args:
        config: RecBole's configuration.
    """
    return {file.name: f"{file.stat().st_size}-{file_digest(file)}" for file in data_paths(config)}


def data_paths(config: Any) -> list[Path]:
    """Return a data set's files."""
    found = Path(config["data_path"]).glob(f"{glob.escape(config['dataset'])}.*")
    # A folder of such a name is none of them, and a pipe would be waited for.
    return sorted(file for file in found if file.is_file())


def file_digest(file: str | Path) -> str | None:
    """Return a short hash of a file that is read once while it stays as it is; None where there is none."""
    try:
        stat = Path(file).stat()
    except OSError:
        return None
    return _file_digest(str(Path(file).resolve()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_digest(file: str, size: int, written: int) -> str:
    return content_digest(file)[:16]


def content_digest(file: str | Path) -> str:
    """Return the SHA-256 of what a file holds, read in parts."""
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        for part in iter(lambda: content.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()
