"""A pickle as a tree of plain values and placeholders: an interpreter of the few opcodes that checkpoints hold.

Python's own unpickler imports and calls what a file names, and trusts its numbers. This one does neither: a name stays
two words, a call becomes a :class:`Described`, and every length is compared with the bytes that are there.
"""

from __future__ import annotations

import pickle
import re
import struct
from typing import Any, Callable

from recbole_derrd.recbole_compat.placeholders import Described, Named, StorageAt
from recbole_derrd.recbole_compat.refusals import AsksForCodeError, MalformedError, RefusedError

#: Says whether something of this module and name may be described as called; it is never called.
Admits = Callable[[str, str], bool]

_PROTOCOLS = range(2, 6)
_MOST_STEPS = 10_000_000
# Larger integers have the hashes of smaller ones, so that a file could fill a dict with equal hashes.
LARGEST_KEY = 1 << 60
# Tuples and numpy's numbers can be chosen to have one hash; checkpoints have few such keys, and short ones.
_MOST_ODD_KEYS, _LONGEST_KEY = 3000, 8

# Numbers in a row, such as those of a list, are read at once: an opcode and its number, as an expression and in parts.
# A pickler writes a thousand at most; the expression takes memory for each.
_NUMBERS = {
    code: (re.compile(b"(?:%b.{%d}){1,1000}" % (re.escape(code), size), re.DOTALL), struct.Struct(form))
    for code, size, form in (
        (pickle.BININT, 4, "<xi"),
        (pickle.BININT1, 1, "<xB"),
        (pickle.BININT2, 2, "<xH"),
        (pickle.BINFLOAT, 8, ">xd"),
    )
}


def describe(content: bytes, admits: Admits) -> Any:
    """Return what a pickle describes: plain values, and placeholders for everything else.

    Bytes come as memoryviews of ``content``.

    Raises:
        AsksForCodeError: it calls something that ``admits`` does not.
        MalformedError: it is none that a pickler writes.
    """
    try:
        return _Interpreter(content, admits).run()
    except RefusedError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise MalformedError("its pickle is not whole") from error


class _Interpreter:
    def __init__(self, content: bytes, admits: Admits) -> None:
        self.content = content
        self.view = memoryview(content)
        self.admits = admits
        self.at = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.odd_keys = 0

    def run(self) -> Any:
        """Interpret to the end."""
        if self.content[:1] != pickle.PROTO or self.content[1] not in _PROTOCOLS:
            raise MalformedError("its pickle is of a protocol that torch does not write")
        self.at = 2
        for _ in range(_MOST_STEPS):
            code = self.content[self.at]
            self.at += 1
            if code == _STOP:
                if len(self.stack) != 1 or self.marked:
                    break
                return self.stack[0]
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise MalformedError(f"its pickle has the opcode {bytes([code])!r}, which torch does not write")
            operation(self)
        raise MalformedError("its pickle does not end as it should")

    # -- numbers and bytes

    def number(self, form: str) -> int:
        """Read one number."""
        (value,) = struct.unpack_from(form, self.content, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def block(self, form: str) -> memoryview:
        """Read as many bytes as the number before them says."""
        length = self.number(form)
        if length > len(self.content) - self.at:
            raise MalformedError("its pickle is cut short")
        self.at += length
        return self.view[self.at - length : self.at]

    def numbers(self, code: bytes) -> None:
        """Read one number or many in a row."""
        expression, form = _NUMBERS[code]
        start = self.at - 1
        found = expression.match(self.content, start)
        if found is None:
            raise MalformedError("its pickle is cut short")
        self.at = found.end()
        self.stack.extend(value for (value,) in form.iter_unpack(self.view[start : self.at]))

    def text(self, form: str) -> None:
        """Read a text."""
        self.stack.append(str(self.block(form), "utf-8", "surrogatepass"))

    def whole_number(self) -> None:
        """Read a whole number of any size."""
        self.stack.append(int.from_bytes(self.block("<B"), "little", signed=True))

    def frame(self) -> None:
        """Skip a frame's length: it only says how much to read ahead."""
        self.number("<Q")

    # -- containers, and what is referred to again

    def keep(self, place: int) -> None:
        """Keep the last value to be referred to again."""
        self.memo[place] = self.stack[-1]

    def pair(self) -> list[Any]:
        """Take the last two values."""
        second = self.stack.pop()
        return [self.stack.pop(), second]

    def mark(self) -> None:
        """Begin a row of values."""
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Return the row of values, and end it."""
        values, self.stack = self.stack, self.marked.pop()
        return values

    def tuple_of(self, size: int) -> None:
        """Make a tuple of the last values."""
        start = len(self.stack) - size
        if start < 0:
            raise MalformedError("its pickle is not whole")
        self.stack[start:] = [tuple(self.stack[start:])]

    def marked_tuple(self) -> None:
        """Make a tuple of a row of values."""
        values = self.since_mark()
        self.stack.append(tuple(values))

    def append(self, values: list[Any]) -> None:
        """Add values to a list."""
        target = self.stack[-1]
        if type(target) is list:
            target.extend(values)
        elif type(target) is Described:
            target.members.extend(values)
        else:
            raise MalformedError("its pickle adds to what is no list")

    def add_items(self, values: list[Any]) -> None:
        """Put keys and values into a dict."""
        target = self.stack[-1]
        if len(values) % 2:
            raise MalformedError("its pickle is not whole")
        pairs = list(zip(values[::2], values[1::2]))
        for key, _ in pairs:
            self.check_key(key)
        if type(target) is dict:
            target.update(pairs)
        elif type(target) is Described:
            target.items.extend(pairs)
        else:
            raise MalformedError("its pickle stores into what is no dict")

    def add_members(self) -> None:
        """Put values into a set."""
        values = self.since_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise MalformedError("its pickle adds to what is no set")
        for value in values:
            self.check_key(value)
        target.update(values)

    def frozen_set(self) -> None:
        """Make a set that stays as it is."""
        values = self.since_mark()
        for value in values:
            self.check_key(value)
        self.stack.append(frozenset(values))

    def check_key(self, key: Any) -> None:
        """Refuse a key whose hash is deep, or may be equal to that of many others."""
        parts = key if type(key) is tuple else (key,)
        if type(key) in (tuple, Described):
            self.odd_keys += 1
            if self.odd_keys > _MOST_ODD_KEYS or len(parts) > _LONGEST_KEY:
                raise MalformedError("its pickle has too many keys that are no text, or too long ones")
        for part in parts:
            if type(part) not in (str, int, float, bool, type(None), Named, Described):
                raise MalformedError("its pickle has a key that is neither text nor number")
            if type(part) is int and abs(part) >= LARGEST_KEY:
                raise MalformedError("its pickle has a key that is too large")

    # -- names and what would be made of them

    def line(self) -> str:
        """Read to the end of the line."""
        end = self.content.index(b"\n", self.at)
        text, self.at = self.content[self.at : end].decode("utf-8"), end + 1
        return text

    def named(self, module: Any, name: Any) -> None:
        """Take a name for the words that it is."""
        if type(module) is not str or type(name) is not str:
            raise MalformedError("its pickle names something by what is no text")
        self.stack.append(Named(module, name))

    def described(self) -> None:
        """Describe the call of a name."""
        arguments, maker = self.stack.pop(), self.stack.pop()
        if type(maker) is not Named or type(arguments) is not tuple:
            raise MalformedError("its pickle calls what is no name")
        if not self.admits(maker.module, maker.name):
            raise AsksForCodeError(maker.path)
        self.stack.append(Described(maker, arguments))

    def described_with_keywords(self) -> None:
        """Describe the call of a name; checkpoints have no keywords."""
        keywords = self.stack.pop()
        if type(keywords) is not dict or keywords:
            raise MalformedError("its pickle calls a name with keywords")
        self.described()

    def state(self) -> None:
        """Note the state that an object would get."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is not Described or target.state:
            raise MalformedError("its pickle sets the state of what has none")
        target.state = (state,)

    def storage(self) -> None:
        """Note where the bytes of a tensor are."""
        parts = self.stack.pop()
        if type(parts) is not tuple or [type(part) for part in parts] != [str, Named, str, str, int]:
            raise MalformedError("its pickle refers to what is no storage")
        word, kind, key, _, numel = parts
        if word != "storage":
            raise MalformedError("its pickle refers to what is no storage")
        self.stack.append(StorageAt(kind, key, numel))


def _by_code(operations: dict[bytes, Callable[[_Interpreter], None]]) -> dict[int, Callable[[_Interpreter], None]]:
    return {code[0]: operation for code, operation in operations.items()}


_STOP = pickle.STOP[0]
# The opcodes that Python's pickler writes by protocols 2 to 5, but for those of objects that hold themselves.
_OPERATIONS = _by_code(
    {
        pickle.NONE: lambda self: self.stack.append(None),
        pickle.NEWTRUE: lambda self: self.stack.append(True),
        pickle.NEWFALSE: lambda self: self.stack.append(False),
        pickle.BININT: lambda self: self.numbers(pickle.BININT),
        pickle.BININT1: lambda self: self.numbers(pickle.BININT1),
        pickle.BININT2: lambda self: self.numbers(pickle.BININT2),
        pickle.BINFLOAT: lambda self: self.numbers(pickle.BINFLOAT),
        pickle.LONG1: _Interpreter.whole_number,
        pickle.SHORT_BINUNICODE: lambda self: self.text("<B"),
        pickle.BINUNICODE: lambda self: self.text("<I"),
        pickle.BINUNICODE8: lambda self: self.text("<Q"),
        pickle.SHORT_BINBYTES: lambda self: self.stack.append(self.block("<B")),
        pickle.BINBYTES: lambda self: self.stack.append(self.block("<I")),
        pickle.BINBYTES8: lambda self: self.stack.append(self.block("<Q")),
        pickle.BYTEARRAY8: lambda self: self.stack.append(self.block("<Q")),
        pickle.EMPTY_TUPLE: lambda self: self.stack.append(()),
        pickle.TUPLE1: lambda self: self.tuple_of(1),
        pickle.TUPLE2: lambda self: self.tuple_of(2),
        pickle.TUPLE3: lambda self: self.tuple_of(3),
        pickle.TUPLE: _Interpreter.marked_tuple,
        pickle.EMPTY_LIST: lambda self: self.stack.append([]),
        pickle.APPEND: lambda self: self.append([self.stack.pop()]),
        pickle.APPENDS: lambda self: self.append(self.since_mark()),
        pickle.EMPTY_DICT: lambda self: self.stack.append({}),
        pickle.SETITEM: lambda self: self.add_items(self.pair()),
        pickle.SETITEMS: lambda self: self.add_items(self.since_mark()),
        pickle.EMPTY_SET: lambda self: self.stack.append(set()),
        pickle.ADDITEMS: _Interpreter.add_members,
        pickle.FROZENSET: _Interpreter.frozen_set,
        pickle.MARK: _Interpreter.mark,
        pickle.FRAME: _Interpreter.frame,
        pickle.MEMOIZE: lambda self: self.keep(len(self.memo)),
        pickle.BINPUT: lambda self: self.keep(self.number("<B")),
        pickle.LONG_BINPUT: lambda self: self.keep(self.number("<I")),
        pickle.BINGET: lambda self: self.stack.append(self.memo[self.number("<B")]),
        pickle.LONG_BINGET: lambda self: self.stack.append(self.memo[self.number("<I")]),
        pickle.GLOBAL: lambda self: self.named(self.line(), self.line()),
        pickle.STACK_GLOBAL: lambda self: self.named(*self.pair()),
        pickle.REDUCE: _Interpreter.described,
        pickle.NEWOBJ: _Interpreter.described,
        pickle.NEWOBJ_EX: _Interpreter.described_with_keywords,
        pickle.BUILD: _Interpreter.state,
        pickle.BINPERSID: _Interpreter.storage,
    }
)
