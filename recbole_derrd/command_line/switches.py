"""Settings that are on or off: written without a value (``--resume``) they are True."""

from __future__ import annotations

import dataclasses

from recbole_derrd.config.options import Options, RunOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.config.options.frontier import FrontierOptions
from recbole_derrd.config.options.recbole import RecBoleOptions
from recbole_derrd.config.options.recbole_keys import SWITCHES
from recbole_derrd.registry import METHODS, method_class

#: What YAML reads as True or False.
TRUTHS = frozenset("true false yes no on off".split())


def is_switch(command: str, key: str) -> bool:
    """Return whether a setting can be nothing but True, False or a dict, so that its name alone means True.

    Args:
        command: the command that is given the setting.
        key: its name, without dashes.
    """
    groups: list[type[Options]] = [RunOptions, CompressOptions, RecBoleOptions]
    if command in ("benchmark", "frontier"):
        groups.append(FrontierOptions)
    # Only of these is the class imported, with torch.
    groups += [method_class(name).options_class for name in METHODS if key.startswith(f"{name}_")]
    return key in SWITCHES or any(_is_switch_of(group, key) for group in groups)


def _is_switch_of(group: type[Options], key: str) -> bool:
    kinds = {group.prefix + field.name: field.metadata["kinds"] for field in dataclasses.fields(group)}
    return bool in kinds.get(key, ()) and str not in kinds[key]
