"""Parts of a record as dataclasses whose fields declare what JSON may stand in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Callable, ClassVar, TypeVar, cast

from recbole_derrd.runtime.json_files import Check, both, fields, sequence

Self = TypeVar("Self", bound="Declared")
#: How a value of JSON becomes that of the field.
Read = Callable[[Any], Any]


def needed(check: Check | type[Declared], *, default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that every record has.

    Args:
        check: what JSON may stand there, or the part of a record that does.
        default: for a class that inherits fields with defaults; JSON must have the field all the same.
    """
    return _field(*_kind(check), "needed", default)


def known(check: Check | type[Declared], *, default: Any = None) -> Any:
    """Declare a field that may be missing or null, and is the default then."""
    return _field(*_kind(check), "known", default)


def may_miss(check: Check, *, default: Any) -> Any:
    """Declare a field that may be missing, but not null."""
    return _field(*_kind(check), "may_miss", default)


def many(part: type[Declared], *, most: int) -> Any:
    """Declare a list of parts of one kind; missing or null it is empty."""
    check, read = _kind(part)
    return _field(sequence(check, most=most), lambda values: [read(value) for value in values], "known", [])


def _kind(check: Check | type[Declared]) -> tuple[Check, Read]:
    if isinstance(check, type) and issubclass(check, Declared):
        return check.check(), check.read
    return cast(Check, check), lambda value: value


def _field(check: Check, read: Read, presence: str, default: Any) -> Any:
    metadata = {"check": check, "read": read, "presence": presence}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=type(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Declared:
    """A part of a record: a dataclass that is written as JSON and read back from it."""

    #: What must hold beside the fields' own checks.
    beside: ClassVar[Check | None] = None

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON: every declared field, in the order of the declaration."""
        return {field.name: _as_json(getattr(self, field.name)) for field in _declared(type(self))}

    @classmethod
    def from_json(cls: type[Self], content: Any) -> Self:
        """Check and read a part; fields that are not declared are not looked at.

        Raises:
            ValueError: which field is wrong and how, e.g. "distilled.params is 'x', not a number".
        """
        fault = cls.check()(content)
        if fault is not None:
            raise ValueError(fault.lstrip("."))
        return cls.read(content)

    @classmethod
    def check(cls) -> Check:
        """Return the check of JSON that is to be this part."""
        by: dict[str, dict[str, Check]] = {"needed": {}, "known": {}, "may_miss": {}}
        for field in _declared(cls):
            by[field.metadata["presence"]][field.name] = field.metadata["check"]
        whole = fields(by["needed"], by["known"], may_miss=by["may_miss"])
        return whole if cls.beside is None else both(whole, cls.beside)

    @classmethod
    def read(cls: type[Self], content: Mapping[str, Any]) -> Self:
        """Return the part that JSON describes; the check must have accepted it."""
        given = {
            field.name: field.metadata["read"](content[field.name])
            for field in _declared(cls)
            if content.get(field.name) is not None
        }
        return cls(**given)


def _declared(part: type[Declared]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(part) if "check" in field.metadata]  # type: ignore[arg-type]


def _as_json(value: Any) -> Any:
    if isinstance(value, Declared):
        return value.to_json()
    return [_as_json(one) for one in value] if isinstance(value, list) else value
