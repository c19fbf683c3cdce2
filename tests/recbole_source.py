"""Which keys the code of the installed RecBole reads, found in its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

#: What RecBole's code calls a configuration.
_CONFIGURATIONS = {"config", "final_config_dict", "external_config_dict", "internal_config_dict"}
#: Attributes of a configuration that are no keys.
_OF_THE_CLASS = {"final_config_dict", "get", "parameters", "yaml_loader"}


def keys_read(folder: Path) -> set[str]:
    """Every key that the files of a folder read from a configuration."""
    found: set[str] = set()
    for file in sorted(folder.rglob("*.py")):
        # Its dicts that are called so hold parameters of a search.
        if file.name != "hyper_tuning.py":
            found.update(_keys(ast.parse(file.read_text(encoding="utf-8"))))
    return found - _OF_THE_CLASS


def _keys(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _is_configuration(node.value):
            yield from _texts(node.slice)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and _name(node.value) == "config":
            yield node.attr
        elif isinstance(node, ast.Compare) and any(map(_is_configuration, node.comparators)):
            yield from _texts(node.left)
        elif isinstance(node, ast.Call) and node.args and _reads(node.func):
            yield from _texts(node.args[0])


def _name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _is_configuration(node: ast.AST) -> bool:
    return _name(node) in _CONFIGURATIONS


def _reads(called: ast.AST) -> bool:
    named = isinstance(called, ast.Attribute) and called.attr in ("get", "pop", "setdefault")
    return named and _is_configuration(called.value)  # type: ignore[attr-defined]


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
