"""Reading records back, whatever else lies in their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recbole_derrd.errors import DataError

#: Raised whenever a field changes its meaning.
SCHEMA = 1
#: What every record has had from the first version on, by its kind.
_NEEDED: dict[str, type] = {
    "model": str, "dataset": str, "seed": int, "protocol": dict, "valid_metric": str, "distilled": dict, "data": dict,
}  # fmt: skip


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
        if _is_whole(content):
            records.append({**content, "path": str(path)})
        else:
            damaged.append(path)
    return records, damaged


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether all is there that tables are made from, in the form that this version writes."""
    if record["schema"] != SCHEMA or not all(isinstance(record.get(key), kind) for key, kind in _NEEDED.items()):
        return False
    fingerprint = record["data"].get("fingerprint")
    if (
        "mode" not in record["protocol"]
        or not isinstance(fingerprint, dict)
        or not {"ids", "test"} <= fingerprint.keys()
    ):
        return False
    if not all(isinstance(record.get(key) or {}, dict) for key in ("benchmark", "latency", "seconds", "options")):
        return False
    if not isinstance((record.get("benchmark") or {}).get("place", 0), int):
        return False
    others = [record.get(role) for role in ("teacher", "student", "stored")]
    entries = [record["distilled"], *(entry for entry in others if entry is not None), *(record.get("teachers") or [])]
    return all(_is_entry(entry) for entry in entries)


def _is_entry(entry: Any) -> bool:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("model"), str)
        or not isinstance(entry.get("test"), dict)
        or not isinstance(entry.get("settings") or {}, dict)
    ):
        return False
    members = (entry.get("settings") or {}).get("members", [])
    steps = entry.get("valid_scores") or []
    if not _are(members, dict) or not _are(steps, list) or not all(len(step) == 2 for step in steps):
        return False
    scores = [*entry["test"].values(), *(entry.get("valid") or {}).values()]
    return all(isinstance(score, (int, float)) for score in scores)


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def records_of(*folders: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """Return what :func:`read_records` returns, of all folders; there must be something in each.

    Raises:
        DataError: there is no such folder, or no record in it.
    """
    records, damaged = [], []
    for folder in folders:
        if not Path(folder).is_dir():
            raise DataError(f"There is no folder '{folder}'. Give the folder that holds the records of your runs.")
        own, torn = read_records(folder)
        if not own:
            unread = f", only {len(torn)} damaged files" if torn else ""
            raise DataError(f"There is no record in '{folder}'{unread}. Each run writes one into its record_dir.")
        records += own
        damaged += torn
    return records, damaged
