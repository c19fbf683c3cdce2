"""What the console shows of a run: a line for each step, the table once; everything is in the log file."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_derrd.cli import main
from recbole_derrd.command_line.arguments import read_arguments
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.runtime import console
from recbole_derrd.runtime.console import PRINTED, SHOWN, ConsoleFilter, ConsoleHandler, TrainingBar, shows_bars
from recbole_derrd.training.trainer import trainer_for

ROOT = Path(__file__).resolve().parent.parent
QUICK = "--rrd_k=4 --rrd_l=4 --rrd_top_n=8 --latency_users=0 --epochs=2 --eval_batch_size=4000".split()


@contextlib.contextmanager
def bare_log() -> Iterator[None]:
    """No handlers of pytest's, which come with each phase of a test: beside others RecBole adds none of its own."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    for handler in handlers:
        root.removeHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.addHandler(handler)


def ran(
    tiny_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[str, str, str]:
    """Distil by the command line; return stdout, stderr and the log file."""
    settings = tiny_settings("BPR")
    monkeypatch.chdir(tmp_path)
    own = [f"--{key}={settings[key]}" for key in ("data_path", "checkpoint_dir")]
    with bare_log():
        assert main(["--model=BPR", "--dataset=tiny", "--distillers=[rrd]", *own, *QUICK, *more]) == 0
    out, err = capsys.readouterr()
    (file,) = (tmp_path / "log").rglob("*.log")
    return out, err, file.read_text(encoding="utf-8")


@pytest.mark.parametrize("verbose", [[], ["--verbose"], ["--verbose=True"], ["--state=DEBUG"]], ids=str)
def test_the_log_file_has_everything_and_the_console_what_is_asked_for(
    tiny_settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verbose: list[str],
) -> None:
    out, err, file = ran(tiny_settings, tmp_path, monkeypatch, capsys, *verbose)
    everything = (
        "General Hyper Parameters",
        "The number of users",
        "Trainable parameters",
        "epoch 1 training",
        "Record",
    )
    assert all(words in file for words in everything) and file.count("test split, full ranking") == 1
    assert "Data: tiny" in err and "Student alone: BPR (trained in" in err and "Distilling rrd into BPR" in err
    assert "a student can hardly gain by it" in err, "warnings are on the console whatever is asked for"
    assert ("epoch 1 training" in err) == ("General Hyper" in err) == bool(verbose)
    assert len(err.splitlines()) < 20 or verbose
    assert out.count("Distilled student") == 1 and "Distilled student  BPR" not in err
    told = dict(line.split(": ", 1) for line in out.splitlines() if re.match(r"(Student|Record|Log): ", line))
    assert set(told) == {"Student", "Record", "Log"} and all(Path(path).is_file() for path in told.values())
    assert "\r" not in err and "%|" not in err, "no bars where there is no terminal"


def test_warnings_stay_and_a_quiet_log_still_answers(
    tiny_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err, _ = ran(tiny_settings, tmp_path, monkeypatch, capsys, "--state=WARNING", "--nobody_reads_it=1")
    assert "nobody_reads_it" in err and "INFO" not in err
    assert out.count("Distilled student") == 1 and "nobody_reads_it" in out


def test_a_run_in_code_shows_its_table_unless_told_otherwise(
    tiny_settings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = tiny_settings("BPR", state="INFO", distillers=[], latency_users=0, record_dir=str(tmp_path / "records"))
    for shown in (True, False):
        with bare_log():
            record = run_recbole_derrd("BPR", "tiny", config_dict=plain, show_result=shown)
        out, err = capsys.readouterr()
        assert not out and ("test split, full ranking" in err) == shown
        assert "test split, full ranking" in Path(record["log"]).read_text(encoding="utf-8")


def test_verbose_changes_nothing_but_the_console(tiny_settings: Any) -> None:
    from recbole_derrd.benchmark.plan import experiment_key
    from recbole_derrd.data.prepare import prepare_data
    from recbole_derrd.model_cache.keys import cache_key

    configs = [DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", verbose=one)) for one in (True, False)]
    assert len({cache_key(config, prepare_data(config).fingerprint) for config in configs}) == 1
    assert experiment_key({"verbose": True}, None) == experiment_key({}, None)


def test_a_switch_needs_no_value_and_takes_none_that_follows() -> None:
    for command in ("run", "compress"):
        assert read_arguments(command, ["--verbose", "--epochs=1"]).settings == ["--verbose=True", "--epochs=1"]
    given = read_arguments("benchmark", ["--verbose", "plan.yaml"])
    assert given.names == ["plan.yaml"] and given.settings == ["--verbose=True"]


@pytest.mark.parametrize(
    ("level", "extra", "quiet", "verbose"),
    [
        (logging.INFO, {}, False, True),
        (logging.INFO, SHOWN, True, True),
        (logging.INFO, PRINTED, False, False),
        (logging.WARNING, {}, True, True),
        (logging.ERROR, PRINTED, True, True),
    ],
)
def test_which_lines_the_console_shows(level: int, extra: dict[str, Any], quiet: bool, verbose: bool) -> None:
    record = logging.makeLogRecord({"levelno": level, **extra})
    assert ConsoleFilter(verbose=False).filter(record) == quiet
    assert ConsoleFilter(verbose=True).filter(record) == verbose


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO(), None])
def test_bars_are_for_terminals(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert shows_bars(True) == isinstance(stream, Terminal) and not shows_bars(False)


def test_a_bar_has_all_epochs_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Terminal()
    monkeypatch.setattr(sys, "stderr", told)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(console.tqdm, "__init__", _eager(console.tqdm.__init__))
    with TrainingBar("Teacher BPR", 4, 2, show=True) as bar:
        for epoch in range(2):
            bar.epoch(epoch)
            bar.batch()
            bar.batch()
            bar.best("ndcg@10", 0.25)
        handler = ConsoleHandler(told)
        handler.emit(logging.makeLogRecord({"msg": "a warning", "levelno": logging.WARNING}))
        bar.batch()
    pieces = [piece for piece in re.split(r"[\r\n]", told.getvalue()) if piece.strip()]
    assert all(len(piece) <= 80 for piece in pieces) and "a warning" in pieces, "a bar breaks no line"
    assert any("50%" in piece and "epoch 1 of 4, best ndcg@10 0.2500" in piece for piece in pieces)
    assert told.getvalue().endswith("\r") and not told.getvalue().rpartition("\r")[0].rpartition("\r")[2].strip()


def _eager(stock: Any) -> Any:
    return lambda self, *args, **more: stock(self, *args, **more, mininterval=0, miniters=0)


def test_a_bar_never_passes_its_end() -> None:
    with TrainingBar("x", 2, 1, show=False) as silent:
        silent.epoch(5)
        silent.batch()
    with TrainingBar("x", 2, 1, show=True) as bar:
        for _ in range(5):
            bar.batch()
        assert bar._bar is not None and bar._bar.n == 2
        bar.epoch(1)
        assert bar._bar.n == 1


@pytest.mark.parametrize("verbose", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_recboles_own_bars_come_back_with_verbose(
    tiny_settings: Any, monkeypatch: pytest.MonkeyPatch, verbose: bool, terminal: bool
) -> None:
    from recbole_derrd.data.prepare import prepare_data
    from recbole_derrd.model_cache.building import build_model

    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", verbose=verbose, epochs=1))
    data = prepare_data(config)
    trainer = trainer_for(config, build_model(config, data), role="teacher")
    monkeypatch.setattr("recbole_derrd.training.trainer.shows_bars", lambda wanted: wanted and terminal)
    told = Terminal()
    monkeypatch.setattr(sys, "stderr", told)
    trainer.fit(data.train, data.valid, saved=False, show_progress=True)
    trainer.evaluate(data.test, load_best_model=False, show_progress=True)
    text = told.getvalue()
    assert ("Train     0" in text) == ("Evaluate" in text) == (terminal and verbose)
    assert ("Teacher BPR" in text) == (terminal and not verbose)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="it needs a pseudo-terminal")
def test_the_quick_start_fits_a_screen(tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    first, second = pty.openpty()
    fcntl.ioctl(second, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_recbole_derrd.py"), "--epochs=4"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=second, stderr=second,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    os.close(second)
    said = b""
    while True:
        try:
            piece = os.read(first, 1 << 16)
        except OSError:
            break
        if not piece:
            break
        said += piece
    os.close(first)
    assert process.wait() == 0
    text = said.decode()
    assert text.count("\n") <= 60 and text.count("Distilled student  BPR") == 1
    assert "Teacher BPR" in text and "Student BPR, rrd" in text and "%|" in text
