"""A data file as text: whether it is a readable text file, in which encoding, and its lines in blocks of UTF-8."""

from __future__ import annotations

import codecs
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from recbole_derrd.errors import OptionError, did_you_mean, nearest

#: Bytes that are decoded at once: arrays of a block stay in the processor's cache.
_BLOCK = 1 << 20
#: No line of a table is longer.
_LONGEST_LINE = 1 << 26

#: How files begin that are no tables of text.
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive (or an Excel file)",
    b"\x1f\x8b": "gzip-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ\x00": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
}
#: UTF-32 first: its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_SUGGESTED = (
    "utf-8", "utf-8-sig", "utf-16", "utf-32", "ascii", "latin-1", "iso-8859-1", "iso-8859-2", "iso-8859-15", "cp1250",
    "cp1251", "cp1252", "gbk", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr", "koi8-r",
)  # fmt: skip


class TextError(Exception):
    """A file that is no text in its encoding; the message goes on after the file's name."""


def check_encoding(encoding: str) -> str:
    """Return Python's name of an encoding of text.

    Raises:
        OptionError: there is none of this name.
    """
    try:
        # What open() does: some codecs are none of text.
        io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        name = codecs.lookup(encoding).name
        "a".encode(name)
    except (LookupError, UnicodeError, ValueError) as error:
        match = nearest(encoding, _SUGGESTED, cutoff=0.5)
        hint = did_you_mean(encoding, _SUGGESTED) if match else " RecBole's default is utf-8."
        raise OptionError(f"encoding = '{encoding}' is no encoding of text that Python knows.{hint}") from error
    return name


def fault_of_kind(file: Path) -> str | None:
    """Say why a file cannot be a table of text, whatever its encoding; None where it may be one."""
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            return "is a folder, and must be a file."
        if not stat.S_ISREG(mode):
            return "is a pipe or a device, and must be a file: RecBole reads it more than once."
        with file.open("rb") as content:
            start = content.read(16)
    except OSError as error:
        if file.is_symlink() and not os.access(file, os.F_OK):
            return f"is a link to '{os.readlink(file)}', and there is no file ({error.strerror})."
        return f"cannot be opened: {error.strerror or error}."
    for sign, kind in _OTHER_KINDS.items():
        if start.startswith(sign):
            return f"is no text: it is {kind}. RecBole reads plain text only: unpack or convert it."
    return None


def mark_of(file: Path) -> str | None:
    """Return the encoding that a file's byte order mark speaks of; None where it has no mark."""
    with file.open("rb") as content:
        start = content.read(4)
    return next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), None)


def fault_of_mark(file: Path, encoding: str) -> str | None:
    """Say that a byte order mark contradicts the encoding by which a file is to be read."""
    marked = mark_of(file)
    accepted = {"utf-8-sig": ("utf-8", "utf-8-sig"), "utf-16": ("utf-16",), "utf-32": ("utf-32",), None: (encoding,)}
    if encoding in accepted[marked]:
        return None
    remedy = "take out encoding" if marked == "utf-8-sig" else f"set --encoding={marked}"
    shown = "UTF-8" if marked == "utf-8-sig" else str(marked).upper()
    return f"begins with the byte order mark of {shown}, and is read as {encoding}: {remedy}."


def text_blocks(file: str | Path, encoding: str, size: int = _BLOCK) -> Iterator[bytes]:
    r"""Yield a file's text as UTF-8, in blocks of whole lines; every line ends in ``\n``, the last one too.

    Args:
        file: the file.
        encoding: a name that :func:`check_encoding` returned.
        size: bytes that are read at once.

    Raises:
        TextError: the file is no text in this encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    as_it_is = encoding in ("utf-8", "ascii", "utf-8-sig")
    pending, lines, first = b"", 0, True
    with open(file, "rb") as content:
        while True:
            part = content.read(size)
            try:
                text = decoder.decode(part, final=not part)
            except UnicodeDecodeError as error:
                line = 1 + lines + _line_ends(pending) + _line_ends(error.object[: error.start])
                raise TextError(_no_text(line, error, encoding)) from error
            if as_it_is:
                fresh = part[3:] if first and encoding == "utf-8-sig" and part.startswith(codecs.BOM_UTF8) else part
            else:
                fresh = text.encode("utf-8", "surrogatepass")
            first = False
            pending += fresh
            cut = _last_line_end(pending) + 1 if part else len(pending)
            block, pending = pending[:cut], pending[cut:]
            if block:
                block = _unix_lines(block)
                if b"\0" in block:
                    line = 1 + lines + block[: block.index(b"\0")].count(b"\n")
                    raise TextError(f"holds a NUL byte in line {line}: it is damaged, or no text in {encoding}.")
                yield block
                lines += block.count(b"\n")
            if not part:
                return
            if len(pending) > _LONGEST_LINE:
                raise TextError(
                    f"has no end of line after {_LONGEST_LINE >> 20} MB of line {lines + 1}: it is no table."
                )


def _no_text(line: int, error: UnicodeDecodeError, encoding: str) -> str:
    byte = error.object[error.start]
    other = "the file's encoding, e.g. --encoding=latin-1" if encoding.startswith("utf-8") else "the right encoding"
    return (
        f"holds the byte 0x{byte:02X} in line {line}, which is no {encoding} there. Set {other}, or save it as UTF-8."
    )


def _line_ends(block: bytes) -> int:
    return block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")


def _last_line_end(block: bytes) -> int:
    r"""Return where the last line of a block ends; a last ``\r`` may be half of an end."""
    newline = block.rfind(b"\n")
    return newline if newline >= 0 else block.rfind(b"\r", 0, max(0, len(block) - 1))


def _unix_lines(block: bytes) -> bytes:
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return block if block.endswith(b"\n") else block + b"\n"
