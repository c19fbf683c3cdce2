"""Records: written beside each other, and honest about where they come from."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

import recbole_derrd.record as record
from recbole_derrd.running.outcome import command_line


def test_records_never_overwrite_each_other(tmp_path: Path) -> None:
    paths = {record.write_record({"number": number}, tmp_path, "same") for number in range(50)}
    assert len(paths) == 50


def test_the_commit_is_that_of_this_package_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment inside somebody's repository must not lend us its commit."""
    tmp_path = tmp_path / "my tree"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(tmp_path), *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    inside = tmp_path / "venv" / "site-packages" / "recbole_derrd"
    inside.mkdir(parents=True)
    monkeypatch.setattr(record, "__file__", str(inside / "record.py"))
    assert record.git_commit() is None
    monkeypatch.setattr(record, "__file__", str(tmp_path / "recbole_derrd" / "record.py"))
    assert record.git_commit()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run_recbole_derrd.py", "--seed=1"], ["run_recbole_derrd.py", "--seed=1"]),
        (["/somewhere/bin/recbole-derrd", "compress", "--a=[b, c]"], ["recbole-derrd", "compress", "--a=[b, c]"]),
        (["/somewhere/recbole_derrd/__main__.py", "--seed=1"], ["-m", "recbole_derrd", "--seed=1"]),
        (["/home/me/mine.py"], ["mine.py"]),
    ],
)
def test_a_records_command_names_no_folder_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], words: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", argv)
    found = shlex.split(command_line())
    assert found[-len(words) :] == words and "/" not in found[0]
    assert len(found) == len(words) + (words[0] != "recbole-derrd")
