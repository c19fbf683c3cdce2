"""Two processes on the CPU (gloo): one model, exact metrics, one writer, and no process left behind by an error."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable

import in_processes
import pytest
import torch
from torch.multiprocessing.spawn import ProcessContext

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import DistillError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.runtime.processes import all_gather, broadcast, gather_rows, is_main_process, shard_range, start
from recbole_derrd.training.trainer import trainer_for

pytestmark = pytest.mark.slow

Settings = Callable[..., dict[str, Any]]


def meeting() -> dict[str, Any]:
    """Keys of two processes that meet at a free port."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return {"nproc": 2, "world_size": 2, "ip": "localhost", "port": str(port), "offset": 0}


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("BPR", {}),
        ("LightGCN", {"fast": "all", "n_layers": 2}),
        ("MultiVAE", {"train_neg_sample_args": None, "dropout_prob": 0.0}),
        ("BPR", {"fast": "none", "metrics": ["NDCG", "GAUC", "ItemCoverage"],
                 "eval_args": {"mode": {"valid": "uni5", "test": "full"}}}),
    ],
)  # fmt: skip
def test_two_processes_train_one_model_with_exact_metrics(
    tiny_settings: Settings, model: str, more: dict[str, Any]
) -> None:
    settings = tiny_settings(model, epochs=3, **more)
    answer = start(in_processes.plain, 2, model, {**settings, **meeting()})
    assert answer is not None
    told = json.loads(answer)
    assert len(set(told["weights"])) == 1, "both processes have the same weights"
    assert told["results"][0] == told["results"][1] and told["losses"][0] == told["losses"][1]
    config = DistillConfig(model, "tiny", config_dict=settings)
    data = prepare_data(config)
    assert told["rows"][0] == told["rows"][1] == -(-sum(len(batch) for batch in data.train) // 2)
    trainer = trainer_for(config, build_model(config, data))
    trainer.eval_collector.data_collect(data.train)
    alone = trainer.evaluate(data.test, model_file=told["checkpoint"])
    assert told["results"][0] == {name: float(value) for name, value in alone.items()}


def test_processes_build_an_artifact_together_and_one_of_them_reads(tiny_settings: Settings, tmp_path: Path) -> None:
    """Each writes its part into one folder; what was damaged before is replaced; all get the first process's answer."""
    answer = start(in_processes.build_once, 2, {**tiny_settings("BPR"), **meeting()}, str(tmp_path / "cache"))
    assert answer is not None
    told = json.loads(answer)
    wanted = ["built by 0", "read by 0: ['0', '1']"] * 2
    assert told["answers"] == [wanted, wanted] and told["read by"] == [[0], []]
    assert not [path for path in (tmp_path / "cache").iterdir() if "partial" in path.name or "training" in path.name]


def test_processes_speak(tiny_settings: Settings) -> None:
    answer = start(in_processes.talk, 2, {**tiny_settings("BPR"), **meeting()})
    assert answer is not None
    told = json.loads(answer)
    assert told == {"rows": [[row, row] for row in range(7)], "first": 5, "each": [True, False]}


def test_one_process_speaks_to_itself() -> None:
    assert is_main_process() and broadcast(3) == 3 and all_gather(3) == [3] and shard_range(7) == (0, 7)
    rows = torch.ones(3, 2)
    assert gather_rows(rows) is rows


def test_an_error_of_one_process_ends_all(tiny_settings: Settings) -> None:
    with pytest.raises(DistillError, match="no more disk"):
        start(in_processes.fail, 2, {**tiny_settings("BPR"), **meeting()})


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("SIGKILL", "Process 1 of this run was ended by SIGKILL, as the system does where memory runs out"),
        ("SIGTERM", " ended"),
        ("SIGINT", "A process of this run has ended"),
        ("memory", "The memory is not enough: Unable to allocate 3.2 GiB"),
    ],
)
def test_the_end_of_one_process_ends_all_and_is_said(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DistillError) as caught:
        start(in_processes.die, 2, {**tiny_settings("BPR"), **meeting()}, how)
    assert words in str(caught.value)
    assert not multiprocessing.active_children() and not list(tmp_path.glob("pytorch-errorfile-*"))


def test_a_defect_in_a_process_keeps_its_traceback(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in die.*our fault"):
        start(in_processes.die, 2, {**tiny_settings("BPR"), **meeting()}, "defect")
    assert not list(tmp_path.glob("pytorch-errorfile-*"))


def test_an_interrupted_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python itself would wait at its end for processes that nobody tells to stop."""

    def interrupted(self: Any, timeout: Any = None, grace_period: Any = None) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProcessContext, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(in_processes.linger, 2)
    assert not multiprocessing.active_children()


def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    """They would go on writing what the next run reads; and they remove what it has left."""
    tests = Path(__file__).parent
    code = f"""
import sys
sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]
import in_processes
from recbole_derrd.runtime.processes import start
start(in_processes.linger, 2)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    assert sorted(parent.stdout.readline() for _ in range(2)) == ["0 is here\n", "1 is here\n"]
    parent.kill()
    # The pipe ends with the last process that holds it.
    parent.communicate(timeout=600)
    assert not list(tmp_path.glob("pymp-*"))


def test_processes_are_where_their_parent_is(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = start(in_processes.where, 2, {**tiny_settings("BPR"), **meeting()})
    assert answer is not None and json.loads(answer) == [os.getcwd()] * 2


def test_a_whole_run_in_two_processes(tiny_settings: Settings, tmp_path: Path) -> None:
    more = {"distillers": ["de", "rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "de_num_experts": 3,
            "latency_users": 5, "epochs": 4, "record_dir": str(tmp_path / "records"), "checkpoint_step": 1}  # fmt: skip
    settings = tiny_settings("BPR", **more)
    record = run_recbole_derrd("BPR", "tiny", config_dict=settings, command_line=["--nproc=2"])
    assert len(list((tmp_path / "records").glob("*.json"))) == 1
    again = run_recbole_derrd("BPR", "tiny", config_dict=settings, command_line=["--nproc=2", "--resume=True"])
    assert again["teacher"]["found"] and again["student"]["found"], "the second run trains neither"
    timed = {"seconds": None, "latency": None}
    assert {**again["distilled"], **timed} == {**record["distilled"], **timed}, "and finds its student finished"
    alone = DistillConfig("BPR", "tiny", config_dict=settings)
    data = prepare_data(alone)
    for role in ("teacher", "student"):
        config = alone.derived("BPR", {}, teacher=role == "teacher")
        trainer = trainer_for(config, build_model(config, data))
        trainer.eval_collector.data_collect(data.train)
        file = again["checkpoints"][role]
        expected = record["teacher" if role == "teacher" else "distilled"]["test"]
        assert trainer.evaluate(data.test, model_file=file) == expected
    partials = [
        path.name for path in tmp_path.rglob("*") if ".partial-" in path.name or path.name.endswith(".training")
    ]
    assert not partials


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--nproc=3", "--world_size=2"], "more than world_size"),
        (["--nproc=2", "--worker=2"], "take out worker"),
        (["--nproc=0"], "at least 1"),
        (["--nproc=50000"], "too many processes"),
        (["--worker=50000"], "too many processes"),
        (["--nproc=2", "--world_size=1"], "needs world_size"),
    ],
)
def test_what_cannot_work_is_refused(tiny_settings: Settings, keys: list[str], message: str) -> None:
    with pytest.raises(DistillError, match=message):
        run_recbole_derrd("BPR", "tiny", config_dict=tiny_settings("BPR"), command_line=keys)


def test_a_mistake_in_a_process_is_a_sentence(tiny_settings: Settings) -> None:
    settings = tiny_settings("BPR", distillers=["rrd"], rrd_k=30, rrd_l=30, rrd_top_n=30)
    with pytest.raises(DistillError, match="more than the catalogue allows"):
        run_recbole_derrd("BPR", "tiny", config_dict=settings, command_line=["--nproc=2"])
