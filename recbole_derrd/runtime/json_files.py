"""JSON files that may hold anything: read within limits, and held against a declaration of what they should hold.

A check is a function of a value. It returns None, or what is wrong: the path below the value and a few words, such as
``.test.ndcg@10 is 'x', not a number``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

Check = Callable[[Any], Optional[str]]

#: Far above what any run writes.
MAX_BYTES = 16 << 20
#: Of a file that has one such content a line.
MAX_BYTES_OF_LINES = 1 << 30
MAX_DEPTH = 40
MAX_DIGITS = 40


def with_text_keys(value: Any) -> Any:
    """Return a value whose dicts have keys that JSON can hold: settings of a user's own model may have any."""
    if isinstance(value, dict):
        plain = (str, int, float, bool, type(None))
        return {key if isinstance(key, plain) else str(key): with_text_keys(one) for key, one in value.items()}
    return [with_text_keys(one) for one in value] if isinstance(value, (list, tuple)) else value


def read_json(path: str | Path) -> Any:
    """Read a JSON file: an ordinary one, not too large, not nested too deeply, with each key once.

    Raises:
        ValueError: what is wrong with it, in words that follow its name.
    """
    with _opened(path, MAX_BYTES) as file:
        return _parsed(file.read(MAX_BYTES))


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, content) of each line of a file that is not empty; of one that is wrong, the ValueError.

    Each line is held to the limits of :func:`read_json`.

    Raises:
        ValueError: what is wrong with the file as a whole, in words that follow its name.
    """
    with _opened(path, MAX_BYTES_OF_LINES) as file:
        for place in itertools.count(1):
            line = file.readline(MAX_BYTES + 1)
            if not line:
                return
            large = len(line) > MAX_BYTES
            while large and line and not line.endswith(b"\n"):
                line = file.readline(MAX_BYTES)
            if large:
                yield place, ValueError(f"has more than {MAX_BYTES >> 20} MB")
            elif line.strip():
                try:
                    content = _parsed(line)
                except ValueError as error:
                    yield place, error
                else:
                    yield place, content


@contextlib.contextmanager
def _opened(path: str | Path, most: int) -> Iterator[BinaryIO]:
    """Open an ordinary file of at most so many bytes."""
    try:
        # Opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("is no ordinary file")
            if found.st_size > most:
                raise ValueError(f"has {found.st_size / 1e6:,.0f} MB, more than {most >> 20}")
            with open(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error


def _parsed(content: bytes) -> Any:
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_distinct, parse_int=_short)
    except UnicodeDecodeError as error:
        raise ValueError("is no UTF-8 text") from error
    except json.JSONDecodeError as error:
        where = str(error) if b"\n" in content.strip() else f"{error.msg} at character {error.pos + 1}"
        raise ValueError(f"is no JSON: {where}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    _refuse_deep(found)
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {_shown(twice)} twice")
    return content


def _short(digits: str) -> int:
    # Python takes a time that is quadratic in the digits, or refuses.
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"holds a whole number of {len(digits):,} digits")
    return int(digits)


def _refuse_deep(content: Any) -> None:
    level = [content]
    for _ in range(MAX_DEPTH):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        level = [value for values in inner for value in values]
        if not level:
            return
    raise ValueError("is nested too deeply")


# -- checks


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "a dict"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def anything(value: Any) -> str | None:
    """Accept any value."""
    return None


def flag(value: Any) -> str | None:
    """Accept true and false."""
    return None if isinstance(value, bool) else f" is {_shown(value)}, not true or false"


def text(most: int = 10_000) -> Check:
    """Accept a text of at most so many characters."""

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return f" is {_shown(value)}, not a text"
        return f" has {len(value):,} characters" if len(value) > most else None

    return check


def whole(low: int = 0, high: int = 2**63) -> Check:
    """Accept a whole number within these limits."""

    def check(value: Any) -> str | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return f" is {_shown(value)}, not a whole number"
        return None if low <= value <= high else f" is {value}, out of its range"

    return check


def number(low: float = -1e12, high: float = 1e12, *, undefined: bool = False) -> Check:
    """Accept a number within these limits; one that is not finite only where it may be undefined, as a metric may."""

    def check(value: Any) -> str | None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return f" is {_shown(value)}, not a number"
        if isinstance(value, float) and not math.isfinite(value):
            return None if undefined else f" is {value}, not a finite number"
        return None if low <= value <= high else f" is {value}, out of its range"

    return check


def either(first: Check, second: Check) -> Check:
    """Accept what one of two checks accepts."""
    return lambda value: first(value) and second(value)


def sequence(check: Check, least: int = 0, most: int | None = None) -> Check:
    """Accept a list of values of one kind."""

    def whole_ranking(value: Any) -> str | None:
        if not isinstance(value, list):
            return f" is {_shown(value)}, not a list"
        if len(value) < least:
            return f" has {len(value)} values, fewer than {least}"
        if most is not None and len(value) > most:
            return f" has {len(value):,} values, more than {most:,}"
        faults = (f"[{place}]{fault}" for place, one in enumerate(value) if (fault := check(one)))
        return next(faults, None)

    return whole_ranking


def row(*checks: Check) -> Check:
    """Accept a list of so many values, each of its own kind."""

    def whole_row(value: Any) -> str | None:
        if not isinstance(value, list) or len(value) != len(checks):
            return f" is {_shown(value)}, not a list of {len(checks)}"
        faults = (f"[{place}]{fault}" for place, one in enumerate(value) if (fault := checks[place](one)))
        return next(faults, None)

    return whole_row


def mapping(check: Check, least: int = 0) -> Check:
    """Accept a dict of values of one kind."""

    def whole_mapping(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f" is {_shown(value)}, not a dict"
        if len(value) < least:
            return f" has {len(value)} keys, fewer than {least}"
        return next((f".{key}{fault}" for key, one in value.items() if (fault := check(one))), None)

    return whole_mapping


def fields(
    needed: Mapping[str, Check],
    known: Mapping[str, Check] | None = None,
    *,
    may_miss: Mapping[str, Check] | None = None,
) -> Check:
    """Accept a dict with these keys; unknown ones are not looked at.

    Args:
        needed: keys that must be there.
        known: keys that may be missing or null.
        may_miss: keys that may be missing, but not null.
    """

    def whole_dict(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f" is {_shown(value)}, not a dict"
        missing = next((f".{key} is missing" for key in needed if key not in value), None)
        given = {**needed, **(may_miss or {}), **{key: nullable(check) for key, check in (known or {}).items()}}
        faults = (f".{key}{fault}" for key, check in given.items() if key in value and (fault := check(value[key])))
        return missing or next(faults, None)

    return whole_dict


def nullable(check: Check) -> Check:
    """Accept null, or what a check accepts."""
    return lambda value: None if value is None else check(value)


def both(first: Check, second: Check) -> Check:
    """Accept what two checks accept; the second sees only what the first has accepted."""
    return lambda value: first(value) or second(value)
