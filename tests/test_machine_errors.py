"""What the machine refuses is a sentence and exit code 2; a signal ends a run cleanly; a defect keeps its traceback."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

from recbole_derrd import cli
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.errors import DistillError
from recbole_derrd.experiment.log import most_threads, own_log
from recbole_derrd.recbole_compat.archive import Archive
from recbole_derrd.runtime.machine_errors import limit_reached, sentence_of
from recbole_derrd.training.checkpoint import read_plain, write_plain

ALLOCATION = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "40000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory is not enough: no more was to be had"),
        (MemoryError("Unable to allocate 3.2 GiB for an array with shape (5, 6)"), "Unable to allocate 3.2 GiB"),
        (RuntimeError(ALLOCATION), "memory is not enough: DefaultCPUAllocator"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "Tried to allocate 2 GiB"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory is not enough"),
        (OSError(errno.EMFILE, "Too many open files", "a.pth"), "ulimit -n"),
        (ImportError("libx.so: cannot open shared object file: Too many open files"), "ulimit -n"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more threads"),
        (OSError(errno.ENOSPC, "No space left on device", "a.pth"), "'a.pth': No space left on device. Free space"),
        (OSError(errno.EROFS, "Read-only file system", "log"), "'log': Read-only file system. Choose another"),
        (OSError(errno.EXDEV, "Invalid link", "a", None, "b"), "'a' and 'b': Invalid link."),
        (OSError("something of a library"), "something of a library"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_the_machine_refuses(error: Exception, words: str) -> None:
    assert words in str(sentence_of(error)) and "enforce fail" not in str(sentence_of(error))


@pytest.mark.parametrize(
    "error",
    [ValueError("out of memory"), KeyError("x"), RuntimeError("mat1 and mat2 cannot be multiplied"), TypeError()],
)
def test_what_is_a_defect(error: Exception) -> None:
    assert sentence_of(error) is None and limit_reached(error) is None


def raising(error: BaseException) -> Callable[..., int]:
    def command(_: Any) -> int:
        raise error

    return command


def test_a_refusal_is_a_sentence_and_a_defect_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "report", raising(MemoryError("Unable to allocate 3.2 GiB")))
    assert cli.main(["report", "records"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recbole-derrd: The memory is not enough") and "Traceback" not in said
    assert cli.main(["report", "records", "--state=debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr(cli, "report", raising(ZeroDivisionError("our fault")))
    assert cli.main(["report", "records"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "our fault" in said and "please report it" in said


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
@pytest.mark.parametrize("command", ["run", "benchmark", "report"])
def test_a_signal_ends_in_a_sentence_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, code: int, command: str
) -> None:
    number = getattr(signal, name)
    own = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, own)

    def wait(_: Any) -> int:
        os.kill(os.getpid(), number)
        time.sleep(10)
        return 0

    monkeypatch.setattr(cli, command, wait)
    try:
        assert cli.main([command, "x"]) == code
        assert "recbole-derrd: stopped." in capsys.readouterr().err
        assert signal.getsignal(number) == own
    finally:
        signal.signal(number, before)


def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run under nohup outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def wait(_: Any) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    try:
        monkeypatch.setattr(cli, "report", wait)
        assert cli.main(["report", "x"]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# -- whole processes; those that do not import torch are quick


def shell(command: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a folder, in which ``derrd`` is the command line."""
    root = str(Path(cli.__file__).resolve().parents[1])
    command = f'derrd() {{ {sys.executable} -m recbole_derrd "$@"; }}; {command}'
    known = {key: value for key, value in os.environ.items() if key not in environment or environment[key]}
    known.update({key: value for key, value in environment.items() if value})
    known["PYTHONPATH"] = root
    return subprocess.run(
        ["bash", "-c", command], cwd=home, env=known, capture_output=True, text=True, timeout=3600, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("derrd --help > /dev/full", 2, "Cannot write to the standard output: No space left on device"),
        ("derrd --version > /dev/full", 2, "Cannot write to the standard output: No space left on device"),
        ("derrd report --help > /dev/full", 2, "Cannot write to the standard output: No space left on device"),
        ("derrd help doctor > /dev/full", 2, "Cannot write to the standard output: No space left on device"),
        ("PYTHONUNBUFFERED=1 derrd help > /dev/full", 2, "Cannot write to the standard output: No space left"),
        ("derrd --help >&-", 0, ""),
        ("derrd report nowhere >&- 2>&-", 2, ""),
        ("derrd report nowhere 2> /dev/full", 2, ""),
    ],
)
def test_an_output_that_takes_nothing_is_no_traceback(tmp_path: Path, command: str, code: int, words: str) -> None:
    done = shell(command, tmp_path)
    assert done.returncode == code and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert words in done.stderr


@pytest.fixture
def arguments(tiny_data: Path) -> str:
    """Arguments of a short run."""
    return (
        f"--model=BPR --dataset=tiny --data_path={tiny_data} --distillers=[rrd] --epochs=1 --rrd_k=4 --rrd_l=4 "
        "--rrd_top_n=8 --show_progress=False --eval_batch_size=4000 --threads=1 --latency_users=0"
    )


@pytest.mark.slow
def test_a_poor_environment_is_enough(tmp_path: Path, arguments: str) -> None:
    done = shell(
        f"derrd run {arguments}",
        tmp_path,
        HOME="",
        TMPDIR="/nowhere",
        LC_ALL="C",
        PYTHONIOENCODING="ascii",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr and len(list((tmp_path / "records").glob("*.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130)])
def test_a_stopped_run_leaves_nothing_half_written(tmp_path: Path, arguments: str, name: str, code: int) -> None:
    kept = [argument for argument in arguments.split() if not argument.startswith("--epochs=")]
    kept += ["--epochs=100000", "--stopping_step=100000", "--verbose", *(["--nproc=2"] if name == "TERM" else [])]
    process = subprocess.Popen(
        [sys.executable, "-m", "recbole_derrd", "run", *kept],
        # A background job of a shell inherits an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).resolve().parents[1]), "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 3 training" in line:
            break
    process.send_signal(getattr(signal, f"SIG{name}"))
    said = process.stderr.read()
    assert process.wait(600) == code and "recbole-derrd: stopped." in said and "Traceback" not in said
    left = [str(path) for path in tmp_path.rglob("*") if ".partial-" in path.name or path.name.startswith("pymp-")]
    assert not left
    end = time.monotonic() + 600
    with pytest.raises(ProcessLookupError):
        # Helpers end a moment later.
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.05)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EACCES, "Permission denied"),
    ],
    ids=str,
)
def test_what_the_machine_refuses_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any) -> Any:
        raise error

    write_plain(tmp_path / "a.pth", {"x": torch.ones(3)})
    monkeypatch.setattr(Archive, "storage", refuse)
    with pytest.raises(DistillError) as caught:
        read_plain(tmp_path / "a.pth")
    assert "damaged" not in str(caught.value) and "emove it" not in str(caught.value)


def test_too_many_threads_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert most_threads(2) == 64 and most_threads(64) == 256
    kept = [argument for argument in arguments.split() if "threads" not in argument]
    for threads, words in ((5000, "at most 1024"), (-1, "at least 0"), (1000, "too many for the")):
        assert cli.main(["run", *kept, f"--threads={threads}", "--state=WARNING"]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["log", "log_tensorboard", "log_tensorboard "])
def test_folders_of_logs_that_cannot_be_written_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, name: str
) -> None:
    """Before anything is trained; a dangling link stands for a folder that cannot be made."""
    monkeypatch.chdir(tmp_path)
    if name.endswith(" "):
        Path(name.strip()).symlink_to("/nowhere/else")
    else:
        Path(name).write_text("a file")
    handlers = list(logging.getLogger().handlers)
    assert cli.main(["run", *arguments.split(), "--state=WARNING"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("recbole-derrd: Cannot write") and "another folder" in said[-1]
    assert logging.getLogger().handlers == handlers and not list(tmp_path.rglob("*.pth"))


def test_a_log_that_cannot_be_written_is_said_once_and_the_run_goes_on(
    tiny_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # RecBole adds its handlers to a root that has none.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", state="INFO"))
    with own_log(config):
        (handler,) = (one for one in logging.getLogger().handlers if isinstance(one, logging.FileHandler))
        handler.stream.close()
        handler.stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
        for number in range(3):
            logging.getLogger().info(f"line {number}")
        handler.stream.write("left for the end")
    said = capsys.readouterr().err
    assert said.count("Cannot write") == 2 and "its log is not whole" in said and "Traceback" not in said
    assert "No space left" in said
