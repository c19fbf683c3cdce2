"""Reading settings: YAML files and ``--key=value`` arguments, typed as YAML and never evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from recbole_derrd.errors import OptionError


class Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number, as RecBole's own loader does."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|Inf|INF|nan|NaN|NAN)|[-+]\.(inf|Inf|INF))$"
    ),
    list("-+0123456789."),
)


# None is what RecBole's users write for nothing; RecBole evaluates it.
Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^None$"), ["N"])


def read_yaml(text: str, source: str) -> Any:
    """Parse YAML; a mistake in it is the user's."""
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise OptionError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read one config file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"Cannot read the config file '{path}': {getattr(error, 'strerror', None) or error}."
        ) from error
    settings = read_yaml(text, f"The config file '{path}'")
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise OptionError(
            f"The config file '{path}' must hold 'key: value' lines, but holds a {type(settings).__name__}."
        )
    return settings


def config_files(given: str | Path | Iterable[str | Path] | None) -> list[str | Path]:
    """Return config files as a list, one file as a list of one."""
    return [given] if isinstance(given, (str, Path)) else list(given or [])


def file_names(text: str) -> list[str]:
    """Return the files that a text names: itself if there is such a file, else names between spaces or commas."""
    return [text] if Path(text).exists() else text.replace(",", " ").split()


def read_command_line(arguments: Iterable[str]) -> dict[str, Any]:
    """Read ``--key=value`` arguments, each value typed as YAML."""
    settings: dict[str, Any] = {}
    for argument in arguments:
        if not argument.startswith("--") or "=" not in argument:
            raise OptionError(f"Cannot read the argument '{argument}'. Options are given as --key=value.")
        key, _, value = argument[2:].partition("=")
        if not re.fullmatch(r"\w[\w-]*", key):
            hint = (
                f" Keys of a dict are given as one value: --{key.split('.')[0]}='{{key: value}}'." if "." in key else ""
            )
            raise OptionError(f"Cannot read the argument '{argument}': '{key}' is no option.{hint}")
        # RecBole writes half-open intervals as [10,inf), which YAML takes for a list without its end.
        interval = re.fullmatch(r"([\[(][^,;\[\](){}]+,[^,;\[\](){}]+[\])];?)+", value.replace(" ", ""))
        half_open = interval and ("(" in value or ")" in value)
        # A separator (--field_separator=,) is no YAML.
        separator = is_separator(value) or (len(value) == 1 and not value.isalnum() and value != "~")
        typed = value if half_open or separator else read_yaml(value, f"The value of --{key}")
        if key in settings and settings[key] != typed:
            raise OptionError(f"--{key} is given twice, with different values.")
        settings[key] = typed
    return settings


def typed_as_yaml(value: Any) -> Any:
    """Type a string as YAML, as RecBole does with ``eval``; HyperTuning hands lists over as strings.

    What says nothing but text stays as it is, separators and comment signs included.
    """
    # DMF's inter_matrix_type is '01': to eval, as to us, no number. A lone sign is a separator.
    if not isinstance(value, str) or is_separator(value) or re.fullmatch(r"0\d+|[^\w~]", value):
        return value
    try:
        typed = yaml.load(value, Loader=Loader)
    except yaml.YAMLError:
        return value
    nothing = typed is None and value.strip().lower() in ("null", "none", "~")
    return typed if nothing or isinstance(typed, (bool, int, float, list, dict)) else value


def is_separator(value: str) -> bool:
    """Say whether a value is nothing but signs that separate columns, as in ``::`` or ``||``: no YAML."""
    return re.fullmatch(r"[:|;,/ \t]+", value) is not None


def candidate_count(mode: str) -> int | None:
    """Return N of the mode ``fixedN``, None for RecBole's own modes.

    Raises:
        OptionError: there is no number in it.
    """
    if not mode.startswith("fixed"):
        return None
    if not re.fullmatch(r"fixed[1-9]\d*", mode):
        raise OptionError(f"The mode '{mode}' in eval_args must say how many candidates, e.g. fixed499.")
    return int(mode[len("fixed") :])
