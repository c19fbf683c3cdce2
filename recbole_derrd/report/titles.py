"""What splits, protocols and stored students are called in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_derrd.report.schema import StoredEntry, mode_of

#: Splits that a report may be of, as they are called in it.
SPLITS = {"test": "test", "valid": "validation"}


def ranking(protocol: Mapping[str, Any], split: str) -> str:
    """Return in words what the items of a split are ranked among."""
    name = mode_of(protocol, split)
    if name == "full":
        return "full ranking"
    if name.startswith("fixed"):
        return f"ranked among {name[5:]} fixed candidates"
    if name.startswith(("uni", "pop")):
        return f"ranked among {name[3:]} sampled candidates, drawn again at each evaluation ({name})"
    return f"evaluation mode {name}"


def stored_as(stored: StoredEntry) -> str:
    """Return in words how a student is stored, e.g. "in 4 bits"."""
    return in_bits(stored.bits, users=stored.users)


def in_bits(bits: int, *, users: bool) -> str:
    """Return how many bits a number is stored in, e.g. "in 4 bits"."""
    return f"in {bits} bits{'' if users else ' (items)'}"


def numbered(names: Sequence[str], form: str) -> list[str]:
    """Return the names, each but the first of those alike with a number, so that no two are the same.

    Args:
        names: the names.
        form: what is added, with {} for the number.
    """
    taken, seen = set(names), set[str]()
    last: dict[str, int] = {}
    found = []
    for name in names:
        free, count = name, last.get(name, 1)
        if name in seen:
            while free in seen or free in taken:
                count += 1
                free = name + form.format(count)
            last[name] = count
        seen.add(free)
        found.append(free)
    return found
