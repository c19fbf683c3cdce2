"""A user's own table, CSV or TSV, read as interactions: its encoding, its separator, its columns and their values."""

from __future__ import annotations

import csv
import datetime
import functools
import gzip
import io
import math
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from recbole_derrd.data.file_checks.missing import is_missing
from recbole_derrd.data.file_checks.text import check_encoding, fault_of_kind, mark_of
from recbole_derrd.errors import DataError, OptionError, did_you_mean, shown

#: How many lines an error names.
_NAMED = 5
_SEPARATORS = ",\t;|"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?\s*(Z|UTC|[+-]\d\d(?::?\d\d)?)?)?"
)


@dataclass(frozen=True)
class Source:
    """A table of text, and which of its columns are read.

    Attributes:
        file: its path; it may be compressed by gzip.
        columns: names of its first row, or numbers from 1 where it has no such row, by ``user``, ``item``,
            ``rating`` and ``time``.
        separator: what is between two columns; seen in the first line where it is None.
        encoding: its encoding; a byte order mark goes first.
    """

    file: Path
    columns: dict[str, str]
    separator: str | None = None
    encoding: str = "utf-8"


@dataclass
class Interactions:
    """The rows that were read: ids as numbers in order of their first row, other values as text.

    Attributes:
        users: the number of each user's id.
        items: the number of each item's id.
        pairs: the numbers of user and item of each row, one row after the other.
        values: the ratings and times of the rows, by column.
        missing: the lines without a value, by column.
        left_out: how many rows lack a value, and are in none of the others.
    """

    users: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    pairs: array[int] = field(default_factory=lambda: array("q"))
    values: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, list[int]] = field(default_factory=dict)
    left_out: int = 0


def read_interactions(source: Source, *, drop_missing: bool = False) -> Interactions:
    """Read a table whole.

    Args:
        source: the table.
        drop_missing: leave out rows without a value instead of refusing the table.

    Raises:
        DataError: what is wrong with the table, and in which line.
        OptionError: a column, the separator or the encoding cannot be that.
    """
    places, rows = _places(source, _rows(source))
    found = _read(source, rows, places)
    if found.left_out and not drop_missing:
        raise DataError(_lacks(source, found))
    return found


def _rows(source: Source) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank with the number of the line where it ends."""
    encoding = check_encoding(source.encoding)
    line = 0
    try:
        with _opened(source.file, encoding) as text:
            separator = _separator(source.separator, text)
            if len(separator) > 1:
                for line, whole in enumerate(text, 1):
                    if whole.strip():
                        yield line, whole.rstrip("\r\n").split(separator)
                return
            reader = csv.reader(text, delimiter=separator)
            for row in reader:
                line = reader.line_num
                if row:
                    yield line, row
    except UnicodeError as error:
        byte = f"the byte 0x{error.object[error.start]:02X}" if isinstance(error, UnicodeDecodeError) else "something"
        raise DataError(
            f"'{source.file}' holds {byte} somewhere after line {line}, which is no {encoding}. Say which encoding it "
            "has, e.g. --encoding=latin-1."
        ) from error
    except csv.Error as error:
        hint = " A quote that is not closed takes the rows after it." if "limit" in str(error) else ""
        raise DataError(f"'{source.file}' cannot be read after line {line}: {error}.{hint}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"'{source.file}' is a damaged gzip file: {error}.") from error


def _opened(file: Path, encoding: str) -> io.TextIOWrapper:
    compressed = _is_gzip(file)
    fault = None if compressed else fault_of_kind(file)
    if fault:
        raise DataError(f"'{file}' {fault}")
    # A mark stands before the text, and is no part of the first column's name.
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    if compressed:
        return io.TextIOWrapper(gzip.open(file), encoding=encoding, newline="")
    return file.open(encoding=mark_of(file) or encoding, newline="")


def _is_gzip(file: Path) -> bool:
    if not file.is_file():
        return False
    try:
        with file.open("rb") as content:
            return content.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise DataError(f"'{file}' cannot be opened: {error.strerror or error}.") from error


def _separator(given: str | None, text: io.TextIOWrapper) -> str:
    """Return what is between columns; where it is not given, the likely sign that the first line has most of."""
    first = text.readline()
    text.seek(0)
    if given is None:
        return max(_SEPARATORS, key=first.count)
    separator = {"\\t": "\t", "tab": "\t"}.get(given, given)
    if not separator or '"' in separator or "\n" in separator or "\r" in separator:
        raise OptionError(f"--sep is what stands between two columns, e.g. --sep=, or --sep=tab, but is {given!r}.")
    return separator


def _places(
    source: Source, rows: Iterator[tuple[int, list[str]]]
) -> tuple[dict[str, int], Iterator[tuple[int, list[str]]]]:
    """Return where each column is, from 0, and the rows below the names."""
    columns = source.columns
    first = next(rows, None)
    if first is None:
        raise DataError(f"'{source.file}' is empty.")
    numbered = {key for key, name in columns.items() if re.fullmatch(r"[0-9]+", name)}
    if numbered and len(numbered) < len(columns):
        raise OptionError(
            "Give all columns by name, where the first row names them, or all by number, where it does not."
        )
    find = _by_number if numbered else _by_name
    places = {key: find(source, first[1], key, name) for key, name in columns.items()}
    for key, place in places.items():
        same = next(other for other, one in places.items() if one == place)
        if same != key:
            raise OptionError(f"--{same} and --{key} are the same column, '{columns[key]}'.")
    return places, _of_width(source, len(first[1]), first if numbered else None, rows)


def _by_number(source: Source, first: list[str], key: str, name: str) -> int:
    if not 1 <= int(name) <= len(first):
        raise OptionError(f"--{key}={name}: '{source.file}' has the columns 1 to {len(first)}. Is --sep right?")
    return int(name) - 1


def _by_name(source: Source, first: list[str], key: str, name: str) -> int:
    names = [one.strip() for one in first]
    if names.count(name) == 1:
        return names.index(name)
    if name in names:
        raise OptionError(f"--{key}={name}: '{source.file}' has {names.count(name)} columns of that name.")
    if len(names) == 1:
        raise OptionError(
            f"--{key}={name}: the first line of '{source.file}' is one column, {shown(names[0])}. Say by --sep what is "
            "between the columns."
        )
    raise OptionError(
        f"--{key}={name}: the first row of '{source.file}' has no such column.{did_you_mean(name, names)} Columns of a "
        "file without names are given by number, from 1."
    )


def _of_width(
    source: Source, width: int, first: tuple[int, list[str]] | None, rows: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows, all of which must have as many columns as the first."""
    if first is not None:
        yield first
    for line, row in rows:
        if len(row) != width:
            raise DataError(
                f"'{source.file}' has {len(row)} columns in line {line}, and {width} in its first. A value with the "
                "separator in it must stand in quotes."
            )
        yield line, row


def _read(source: Source, rows: Iterator[tuple[int, list[str]]], places: dict[str, int]) -> Interactions:
    found = Interactions(values={key: [] for key in places if key not in ("user", "item")})
    parsers: dict[str, Callable[[str, int], str]] = {
        "time": _Times(source).read,
        "rating": functools.partial(_rating, source),
    }
    columns = [(key, place, parsers.get(key) or _ids(source, key)) for key, place in places.items()]
    # A value that comes again is parsed and kept once.
    known: dict[str, dict[str, str]] = {key: {} for key in places}
    for line, row in rows:
        values: dict[str, str] = {}
        for key, place, parse in columns:
            text = row[place]
            value = known[key].get(text)
            if value is None and not _is_missing(text, number=key in parsers):
                value = known[key][text] = parse(text, line)
            if value is None:
                found.missing.setdefault(key, []).append(line)
            else:
                values[key] = value
        if len(values) < len(columns):
            found.left_out += 1
            continue
        found.pairs.append(found.users.setdefault(values["user"], len(found.users)))
        found.pairs.append(found.items.setdefault(values["item"], len(found.items)))
        for key, kept in found.values.items():
            kept.append(values[key])
    return found


def _is_missing(text: str, *, number: bool) -> bool:
    return not text or text.isspace() or is_missing(text, number=number)


def _lacks(source: Source, found: Interactions) -> str:
    parts = []
    for key, lines in found.missing.items():
        named = ", ".join(map(str, lines[:_NAMED])) + (" ..." if len(lines) > _NAMED else "")
        parts.append(f"{len(lines)} without '{source.columns[key]}' (line{'s' * (len(lines) > 1)} {named})")
    return (
        f"'{source.file}' has rows without a value, or with one that RecBole reads as none, such as NA: "
        f"{', '.join(parts)}. Mend them, or leave them out by --drop-missing."
    )


def _ids(source: Source, key: str) -> Callable[[str, int], str]:
    def read(text: str, line: int) -> str:
        if re.search(r"[\t\n\r\0]", text):
            raise DataError(
                f"'{source.file}' has a tab, a line end or a NUL in '{source.columns[key]}' in line {line}, "
                f"{shown(text)}, which no atomic file can hold. Take it out."
            )
        return text

    return read


def _rating(source: Source, text: str, line: int) -> str:
    number = _number(text)
    if number is None:
        raise DataError(_no_number(source, "rating", text, line, "is no number"))
    return number


class _Times:
    """Times: numbers, or dates that become seconds. A column holds one of the two."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.dates: bool | None = None

    def read(self, text: str, line: int) -> str:
        """Return the time as a number."""
        value = _number(text)
        dates = value is None
        if value is None:
            value = _seconds(text.strip())
        if value is None:
            raise DataError(
                _no_number(self.source, "time", text, line, "is no number and no date such as 2024-05-01T18:30:00Z")
            )
        if self.dates not in (None, dates):
            raise DataError(
                _no_number(self.source, "time", text, line, f"is a {'date' if dates else 'number'}, unlike those above")
            )
        self.dates = dates
        return value


def _no_number(source: Source, key: str, text: str, line: int, what: str) -> str:
    hint = ""
    if line == 1:
        hint = " If the first row names the columns, give them by name instead of by number."
    return f"'{source.file}' has {shown(text)} in '{source.columns[key]}' in line {line}, which {what}.{hint}"


def _number(text: str) -> str | None:
    text = text.strip()
    return text if _NUMBER.fullmatch(text) and text.isascii() and math.isfinite(float(text)) else None


def _seconds(text: str) -> str | None:
    """Return the whole seconds since 1970 of an ISO date; without a zone it is UTC."""
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    *parts, zone = found.groups()
    shift = datetime.timedelta()
    if zone and zone[0] in "+-":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        shift = int(f"{zone[0]}1") * datetime.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    try:
        year, month, day, hour, minute, second = (int(part or 0) for part in parts)
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.timezone.utc) - shift
    except (ValueError, OverflowError):
        return None
    return str((moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(seconds=1))
