"""The directory of a zip archive as ``torch.save`` writes it: one directory at the end, records side by side.

Only this one layout is admitted, so that every reader of the archive sees the same records: a second directory, hidden
bytes, records that overlap or share a name are refused.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

from recbole_derrd.recbole_compat.refusals import DamagedError, NotACheckpointError

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_END_MARK, _END64_MARK, _LOCATOR_MARK, _ENTRY_MARK, _LOCAL_MARK = (
    b"PK" + mark for mark in (b"\x05\x06", b"\x06\x06", b"\x06\x07", b"\x01\x02", b"\x03\x04")
)
_ALL16, _ALL32 = 0xFFFF, 0xFFFFFFFF
# What may stand between a record and the next: a data descriptor, with or without its mark, of 32 or 64 bits.
_DESCRIPTORS = (0, 12, 16, 20, 24)
# Encrypted, a patch, strongly encrypted, a masked directory.
_ODD_FLAGS = 0x1 | 0x20 | 0x40 | 0x2000
_MOST_ENTRIES = 1_000_000


class Record(NamedTuple):
    """One file of the archive, by what the directory says of it."""

    name: str
    start: int
    size: int
    crc: int
    stored: bool


class _Directory(NamedTuple):
    entries: int
    start: int
    size: int


def read_layout(file: BinaryIO) -> dict[str, Record]:
    """Return the records by name, without the folder that all of them are in.

    Raises:
        NotACheckpointError: the file is no archive.
        DamagedError: its directory is not the one that ``torch.save`` writes.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) != _LOCAL_MARK and _bytes(file, max(0, length - _END.size), 4) != _END_MARK:
        raise NotACheckpointError("no zip archive")
    directory = _directory(file, length)
    content = _bytes(file, directory.start, directory.size)
    try:
        entries = list(_entries(content, directory.entries))
    except struct.error as error:
        raise DamagedError("its directory is cut short") from error
    records, end = [], 0
    for entry in sorted(entries, key=lambda one: one.start):
        record = _located(file, entry, directory.start)
        if entry.start - end not in _DESCRIPTORS:
            raise DamagedError("its records are not side by side")
        records.append(record)
        end = record.start + record.size
    if directory.start - end not in _DESCRIPTORS:
        raise DamagedError("its records are not side by side")
    return _by_name(records)


def _bytes(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _directory(file: BinaryIO, length: int) -> _Directory:
    tail = _bytes(file, max(0, length - _END.size), _END.size)
    if len(tail) < _END.size or tail[:4] != _END_MARK:
        raise DamagedError("its end is missing")
    _, disk, first_disk, here, entries, size, start, comment = _END.unpack(tail)
    found, end = _Directory(entries, start, size), length - _END.size
    at = end - _LOCATOR.size
    locator = _bytes(file, at, _LOCATOR.size) if at >= 0 else b""
    if locator[:4] == _LOCATOR_MARK:
        end = at - _END64.size
        _, _, offset, _ = _LOCATOR.unpack(locator)
        if offset != end or end < 0:
            raise DamagedError("it has two directories")
        wide = _END64.unpack(_bytes(file, end, _END64.size))
        if wide[0] != _END64_MARK or wide[1] != _END64.size - 12 or wide[4:6] != (0, 0) or wide[6] != wide[7]:
            raise DamagedError("its directory is not whole")
        large = _Directory(*(wide[place] for place in (7, 9, 8)))
        for narrow, all_ones, value in zip((entries, start, size), (_ALL16, _ALL32, _ALL32), large):
            if narrow not in (value, all_ones):
                raise DamagedError("it has two directories")
        found = large
    if disk or first_disk or here != entries or comment or found.start + found.size != end:
        raise DamagedError("its directory is not whole")
    if found.entries > _MOST_ENTRIES:
        raise DamagedError("it has too many records")
    return found


def _entries(content: bytes, count: int) -> list[Record]:
    found, at = [], 0
    for _ in range(count):
        mark, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, disk, _, _, start = (
            _ENTRY.unpack_from(content, at)
        )
        at += _ENTRY.size
        rest = content[at : at + name + extra]
        at += name + extra
        if mark != _ENTRY_MARK or comment or disk or flags & _ODD_FLAGS or len(rest) != name + extra:
            raise DamagedError("its directory is not whole")
        size, packed, start = _widened(rest[name:], size, packed, start)
        stored = method == 0
        if stored and packed != size:
            raise DamagedError("its directory is not whole")
        found.append(Record(_text(rest[:name]), start, packed, crc, stored))
    if at != len(content):
        raise DamagedError("its directory is not whole")
    return found


def _widened(extra: bytes, *numbers: int) -> list[int]:
    """Return the numbers, those of all ones replaced by the zip64 field's."""
    wide = [number == _ALL32 for number in numbers]
    at = 0
    while any(wide) and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{sum(wide)}Q", extra[at + 4 : at + 4 + length]))
            return [next(values) if large else number for number, large in zip(numbers, wide)]
        at += 4 + length
    return list(numbers)


def _located(file: BinaryIO, entry: Record, end: int) -> Record:
    """Return the record with the start of its bytes, which its own head tells."""
    head = _bytes(file, entry.start, _LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != _LOCAL_MARK:
        raise DamagedError("a record is missing")
    _, _, flags, method, _, _, _, _, _, name, extra = _LOCAL.unpack(head)
    if _text(file.read(name)) != entry.name or flags & _ODD_FLAGS or (method == 0) != entry.stored:
        raise DamagedError(f"the head of its record '{entry.name}' is not its own")
    start = entry.start + _LOCAL.size + name + extra
    if start + entry.size > end:
        raise DamagedError(f"its record '{entry.name}' is cut short")
    return entry._replace(start=start)


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError("a record's name is no text") from error


def _by_name(records: list[Record]) -> dict[str, Record]:
    folders = {record.name.partition("/")[0] for record in records}
    found = {record.name.partition("/")[2]: record for record in records}
    # Torch's reader takes names for equal that differ in case alone.
    if len(folders) != 1 or "" in found or len({name.lower() for name in found}) != len(records):
        raise DamagedError("two of its records have one name, or are not in one folder")
    return found
