"""RecBole's filters of interactions: what it cannot read it ignores, or drops a row for it, so it is refused here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recbole_derrd.errors import OptionError

Interval = tuple[str, float, float, str]


def intervals_of(name: str, value: Any) -> list[Interval]:
    """Read intervals as RecBole does: ``"[5,inf)"``, several joined by ``;``.

    Args:
        name: what they are of, for the message.
        value: the text; a list of two numbers is a closed interval, as it is for RecBole.

    Raises:
        OptionError: a part is no interval, or holds no number.
    """
    found = []
    for text in str(value).split(";"):
        interval = _interval(text.strip())
        if interval is None:
            raise OptionError(
                f"{name} must be an interval in quotes, e.g. \"[5,inf)\", or several joined by ';', but is {value!r}: "
                f"RecBole would not filter by it.{_instead(value)}"
            )
        bracket, low, high, end = interval
        if low > high or (low == high and bracket + end != "[]"):
            raise OptionError(f"{name} holds {text.strip()}, an interval without any number. Swap or correct its ends.")
        found.append(interval)
    return found


def _interval(text: str) -> Interval | None:
    ends = text[1:-1].split(",")
    if len(ends) != 2 or text[0] not in "[(" or text[-1] not in ")]":
        return None
    try:
        low, high = float(ends[0]), float(ends[1])
    except ValueError:
        return None
    return None if math.isnan(low) or math.isnan(high) else (text[0], low, high, text[-1])


def _instead(value: Any) -> str:
    """Say what a lone number may have meant."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f' At least {value} is "[{value},inf)".'
    return ""


def check_counts(name: str, value: Any) -> None:
    """Refuse an interval of numbers of interactions that RecBole would ignore, or that no number lies in.

    Raises:
        OptionError: what is wrong and what to write.
    """
    if value is None:
        return
    if not any(_holds_a_count(interval) for interval in intervals_of(name, value)):
        raise OptionError(f"{name} = {value!r} holds no number of interactions from 1 on, so nothing would be left.")


def _holds_a_count(interval: Interval) -> bool:
    bracket, low, high, end = interval
    if low == math.inf:
        return False
    # Infinities have no floor.
    first = 1 if low < 1 else math.ceil(low) if bracket == "[" else math.floor(low) + 1
    return first <= high if end == "]" else first < high


def check_values(value: Any) -> None:
    """Refuse a ``val_interval`` that names no columns, or whose intervals RecBole would ignore.

    Raises:
        OptionError: what is wrong and what to write.
    """
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise OptionError(
            f'val_interval must name columns, e.g. {{rating: "[3,inf)"}}, or {{COLUMN: [a, b]}} for tokens, but is '
            f"{value!r}."
        )
    for column, wanted in value.items():
        if not isinstance(wanted, (list, tuple)):
            # Tokens are kept by a list; RecBole fails on a text there, but drops a row for what is no interval.
            intervals_of(f"{column} in val_interval", wanted)
        elif not wanted:
            raise OptionError(f"{column} in val_interval is an empty list, so nothing would be left.")


def check_column(column: str, wanted: Any, *, numeric: bool) -> None:
    """Refuse a part of ``val_interval`` that does not go with its column's type.

    Args:
        column: the column.
        wanted: its part of ``val_interval``.
        numeric: whether the column is of type float.

    Raises:
        OptionError: what is wrong and what to write.
    """
    if numeric:
        intervals_of(f"{column} in val_interval", wanted)
    elif not isinstance(wanted, (list, tuple)):
        raise OptionError(f"{column} in val_interval is a column of tokens: list those to keep, not {wanted!r}.")


def check_threshold(value: Any) -> None:
    """Refuse a ``threshold`` that is not one column with a number.

    Raises:
        OptionError: what is wrong and what to write.
    """
    if value is None:
        return
    limits = list(value.values()) if isinstance(value, Mapping) else []
    number = len(limits) == 1 and isinstance(limits[0], (int, float)) and not isinstance(limits[0], bool)
    if not number or math.isnan(limits[0]):
        raise OptionError(
            f"threshold must be one column and the least value of a positive, e.g. {{rating: 4}}, but is {value!r}."
        )
