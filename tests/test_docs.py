"""Documentation is as the code is; ``pytest tests/test_docs.py --regen`` writes what is generated of it."""

from __future__ import annotations

import importlib
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options import Options, RunOptions
from recbole_derrd.config.options.benchmark import BenchmarkOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.registry import METHODS, method_class

ROOT = Path(__file__).resolve().parent.parent
METHOD_PAGES = ROOT / "docs" / "methods"
METHOD_RUNS = ROOT / "configs" / "methods"

#: What each page of a method has, in this order.
HEADINGS = ["What it does", "Formula", "How to use it", "What to set", "Paper and code", "Cost", "Options"]
_START = "<!-- options: written by pytest tests/test_docs.py --regen -->\n"
_END = "<!-- end of options -->\n"


def options_table(group: type[Options]) -> list[str]:
    """Return the options of a group as the lines of a Markdown table."""
    lines = ["| option | type | default | limits | meaning |", "|---|---|---|---|---|"]
    for key, kind, default, limits, meaning in group.describe():
        shown = "" if default is None else f"`{default}`"
        lines.append(f"| `{key}` | {kind} | {shown} | {limits.replace('|', 'or')} | {meaning} |")
    return lines


def options_page() -> str:
    """Return docs/options.md."""
    lines = [
        "# Options",
        "",
        "The options of a run, of compression and of a benchmark file. A method's options are on its page:",
        *textwrap.wrap(", ".join(f"[{name}](methods/{name}.md#options)" for name in METHODS) + ".", 120),
        "",
        "`pytest tests/test_docs.py --regen` writes the tables from the options' declarations. Each option is a flat",
        "RecBole key: a line in a YAML file, an entry of `config_dict`, or `--key=value`. All of RecBole's own keys",
        "work as well.",
    ]
    groups = {"Run": RunOptions, "Compression": CompressOptions, "A benchmark file": BenchmarkOptions}
    for title, group in groups.items():
        lines += ["", f"## {title}", "", *options_table(group)]
    return "\n".join(lines) + "\n"


def preset_table(group: type[Options]) -> list[str]:
    """Return a method's published settings as the lines of a Markdown table, beside its defaults."""
    presets = group.presets()
    if not presets:
        return []
    keys = list(dict.fromkeys(key for values in presets.values() for key in values))
    rows = {"default": group.defaults(), **presets}
    cells = {name: [str(values[key]) if key in values else "" for key in keys] for name, values in rows.items()}
    return [
        "",
        f"| `{group.prefix}preset` | {' | '.join(f'`{key}`' for key in keys)} |",
        f"|---|{'--:|' * len(keys)}",
        *(f"| {name if name == 'default' else f'`{name}`'} | {' | '.join(row)} |" for name, row in cells.items()),
    ]


def method_options(name: str) -> str:
    """Return what is generated on a method's page: its options, their defaults by student, its citation."""
    method: Any = method_class(name)
    lines = options_table(method.options_class)
    for student in method.student_defaults:
        own = ", ".join(f"`{key}: {value}`" for key, value in method.defaults_for(student).items())
        lines += ["", f"Defaults for a {student} student: {own}."]
    lines += preset_table(method.options_class)
    lines += ["", f"Citation: {method.citation}."]
    return "\n".join(lines) + "\n"


def page_of(name: str) -> str:
    return (METHOD_PAGES / f"{name}.md").read_text(encoding="utf-8")


def yaml_of(text: str) -> dict[str, Any]:
    """Return the first YAML block of a page."""
    found = re.search(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, "a page of a method must have a block of YAML"
    settings: dict[str, Any] = yaml.safe_load(found[1])
    return settings


def run_of(name: str) -> str:
    return (METHOD_RUNS / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_options_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs" / "options.md"
    if request.config.getoption("--regen"):
        page.write_text(options_page(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == options_page()


def test_every_method_has_one_page_and_one_run() -> None:
    assert {path.stem for path in METHOD_PAGES.glob("*.md")} == {*METHODS, "README"}
    assert {path.stem for path in METHOD_RUNS.glob("*")} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_options_of_a_method_are_up_to_date(name: str, request: pytest.FixtureRequest) -> None:
    text = page_of(name)
    assert text.count(_START) == 1 and text.endswith(_END)
    before = text[: text.index(_START)]
    wanted = f"{before}{_START}\n{method_options(name)}\n{_END}"
    if request.config.getoption("--regen"):
        (METHOD_PAGES / f"{name}.md").write_text(wanted, encoding="utf-8")
    assert page_of(name) == wanted


@pytest.mark.parametrize("name", METHODS)
def test_a_page_has_the_headings_of_all_pages_and_something_below_each(name: str) -> None:
    title, *parts = re.split(r"^## ", page_of(name), flags=re.MULTILINE)
    assert title.startswith("# ") and title.count("\n") == 2
    assert [part.split("\n", 1)[0] for part in parts] == HEADINGS
    assert all(len(part.split()) > 10 for part in parts)


@pytest.mark.parametrize("name", METHODS)
def test_the_formula_on_a_page_is_that_of_the_file(name: str) -> None:
    head = importlib.import_module(METHODS[name].path.rpartition(".")[0]).__doc__ or ""
    of_file = {line.strip() for line in head.splitlines()}
    part = re.search(r"^## Formula\n(.*?)^## ", page_of(name), re.MULTILINE | re.DOTALL)
    assert part
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", part[1], re.MULTILINE | re.DOTALL)
    assert "math" in {language for language, _ in fences}, "a page shows its formula as LaTeX as well"
    blocks = [block for language, block in fences if not language]
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert lines
    assert [line for line in lines if line not in of_file] == []


@pytest.mark.parametrize("name", METHODS)
def test_the_yaml_of_a_page_is_a_part_of_the_methods_run(name: str) -> None:
    """What is run from configs/methods thereby shows that the page's settings run."""
    shown, whole = yaml_of(page_of(name)), yaml.safe_load(run_of(name))
    assert shown["distillers"] == [name] and shown["dataset"] == "ml-100k"
    assert {key: whole.get(key) for key in shown} == shown
    assert any(key.startswith(method_class(name).options_class.prefix) for key in shown)
    config = DistillConfig(config_dict=shown)
    assert list(config.method_options) == [name]


@pytest.mark.parametrize("name", METHODS)
def test_the_run_of_a_method_names_it_and_its_commented_options_are_allowed(name: str) -> None:
    file = METHOD_RUNS / f"{name}.yaml"
    assert list(DistillConfig(config_file_list=[file]).method_options) == [name]
    assert f"--config_files=configs/methods/{name}.yaml" in run_of(name)
    prefix = method_class(name).options_class.prefix
    more = re.findall(rf"^# ({prefix}\w+: .*?)\s+# \S", run_of(name), re.MULTILINE)
    assert len(more) >= 2
    for line in more:
        given = yaml.safe_load(line)
        assert set(given) <= set(method_class(name).options_class.keys())
        DistillConfig(config_file_list=[file], config_dict=given)


def test_the_methods_page_has_every_method() -> None:
    text = page_of("README")
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \|", text, re.MULTILINE)
    assert all(shown == page for shown, page in rows)
    assert sorted(page for _, page in rows) == sorted(METHODS)


def test_the_readme_gives_its_two_commands_on_its_first_screen() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40]
    assert any("pip install -e . && python run_recbole_derrd.py" in line for line in first)
    assert any('pip install -e ".[test]" && pytest' in line for line in first)


PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as Git hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors_of(linked), f"{target}#{anchor}"


class _Nav(yaml.SafeLoader):
    """MkDocs' settings as plain YAML: what a tag of Python would make is left out."""


_Nav.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def pages_in(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages_in(part)]


def test_the_site_has_every_page_once() -> None:
    """What `mkdocs build --strict` finds too, without mkdocs."""
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Nav)
    own = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    # Three pages are made of files that lie outside docs/ (docs/hooks.py).
    assert sorted(pages_in(settings["nav"])) == sorted({*own, "examples.md", "changes.md", "contributing.md"})


def test_the_site_is_built_with_the_extra() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    extra = re.search(r"^DOCS_REQUIREMENTS = \[\n(.*?)^\]", setup, re.MULTILINE | re.DOTALL)
    listed = (ROOT / ".ci" / "docs.txt").read_text(encoding="utf-8").splitlines()
    assert extra
    assert re.findall(r'"(.*?)",', extra[1]) == [line for line in listed if not line.startswith("#")]


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100


def test_every_paper_of_a_method_is_in_the_references() -> None:
    text = (ROOT / "docs" / "references.bib").read_text(encoding="utf-8").replace("\\_", "_")
    named = {name for note in re.findall(r"note *= \{(.*?)\}", text) for name in re.findall(r"\b[a-z_]+\b", note)}
    assert set(METHODS) <= named
