"""What the command line's help shows: the whole of it, a command, a method."""

from __future__ import annotations

import functools
import re
import shutil
import textwrap
from collections.abc import Collection, Iterable
from typing import Any, Callable

from recbole_derrd.command_line.commands import COMMANDS, parsers
from recbole_derrd.config.options import Options, RunOptions
from recbole_derrd.config.options.benchmark import BenchmarkOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.config.options.frontier import FrontierOptions
from recbole_derrd.config.shipped import shipped_folder, shipped_names, summary_of
from recbole_derrd.errors import DistillError, did_you_mean
from recbole_derrd.registry import METHODS, PUBLISHED_TOGETHER, method_class, method_names

#: What is shown beside commands and methods.
_CONFIGS = "configs"
_OPTIONS = "options"
#: What the help of a run explains; the page of all options has the others.
_FIRST = ("distillers", "teacher_model", "teacher", "teacher_checkpoint", "store_bits", "resume", "verbose")
_ANY_KEY = (
    "Any RecBole key is an option (--embedding_size=16 --epochs=50). Priority: command line > config files > defaults."
)


def general_help() -> str:
    """Return what ``--help`` shows: commands and methods."""
    parser, _ = parsers()
    parser.description = "Knowledge distillation for RecBole: a small recommender learns from a large one."
    more = _wrapped("'recbole-derrd COMMAND --help' shows the options of a command.")
    parser.epilog = "\n\n".join([more, *_method_list(), _other_options()])
    return parser.format_help()


def command_help(name: str) -> str:
    """Return what ``COMMAND --help`` shows."""
    parser, summary = parsers()[1][name], COMMANDS[name].summary
    parser.description = _wrapped(f"{summary[0].upper()}{summary[1:]}.")
    after: dict[str, Callable[[], str]] = {
        "run": _run_help,
        "compress": lambda: "\n\n".join([_options("options of compress", CompressOptions), _wrapped(_ANY_KEY)]),
        "benchmark": functools.partial(_benchmark_help, BenchmarkOptions, ()),
        "frontier": functools.partial(_benchmark_help, FrontierOptions, ("bytes", "kinds", "ways", "seeds", "jobs")),
        "help": lambda: "\n\n".join(_method_list()),
    }
    parser.epilog = after[name]() if name in after else None
    return parser.format_help()


def help_of(names: Iterable[str]) -> str:
    """Return the help of commands and methods; the general help where there is no name.

    Raises:
        DistillError: there is no such command or method.
    """
    pages = [page for name in names for page in _pages(name)]
    return "\n\n".join(page.rstrip("\n") for page in pages) + "\n" if pages else general_help()


def _pages(name: str) -> list[str]:
    if name in COMMANDS:
        return [command_help(name)]
    if name == _CONFIGS:
        return [_shipped_configs()]
    if name == _OPTIONS:
        return ["\n\n".join([_options("options of a run", RunOptions), _wrapped(_ANY_KEY)])]
    methods = method_names([name])
    for method in methods:
        # What is no path of names would not be refused in a sentence by the import.
        if method not in METHODS and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", method):
            known = [*COMMANDS, _CONFIGS, _OPTIONS, *METHODS, *PUBLISHED_TOGETHER]
            raise DistillError(
                f"There is no command or method '{name}'.{did_you_mean(name, known)} A method of your own is given by "
                "its dotted path, package.module.Class."
            )
    return [_method_help(method) for method in methods]


def _shipped_configs() -> str:
    names = shipped_names()
    title = "configurations that come with the package, for --config_files=NAME; benchmark/... for 'benchmark':"
    width = max(map(len, names)) + 2
    rows = [_wrapped(f"{name:<{width}}{summary_of(name)}", "  ", " " * (width + 2)) for name in names]
    return "\n".join([title, *rows, f"They lie in {shipped_folder()}."])


def _method_help(name: str) -> str:
    """Return what a method is, what to cite, and its options."""
    method = method_class(name)
    summary = METHODS[name].summary if name in METHODS else _first_sentence(method.__doc__)
    lines = [_wrapped(f"{name}: {summary}" if summary else name)]
    published = _first_sentence(method.options_class.__doc__)
    if name in METHODS and published:
        lines.append(_wrapped(published))
    if method.citation:
        lines.append(_wrapped(f"cite: {method.citation}."))
    lines.append(_wrapped(f"use: --distillers=[{name}], alone or with other methods"))
    lines.append(_options(f"options of {name}", method.options_class))
    for student in method.student_defaults:
        own = " ".join(f"--{key}={value}" for key, value in method.defaults_for(student).items())
        lines.append(_wrapped(f"defaults for a {student} student: {own}"))
    lines += _presets(method.options_class)
    return "\n\n".join(lines)


def _presets(group: type[Options]) -> list[str]:
    """Return a method's published settings by name, as one paragraph; none where it has none."""
    rows = [
        _wrapped(f"{name}: {' '.join(f'--{key}={value}' for key, value in values.items())}", "  ", " " * 6)
        for name, values in group.presets().items()
    ]
    return ["\n".join([f"presets, for --{group.prefix}preset=NAME:", *rows])] if rows else []


def _run_help() -> str:
    shown = _options("options of a run, the first of them", RunOptions, _FIRST)
    methods = _wrapped(f"methods, for --distillers=[NAME, ...]: {', '.join([*METHODS, *PUBLISHED_TOGETHER])}.")
    return "\n\n".join([methods, shown, _other_options(), _wrapped(_ANY_KEY)])


def _other_options() -> str:
    return _wrapped(
        "'recbole-derrd help options' shows all options of a run, 'recbole-derrd help NAME' those of a method."
    )


def _benchmark_help(kind: type[Options], only: Collection[str]) -> str:
    keys = _options("options, which are also keys of the file", kind, only)
    more = "The file's other keys are those of a benchmark ('recbole-derrd help benchmark'). " if only else ""
    return "\n\n".join([keys, _wrapped(f"{more}Any other --key=value is a setting over those of every run.")])


def _method_list() -> list[str]:
    title = "methods, for --distillers=[NAME, ...]; 'recbole-derrd help NAME' shows the options of one:"
    together = "; ".join(f"{name} is {', '.join(parts)}" for name, parts in PUBLISHED_TOGETHER.items())
    rows = [_wrapped(f"{name:<10}{method.summary}", "  ", " " * 12) for name, method in METHODS.items()]
    return ["\n".join([title, *rows]), _wrapped(f"Published together: {together}.")]


def _options(title: str, group: type[Options], only: Collection[str] = ()) -> str:
    """Return each option with type, limits, default and meaning, or some of them."""
    lines = [f"{title}:"]
    for key, kind, default, limits, meaning in group.describe():
        if only and key not in only:
            continue
        lines.append(f"  --{key}=  ({kind}{', ' + limits if limits else ''}; default {_as_value(default)})")
        lines.append(_wrapped(meaning, " " * 6, " " * 6))
    return "\n".join(lines)


def _as_value(default: Any) -> str:
    return "none" if default is None else str(default)


def _first_sentence(text: str | None) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _wrapped(text: str, first: str = "", others: str = "") -> str:
    # A name that is longer than the terminal is wide stays whole, to be copied.
    width = max(40, min(shutil.get_terminal_size().columns, 120))
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
