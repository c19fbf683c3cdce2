"""Names of the distillation methods, as users write them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from recbole_derrd.errors import OptionError, nearest

#: Methods that are published under one name.
TOGETHER = {"derrd": ("de", "rrd"), "mkd": ("nkd", "cpd", "sld")}


def method_names(given: Any, known: Collection[str]) -> list[str]:
    """Read ``distillers``: a list of names, or names in one text.

    Case, ``-`` and ``_`` make no difference, and methods that are published together go by one name: ``DE-RRD`` is de
    and rrd. Dotted paths, and names that are unknown, stay as they are.

    Args:
        given: what the user has written.
        known: the built-in methods.

    Raises:
        OptionError: these are no names, or one is given twice.
    """
    if isinstance(given, str):
        given = given.replace(",", " ").replace("+", " ").split()
    if given is None:
        return []
    if not isinstance(given, (list, tuple)) or not all(isinstance(name, str) for name in given):
        raise OptionError(f"distillers must be a list of names, e.g. [de, rrd], but is {given!r}.")
    names = [name for one in given for name in _spelt(one, known)]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"The distiller '{name}' is given twice. To make it stronger, raise its weight.")
    return names


def unknown_method(name: str, known: Collection[str]) -> str:
    """Say that there is no such method, and which was meant."""
    by_plain_name = {
        **{_plain(one): one for one in known},
        **{one: ", ".join(parts) for one, parts in TOGETHER.items()},
    }
    match = nearest(_plain(name), by_plain_name)
    hint = f" Did you mean '{by_plain_name[match]}'?" if match else f" Known are: {', '.join(sorted(known))}."
    return f"Unknown distiller '{name}'.{hint} A method of your own is given by its dotted path, package.module.Class."


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())


def _spelt(name: str, known: Collection[str]) -> list[str]:
    """Return the methods that a name stands for."""
    if "." in name:
        return [name]
    if "+" in name:
        return [one for part in name.split("+") for one in _spelt(part, known)]
    by_plain_name = {_plain(one): one for one in known}
    if _plain(name) in by_plain_name:
        return [by_plain_name[_plain(name)]]
    if _plain(name) in TOGETHER:
        return list(TOGETHER[_plain(name)])
    parts = [by_plain_name.get(_plain(part), "") for part in re.split(r"[-_]", name)]
    return parts if all(parts) else [name]
