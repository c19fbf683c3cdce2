"""Imports run one way: a room may import only from rooms above it in this list (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import recbole_derrd

PACKAGE = Path(recbole_derrd.__file__).parent
ORDER = [
    "errors", "registry", "runtime", "serving", "doctor", "ops", "recbole_compat", "config", "adapters", "data",
    "evaluation", "training", "model_cache", "teacher", "distillers", "student", "report", "compression", "experiment",
    "exporting", "quick_start", "shrinking", "benchmark", "command_line", "checkpoint_commands",
    "cli", "__main__", "testing",
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


def test_pytest_is_imported_in_its_room_alone() -> None:
    """It is no requirement of the package."""
    rooms = {file.relative_to(PACKAGE).parts[0] for file in FILES if "pytest" in imported(file)}
    assert rooms == {"testing"}


def test_no_file_is_named_for_no_job() -> None:
    assert not [path for path in PACKAGE.rglob("*.py") if path.stem in {"utils", "helpers", "common", "misc"}]


def at_the_head(module: str) -> set[str]:
    """Modules that the head of a module of ours imports, its packages' heads included."""
    found: set[str] = set()
    parts = module.split(".")
    positions = [PACKAGE.joinpath(*parts[1:count]) for count in range(1, len(parts) + 1)]
    for file in [place / "__init__.py" for place in positions] + [positions[-1].with_suffix(".py")]:
        for node in ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else ():
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.update({node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


@pytest.mark.parametrize("name", ["config.options", "errors", "registry", "cli"])
def test_the_command_line_does_not_wait_for_torch(name: str) -> None:
    """--help answers at once: these modules and all they import at their heads are free of heavy packages."""
    heavy = {"torch", "numpy", "scipy", "pandas", "recbole"}
    pending, seen = {f"recbole_derrd.{name}"}, set()
    while pending:
        current = pending.pop()
        seen.add(current)
        names = at_the_head(current)
        assert not {name.split(".")[0] for name in names} & heavy, f"{current} imports {names}"
        pending |= {name for name in names if name.startswith("recbole_derrd.")} - seen
