"""Reading what follows a command: its own options by argparse, settings (``--key=value``) as they are written."""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from recbole_derrd.command_line.commands import COMMANDS, FLAGS, OPTIONS, parsers
from recbole_derrd.command_line.switches import TRUTHS, is_switch
from recbole_derrd.config.options import Options, RunOptions
from recbole_derrd.config.options.benchmark import BenchmarkOptions
from recbole_derrd.config.options.frontier import FrontierOptions
from recbole_derrd.config.options.recbole import RecBoleOptions
from recbole_derrd.errors import DistillError, did_you_mean, nearest
from recbole_derrd.registry import METHODS

_EXAMPLES = {
    "benchmark": "benchmark/quick",
    "frontier": "frontier/quick",
    "report": "records/",
    "convert": "interactions.csv --user=COL --item=COL --out=dataset/NAME",
    "export": "saved/BPR.pth --out=export",
    "evaluate": "saved/BPR.pth",
    "recommend": "export --users=all",
    "shrink": "saved/BPR.pth --bytes=20",
}
#: Commands that read checkpoints, and the names of files beside them that are none.
_CHECKPOINTS, _TRAINING = ("evaluate", "export", "recommend", "shrink"), ".training.pth"
#: Commands of one name.
_ALONE = ("benchmark", "frontier", "convert", "export", "recommend", "shrink")
#: Commands whose options are also keys of their file.
_KEYS_OF_FILES: dict[str, type[Options]] = {"benchmark": BenchmarkOptions, "frontier": FrontierOptions}
#: Settings, among them all that are spelt like an option of a command; a test compares them with RecBole's keys.
_SETTINGS = {*RunOptions.keys(), *RecBoleOptions.keys(), "topk"}
#: How alike a misspelt option is to the one that was meant.
_ALIKE = 0.8


class Given(NamedTuple):
    """What the user has written after a command.

    Attributes:
        names: files, folders or names.
        options: the command's own options.
        settings: all other options as ``--key=value``.
    """

    names: list[str]
    options: dict[str, Any]
    settings: list[str]


def read_arguments(name: str, arguments: Sequence[str]) -> Given:
    """Read what follows a command.

    Args:
        name: the command.
        arguments: what follows it.

    Raises:
        DistillError: what cannot be read, and what to write instead.
    """
    command, parser = COMMANDS[name], parsers()[1][name]
    known = {spelling for spellings, *_ in OPTIONS.get(name, ()) for spelling in spellings}
    rest, settings = _without_settings(name, arguments, known.union(FLAGS))
    for setting in settings:
        _refuse_misspelt(name, setting, known)
    try:
        # Folders and options may be mixed, which a parser of sub-commands cannot read.
        found, unread = parser.parse_known_intermixed_args(rest)
    except argparse.ArgumentError as error:
        option = str(error.argument_name).rpartition("/")[2]
        takes = "needs a value" if error.message.startswith("expected") else "takes no value"
        example = f", e.g. {option}={'NAME' if command.settings else 'VALUE'}" if takes == "needs a value" else ""
        raise DistillError(f"{error.argument_name} {takes}{example}.") from error
    if unread:
        raise _unreadable(name, unread[0])
    options = vars(found)
    names = options.pop("names", [])
    by_settings = options.get("config_files") or any(one.startswith("--teacher") for one in settings)
    if name in _EXAMPLES and not names and not by_settings:
        raise DistillError(f"'{name}' needs a name: recbole-derrd {name} {_EXAMPLES[name]}")
    if name in _CHECKPOINTS:
        # A pattern (saved/*.pth) finds what a training goes on from as well.
        names = [one for one in names if not one.endswith(_TRAINING)] or names
    if name in _ALONE and len(names) > 1:
        raise DistillError(f"'{name}' needs one name: recbole-derrd {name} {_EXAMPLES[name]}")
    return Given(names, options, settings)


def _without_settings(name: str, arguments: Sequence[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Return (what argparse reads, settings).

    Argparse would take an option with a space in its value for a name, and ``-model=BPR`` for ``-m odel=BPR``.
    """
    command = COMMANDS[name]
    rest: list[str] = []
    settings: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        key, equals, _ = argument.partition("=")
        if not argument.startswith("-") or key in known:
            rest.append(argument)
        elif not command.settings or (equals and (argument.startswith("--") or command.names)):
            settings.append(argument)
        elif argument.startswith("--") and is_switch(name, argument[2:]) and not _is_value(pending):
            settings.append(f"{argument}=True")
        elif command.names and pending and not pending[0].startswith("-"):
            settings.append(f"{argument}={pending.pop(0)}")
        elif command.names:
            meant = nearest(argument[2:], _words(name, known), cutoff=_ALIKE)
            hint = f" Did you mean '--{meant}'?" if meant and f"--{meant}" != argument else ""
            raise DistillError(f"{argument} needs a value, e.g. {argument}=VALUE.{hint}")
        else:
            raise _unknown_form(argument, pending, known)
    return rest, settings


def _is_value(following: Sequence[str]) -> bool:
    """Say whether what follows a switch is its value; a name of a file is none."""
    return bool(following) and (following[0].lower() in TRUTHS or following[0].startswith("{"))


def _unknown_form(argument: str, following: Sequence[str], known: set[str]) -> DistillError:
    """Return the error that an option of a run is not written as ``--key=value``."""
    key, equals, value = argument.partition("=")
    if not equals and following and not following[0].startswith("-"):
        value = following[0]
    word = key.lstrip("-")
    meant = nearest(key, known, cutoff=0.8)
    if meant:
        hint = f" Did you mean '{meant}'?"
    else:
        hint = f" Write --{word}={value}." if value and re.fullmatch(r"\w+", word) else " See --help."
    return DistillError(f"Cannot read the argument '{argument}'. Options are given as --key=value.{hint}")


def _refuse_misspelt(name: str, setting: str, known: set[str]) -> None:
    """Refuse an option that the command does not have, or one that would not be read as config files."""
    key = setting.partition("=")[0].lstrip("-")
    if not COMMANDS[name].settings:
        hint = did_you_mean(key, _words(name, known)) if known else " It has none."
        raise DistillError(f"Unknown option '--{key}' of {name}.{hint}")
    if COMMANDS[name].names and key not in _SETTINGS:
        meant = nearest(key, _words(name, known), cutoff=_ALIKE)
        if meant and meant != key:
            raise DistillError(f"Unknown option '--{key}' of {name}. Did you mean '--{meant}'?")
    if "--config_files" in known and nearest(key, ("config_files", "config"), cutoff=0.8):
        raise DistillError(f"Unknown option '--{key}'.{did_you_mean('--' + key, ['--config_files'])}")


def _words(name: str, known: set[str]) -> set[str]:
    """Return a command's own options without dashes, those that its file has as keys too."""
    words = {spelling.lstrip("-") for spelling in known}
    return words.union(_KEYS_OF_FILES[name].keys()) if name in _KEYS_OF_FILES else words


def unknown_command(name: str) -> DistillError:
    """Return the error that there is no such command, with what was probably meant."""
    if name in METHODS:
        return DistillError(f"Unknown command '{name}'. '{name}' is a method: recbole-derrd help {name} shows it.")
    return DistillError(f"Unknown command '{name}'.{_other_dash(name) or did_you_mean(name, COMMANDS)}")


def _other_dash(argument: str) -> str:
    """Return a hint where an argument begins with a dash that a text program has made of '-'."""
    dash = unicodedata.category(argument[:1] or "x") in ("Pd", "Sm") and not argument.startswith("-")
    return f" It begins with '{argument[0]}' (U+{ord(argument[0]):04X}); options begin with '--'." if dash else ""


def _unreadable(name: str, argument: str) -> DistillError:
    """Return the error that something was given which the command does not take."""
    if not COMMANDS[name].settings:
        return DistillError(f"'{name}' takes no arguments, but is given '{argument}'.")
    hint = _other_dash(argument) or " See --help."
    if argument.endswith((".yaml", ".yml")):
        hint = " Several config files are one value: --config_files='A.yaml B.yaml'."
    return DistillError(f"Cannot read the argument '{argument}'. Options are given as --key=value.{hint}")


def plain_number(option: str, value: str) -> float:
    """Return the number that an option was given.

    Raises:
        DistillError: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        raise DistillError(f"--{option} must be a number, but is '{value}'.")
    return float(value)


def whole_number(option: str, value: str | None, default: int) -> int:
    """Return the whole number from 1 on that an option was given, or the default.

    Raises:
        DistillError: it is none.
    """
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) == 0:
        raise DistillError(f"--{option} must be a whole number from 1 on, but is '{value}'.")
    return int(value)


def one_of(option: str, value: str | None, known: Collection[str], default: str) -> str:
    """Return the word that an option was given, or the default.

    Raises:
        DistillError: it is none of those known.
    """
    if value is not None and value not in known:
        raise DistillError(f"--{option} cannot be '{value}'. It is one of: {', '.join(known)}.")
    return default if value is None else value
