"""Generated documentation is as the code is; ``pytest tests/test_docs.py --regen`` writes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from recbole_derrd.config.options import Options, RunOptions
from recbole_derrd.config.options.benchmark import BenchmarkOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.distillers import Distiller
from recbole_derrd.registry import METHODS, method_class

ROOT = Path(__file__).resolve().parent.parent


def options_page() -> str:
    """Every option as a Markdown table."""
    groups: dict[str, type[Options]] = {
        "Run": RunOptions, **{name: method_class(name).options_class for name in METHODS},
        "Compression": CompressOptions, "A benchmark file": BenchmarkOptions
    }  # fmt: skip
    lines = [
        "# Options",
        "",
        "Made from the options' declarations by `pytest tests/test_docs.py --regen`. Each option is a flat",
        "RecBole key: a line in a YAML file, an entry of `config_dict`, or `--key=value`. All of RecBole's own",
        "keys work as well. Some defaults differ by student model: see the end of a method's table.",
    ]
    for title, group in groups.items():
        lines += ["", f"## {title}", "", "| option | type | default | limits | meaning |", "|---|---|---|---|---|"]
        for key, kind, default, limits, meaning in group.describe():
            shown = "" if default is None else f"`{default}`"
            lines.append(f"| `{key}` | {kind} | {shown} | {limits.replace('|', 'or')} | {meaning} |")
        method: Any = method_class(title) if title in METHODS else Distiller
        for student in method.student_defaults:
            own = ", ".join(f"`{key}: {value}`" for key, value in method.defaults_for(student).items())
            lines += ["", f"Defaults for a {student} student: {own}."]
        lines += ["", f"{method.citation}."] if method.citation else []
    return "\n".join(lines) + "\n"


def test_the_options_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs" / "options.md"
    if request.config.getoption("--regen"):
        page.write_text(options_page(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == options_page()


def test_the_readme_gives_its_two_commands_on_its_first_screen() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40]
    assert any("pip install -e . && python run_recbole_derrd.py" in line for line in first)
    assert any('pip install -e ".[test]" && pytest' in line for line in first)


PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
