"""The command line, ``recbole-derrd`` and ``run_recbole_derrd.py``; torch is imported when something is run."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from recbole_derrd import __version__
from recbole_derrd.checkpoint_commands import evaluate, export, recommend, shrink
from recbole_derrd.command_line.arguments import one_of, read_arguments, unknown_command
from recbole_derrd.command_line.commands import COMMANDS
from recbole_derrd.command_line.help_pages import command_help, general_help, help_of
from recbole_derrd.command_line.signals import stopped_by_signals
from recbole_derrd.command_line.streams import (
    OutputError,
    has_lost_its_reader,
    let_go_of,
    log_error,
    open_streams,
    output_is_full,
    print_out,
)
from recbole_derrd.errors import DistillError
from recbole_derrd.runtime.machine_errors import sentence_of

#: What RecBole's own script takes where no data set is given; it comes with RecBole.
_DATASET = "ml-100k"


def run(arguments: Sequence[str]) -> int:
    """Run one experiment."""
    return _experiment("run", arguments)


def compress(arguments: Sequence[str]) -> int:
    """Compress the teacher of an experiment."""
    return _experiment("compress", arguments)


def _experiment(command: str, arguments: Sequence[str]) -> int:
    # Read where they are used, for what serves exports needs numpy alone.
    from recbole_derrd.config.settings import file_names, read_settings
    from recbole_derrd.config.shipped import shipped_file

    given = read_arguments(command, arguments)
    files = [name for text in given.options["config_files"] or [] for name in file_names(text)]
    named = {key: given.options[key] or [] for key in ("model", "dataset")}
    others = [f"--{key}={value}" for key, values in named.items() for value in values] + given.settings
    if not files and not named["model"]:
        files = [str(shipped_file("quickstart"))]
    if command == "compress":
        from recbole_derrd.experiment.compress import run_compressed as experiment
    else:
        from recbole_derrd.quick_start import run_recbole_derrd as experiment

    notes = []
    if not named["dataset"] and not any("dataset" in read_settings(file) for file in files):
        others.append(f"--dataset={_DATASET}")
        notes.append(f"No dataset is given, so {_DATASET} is taken, as RecBole's own script does.")
    record = experiment(config_file_list=files, command_line=others, notes=notes, show_result=False)
    if record:
        print_out(_answer_of(record))
    return 0


def _answer_of(record: dict[str, Any]) -> str:
    """Return what a run prints: its table, and where its files are."""
    from recbole_derrd.report import RunRecord, run_table

    stored = record.get("stored") or {}
    files = {
        "Student": (record["checkpoints"] or {}).get("student"),
        f"In {stored.get('bits')} bits, as an export": stored.get("file"),
        "Record": record["path"],
        "Log": record["log"],
    }
    shown = [f"{what}: {path}" for what, path in files.items() if path]
    return "\n".join([run_table(RunRecord.from_json(record)), "", *shown, ""])


def benchmark(arguments: Sequence[str]) -> int:
    """Run what is left of a benchmark."""
    from recbole_derrd.benchmark.plan import read_plan

    given = read_arguments("benchmark", arguments)
    (file,) = given.names
    plan = read_plan(file, given.settings)
    from recbole_derrd.benchmark.runner import run_benchmark

    return run_benchmark(plan, ["-m", "recbole_derrd", "benchmark", file, *given.settings])


def frontier(arguments: Sequence[str]) -> int:
    """Run what is left of a frontier, and show quality against bytes."""
    given = read_arguments("frontier", arguments)
    (file,) = given.names
    picture, also = given.options["plot"], [Path(name) for name in [given.options["also"]] if name]
    from recbole_derrd.report.frontier_pages import frontier_page, refuse_picture
    from recbole_derrd.report.reading import records_of

    if picture is not None:
        refuse_picture(Path(picture))
    # Before anything is trained.
    records_of(*also)
    from recbole_derrd.benchmark.frontier import read_frontier
    from recbole_derrd.benchmark.runner import run_benchmark

    plan = read_frontier(file, given.settings)
    code = run_benchmark(plan, ["-m", "recbole_derrd", "frontier", file, *given.settings])
    if not plan.options.dry:
        path = Path(picture) if picture else plan.record_dir / "frontier.svg"
        print_out(frontier_page([plan.record_dir, *also], path))
    return code


def report(arguments: Sequence[str]) -> int:
    """Make a report of records: printed, or written where ``--out`` says; HTML of one beside its records."""
    given = read_arguments("report", arguments)
    from recbole_derrd.report.document import FORMATS, html_beside, report_of, write_report
    from recbole_derrd.report.plots import PLOTS_NEED, can_plot
    from recbole_derrd.report.titles import SPLITS

    options, places = given.options, [Path(name) for name in given.names]
    kind = one_of("format", options["format"], FORMATS, "md")
    out, plots = (Path(options[key]) if options[key] is not None else None for key in ("out", "plots"))
    if kind == "html" and len(places) > 1 and out is None:
        raise DistillError("An HTML report of several folders needs a place: --out=FILE.html.")
    text = report_of(
        places,
        kind,
        baseline=options["baseline"],
        plots=plots,
        split=one_of("split", options["split"], SPLITS, "test"),
        metric=options["metric"] and options["metric"].lower(),
        beside=out and out.parent,
    )
    if out is not None or kind == "html":
        write_report(text, out or html_beside(places[0]))
        if kind == "html" and not can_plot():
            print(f"It has no plots. {PLOTS_NEED}", file=sys.stderr)
    else:
        print_out(text)
    return 0


def convert(arguments: Sequence[str]) -> int:
    """Write an atomic file from a table, and say what is in it and what to run next."""
    given = read_arguments("convert", arguments)
    from recbole_derrd.data.convert import FIELDS, convert, summary
    from recbole_derrd.data.source_table import Source

    options, (file,) = given.options, given.names
    for key in ("user", "item", "out"):
        if not options[key]:
            raise DistillError(f"'convert' needs --{key}={'dataset/NAME' if key == 'out' else 'COL'}.")
    columns = {key: options[key] for key in FIELDS if options[key] is not None}
    source = Source(Path(file), columns, options["sep"], options["encoding"] or "utf-8")
    switches = {key: options[key] for key in ("drop_missing", "drop_duplicates", "force")}
    print_out(summary(convert(source, Path(options["out"]), **switches), source))
    return 0


def doctor(arguments: Sequence[str]) -> int:
    """Compare the installation with what was tested."""
    read_arguments("doctor", arguments)
    from recbole_derrd.doctor import doctor as findings

    return findings()


def show_help(arguments: Sequence[str]) -> int:
    """Show the help of commands and methods."""
    print_out(help_of(read_arguments("help", arguments).names))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the command line; return the exit code.

    0, 1 (doctor found something, or a defect of this program), 2 (the user's to mend), 130, 143 or 129 (stopped by
    Ctrl-C, SIGTERM or SIGHUP) or 141 (the reader of the output has gone).
    """
    open_streams()
    try:
        with stopped_by_signals():
            code = _answer(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        if not has_lost_its_reader():
            raise
        let_go_of(sys.stdout)
        return 141
    except OSError as error:
        log_error(f"Cannot write to the standard output: {error.strerror or error}.")
        let_go_of(sys.stdout)
        return 2
    return code


def _answer(arguments: list[str]) -> int:
    """Do what the first argument names, or a run; turn every error into a sentence and an exit code."""
    named = bool(arguments) and not arguments[0].startswith("-")
    command, rest = (arguments[0], arguments[1:]) if named else ("run", arguments)
    # Looked up by name at each call.
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "run": run, "compress": compress, "benchmark": benchmark, "report": report, "convert": convert,
        "export": export, "evaluate": evaluate, "recommend": recommend, "shrink": shrink, "frontier": frontier,
        "doctor": doctor, "help": show_help,
    }  # fmt: skip
    try:
        if any(argument in ("-h", "--help") for argument in rest):
            print_out(command_help(command) if named and command in COMMANDS else general_help())
            return 0
        if "--version" in rest:
            print_out(f"{__version__}\n")
            return 0
        if command not in commands:
            raise unknown_command(command)
        return commands[command](rest)
    except DistillError as error:
        if _debugging(arguments):
            traceback.print_exc()
        log_error(str(error))
        return 2
    except KeyboardInterrupt as error:
        return _stopped(command, getattr(error, "number", signal.SIGINT))
    except Exception as error:
        if isinstance(error, (BrokenPipeError, OutputError)) or (isinstance(error, OSError) and output_is_full()):
            raise
        return _failed(error, arguments)


def _debugging(arguments: Sequence[str]) -> bool:
    return any(argument.lower() == "--state=debug" for argument in arguments)


def _stopped(command: str, number: int) -> int:
    if command in ("benchmark", "frontier", "shrink"):
        log_error("stopped. The same command goes on where it was.")
    elif command in ("run", "compress"):
        log_error(
            "stopped. The same command with --resume goes on from the last training checkpoint; without it, a "
            "training that was interrupted begins anew, and only finished models are found again."
        )
    else:
        log_error("stopped.")
    return 128 + number


def _failed(error: Exception, arguments: Sequence[str]) -> int:
    """Log what ended the program: the machine's refusals in a sentence, a defect with all that helps to find it."""
    sentence = sentence_of(error)
    if isinstance(error, ModuleNotFoundError) and error.name == "recbole":
        from recbole_derrd.doctor import without_recbole

        sentence = without_recbole()
    if sentence is None or _debugging(arguments):
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exc()
    if sentence is None:
        log_error(
            "this should not have happened. Unless it is an error of a model or a method of your own, please report "
            "it, with the lines above, your settings, and what 'recbole-derrd doctor' prints."
        )
        return 1
    log_error(sentence)
    return 2
