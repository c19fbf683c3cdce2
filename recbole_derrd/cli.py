"""The command line: ``recbole-derrd run|doctor``, and the script ``run_recbole_derrd.py``; torch waits for a run."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from recbole_derrd import __version__
from recbole_derrd.errors import DistillError, did_you_mean
from recbole_derrd.options import METHOD_OPTIONS, Options, RunOptions

_USAGE = """Knowledge distillation for RecBole: a small recommender learns from a large one.

usage: recbole-derrd [run] [-m MODEL] [-d DATASET] [--config_files="A.yaml B.yaml"] [--key=value ...]
       recbole-derrd doctor
       python run_recbole_derrd.py [the same as run]

commands:
  run       train (or find) the teacher and the plain student, distil, evaluate; without arguments the quick start
  doctor    print versions against the tested ranges and say what is wrong

Any RecBole key is an option (--embedding_size=16 --epochs=50). Priority: command line > config files > defaults.
"""


def _options_help() -> str:
    lines = []
    groups: dict[str, type[Options]] = {"run": RunOptions, **METHOD_OPTIONS}
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
            files += value.replace(",", " ").split()
        else:
            others.append(f"{key}={value}")
    return files, others


def run(arguments: Sequence[str]) -> int:
    """Run one experiment."""
    files, others = _split(arguments)
    if not files and not any(argument.startswith("--model=") for argument in others):
        files = [str(_quick_start_file())]
    # RecBole's and torch's own deprecations are not the user's to mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    from recbole_derrd.quick_start import run_recbole_derrd

    record = run_recbole_derrd(config_file_list=files, command_line=others)
    if not logging.getLogger().isEnabledFor(logging.INFO):
        # A quiet log is no reason to leave without an answer.
        from recbole_derrd.report import run_table

        print(run_table(record), f"Record: {record['path']}", sep="\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the command line; return the exit code: 0, 1 (doctor found something) or 2 (the user's to mend)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
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
        if command == "doctor":
            from recbole_derrd.doctor import doctor

            return doctor()
        raise DistillError(f"Unknown command '{command}'.{did_you_mean(command, ('run', 'doctor'))}")
    except DistillError as error:
        if any(argument.lower() == "--state=debug" for argument in arguments):
            traceback.print_exc()
        print(f"recbole-derrd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "recbole-derrd: stopped. The same command goes on with what is finished (teacher, plain student); with "
            "--resume=True a distillation goes on from its last training checkpoint.",
            file=sys.stderr,
        )
        return 130
