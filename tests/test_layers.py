"""Imports run one way: a room may import only from rooms above it in this list (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import recbole_derrd

PACKAGE = Path(recbole_derrd.__file__).parent
ORDER = [
    "errors", "process_faults", "file_kinds", "json_files", "processes", "files", "stored_arrays", "randomness",
    "options", "settings", "doctor", "metrics", "graph", "recbole_compat", "models", "known_keys", "config", "faults",
    "topn", "checkpoint", "atomic_files", "named_files", "file_checks", "batches", "sampling", "svd", "backbones",
    "evaluation", "data", "training", "trainer", "trained", "teacher", "distillers", "warm_start", "model", "record",
    "report", "compression", "running", "quick_start", "compress", "benchmark", "cli", "__main__",
]  # fmt: skip
FORBIDDEN = ("ray", "recbole.quick_start")


def imported(file: Path) -> set[str]:
    """Every module that a file imports, at its head or within a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def room(module: str) -> str | None:
    """The room of a dotted module name of ours."""
    parts = module.split(".")
    return parts[1] if parts[0] == "recbole_derrd" and len(parts) > 1 else None


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file: Path) -> None:
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in ORDER, f"{own} is a new room: give it a place in ORDER and in docs/architecture.md"
    for module in imported(file):
        other = room(module)
        if other is None or other == own or other.startswith("_"):
            continue
        assert other in ORDER, f"{file.name} imports the unknown room {other}"
        assert ORDER.index(other) < ORDER.index(own), f"{own} must not import {other}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_imports_ray_or_recboles_quick_start(file: Path) -> None:
    for module in imported(file):
        assert not module.startswith(FORBIDDEN), f"{file.name} imports {module}"


def test_no_file_is_named_for_no_job() -> None:
    assert not [path for path in PACKAGE.rglob("*.py") if path.stem in {"utils", "helpers", "common", "misc"}]


@pytest.mark.parametrize("name", ["options", "errors", "cli"])
def test_the_command_line_does_not_wait_for_torch(name: str) -> None:
    """--help answers at once: these rooms and all they import at their heads are free of heavy packages."""
    heavy = {"torch", "numpy", "scipy", "pandas", "recbole"}
    pending, seen = [name], set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        files = (
            [PACKAGE / f"{current}.py"] if (PACKAGE / f"{current}.py").exists() else (PACKAGE / current).glob("*.py")
        )
        for file in files:
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {name.split(".")[0] for name in names} & heavy, f"{file.name} imports {names}"
                pending += [found for found in map(room, names) if found]
