"""Pickles and archives put together by hand, for what no pickler would write."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

HEAD = b"\x80\x04"


def text(value: str) -> bytes:
    """Opcodes of a text."""
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def block(value: bytes) -> bytes:
    """Opcodes of bytes."""
    return pickle.BINBYTES + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    """Opcodes of a whole number."""
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded


def row(*parts: bytes) -> bytes:
    """Opcodes of a tuple."""
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def many(*parts: bytes) -> bytes:
    """Opcodes of a list."""
    return pickle.EMPTY_LIST + pickle.MARK + b"".join(parts) + pickle.APPENDS


def pairs(*parts: bytes) -> bytes:
    """Opcodes of a dict; keys and values in turn."""
    return pickle.EMPTY_DICT + pickle.MARK + b"".join(parts) + pickle.SETITEMS


def named(module: str, name: str) -> bytes:
    """Opcodes of a name."""
    return text(module) + text(name) + pickle.STACK_GLOBAL


def call(maker: bytes, *arguments: bytes, state: bytes = b"") -> bytes:
    """Opcodes of a call, and of a state that is set."""
    return maker + row(*arguments) + pickle.REDUCE + (state and state + pickle.BUILD)


NONE, YES, NO = pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE
ORDERED = call(named("collections", "OrderedDict"))


def number_type(name: str, order: str = "<", state: bytes | None = None) -> bytes:
    """Opcodes of a numpy type of numbers."""
    rest = (NONE, NONE, NONE, number(-1), number(-1), number(0))
    state = row(number(3), text(order), *rest) if state is None else state
    return call(named("numpy", "dtype"), text(name), NO, YES, state=state)


def array(kind: bytes, shape: bytes, content: bytes, by_columns: bytes = NO) -> bytes:
    """Opcodes of a numpy array."""
    maker = named("numpy.core.multiarray", "_reconstruct")
    start = (named("numpy", "ndarray"), row(number(0)), block(b"b"))
    return call(maker, *start, state=row(number(1), shape, kind, by_columns, content))


def storage(kind: str, key: str, numel: int) -> bytes:
    """Opcodes of a storage."""
    return row(text("storage"), named("torch", kind), text(key), text("cpu"), number(numel)) + pickle.BINPERSID


def sizes(*values: int) -> bytes:
    """Opcodes of a shape."""
    return row(*(number(value) for value in values))


def tensor(at: bytes, offset: int, size: bytes, stride: bytes) -> bytes:
    """Opcodes of a tensor."""
    return call(named("torch._utils", "_rebuild_tensor_v2"), at, number(offset), size, stride, NO, ORDERED)


def checkpoint(other: bytes) -> bytes:
    """A checkpoint's pickle with this among its other parameters."""
    return HEAD + pairs(text("state_dict"), pickle.EMPTY_DICT, text("other_parameter"), pairs(text("a"), other)) + b"."


def write_archive(path: Path, content: bytes, order: bytes = b"little", **records: bytes) -> Path:
    """Write an archive as torch does: ``data.pkl``, and storages by their keys (``k0`` for ``data/0``)."""
    writer: Any = torch._C.PyTorchFileWriter(os.fspath(path))  # type: ignore[attr-defined]
    writer.write_record("data.pkl", content, len(content))
    writer.write_record("byteorder", order, len(order))
    for key, value in records.items():
        writer.write_record(f"data/{key[1:]}", value, len(value))
    writer.write_end_of_file()
    return path
