"""Reading records back, whatever else lies in their folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_derrd.errors import DataError
from recbole_derrd.runtime.json_files import (
    anything,
    both,
    either,
    fields,
    flag,
    mapping,
    number,
    read_json,
    row,
    sequence,
    text,
    whole,
)

#: Raised whenever a field changes its meaning.
SCHEMA = 1


def _rises(curve: list[list[float]]) -> str | None:
    epochs = [epoch for epoch, _ in curve]
    return None if all(one < other for one, other in zip(epochs, epochs[1:])) else " does not rise in its epochs"


def _is_square(choice: dict[str, Any]) -> str | None:
    matrix, groups = choice["mean_choice"], choice["activity"]
    if len(matrix) != len(groups) or len({len(line) for line in matrix}) != 1:
        return ".mean_choice has lines of several lengths, or not one for each group of .activity"
    return None


def _settings(value: Any) -> str | None:
    # Those of an ensemble hold those of its members.
    return fields({}, {"members": sequence(_settings)})(value)


# -- What tables, plots and tests read of a record, by kind and range. Other fields may be there.

_TEXT = text()
_COUNT = whole(high=2**53)
_COST = number(low=0, high=1e15)
_SCORE = number(undefined=True)
_LATENCY = fields({}, {"p50_ms": number(low=0, high=1e9), "p99_ms": _COST, "users_per_second": _COST})
_ENTRY = fields(
    {"model": _TEXT, "test": mapping(_SCORE, least=1)},
    {
        "valid": mapping(_SCORE),
        "key": _TEXT,
        "params": _COST,
        "bytes": _COST,
        "bytes_per_item": _COST,
        "seconds": _COST,
        "latency": _LATENCY,
        "valid_scores": both(sequence(row(whole(high=10**9), _SCORE)), _rises),
        "settings": _settings,
    },
)
_EXPERTS = both(
    fields(
        {
            "activity": sequence(row(_COST, _COST), least=1, most=1000),
            "mean_choice": sequence(sequence(number(low=0), least=1, most=1000), least=1, most=1000),
        }
    ),
    _is_square,
)
_FINGERPRINT = fields({"ids": _TEXT, "test": _TEXT}, {"train": _TEXT, "valid": _TEXT})
_ROLES = ("teacher", "student", "distilled")
_RECORD = fields(
    {
        "schema": whole(SCHEMA, SCHEMA),
        "model": _TEXT,
        "dataset": _TEXT,
        "seed": whole(-(2**64), 2**64),
        "protocol": fields({"mode": either(_TEXT, fields({"valid": _TEXT, "test": _TEXT}))}),
        "valid_metric": _TEXT,
        "distilled": _ENTRY,
        "data": fields(
            {"fingerprint": _FINGERPRINT},
            {"users": _COUNT, "items": _COUNT, "training_interactions": _COUNT, "interactions": _TEXT,
             "files": mapping(_TEXT), "named_files": mapping(_TEXT)},
        ),
    },
    {
        "teacher": _ENTRY,
        "student": _ENTRY,
        "stored": both(_ENTRY, fields({"bits": whole(high=64), "users": flag})),
        "teachers": sequence(_ENTRY, most=1000),
        "distillers": sequence(_TEXT),
        "split_seed": whole(-(2**64), 2**64),
        "candidates": _TEXT,
        "candidates_given": flag,
        "benchmark": fields(
            {}, {"cell": _TEXT, "key": _TEXT, "settings": _TEXT, "ours": flag}, may_miss={"place": whole(high=10**9)}
        ),
        "options": mapping(anything),
        "compression": mapping(anything),
        "expert_choice": _EXPERTS,
        "latency": fields({}, dict.fromkeys(_ROLES, _LATENCY)),
        "seconds": fields({}, dict.fromkeys(_ROLES, _COST)),
        "gap_error": mapping(_SCORE),
        "warnings": sequence(_TEXT),
        "command": text(10**6),
        "versions": mapping(_TEXT),
        "git_commit": _TEXT,
    },
)  # fmt: skip


def read_records(folder: Path) -> tuple[list[dict[str, Any]], dict[Path, str]]:
    """Return (the records in a folder and its sub-folders, in the order of their names; what is damaged, and how)."""
    records, damaged = [], {}
    for path in sorted(Path(folder).rglob("*.json")):
        try:
            content = read_json(path)
        except ValueError as error:
            damaged[path] = str(error)
            continue
        if not isinstance(content, dict) or "schema" not in content:
            continue  # another program's file
        fault = _RECORD(content)
        if fault is None:
            records.append({**content, "path": str(path)})
        else:
            damaged[path] = fault.lstrip(".")
    return records, damaged


def records_of(*folders: Path) -> tuple[list[dict[str, Any]], dict[Path, str]]:
    """Return what :func:`read_records` returns, of all folders; there must be something in each.

    Raises:
        DataError: there is no such folder, or no record in it.
    """
    records: list[dict[str, Any]] = []
    damaged: dict[Path, str] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise DataError(f"There is no folder '{folder}'. Give the folder that holds the records of your runs.")
        own, torn = read_records(folder)
        if not own:
            unread = f", only {len(torn)} damaged files" if torn else ""
            raise DataError(f"There is no record in '{folder}'{unread}. Each run writes one into its record_dir.")
        records += own
        damaged |= torn
    return records, damaged
