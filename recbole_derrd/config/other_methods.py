"""Options of methods that are not among a run's distillers: nobody reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from recbole_derrd.registry import METHODS, method_class

#: How the sentence begins.
NOT_AMONG = "Not among the distillers"
#: Names that a sentence lists; of more it gives the number.
_NAMED = 6


def idle_options(settings: Mapping[str, Any], distillers: Collection[str]) -> dict[str, list[str]]:
    """Return the options that are given for nothing, by the built-in method that is not among the distillers."""
    found = {}
    for name in METHODS:
        likely = [key for key, value in settings.items() if value is not None and key.startswith(f"{name}_")]
        # A method is imported where a key may be its own: its prefix is its name.
        if likely and name not in distillers:
            own = method_class(name).options_class.keys()
            found[name] = [key for key in likely if key in own]
    return {name: keys for name, keys in found.items() if keys}


def listed(names: Iterable[str]) -> str:
    """Return names in words: "a, b and c"; of many the first, and how many more there are."""
    all_names = list(dict.fromkeys(names))
    shown = all_names[:_NAMED]
    last = f"{len(all_names) - _NAMED} more" if len(all_names) > _NAMED else shown.pop()
    return f"{', '.join(shown)} and {last}" if shown else last


def without_effect(found: Mapping[str, Collection[str]], place: str = "", dashes: str = "") -> str:
    """Return that these options have no effect, and what to do.

    Args:
        found: what :func:`idle_options` has returned.
        place: where these distillers are, e.g. " in 'teacher_refine'"; "" for the run itself.
        dashes: what stands before each option.
    """
    keys = keys_of(found, dashes)
    return (
        f"{NOT_AMONG}{place}: {listed(found)}. So {listed(keys)} {have(keys)} no effect: add {listed(found)} to "
        f"distillers, or take {them(keys)} out."
    )


def keys_of(found: Mapping[str, Collection[str]], dashes: str = "") -> list[str]:
    """Return the options of all methods, with what stands before each."""
    return [f"{dashes}{key}" for keys in found.values() for key in keys]


def have(keys: Collection[str]) -> str:
    """Return the verb for so many options."""
    return "has" if len(keys) == 1 else "have"


def them(keys: Collection[str]) -> str:
    """Return the pronoun for so many options."""
    return "it" if len(keys) == 1 else "them"
