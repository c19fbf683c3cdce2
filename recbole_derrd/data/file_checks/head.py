"""The first line of a data file: its columns, their types, and what is wrong with them."""

from __future__ import annotations

from typing import NamedTuple

from recbole_derrd.errors import did_you_mean

_TAB = "\t"
_EXAMPLE = "user_id:token<TAB>item_id:token"
#: RecBole's types of columns (``FeatureType``).
TYPES = ("token", "float", "token_seq", "float_seq")
#: What other programs call them.
_OTHER_NAMES = {
    "token": ("str", "string", "int", "integer", "int64", "id", "object", "category", "text", "bool", "tok"),
    "float": ("double", "real", "number", "numeric", "float32", "float64", "time", "timestamp", "datetime", "date"),
}


class Column(NamedTuple):
    """A column of a data file: ``name:type``."""

    name: str
    type: str


def columns_of(head: str, separator: str) -> list[Column]:
    """Return the columns of a first line in which nothing is wrong."""
    return [Column(*column.split(":")) for column in head.split(separator)]


def fault_of_head(head: str, separator: str, *, interactions: bool) -> str | None:
    """Say what is wrong with the first line of a file; None if nothing is.

    Args:
        head: the line, without its end.
        separator: what is between the columns.
        interactions: whether it is an .inter file, which has two columns at least.
    """
    if not head.strip():
        return f"has an empty first line. It must name the columns, e.g. {_EXAMPLE}."
    given = head.split(separator)
    if not all(":" in column for column in given):
        return f"must name its columns as name:type in the first line, e.g. {_EXAMPLE}, but begins with '{head[:80]}'."
    if len(given) == 1 and (interactions or head.count(":") > 1):
        return (
            f"has one column, '{head[:80]}', when split at {separator!r}. Set field_separator to what is between the "
            f"columns{', e.g. --field_separator=,' if separator == _TAB else '; by default it is a tab'}."
        )
    for column in given:
        name, _, kind = column.partition(":")
        if not name or ":" in kind:
            return f"must name its columns as name:type in the first line, e.g. {_EXAMPLE}, but one is '{column}'."
        if kind not in TYPES:
            return f"gives the column '{name}' the type '{kind}', which RecBole does not know.{_known_type(name, kind)}"
    return None


def _known_type(name: str, kind: str) -> str:
    for known, others in _OTHER_NAMES.items():
        if kind.strip().lower() in (known, *others):
            return f" Write {name}:{known}."
    return did_you_mean(kind, TYPES)


def listed(names: list[str]) -> str:
    """Return names as a list in a sentence; those with blanks around them are quoted."""
    return ", ".join(name if name == name.strip() else repr(name) for name in names)
