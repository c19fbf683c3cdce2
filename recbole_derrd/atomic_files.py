"""What is wrong with a data set's files, where RecBole only stumbles over them."""

from __future__ import annotations

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
    files = sorted(Path(config["data_path"]).glob(f"{config['dataset']}.*"))
    return {file.name: f"{file.stat().st_size}-{content_digest(file)[:16]}" for file in files}


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
