"""Records: written beside each other, and honest about where they come from."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic_records import synthetic

import recbole_derrd
import recbole_derrd.report.environment as environment
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.experiment import record_entries
from recbole_derrd.experiment.record_entries import command_line
from recbole_derrd.report.reading import read_records
from recbole_derrd.report.schema import RunRecord
from recbole_derrd.report.writing import write_record
from recbole_derrd.runtime.files import replacing_file
from recbole_derrd.runtime.locks import clearing_folder

RECORD = RunRecord.from_json(synthetic()[0])


def test_a_setting_may_have_keys_that_json_does_not_know(tmp_path: Path) -> None:
    """Those of a model of the user's own, given in Python: the training is over when its record is written."""
    settings = {"own": {np.int64(3): 64, (1, 2): [{np.float32(0.5): None}], "a": {4: True}}}
    path = write_record(
        dataclasses.replace(RECORD, distilled=dataclasses.replace(RECORD.distilled, settings=settings)), tmp_path, "own"
    )
    (read,), unread = read_records(tmp_path)
    assert path.parent == tmp_path and not unread
    assert read.distilled.settings == {"own": {"3": 64, "(1, 2)": [{"0.5": None}], "a": {"4": True}}}


def test_records_never_overwrite_each_other(tmp_path: Path) -> None:
    paths = {write_record(RECORD, tmp_path, "same") for _ in range(50)}
    assert len(paths) == 50


def test_the_commit_is_that_of_this_package_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment inside somebody's repository must not lend us its commit."""
    tmp_path = tmp_path / "my tree"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(tmp_path), *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    inside = tmp_path / "venv" / "site-packages" / "recbole_derrd"
    inside.mkdir(parents=True)
    monkeypatch.setattr(recbole_derrd, "__file__", str(inside / "__init__.py"))
    assert environment.git_commit() is None
    monkeypatch.setattr(recbole_derrd, "__file__", str(tmp_path / "recbole_derrd" / "__init__.py"))
    assert environment.git_commit()


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed process is a forked child")
def test_what_a_killed_process_has_left_of_its_record_goes_with_the_next(tmp_path: Path) -> None:
    process = os.fork()
    if not process:
        try:
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,misc]
            write_record(RECORD, tmp_path, "killed")
        finally:
            os._exit(1)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert [name for name in os.listdir(tmp_path) if name.startswith(".killed-") and ".partial-" in name]
    path = write_record(RECORD, tmp_path, "next")
    assert sorted(os.listdir(tmp_path)) == [".records.lock", path.name]


def test_a_record_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    other = threading.Thread(target=write_record, args=(RECORD, tmp_path, "other"))
    with clearing_folder(tmp_path, ".json", "records"), replacing_file(tmp_path / "own.json") as partial:
        partial.write_text("{}")
        other.start()
        time.sleep(0.3)
        assert partial.exists() and other.is_alive()
    other.join(600)
    names = sorted(name for name in os.listdir(tmp_path) if not name.startswith("."))
    assert len(names) == 2 and names[1] == "own.json" and names[0].startswith("other-")


def test_the_options_in_a_record_are_those_of_a_preset_and_its_name() -> None:
    settings = {"distillers": ["rrd", "dcd"], "rrd_preset": "gowalla-bpr-kds", "rrd_k": 7}
    options = record_entries._options(DistillConfig("BPR", "ml-100k", config_dict=settings))
    assert (options["rrd_preset"], options["rrd_weight"], options["rrd_k"]) == ("gowalla-bpr-kds", 0.005, 7)
    assert "dcd_preset" not in options and options["dcd_k"] == 100
