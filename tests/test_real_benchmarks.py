"""Benchmarks of real runs: from a file to the report, killed and gone on with, and the process of one experiment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml

from recbole_derrd.benchmark import runner, worker
from recbole_derrd.cli import main
from recbole_derrd.errors import OptionError
from recbole_derrd.report.reading import read_records
from recbole_derrd.runtime import processes

ROOT = Path(__file__).resolve().parent.parent
Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def real(tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    base = tiny_settings("BPR", rrd_k=4, rrd_l=4, rrd_top_n=8, latency_users=3)
    base.update(model="BPR", dataset="tiny")
    experiments = [{"name": "RRD", "distillers": ["rrd"]}, {"name": "Pop", "model": "Pop", "distillers": []}]
    experiments.append({"name": "SVD", "compress_method": "svd", "compress_size": 4})
    file = tmp_path / "real.yaml"
    file.write_text(
        yaml.safe_dump({"base": base, "experiments": experiments, "seeds": [1, 2], "record_dir": "records"})
    )
    return file


def test_an_experiment_of_several_processes_leaves_no_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (left := tmp_path / "pymp-x").mkdir()
    monkeypatch.setattr(processes, "_SOCKETS", {str(left)})
    monkeypatch.setattr(worker, "main", lambda: 0)
    monkeypatch.setattr(os, "_exit", lambda code: None)
    worker.run_and_end()
    assert not left.exists()


@pytest.mark.slow
def test_a_record_of_other_data_counts_as_missing(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load(real.read_text())
    data = Path(shutil.copytree(content["base"]["data_path"], "data")) / "tiny" / "tiny.inter"
    content["base"]["data_path"], content["experiments"], content["seeds"] = "data", content["experiments"][1:2], [1]
    real.write_text(yaml.safe_dump(content))
    assert main(["benchmark", str(real)]) == 0
    assert main(["benchmark", str(real), "--dry=True"]) == 0
    assert "1 of 1 experiments are recorded.\n" in capsys.readouterr().out
    data.write_text(data.read_text() + "u1\ti2\t4\t77\n")
    assert main(["benchmark", str(real), "--dry=True"]) == 0
    told = capsys.readouterr().out
    assert "The data have changed since" in told and "0 of 1 experiments are recorded" in told


@pytest.mark.slow
def test_a_real_benchmark_from_experiments_to_report(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load(real.read_text())
    # More lists than the catalogue of 40 items allows: seen only when the data are there.
    broken = {"name": "broken", "distillers": ["rrd"], "rrd_k": 30, "rrd_top_n": 40}
    real.write_text(yaml.safe_dump({**content, "experiments": [*content["experiments"], broken]}))
    assert main(["benchmark", str(real), "--jobs", "2"]) == 1
    told = capsys.readouterr().out
    assert told.count("recorded after") == 6 and "failed: broken, seed 1: " in told and "catalogue" in told
    records, _ = read_records(Path("records"))
    assert len({record.data.fingerprint.test for record in records}) == 1, "one split"
    distilled = [record for record in records if record.distillers]
    assert len({record.teacher.key for record in distilled if record.teacher}) == 1, "one teacher"
    assert len({record.student.key for record in distilled if record.student}) == 2, "a plain student for each seed"
    assert "recbole_derrd benchmark" in str(records[0].command)
    assert {record.benchmark.experiment for record in records if record.benchmark} == {"RRD", "Pop", "SVD"}
    assert main(["benchmark", str(real), "--jobs=2"]) == 1
    assert "6 of 8 experiments are recorded, 2 to run" in capsys.readouterr().out
    assert main(["report", "records"]) == 0
    report = capsys.readouterr().out
    assert "2 seeds on one split" in report
    assert all(f"| {row} |" in report for row in ("RRD", "Pop", "SVD", "Teacher", "Student alone"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_benchmark_takes_its_experiments_along_and_goes_on(real: Path) -> None:
    """An experiment that outlives its benchmark would train against the next one."""

    def children(parent: int) -> list[int]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found

    def waited_for(happened: Callable[[], Any], seconds: float = 1800) -> None:
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end
            time.sleep(0.05)

    content = yaml.safe_load(real.read_text())
    content["base"].update(epochs=100_000, stopping_step=100_000)
    long = real.with_name("long.yaml")
    long.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "recbole_derrd", "benchmark"]
    benchmark = subprocess.Popen([*command, str(long)], stdout=subprocess.DEVNULL)
    waited_for(lambda: list(Path("saved").glob("cache/*.training/model.training.pth")))
    workers = children(benchmark.pid)
    assert workers
    benchmark.send_signal(signal.SIGKILL)
    benchmark.wait()

    def lives(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    waited_for(lambda: not any(map(lives, workers)))
    assert read_records(Path("records"))[0] == []
    content["base"].update(epochs=4)
    real.write_text(yaml.safe_dump({**content, "experiments": content["experiments"][:1], "seeds": [1]}))
    done = subprocess.run([*command, str(real)], capture_output=True, text=True)
    assert done.returncode == 0 and len(read_records(Path("records"))[0]) == 1, done.stdout


def test_a_benchmark_entry_of_ones_own_is_refused_at_once(tmp_path: Path, tiny_settings: Settings) -> None:
    from recbole_derrd.quick_start import run_recbole_derrd

    with pytest.raises(OptionError, match=r"benchmark.position is 'first', not a whole number. Leave this option"):
        run_recbole_derrd("BPR", "tiny", config_dict=tiny_settings("BPR", benchmark={"position": "first"}))


@pytest.mark.slow
def test_an_experiment_imports_nothing_that_lies_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And finds one's own model in the working directory where the benchmark does."""
    monkeypatch.chdir(tmp_path)
    for name in ("json", "logging", "signal", "threading", "colorlog", "yaml", "torch"):
        Path(f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    own = "from recbole.model.general_recommender import BPR\nclass Mine(BPR):\n    pass\n"
    Path("mine.py").write_text(f"open({str(tmp_path / 'own')!r}, 'a').close()\n{own}")
    path = [entry for entry in sys.path if entry not in ("", str(tmp_path))]
    settings = {"model": "mine.Mine", "dataset": "tiny", "rrd_k": -1}
    job = {"settings": yaml.safe_dump(settings), "compressed": False, "command": ["x"]}
    # As python -m recbole_derrd has it: what is installed goes first.
    command = [*runner.WORKER, *path, str(tmp_path)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert worker.stdin is not None and worker.stderr is not None
    worker.stdin.write(json.dumps(job) + "\n")
    worker.stdin.flush()
    assert "rrd_k" in worker.stderr.read() and worker.wait() == 2
    assert Path("own").exists() and not Path("ran").exists()
