"""A data set's files: whether they have changed, and what is wrong with them where RecBole only stumbles over it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

_TAB = "\t"
_EXAMPLE = "user_id:token<TAB>item_id:token"


def fault_of(config: Any) -> str | None:
    """Say in a sentence what is wrong with the heads of a data set's .inter files; None if nothing is.

    Args:
        config: RecBole's configuration.
    """
    parts = config["benchmark_filename"] or [None]
    names = [f"{config['dataset']}{f'.{part}' if part else ''}.inter" for part in parts]
    for file in (Path(config["data_path"]) / name for name in names):
        if not file.is_file():
            continue
        with file.open(encoding=config["encoding"] or "utf-8", errors="replace") as lines:
            head = lines.readline().rstrip("\r\n").lstrip("\ufeff")
        fault = _fault_of_head(head, config)
        if fault:
            return f"'{file}' {fault}"
    return None


def data_files(config: Any) -> dict[str, str]:
    """Return size and hash of each of a data set's files, by name: what says later whether they have changed.

    Args:
        config: RecBole's configuration.
    """
    return {file.name: f"{file.stat().st_size}-{file_digest(file)}" for file in data_paths(config)}


def data_paths(config: Any) -> list[Path]:
    """Return a data set's files."""
    return sorted(Path(config["data_path"]).glob(f"{config['dataset']}.*"))


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


def _fault_of_head(head: str, config: Any) -> str | None:
    if not head:
        return f"is empty. Its first line names the columns, e.g. {_EXAMPLE}."
    separator = config["field_separator"]
    columns = head.split(separator)
    if not all(":" in column for column in columns):
        return f"must name its columns as name:type in the first line, e.g. {_EXAMPLE}, but begins with '{head[:80]}'."
    if len(columns) == 1:
        return (
            f"has one column, '{head[:80]}', when split at {separator!r}. Set field_separator to what is between the "
            f"columns{', e.g. --field_separator=,' if separator == _TAB else '; by default it is a tab'}."
        )
    named = [column.partition(":")[0] for column in columns]
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"):
        if config[key] not in named:
            return f"has no column '{config[key]}', only {', '.join(named)}. Name the right one: --{key}=..."
    return None
