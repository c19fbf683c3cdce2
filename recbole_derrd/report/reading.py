"""Reading records back, whatever else lies beside them: folders, files of one record, files of one record a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_derrd.errors import DataError
from recbole_derrd.report.schema import RunRecord, Source
from recbole_derrd.runtime.json_files import read_json, read_json_lines

#: One record a file, or one a line.
_SUFFIXES = (".json", ".jsonl")


def read_records(*places: Path) -> tuple[list[RunRecord], dict[Source, str]]:
    """Return the records in folders and files, and what cannot be read of them.

    Args:
        places: folders, whose sub-folders are read too, and files; .jsonl has a record a line.

    Returns:
        The records, in the order of the files' names; and what is wrong, in words that follow the source.
    """
    records, unread = [], {}
    for source, content in _contents(places):
        if isinstance(content, ValueError):
            unread[source] = str(content)
        elif isinstance(content, dict) and "schema" in content:  # else it is another program's
            try:
                records.append(dataclasses.replace(RunRecord.from_json(content), source=source))
            except ValueError as error:
                unread[source] = str(error)
    return records, unread


def records_of(*places: Path) -> tuple[list[RunRecord], dict[Source, str]]:
    """Return what :func:`read_records` returns; there must be a record in each folder or file.

    What lies in several of the places is read once.

    Raises:
        DataError: there is no such folder or file, or no record in it.
    """
    records: list[RunRecord] = []
    unread: dict[Source, str] = {}
    seen: set[tuple[Path, int | None]] = set()
    for place in places:
        if not Path(place).exists():
            raise DataError(f"There is no folder or file '{place}'. Give what holds the records of your runs.")
        own, faults = read_records(place)
        if not own and faults:
            source, fault = next(iter(faults.items()))
            more = f" ({len(faults) - 1:,} more cannot either)" if len(faults) > 1 else ""
            raise DataError(f"No record in '{place}' can be read: {source} {fault}{more}.")
        if not own:
            raise DataError(f"There is no record in '{place}'. Each run writes one into its record_dir.")
        # A folder may be given beside the one that it lies in, and a file twice.
        new = {_place_of(record.source): record for record in own if record.source is not None}
        records += [record for place_of, record in new.items() if place_of not in seen]
        seen |= new.keys()
        unread |= faults
    return records, unread


def _place_of(source: Source) -> tuple[Path, int | None]:
    return source.path.resolve(), source.line


def _contents(places: tuple[Path, ...]) -> Iterator[tuple[Source, Any]]:
    """Yield (where it lies, content or what is wrong with it) of everything that may be a record."""
    for path in (path for place in places for path in _files(Path(place))):
        try:
            if path.suffix == ".jsonl":
                for line, content in read_json_lines(path):
                    yield Source(path, line), content
            else:
                yield Source(path), read_json(path)
        except ValueError as error:
            yield Source(path), error


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*.json*") if path.suffix in _SUFFIXES) if place.is_dir() else [place]
