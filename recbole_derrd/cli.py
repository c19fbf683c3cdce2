"""The command line, ``recbole-derrd`` and ``run_recbole_derrd.py``; torch is imported when something is run."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from recbole_derrd import __version__
from recbole_derrd.config.options import Options, RunOptions
from recbole_derrd.config.options.benchmark import BenchmarkOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.config.settings import file_names, read_settings
from recbole_derrd.errors import DistillError, did_you_mean
from recbole_derrd.registry import METHODS
from recbole_derrd.runtime.machine_errors import sentence_of

_COMMANDS = ("run", "compress", "benchmark", "report", "doctor")

_USAGE = """Knowledge distillation for RecBole: a small recommender learns from a large one.

usage: recbole-derrd [run] [-m MODEL] [-d DATASET] [--config_files="A.yaml B.yaml"] [--key=value ...]
       recbole-derrd compress --compress_method=svd|quantized|product [the same as run]
       recbole-derrd benchmark FILE.yaml [--jobs=N] [--dry=True] [--only=[CELL, ...]] [--key=value ...]
       recbole-derrd report FOLDER [FOLDER ...] [--format=md|tex|html] [--out=FILE] [--plots=FOLDER]
                            [--baseline=ROW] [--metric=NAME] [--split=test|valid]
       recbole-derrd doctor
       python run_recbole_derrd.py [the same as run]

commands:
  run       train (or find) the teacher and the plain student, distil, evaluate; without arguments the quick start
  compress  make the run's teacher smaller without any training (SVD, bits, codebooks): what a student must beat
  benchmark run a grid of models, distillers, sizes and seeds; what is recorded already is skipped
  report    make tables, tests and plots from folders of records; html is one file with everything in it
  doctor    print versions against the tested ranges and say what is wrong

Any RecBole key is an option (--embedding_size=16 --epochs=50). Priority: command line > config files > defaults.
"""


def _options_help() -> str:
    lines = ["", "methods, for --distillers=[NAME, ...]; 'recbole-derrd help NAME' shows the options of one:"]
    lines += [f"  {name:<10}{method.summary}" for name, method in METHODS.items()]
    groups: dict[str, type[Options]] = {
        "run": RunOptions,
        "compress": CompressOptions,
        "a benchmark file": BenchmarkOptions,
    }
    for title, group in groups.items():
        lines.append(f"\noptions of {title}:")
        for key, kind, default, limits, doc in group.describe():
            shown = "none" if default is None else default
            lines.append(f"  --{key}=  ({kind}{', ' + limits if limits else ''}; default {shown})\n      {doc}")
    return "\n".join(lines)


def _quick_start_file() -> Path:
    beside = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
    return beside if beside.exists() else Path("configs") / "quickstart.yaml"


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (config files, the other ``--key=value`` arguments); RecBole's short forms are spelt out."""
    spelt = {"-m": "--model", "-d": "--dataset", "--config": "--config_files"}
    files: list[str] = []
    others: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        key, equals, value = argument.partition("=")
        key = spelt.get(key, key)
        if not equals and key in ("--model", "--dataset", "--config_files"):
            if not pending:
                raise DistillError(f"{argument} needs a value, e.g. {key}=NAME.")
            value = pending.pop(0)
        elif not equals:
            raise DistillError(f"Cannot read the argument '{argument}'. Options are given as --key=value; see --help.")
        if key == "--config_files":
            files += file_names(value)
        else:
            others.append(f"{key}={value}")
    return files, others


#: What RecBole's own script takes where no data set is given; it comes with RecBole.
_DATASET = "ml-100k"


def _names_data(files: Sequence[str], arguments: Sequence[str]) -> bool:
    """Return whether the command line or a config file names a data set."""
    return any(argument.startswith("--dataset=") for argument in arguments) or any(
        "dataset" in read_settings(file) for file in files
    )


def run(arguments: Sequence[str], *, compressed: bool = False) -> int:
    """Run one experiment, or compress its teacher."""
    files, others = _split(arguments)
    if not files and not any(argument.startswith("--model=") for argument in others):
        files = [str(_quick_start_file())]
    if compressed:
        from recbole_derrd.experiment.compress import run_compressed as experiment
    else:
        from recbole_derrd.quick_start import run_recbole_derrd as experiment

    notes = []
    if not _names_data(files, others):
        others.append(f"--dataset={_DATASET}")
        notes.append(f"No dataset is given, so {_DATASET} is taken, as RecBole's own script does.")
    record = experiment(config_file_list=files, command_line=others, notes=notes)
    if not logging.getLogger().isEnabledFor(logging.INFO):
        # A quiet log is no reason to leave without an answer.
        from recbole_derrd.report import run_table

        print(run_table(record), f"Record: {record['path']}", sep="\n")
    return 0


def _names_and_options(command: str, example: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (files or folders, at least one; ``--key=value`` arguments); ``--key value`` is spelt out."""
    names: list[str] = []
    options: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        if not argument.startswith("-"):
            names.append(argument)
        elif "=" in argument:
            options.append(argument)
        elif pending and not pending[0].startswith("-"):
            options.append(f"{argument}={pending.pop(0)}")
        else:
            raise DistillError(f"{argument} needs a value, e.g. {argument}=VALUE.")
    if not names:
        raise DistillError(f"'{command}' needs a name: recbole-derrd {command} {example}")
    return names, options


_A_BENCHMARK = "configs/benchmark/quick.yaml"


def benchmark(arguments: Sequence[str]) -> int:
    """Run what is left of a benchmark."""
    from recbole_derrd.benchmark.plan import read_plan

    (file, *more), options = _names_and_options("benchmark", _A_BENCHMARK, arguments)
    if more:
        raise DistillError(f"'benchmark' needs one name: recbole-derrd benchmark {_A_BENCHMARK}")
    plan = read_plan(file, options)
    from recbole_derrd.benchmark.runner import run_benchmark

    return run_benchmark(plan, ["-m", "recbole_derrd", "benchmark", file, *options])


_REPORT_OPTIONS = ("format", "out", "plots", "baseline", "split", "metric")


def report(arguments: Sequence[str]) -> int:
    """Make a report of folders of records: printed, or written where ``--out`` says; HTML of one beside its records."""
    names, options = _names_and_options("report", "records/", arguments)
    given: dict[str, str] = {}
    for argument in options:
        key, _, value = argument.lstrip("-").partition("=")
        if key not in _REPORT_OPTIONS:
            raise DistillError(f"Unknown option '--{key}' of report.{did_you_mean(key, _REPORT_OPTIONS)}")
        given[key] = value
    from recbole_derrd.report.rows import SPLITS
    from recbole_derrd.report.write import FORMATS, report_of, write_report

    kind = given.get("format", "md")
    if kind not in FORMATS:
        raise DistillError(f"--format cannot be '{kind}'. It is one of: {', '.join(FORMATS)}.")
    if kind == "html" and len(names) > 1 and "out" not in given:
        raise DistillError("An HTML report of several folders needs a place: --out=FILE.html.")
    split = given.get("split", "test")
    if split not in SPLITS:
        raise DistillError(f"--split cannot be '{split}'. It is one of: {', '.join(SPLITS)}.")
    plots = Path(given["plots"]) if "plots" in given else None
    beside = Path(given["out"]).parent if "out" in given else None
    metric = given["metric"].lower() if "metric" in given else None
    text = report_of(
        [Path(name) for name in names],
        kind,
        baseline=given.get("baseline"),
        plots=plots,
        split=split,
        metric=metric,
        beside=beside,
    )
    if "out" in given or kind == "html":
        write_report(text, Path(given.get("out") or Path(names[0]) / "report.html"))
    else:
        print(text, end="")
    return 0


class _StoppedError(KeyboardInterrupt):
    """A signal that asks the process to end; everything is left as Ctrl-C leaves it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _: object) -> None:
    # Who asks twice does not want to wait.
    signal.signal(number, signal.SIG_DFL)
    raise _StoppedError(number)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the process as Ctrl-C does, unless they are ignored (nohup) or somebody's else."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    alone = threading.current_thread() is threading.main_thread()
    taken = [number for number in numbers if alone and signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _open_streams() -> None:
    """Give the process the three standard streams: where one is closed, the next file to be opened would be it."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        # A terminal without ± shows a ? instead of a traceback.
        with contextlib.suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="replace")


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the command line; return the exit code.

    0, 1 (doctor found something, or a defect of this program), 2 (the user's to mend), 130, 143 or 129 (stopped by
    Ctrl-C, SIGTERM or SIGHUP) or 141 (nobody reads on).
    """
    _open_streams()
    try:
        with _stopped_by_signals():
            code = _answer(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads_on():
            raise
        _let_go_of(sys.stdout)
        return 141
    except OSError as error:
        _say(f"Cannot write to the standard output: {error.strerror or error}.")
        _let_go_of(sys.stdout)
        return 2
    return code


def _let_go_of(stream: TextIO) -> None:
    # Python would complain once more, or give another exit code, when it flushes at its end.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(message: str) -> None:
    # Text of files and records may be in it, which must not steer a terminal.
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in message
    )
    try:
        print(f"recbole-derrd: {shown}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        # Where nothing can be said, the exit code must do.
        _let_go_of(sys.stderr)


def _nobody_reads_on() -> bool:
    """Return whether it is our own output whose reader (| head) has gone; other pipes break as well."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLERR)
        poll.register(sys.stderr.fileno(), select.POLLERR)
    except (AttributeError, OSError, ValueError):
        # Windows has no poll; a stdout that is no file has no reader.
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _output_is_full() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _answer(arguments: list[str]) -> int:
    if any(argument in ("-h", "--help") for argument in arguments):
        print(_USAGE + _options_help())
        return 0
    if "--version" in arguments:
        print(__version__)
        return 0
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "run"
    try:
        if command == "run":
            return run(arguments)
        if command == "compress":
            return run(arguments, compressed=True)
        if command == "benchmark":
            return benchmark(arguments)
        if command == "report":
            return report(arguments)
        if command == "doctor":
            from recbole_derrd.doctor import doctor

            return doctor()
        raise DistillError(f"Unknown command '{command}'.{did_you_mean(command, _COMMANDS)}")
    except DistillError as error:
        if any(argument.lower() == "--state=debug" for argument in arguments):
            traceback.print_exc()
        _say(str(error))
        return 2
    except KeyboardInterrupt as error:
        return _stopped(command, getattr(error, "number", signal.SIGINT))
    except Exception as error:
        if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and _output_is_full()):
            raise
        return _failed(error, arguments)


def _stopped(command: str, number: int) -> int:
    if command == "benchmark":
        _say("stopped. The same command goes on where it was.")
    elif command in ("run", "compress"):
        _say(
            "stopped. The same command with --resume=True goes on from the last training checkpoint; without it, a "
            "training that was interrupted begins anew, and only finished models are found again."
        )
    else:
        _say("stopped.")
    return 128 + number


def _failed(error: Exception, arguments: Sequence[str]) -> int:
    """Say what ended the program: the machine's refusals in a sentence, a defect with all that helps to find it."""
    sentence = sentence_of(error)
    if sentence is None or any(argument.lower() == "--state=debug" for argument in arguments):
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exc()
    if sentence is None:
        _say(
            "this should not have happened. Unless it is an error of a model or a method of your own, please report "
            "it, with the lines above, your settings, and what 'recbole-derrd doctor' prints."
        )
        return 1
    _say(sentence)
    return 2
