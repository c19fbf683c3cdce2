"""Every command and every Python block of README and the pages of Start runs, in a small form, as it stands there."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "docs/start/README.md", "docs/start/own-data.md", "docs/start/table.md"]
#: What .ci/run runs instead (it installs), or what belongs to the shell that it is typed into.
ELSEWHERE = ("pip install", "python -m venv")
#: One epoch instead of all; the commands stay as they are.
SHIM = """#!/bin/sh
case "$1" in
  run_recbole_derrd.py) shift; exec "{python}" -m recbole_derrd "$@" --epochs=1 --latency_users=0 ;;
  *) exec "{python}" "$@" ;;
esac
"""
COMMAND = """#!/bin/sh
case "$1" in
  benchmark) set -- "$@" --epochs=1 '--seeds=[2020]' --latency_users=0 ;;
  --*) set -- "$@" --epochs=1 --latency_users=0 ;;
esac
exec "{python}" -m recbole_derrd "$@"
"""


#: Other pages whose Python runs as it stands there.
SCRIPTS = ["docs/how-to/python.md"]


def blocks_of(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands_of(page: str) -> list[str]:
    """The commands of a page, one a line, in their order; the part of a line that installs is left out."""
    lines = [line for block in blocks_of(page, "bash") for line in block.splitlines()]
    parts = [[part for part in line.split(" && ") if not part.startswith(ELSEWHERE)] for line in lines]
    commands = [" && ".join(part) for part in parts if part and part != ["pytest"]]
    return list(dict.fromkeys(one for one in commands if not one.startswith("source ")))


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The folder of a user who follows the pages: a table, the settings, and the repository's configurations."""
    import recbole

    source = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.inter"
    rows = [line.split("\t") for line in source.read_text(encoding="utf-8").splitlines()[1:]]
    with (tmp_path / "ratings.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["user", "movie", "stars", "date"], *rows])
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("python", SHIM), ("recbole-derrd", COMMAND)):
        (programs / name).write_text(text.format(python=sys.executable), encoding="utf-8")
        (programs / name).chmod(0o755)
    return tmp_path


def test_the_pages_have_commands_and_a_command_is_left_out_for_a_reason() -> None:
    found = {page: commands_of(page) for page in PAGES}
    assert [len(commands) for commands in found.values()] == [7, 5, 4, 2]
    kept = {re.split(r"\s", command)[0] for commands in found.values() for command in commands}
    assert kept == {"python", "recbole-derrd"}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, user: Path) -> None:
    env = {**os.environ, "PATH": f"{user / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for block in blocks_of(page, "yaml"):
        name = re.match(r"# (\w+\.yaml)", block)
        assert name, "a file of settings says its name"
        (user / name[1]).write_text(block, encoding="utf-8")
    for command in commands_of(page):
        ended = subprocess.run(["bash", "-c", command], cwd=user, env=env, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}"
    run_python(page, user)


@pytest.mark.slow
@pytest.mark.parametrize("page", SCRIPTS)
def test_the_python_of_a_page_runs(page: str, user: Path) -> None:
    assert blocks_of(page, "python")
    run_python(page, user)


def run_python(page: str, folder: Path) -> None:
    """Run each block of a page's Python in a process of its own, with one epoch."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for block in blocks_of(page, "python"):
        small = block.replace('"distillers": [', '"epochs": 1, "latency_users": 0, "distillers": [')
        ended = subprocess.run(
            [sys.executable, "-c", small], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0 and ended.stdout, f"{block}\n{ended.stderr[-3000:]}"
