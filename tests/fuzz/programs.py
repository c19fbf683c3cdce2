"""Pickle programs at random: by the grammar of what a checkpoint holds, with names and numbers that it should not."""

from __future__ import annotations

import pickle
import struct
from random import Random

from ..recbole_compat.pickles import (
    HEAD,
    NO,
    NONE,
    ORDERED,
    YES,
    array,
    block,
    call,
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
)  # fmt: skip

HOSTILE = [
    ("os", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"), ("builtins", "__import__"),
    ("subprocess", "Popen"), ("numpy", "ndarray"), ("numpy", "frombuffer"), ("numpy", "load"), ("numpy", "memmap"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"), ("numpy", "dtype"),
    ("torch", "load"), ("torch", "os.system"), ("torch.jit", "load"), ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_sparse_tensor"), ("torch", "Size"),
    ("torch.serialization", "_get_layout"), ("torch", "device"), ("torch", "FloatStorage"), ("torch", "float32"),
    ("functools", "partial"), ("operator", "attrgetter"), ("operator", "itemgetter"), ("copyreg", "_reconstructor"),
    ("collections", "OrderedDict"), ("collections", "namedtuple"), ("ctypes", "string_at"), ("_codecs", "encode"),
    ("__builtin__", "bytes"), ("__builtin__", "set"), ("recbole.config.configurator", "Config"),
    ("recbole.utils.enum_type", "ModelType"), ("recbole.utils", "os.system"), ("scipy.sparse", "csr_matrix"),
    ("pathlib", "PosixPath"), ("yaml.loader", "FullLoader"), ("", ""), ("a\nb", "c"), ("os", "sys\ud800tem"),
]  # fmt: skip
EDGES = [0, 1, -1, 2, 3, 6, 7, 255, 256, 2**31 - 1, 2**31, 2**32, 2**61 - 1, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63)]
STORAGES = ["FloatStorage", "LongStorage", "ByteStorage", "BoolStorage", "ComplexDoubleStorage", "UntypedStorage"]
NUMBERS = ["f4", "f8", "i8", "b1", "u1", "c16", "O8", "V16", "U1", "S8", "M8", "f16", "(2,)f4", "f4,O", "i3", ""]
WORDS = [
    "state_dict",
    "config",
    "other_parameter",
    "storage",
    "0",
    "cpu",
    "_metadata",
    "__class__",
    "__setstate__",
    "a",
]
# What may go wrong anywhere: opcodes of all protocols, with arguments of a random kind.
OTHERS = [
    pickle.POP, pickle.POP_MARK, pickle.DUP, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.INST,
    pickle.OBJ, pickle.LIST, pickle.DICT, pickle.INT, pickle.LONG, pickle.FLOAT, pickle.STRING, pickle.UNICODE,
    pickle.LONG4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.PROTO, pickle.STOP, pickle.MARK, pickle.REDUCE,
    pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.BUILD, pickle.SETITEM, pickle.SETITEMS, pickle.APPEND, pickle.APPENDS,
    pickle.ADDITEMS, pickle.FROZENSET, pickle.STACK_GLOBAL, pickle.BINPERSID, pickle.TUPLE, pickle.TUPLE1,
    pickle.TUPLE2, pickle.TUPLE3, pickle.MEMOIZE, pickle.EMPTY_SET, pickle.EMPTY_DICT, pickle.EMPTY_LIST,
    pickle.GLOBAL + b"os\nsystem\n", pickle.BINGET + b"\x01", pickle.LONG_BINPUT + b"\xff\xff\xff\xff",
    pickle.LONG_BINGET + b"\xff\xff\xff\x7f", pickle.BINBYTES8 + b"\xff" * 8, pickle.BYTEARRAY8 + b"\xff" * 7 + b"\x7f",
    pickle.BINUNICODE8 + struct.pack("<Q", 1 << 40), pickle.FRAME + b"\xff" * 8, pickle.BINFLOAT + b"\x7f" * 8,
]  # fmt: skip


def program(draw: Random) -> bytes:
    """Return a program: a checkpoint of random parts, or opcodes in a row, now and then with a flaw."""
    if draw.random() < 0.2:
        content = b"".join(draw.choice(OTHERS) if draw.random() < 0.5 else part(draw, 1) for _ in range(30))
    else:
        parts = (other for name in WORDS[:3] for other in (text(name), part(draw, 4)))
        content = pairs(*parts)
    whole = HEAD + content + pickle.STOP
    return flawed(draw, whole) if draw.random() < 0.3 else whole


def flawed(draw: Random, content: bytes) -> bytes:
    """Return the program with a few opcodes put in, taken out or replaced, wherever they fall."""
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(2, len(content))
        end = start + draw.choice([0, 0, 1, 1, 2, 5])
        put = draw.choice([draw.choice(OTHERS), part(draw, 1), draw.randbytes(draw.randint(0, 3)), b""])
        content = content[:start] + put + content[end:]
    return content


def part(draw: Random, depth: int) -> bytes:
    """Return the opcodes of one value, which mostly leave it on the stack."""
    kinds = [_atom, _name, _array, _tensor, _sparse, _scalar]
    if depth:
        kinds += [_container, _container, _called, _called, _built]
    made = draw.choice(kinds)(draw, depth)
    return made + pickle.MEMOIZE if draw.random() < 0.2 else made


def _atom(draw: Random, depth: int) -> bytes:
    return draw.choice(
        [NONE, YES, NO, number(draw.choice(EDGES)), text(draw.choice(WORDS)), block(draw.randbytes(draw.randint(0, 9))),
         pickle.BININT1 + bytes([draw.randrange(256)]), pickle.BINGET + bytes([draw.randrange(6)])]
    )  # fmt: skip


def _name(draw: Random, depth: int) -> bytes:
    module, name = draw.choice(HOSTILE)
    encoded = [word.encode("utf-8", "surrogatepass") for word in (module, name)]
    return b"".join(pickle.BINUNICODE + struct.pack("<I", len(word)) + word for word in encoded) + pickle.STACK_GLOBAL


def _container(draw: Random, depth: int) -> bytes:
    parts = [part(draw, depth - 1) for _ in range(draw.choice([0, 1, 2, 2, 3, 4]))]
    return draw.choice([row, many, pairs])(*parts)


def _called(draw: Random, depth: int) -> bytes:
    arguments = [part(draw, depth - 1) for _ in range(draw.choice([0, 1, 1, 2, 2, 3, 4, 6]))]
    state = part(draw, depth - 1) if draw.random() < 0.3 else b""
    made = call(_name(draw, depth), *arguments, state=state)
    return made if draw.random() < 0.8 else made.replace(pickle.REDUCE, pickle.NEWOBJ)


def _built(draw: Random, depth: int) -> bytes:
    target, value = part(draw, depth - 1), part(draw, depth - 1)
    return draw.choice(
        [target + value + pickle.BUILD, target + text("a") + value + pickle.SETITEM, target + value + pickle.APPEND,
         target + pickle.MARK + value + value + pickle.SETITEMS, target + pickle.MARK + value + pickle.ADDITEMS]
    )  # fmt: skip


def _some_sizes(draw: Random, count: int | None = None) -> bytes:
    """Return a shape, mostly one that fits six numbers."""
    if draw.random() < 0.6 and count is None:
        return draw.choice([sizes(6), sizes(2, 3), sizes(), sizes(0), sizes(1)])
    return sizes(*(draw.choice(EDGES) for _ in range(draw.choice([0, 1, 1, 2, 3, 40]) if count is None else count)))


def _number_type(draw: Random) -> bytes:
    name, order = draw.choice(NUMBERS), draw.choice(["<", ">", "|", "=", "!"])
    return number_type(name, order, part(draw, 1) if draw.random() < 0.1 else None)


def _array(draw: Random, depth: int) -> bytes:
    content = block(draw.choice([bytes(24), bytes(48), b"A" * draw.randint(0, 99)]))
    return array(_number_type(draw), _some_sizes(draw), content, draw.choice([NO, YES]))


def _scalar(draw: Random, depth: int) -> bytes:
    maker = named(draw.choice(["numpy.core.multiarray", "numpy._core.multiarray"]), "scalar")
    return call(maker, _number_type(draw), block(b"A" * draw.choice([0, 1, 4, 8, 16])))


def _storage(draw: Random) -> bytes:
    return storage(draw.choice(STORAGES), draw.choice("01239"), 6 if draw.random() < 0.8 else draw.choice(EDGES))


def _tensor(draw: Random, depth: int) -> bytes:
    if draw.random() < 0.1:
        return call(named("torch._utils", "_rebuild_parameter"), _tensor(draw, depth), draw.choice([YES, NO]), ORDERED)
    offset = 0 if draw.random() < 0.7 else draw.choice(EDGES)
    steps = draw.choice([sizes(1), sizes(3, 1), sizes(1, 2), sizes(), _some_sizes(draw)])
    return tensor(_storage(draw), offset, _some_sizes(draw), steps)


def _vector(draw: Random, kind: str) -> bytes:
    size, key = draw.choice([1, 2, 3, 4, 6]), draw.choice("0123")
    return tensor(storage(kind, key, 6), 0, sizes(size), sizes(1))


def _sparse(draw: Random, depth: int) -> bytes:
    layout = draw.choice(
        ["torch.sparse_coo", "torch.sparse_csr", "torch.sparse_csc", "torch.sparse_bsr", "torch.strided"]
    )
    indices = tensor(storage("LongStorage", draw.choice("123"), 6), 0, sizes(2, 3), sizes(3, 1))
    shape = draw.choice([sizes(3, 3), sizes(2, 3), sizes(3, 3, 2), _some_sizes(draw)])
    parts = (
        [indices, _vector(draw, "FloatStorage"), shape] + [draw.choice([YES, NO])] * draw.randint(0, 1)
        if layout == "torch.sparse_coo"
        else [_vector(draw, "LongStorage"), _vector(draw, "LongStorage"), _vector(draw, "FloatStorage"), shape]
    )
    maker = call(named("torch.serialization", "_get_layout"), text(layout))
    return call(named("torch._utils", "_rebuild_sparse_tensor"), maker, row(*parts))
