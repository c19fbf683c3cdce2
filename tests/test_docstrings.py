"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from unittest import mock

import pytest

from recbole_derrd.adapters import ADAPTERS

ROOT = Path(__file__).resolve().parent.parent
#: Modules with an example, as dotted names.
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).replace(".__init__", "")
    for file in sorted((ROOT / "recbole_derrd").rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What an example registers is gone with it.
    with mock.patch.dict(ADAPTERS):
        results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 0 and results.failed == 0


def test_some_modules_have_examples() -> None:
    assert len(MODULES) > 8
