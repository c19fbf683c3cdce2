r"""The rows of a data file: whether RecBole reads each as the fields that stand in it.

RecBole reads by ``pandas.read_csv(engine="python", usecols=...)``. That takes the number of columns from the first row:
where it has more fields than the header, the first columns become an index and all others shift. Of later rows it
drops what is too much and fills what is missing, without a word. Quotes are read as in CSV, so one that is never closed
swallows rows.

Most files have no quoted fields and as many fields in each row: that is seen by counting separators, a block at a time.
Only files that have anything else are read as pandas reads them, row by row.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from recbole_derrd.data.file_checks.missing import Array, Missing, is_missing, missing_fields
from recbole_derrd.data.file_checks.text import text_blocks

_NEWLINE = ord("\n")


@dataclasses.dataclass(frozen=True)
class Table:
    """How a file is to be read.

    Attributes:
        file: its path.
        encoding: its encoding.
        separator: what is between fields.
        width: columns of its first line.
        tokens: columns, from 0, whose missing values are counted.
        numbers: columns of numbers whose missing values are counted.
    """

    file: str
    encoding: str
    separator: str
    width: int
    tokens: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()


@dataclasses.dataclass
class Rows:
    """What the rows of a file hold.

    Attributes:
        count: number of rows, without the first line and blank ones.
        fault: what is wrong with one of them; None if nothing is.
        missing: the missing values of each column that was asked for.
    """

    count: int = 0
    fault: str | None = None
    missing: dict[int, Missing] = dataclasses.field(default_factory=dict)


class RowError(Exception):
    """A row that cannot be read; the message goes on after the file's name."""


def read_rows(table: Table) -> Rows:
    """Look at every row of a file.

    Raises:
        TextError: the file is no text in its encoding.
    """
    separator = table.separator.encode()
    if len(separator) == 1:
        found = _counted(table, separator)
        if found is not None:
            return found
    else:
        # What is no text is seen here, with its line.
        for _ in text_blocks(table.file, table.encoding):
            pass
    return _read(table)


# -- by counting


def _counted(table: Table, separator: bytes) -> Rows | None:
    """Count the fields of all rows; None where some row is quoted, blank or has another number of fields."""
    found = Rows(missing={column: Missing() for column in (*table.tokens, *table.numbers)})
    line, even = 1, True
    for block in text_blocks(table.file, table.encoding):
        if even:
            if line == 1:
                head = block.index(b"\n") + 1
                block, line = block[head:], 2
            even = not _has_quoted_field(block, separator) and _add_block(table, block, separator, line, found)
            line += block.count(b"\n")
    return found if even else None


def _has_quoted_field(block: bytes, separator: bytes) -> bool:
    if b'"' not in block:
        return False
    return block.startswith(b'"') or b'\n"' in block or separator + b'"' in block


def _add_block(table: Table, block: bytes, separator: bytes, line: int, found: Rows) -> bool:
    """Add a block of whole lines to what is found; False where its rows are not all alike."""
    content = np.frombuffer(block, dtype=np.uint8)
    is_end = content == _NEWLINE
    ends: Array = np.flatnonzero(is_end | (content == separator[0]))
    last: Array = is_end[ends]
    starts: Array = np.empty_like(ends)
    starts[:1], starts[1:] = 0, ends[:-1] + 1
    blank = last & (starts == ends)
    if blank.any():
        # An empty last field looks the same, but does not follow an end of line.
        blank[1:] &= last[:-1]
        kept = ~blank
        starts, ends, last = starts[kept], ends[kept], last[kept]
    if len(ends) % table.width:
        return False
    last = last.reshape(-1, table.width)
    if last[:, :-1].any() or not last[:, -1].all():
        return False
    starts, ends = starts.reshape(-1, table.width), ends.reshape(-1, table.width)
    if len(ends) and _has_blank_row(content, starts, ends):
        return False
    for column in found.missing:
        _add_missing(content, starts[:, column], ends[:, column], line, column in table.numbers, found.missing[column])
    found.count += len(ends)
    return True


def _has_blank_row(content: Array, starts: Array, ends: Array) -> bool:
    """Say whether a table of one column has a row of blanks alone, which pandas leaves out."""
    return starts.shape[1] == 1 and bool((content[starts[:, 0]] <= ord(" ")).any())


def _add_missing(content: Array, starts: Array, ends: Array, line: int, number: bool, missing: Missing) -> None:
    fields = missing_fields(content, starts, ends, number=number)
    if len(fields):
        start, end = starts[fields[0]], ends[fields[0]]
        before = int(np.count_nonzero(content[:start] == _NEWLINE))
        missing.add(len(fields), line + before, content[start:end].tobytes().decode(errors="replace"))


# -- row by row, as pandas does


class _Lines:
    """The lines of a text, keeping those that the present row is made of."""

    def __init__(self, text: Iterator[str]) -> None:
        self._text = text
        self.read = 0
        self.row: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.read += 1
            self.row.append(line)
            yield line


def records(table: Table) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the fields of each row as pandas reads them, the header first.

    Raises:
        RowError: a row cannot be read, or would be read as others than stand there.
    """
    with open(table.file, encoding=table.encoding, newline="") as text:
        lines = _Lines(text)
        read = _quoted if len(table.separator) == 1 else _split
        header = True
        for line, fields in read(lines, table):
            if header:
                lines.row.clear()
                header = False
                yield line, fields
                continue
            # Rows without a field or with a blank one alone are left out.
            if len(fields) > 1 or (fields and fields[0].strip()):
                yield line, fields
            lines.row.clear()


def _quoted(lines: _Lines, table: Table) -> Iterator[tuple[int, list[str]]]:
    separator = table.separator
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        line = lines.read + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise RowError(_unreadable(line, lines.read, str(error))) from error
        if lines.read > line and all(one.rstrip("\r\n").count(separator) + 1 == table.width for one in lines.row):
            raise RowError(
                f'has a quote (") in line {line} that closes in line {lines.read} only, and what is between would be '
                "one field, though each of these lines is a whole row. Take the quotes out."
            )
        yield line, fields


def _unreadable(line: int, last: int, reason: str) -> str:
    if "unexpected end" in reason:
        return f'has a field in line {line} that begins with a quote (") which is never closed. Take the quote out.'
    if "expected after" in reason:
        return (
            f'has a field that begins with a quote (") in line {line} and goes on after its closing quote in line '
            f"{last}. Take the quotes out, or quote the whole field and double the quotes in it."
        )
    return f"cannot be read in line {line}: {reason}."


def _split(lines: _Lines, table: Table) -> Iterator[tuple[int, list[str]]]:
    """Split lines at a separator of several characters, which pandas takes for a regular expression."""
    try:
        pattern = re.compile(table.separator)
    except re.error as error:
        raise RowError(
            f"cannot be split at field_separator = {table.separator!r}: several characters are read as a regular "
            f"expression ({error}). Use a separator of one character."
        ) from error
    for line in lines:
        # Without the blanks around the line, as pandas does.
        stripped = line.strip()
        fields = pattern.split(stripped)
        if fields != stripped.split(table.separator):
            raise RowError(
                f"is split elsewhere than at {table.separator!r} in line {lines.read}: several characters are read as "
                "a regular expression. Use a separator of one character."
            )
        yield lines.read, fields


def _read(table: Table) -> Rows:
    """Read a file row by row."""
    found = Rows(missing={column: Missing() for column in (*table.tokens, *table.numbers)})
    rows = records(table)
    try:
        next(rows, None)
        for line, fields in rows:
            if len(fields) != table.width and not _reads_right(fields, table.width, found.count):
                found.fault = _uneven(line, len(fields), table)
                return found
            for column, missing in found.missing.items():
                if is_missing(fields[column], number=column in table.numbers):
                    missing.add(1, line, fields[column])
            found.count += 1
    except RowError as error:
        found.fault = str(error)
    return found


def _reads_right(fields: list[str], width: int, index: int) -> bool:
    """Say whether pandas drops nothing but blanks behind the last column, and takes nothing for an index.

    The first row says how many columns there are; a second one of twice as many makes an index of the first.
    """
    return (
        index > 0
        and not (index == 1 and len(fields) == 2 * width)
        and not any(map(str.strip, fields[width:]))
        and (len(fields) > width)
    )


def _uneven(line: int, count: int, table: Table) -> str:
    fields = f"{count} field{'s' if count > 1 else ''}"
    return (
        f"has {fields} in line {line}, and its first line names {table.width} columns. Put {_shown(table.separator)} "
        "between two fields, and none in a field or at the end of a row."
    )


def _shown(separator: str) -> str:
    return {"\t": "one tab", ",": "one comma", " ": "one space"}.get(separator, f"one {separator!r}")


def first_text(table: Table, columns: dict[int, str | None]) -> tuple[int, int, str] | None:
    """Return line, column and value of the first value that is no number; None where all are.

    Args:
        table: how the file is read.
        columns: columns of numbers, each with what separates several numbers in it, None where there is but one.
    """
    rows = records(table)
    next(rows, None)
    for line, fields in rows:
        for column, separator in columns.items():
            if column < len(fields) and not is_missing(fields[column], number=True):
                values = [fields[column]] if separator is None else filter(None, fields[column].split(separator))
                for value in values:
                    if not _is_number(value):
                        return line, column, value
    return None


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
