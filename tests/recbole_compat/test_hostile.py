"""Pickles that no pickler writes: refused in a sentence, or read without what they ask for; none runs or kills."""

from __future__ import annotations

import contextlib
import pickle
import struct
import time
from pathlib import Path

import pytest

from recbole_derrd.errors import CheckpointError
from recbole_derrd.recbole_compat import Inert, read_archive
from recbole_derrd.training.checkpoint import read_checkpoint

from .pickles import (
    HEAD,
    NO,
    NONE,
    ORDERED,
    YES,
    array,
    block,
    call,
    checkpoint,
    many,
    named,
    number,
    number_type,
    pairs,
    row,
    sizes,
    storage,
    tensor,
    text,
    write_archive,
)  # fmt: skip

FLOATS = struct.pack("<6f", *range(6))
LONGS = struct.pack("<6q", 0, 1, 2, 0, 1, 2)
RECORDS = {
    "k0": FLOATS,
    "k1": LONGS,
    "k2": struct.pack("<6q", 0, 1, 9, 0, 1, 2),
    "k3": struct.pack("<6q", 0, 1, -1, 0, 1, 2),
    "k4": b"",
}
DOUBLES = number_type("f8")
AGAIN = array(DOUBLES, sizes(10_000), pickle.BINGET + b"\x08")
OBJECTS = number_type("O8", "|")
OBJECT_ARRAY = array(OBJECTS, sizes(1), many(named("os", "system")))
FIELDS = row(number(3), text("|"), NONE, row(text("a")), pairs(text("a"), row(number_type("O8"), number(0))), number(8),
             number(1), number(16))  # fmt: skip
METADATA = row(number(4), text("<"), NONE, NONE, NONE, number(-1), number(-1), number(0), pairs(text("a"), text("b")))
CONFIG = call(named("recbole.config.configurator", "Config"))
LARGE = 1 << 62
COO = call(named("torch.serialization", "_get_layout"), text("torch.sparse_coo"))
CSR = call(named("torch.serialization", "_get_layout"), text("torch.sparse_csr"))


def sparse(layout: bytes, *parts: bytes) -> bytes:
    return call(named("torch._utils", "_rebuild_sparse_tensor"), layout, row(*parts))


def indices(key: str) -> bytes:
    """Two rows of three indices: those of k1 are within a shape of (3, 3)."""
    return tensor(storage("LongStorage", key, 6), 0, sizes(2, 3), sizes(3, 1))


def vector(kind: str, key: str, size: int, offset: int = 0) -> bytes:
    return tensor(storage(kind, key, 6), offset, sizes(size), sizes(1))


VALUES = vector("FloatStorage", "0", 3)

# What is refused, as a part of a checkpoint, and words of the sentence.
REFUSED: dict[str, tuple[bytes, str]] = {
    "an array of objects at an address": (
        call(named("torch", "Size"), call(named("numpy", "ndarray"), sizes(1), text("O"), block(b"A" * 8))),
        "could run code",
    ),
    "numpy.ndarray called": (call(named("numpy", "ndarray"), sizes(1), text("f8")), "could run code"),
    "numpy.frombuffer": (call(named("numpy", "frombuffer"), block(b"A" * 8), text("O")), "could run code"),
    "functools.partial": (call(named("functools", "partial"), named("os", "system"), text("true")), "could run code"),
    "operator.attrgetter": (call(named("operator", "attrgetter"), text("system")), "could run code"),
    "builtins.getattr": (call(named("builtins", "getattr"), CONFIG, text("__class__")), "could run code"),
    "copyreg._reconstructor": (call(named("copyreg", "_reconstructor"), NONE, NONE, NONE), "could run code"),
    "an inert class by a dotted name": (call(named("recbole", "utils.os.system"), text("true")), "could run code"),
    "a call of what a call gave": (call(CONFIG, text("a")), "calls what is no name"),
    "a call of a text": (call(text("print")), "calls what is no name"),
    "arguments that are no tuple": (named("collections", "OrderedDict") + many() + pickle.REDUCE, "no name"),
    "keywords": (named("recbole.config", "Config") + row() + pairs(text("a"), NONE) + pickle.NEWOBJ_EX, "keywords"),
    "a state of an array with an item": (
        array(number_type("f4"), sizes(6), block(FLOATS)) + number(0) + named("os", "system") + pickle.SETITEM,
        "another way",
    ),
    "an item of a list": (many(NONE) + number(0) + NONE + pickle.SETITEM, "no dict"),
    "an item of bytes": (block(b"abc") + number(0) + number(1) + pickle.SETITEM, "no dict"),
    "a member of a dict": (pairs() + NONE + pickle.APPEND, "no list"),
    "a member of a tuple": (row() + pickle.MARK + NONE + pickle.APPENDS, "no list"),
    "a member of no set": (many() + pickle.MARK + NONE + pickle.ADDITEMS, "no set"),
    "a state of a dict": (pairs() + pairs() + pickle.BUILD, "has none"),
    "a state of a text": (text("a") + pairs() + pickle.BUILD, "has none"),
    "a state of a name": (named("recbole.config", "Config") + pairs() + pickle.BUILD, "has none"),
    "two states": (CONFIG + pairs() + pickle.BUILD + pairs() + pickle.BUILD, "has none"),
    "a name that is no text": (number(1) + text("a") + pickle.STACK_GLOBAL, "no text"),
    "a name of bytes": (text("os") + block(b"system") + pickle.STACK_GLOBAL, "no text"),
    "an extension": (pickle.EXT1 + b"\x01", "opcode"),
    "an extension of two bytes": (pickle.EXT2 + b"\x01\x00", "opcode"),
    "an extension of four bytes": (pickle.EXT4 + b"\x01\x00\x00\x00", "opcode"),
    "a buffer from elsewhere": (pickle.NEXT_BUFFER, "opcode"),
    "an instance of protocol 0": (b"(ios\nsystem\n", "opcode"),
    "an object of protocol 1": (pickle.MARK + named("os", "system") + text("true") + pickle.OBJ, "opcode"),
    "a persistent id of protocol 0": (b"Pstorage\n", "opcode"),
    "a persistent id that is a text": (text("storage") + pickle.BINPERSID, "no storage"),
    "a persistent id of another word": (
        row(text("module"), named("torch", "FloatStorage"), text("0"), text("cpu"), number(6)) + pickle.BINPERSID,
        "no storage",
    ),
    "a persistent id of a large key": (
        row(text("storage"), named("torch", "FloatStorage"), number(0), text("cpu"), number(6)) + pickle.BINPERSID,
        "no storage",
    ),
    "a protocol within": (b"\x80\x04" + NONE, "opcode"),
    "nothing to take": (pickle.REDUCE * 9, "not whole"),
    "a place of the memo that is empty": (pickle.BINGET + b"\x07", "not whole"),
    "a text of more than there is": (pickle.BINUNICODE8 + b"\xff" * 8, "cut short"),
    "bytes of more than there are": (pickle.BINBYTES8 + struct.pack("<Q", 1 << 40), "cut short"),
    "a byte array of more than there is": (pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 40), "cut short"),
    "half a number": (pickle.BINFLOAT, "cut short|not whole"),
    "a text of no letters": (pickle.SHORT_BINUNICODE + b"\x01\xff", "not whole"),
    "a tuple as a key in a tuple": (pairs(row(row(NONE)), NONE), "key"),
    "a list as a key": (pairs(many(), NONE), "key"),
    "a number with the hash of another": (pairs(number(2**61 - 1), NONE), "key"),
    "a storage alone": (storage("FloatStorage", "0", 6), "storage without a tensor"),
    "a storage of no numbers": (tensor(storage("PickleStorage", "0", 6), 0, sizes(6), sizes(1)), "PickleStorage"),
    "a storage that is not there": (tensor(storage("FloatStorage", "9", 6), 0, sizes(6), sizes(1)), "does not hold"),
    "a storage by a path": (tensor(storage("FloatStorage", "../byteorder", 6), 0, sizes(6), sizes(1)), "not hold"),
    "a larger storage than its record": (
        tensor(storage("FloatStorage", "0", 1 << 40), 0, sizes(6), sizes(1)),
        "does not hold",
    ),
    "a storage of fewer than none": (tensor(storage("FloatStorage", "0", -1), 0, sizes(0), sizes(1)), "tensor of"),
    "a storage of two types": (
        many(vector("FloatStorage", "0", 6), tensor(storage("IntStorage", "0", 6), 0, sizes(6), sizes(1))),
        "two types",
    ),
    "a storage of two sizes": (
        many(
            tensor(storage("FloatStorage", "4", 0), 0, sizes(0), sizes(1)),
            tensor(storage("FloatStorage", "4", 1 << 31), 0, sizes(1 << 31), sizes(1)),
        ),
        "two sizes",
    ),
    "a tensor beyond its storage": (vector("FloatStorage", "0", 6, offset=1), "beyond its 6"),
    "a tensor that begins before its storage": (vector("FloatStorage", "0", 2, offset=-1), "beyond its 6"),
    "a tensor of large strides": (tensor(storage("FloatStorage", "0", 6), 0, sizes(2, 2), sizes(4, 3)), "beyond"),
    "a tensor of negative strides": (tensor(storage("FloatStorage", "0", 6), 5, sizes(6), sizes(-1)), "no shape"),
    "a tensor of a negative size": (tensor(storage("FloatStorage", "0", 6), 0, sizes(-6), sizes(1)), "no shape"),
    "a tensor of a huge size": (tensor(storage("FloatStorage", "0", 6), 0, sizes(LARGE, 0), sizes(0, 0)), "no shape"),
    "a tensor that is spread out": (tensor(storage("FloatStorage", "0", 6), 0, sizes(1 << 40), sizes(0)), "beyond"),
    "a tensor of fewer strides": (tensor(storage("FloatStorage", "0", 6), 0, sizes(2, 3), sizes(3)), "beyond"),
    "a size that is true": (tensor(storage("FloatStorage", "0", 6), 0, row(YES), sizes(1)), "no shape"),
    "a tensor of what is no storage": (tensor(text("0"), 0, sizes(6), sizes(1)), "another way"),
    "a tensor of too few parts": (call(named("torch._utils", "_rebuild_tensor_v2")), "another way"),
    "hooks": (
        call(named("torch._utils", "_rebuild_tensor_v2"), storage("FloatStorage", "0", 6), number(0), sizes(6),
             sizes(1), NO, ORDERED + number(1) + named("os", "system") + pickle.SETITEM),
        "another way",
    ),
    "gradients of whole numbers": (
        call(named("torch._utils", "_rebuild_tensor_v2"), storage("LongStorage", "1", 6), number(0), sizes(6),
             sizes(1), YES, ORDERED),
        "another way",
    ),
    "a parameter of a text": (call(named("torch._utils", "_rebuild_parameter"), text("a"), YES, ORDERED), "another"),
    "a tensor with a state": (vector("FloatStorage", "0", 6) + pairs() + pickle.BUILD, "another way"),
    "sparse indices beyond": (sparse(COO, indices("2"), VALUES, sizes(3, 3)), "indices beyond"),
    "sparse indices below zero": (sparse(COO, indices("3"), VALUES, sizes(3, 3)), "indices beyond"),
    "sparse indices of floats": (
        sparse(COO, tensor(storage("FloatStorage", "0", 6), 0, sizes(2, 3), sizes(3, 1)), VALUES, sizes(3, 3)),
        "not whole",
    ),
    "fewer sparse values": (sparse(COO, indices("1"), vector("FloatStorage", "0", 2), sizes(3, 3)), "not whole"),
    "a sparse shape of one": (sparse(COO, indices("1"), VALUES, sizes(3)), "not whole"),
    "a sparse shape beyond all numbers": (sparse(COO, indices("1"), VALUES, sizes(1 << 40, 1 << 40)), "not whole"),
    "sparse rows beyond": (
        sparse(CSR, vector("LongStorage", "1", 3), vector("LongStorage", "2", 3), VALUES, sizes(2, 3)), "beyond",
    ),
    "sparse rows of another number": (
        sparse(CSR, vector("LongStorage", "1", 3), vector("LongStorage", "1", 3), VALUES, sizes(7, 3)), "not whole",
    ),
    "a sparse tensor of a list": (call(named("torch._utils", "_rebuild_sparse_tensor"), COO, many()), "another way"),
    "a sparse tensor of itself": (sparse(COO, sparse(COO, indices("1"), VALUES, sizes(3, 3)), VALUES, sizes(3, 3)),
                                  "not whole"),
    "a layout by another name": (
        call(named("torch.serialization", "_get_layout"), text("torch.jit.load")), "unknown layout",
    ),
    "a device by a path": (call(named("torch", "device"), text("../a")), "another way"),
    "a size of texts": (call(named("torch", "Size"), row(text("a"))), "no shape"),
    "an array of fewer bytes": (array(number_type("f4"), sizes(7), block(FLOATS)), "other bytes"),
    "an array of a huge shape": (array(number_type("f4"), sizes(LARGE, LARGE), block(FLOATS)), "other bytes"),
    "an array of no numbers at all": (array(number_type("f4"), sizes(LARGE, 0, LARGE), block(b"")), "another way"),
    "an array of a negative size": (array(number_type("f4"), sizes(-6), block(FLOATS)), "no shape"),
    "an array of a size that is true": (array(number_type("f4"), row(YES), block(b"abcd")), "no shape"),
    "an array of many dimensions": (array(number_type("f4"), sizes(*[1] * 40), block(b"abcd")), "no shape"),
    "an array of a text": (array(number_type("f4"), sizes(6), text("a")), "another way"),
    "an array of another class": (
        call(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "memmap"), sizes(0), block(b"b")),
        "another way",
    ),
    "an array with two states": (
        array(number_type("f4"), sizes(6), block(FLOATS)) + pairs() + pickle.BUILD, "has none",
    ),
    "a dtype that is a text": (array(text("f4"), sizes(6), block(FLOATS)), "another way"),
    "a scalar of objects at an address": (
        call(named("numpy.core.multiarray", "scalar"), number_type("f8"), block(b"A" * 4)), "other bytes",
    ),
    "texts of another coding": (call(named("_codecs", "encode"), text("a"), text("rot13")), "another way"),
    "an ordered dict of a list": (call(named("collections", "OrderedDict"), many()), "another way"),
    "a set of numbers with the hash of others": (call(named("builtins", "set"), many(number(2**61))), "another way"),
    "many keys that may have one hash": (pairs(*(row(number(n)) + NONE for n in range(3001))), "too many keys"),
    "a long key": (pairs(row(*[NONE] * 9), NONE), "too long"),
    "one block of bytes that is many arrays": (
        many(array(DOUBLES, sizes(10_000), block(b"A" * 80_000) + pickle.BINPUT + b"\x08"), *[AGAIN] * 40),
        "more numbers than it holds",
    ),
    "a dict that is a set": (call(named("__builtin__", "set"), many(many())), "another way"),
}  # fmt: skip

# What is read, but left out: it is nothing to load.
LEFT_OUT: dict[str, bytes] = {
    "an array of objects": OBJECT_ARRAY,
    "an array of fields": array(number_type("V16", state=FIELDS), sizes(1), block(b"A" * 16)),
    "an array with metadata": array(number_type("f8", state=METADATA), sizes(1), block(b"A" * 8)),
    "an array of texts": array(number_type("U1"), sizes(1), block(b"A\0\0\0")),
    "an array of dates": array(number_type("M8"), sizes(1), block(b"A" * 8)),
    "a scalar of objects": call(named("numpy.core.multiarray", "scalar"), OBJECTS, block(b"A" * 8)),
    "a dtype of objects": OBJECTS,
    "a name": named("os", "system"),
    "a name by dots": named("torch", "os.system"),
    "a name of protocol 0": b"cos\nsystem\n",
    "a name of protocol 0 by dots": b"ctorch\nos.system\n",
    "a matrix of scipy's": call(named("scipy.sparse._lil", "lil_matrix"), state=pairs(text("rows"), OBJECT_ARRAY)),
    "a class of slots": call(named("recbole.utils", "Enum"), state=row(NONE, pairs(text("__class__"), NONE))),
    "a class with items": call(named("recbole.utils", "Enum")) + text("a") + NONE + pickle.SETITEM,
    "a class with members": call(named("recbole.utils", "Enum")) + NONE + pickle.APPEND,
    "a config with a strange state": call(named("recbole.config.configurator", "Config"), state=text("a")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    part, words = REFUSED[case]
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(write_archive(tmp_path / "a.pth", checkpoint(part), **RECORDS))


@pytest.mark.parametrize("case", LEFT_OUT)
def test_read_without_it(tmp_path: Path, case: str) -> None:
    file = write_archive(tmp_path / "a.pth", checkpoint(LEFT_OUT[case]), **RECORDS)
    assert isinstance(read_archive(file)["other_parameter"]["a"], Inert)
    assert read_checkpoint(file)["other_parameter"] == {}


@pytest.mark.parametrize("head", [b"", b"\x80\x01", b"\x80\x06", b"\x80\xff", b"c", b"\x80"])
def test_other_protocols_are_refused(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(CheckpointError, match="protocol"):
        read_archive(write_archive(tmp_path / "a.pth", head + pairs() + b"."))


@pytest.mark.parametrize(
    "rest", [b"", NONE, NONE + NONE + b".", pickle.MARK + NONE + b".", b".", pickle.APPENDS + b"."]
)
def test_other_ends_are_refused(tmp_path: Path, rest: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"end as it should|not whole"):
        read_archive(write_archive(tmp_path / "a.pth", HEAD + rest))


# A list of two equal lists of two equal lists ...: few bytes, very many values.
DOUBLED = row(
    pickle.EMPTY_LIST + pickle.MEMOIZE,
    *(many(pickle.BINGET + bytes([n]), pickle.BINGET + bytes([n])) + pickle.MEMOIZE for n in range(100)),
)

# Small files that would take all memory or time, or the C stack, and words of the sentence; none where it is read.
BOMBS: dict[str, tuple[bytes, str]] = {
    "a place far out in the memo": (NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff", ""),
    "lists in lists": (pickle.EMPTY_LIST * 20_000 + pickle.APPEND * 19_999, "too deep"),
    "tuples in tuples": (pickle.EMPTY_TUPLE + pickle.TUPLE1 * 20_000, "too deep"),
    "tuples in tuples as a key": (pairs(pickle.EMPTY_TUPLE + pickle.TUPLE1 * 20_000, NONE), "key"),
    "tuples in tuples in a set": (
        pickle.EMPTY_SET + pickle.MARK + pickle.EMPTY_TUPLE + pickle.TUPLE1 * 20_000 + pickle.ADDITEMS, "key",
    ),
    "tuples in tuples in a frozen set": (
        pickle.MARK + pickle.EMPTY_TUPLE + pickle.TUPLE1 * 20_000 + pickle.FROZENSET, "key",
    ),
    "states of states": (CONFIG * 20_000 + pickle.BUILD * 19_999, "too deep"),
    "a list in itself": (pickle.EMPTY_LIST + pickle.MEMOIZE + pickle.BINGET + b"\x00" + pickle.APPEND, "in itself"),
    "doubled lists": (DOUBLED, "too many values"),
    "keys with equal hashes": (
        pairs(*(part for n in range(1, 3000) for part in (number(n * (2**61 - 1)), NONE))), "key",
    ),
    "numbers without an end": (pickle.LONG4 + b"\xff\xff\xff\x7f", "opcode"),
    "digits without an end": (b"L" + b"9" * 1_000_000 + b"L\n", "opcode"),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_soon_over(tmp_path: Path, case: str) -> None:
    part, words = BOMBS[case]
    file = write_archive(tmp_path / "a.pth", checkpoint(part))
    started = time.process_time()
    with pytest.raises(CheckpointError, match=words) if words else contextlib.nullcontext():
        read_checkpoint(file)
    assert time.process_time() - started < 30
