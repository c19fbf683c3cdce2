"""Reading records back, whatever else lies in their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recbole_derrd.errors import DataError

#: What every record has had from the first version on.
_NEEDED = ("schema", "model", "dataset", "seed", "protocol", "valid_metric", "distilled", "data")


def read_records(folder: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """Return (the records in a folder and its sub-folders, in the order of their names; the damaged files)."""
    records, damaged = [], []
    for path in sorted(Path(folder).rglob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            damaged.append(path)
            continue
        if not isinstance(content, dict) or "schema" not in content:
            continue  # another program's file
        if all(content.get(key) is not None for key in _NEEDED) and isinstance(content["distilled"], dict):
            records.append({**content, "path": str(path)})
        else:
            damaged.append(path)
    return records, damaged


def records_of(folder: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """Return what :func:`read_records` returns; there must be something in it.

    Raises:
        DataError: there is no such folder, or no record in it.
    """
    if not Path(folder).is_dir():
        raise DataError(f"There is no folder '{folder}'. Give the folder that holds the records of your runs.")
    records, damaged = read_records(folder)
    if not records:
        unread = f", only {len(damaged)} damaged files" if damaged else ""
        raise DataError(f"There is no record in '{folder}'{unread}. Each run writes one into its record_dir.")
    return records, damaged
