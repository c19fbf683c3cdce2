"""What MkDocs does to make a site of pages that are written for the repository.

Files of the repository that lie outside this folder (configurations, records, the changelog) have no place on a site of
their own. Pages among them become pages of the site, other files that a page links to are copied beside it.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
#: Pages of the repository, and what they are called on the site.
PAGES = {"CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md", "examples/README.md": "examples.md"}
#: Where the site keeps the repository's other files.
KEPT = "repository"
_LINK = re.compile(r"\[(?P<words>[^\]]*)\]\((?![a-z]+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def origin_of(page: str) -> Path:
    """Return the file of the repository that a page of the site is made of."""
    return next((ROOT / origin for origin, name in PAGES.items() if name == page), DOCS / page)


def place_of(target: Path) -> str | None:
    """Return the path on the site of a file of the repository; None for a folder, which a site cannot show."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    inside = target.relative_to(ROOT).as_posix()
    if inside == "README.md":
        return "README.md"
    return PAGES.get(inside) or (None if target.is_dir() else f"{KEPT}/{inside}")


def linked(text: str, origin: Path) -> set[Path]:
    """Return the files that a page links to, as absolute paths."""
    return {Path(os.path.normpath(origin.parent / found["target"])) for found in _LINK.finditer(text)}


def rewritten(text: str, page: str) -> str:
    """Return a page's text with links that hold on the site."""
    origin = origin_of(page)

    def moved(found: re.Match[str]) -> str:
        place = place_of(Path(os.path.normpath(origin.parent / found["target"])))
        if place is None:
            return found["words"]
        return f"[{found['words']}]({os.path.relpath(place, os.path.dirname(page) or '.')}{found['anchor'] or ''})"

    return _LINK.sub(moved, text)


def math(source: str, language: str, css_class: str, options: Any, md: Any, **kwargs: Any) -> str:
    """Return a fence of LaTeX as MathML, which every current browser shows without a script."""
    return f'<div class="formula">{convert(source.strip(), display="block")}</div>'


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set up fences of mathematics."""
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [
        {"name": "math", "class": "formula", "format": math}
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files of the repository that lie outside this folder."""
    for origin, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / origin).read_text(encoding="utf-8")))
    targets = {
        target
        for file in files.documentation_pages()
        for target in linked(origin_of(file.src_uri).read_text(encoding="utf-8"), origin_of(file.src_uri))
    }
    for target in sorted(targets):
        place = place_of(target)
        if place and place.startswith(f"{KEPT}/") and target.is_file():
            files.append(File.generated(config, place, abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the links of a page hold on the site."""
    return rewritten(markdown, page.file.src_uri)
