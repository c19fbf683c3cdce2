"""Reading settings: YAML files and ``--key=value`` arguments, typed as YAML and never evaluated."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from recbole_derrd.config.shipped import found_config, shipped_hint
from recbole_derrd.errors import OptionError

#: Far above what any settings need: levels of nesting, and values that aliases stand for.
_MAX_DEPTH = 50
_MAX_REPEATED = 100_000


class Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number, as RecBole's own loader does; within limits, and no key twice."""

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        """Begin a list or dict in brackets; each more is slower to read than the one before."""
        self._refuse_deep(self.flow_level)
        super().fetch_flow_collection_start(token_class)

    def add_indent(self, column: int) -> bool:
        """Begin a list or dict of lines."""
        self._refuse_deep(len(self.indents))
        return bool(super().add_indent(column))

    def get_single_node(self) -> Any:
        """Return the document's node, once it is known to be of a size that can be worked with."""
        node = super().get_single_node()
        if node is not None:
            sizes = self._sizes(node, {})
            if sizes[id(node)][0] - len(sizes) > _MAX_REPEATED:
                raise yaml.YAMLError(f"its aliases stand for more than {_MAX_REPEATED:,} values")
        return node

    def _refuse_deep(self, depth: int, mark: Any = None) -> None:
        if depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=mark or self.get_mark())

    def _sizes(self, node: yaml.Node, known: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        """Return (values, levels) of a node and of all in it, by id, what aliases stand for counted each time."""
        known[id(node)] = (0, 0)  # as long as it is open
        inner = _inner(node)
        for one in inner:
            values, _ = known.get(id(one)) or self._sizes(one, known)[id(one)]
            if not values:
                problem = "an alias stands for a value that it is a part of"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=one.start_mark)
        values, levels = (
            1 + sum(known[id(one)][0] for one in inner),
            1 + max((known[id(one)][1] for one in inner), default=0),
        )
        self._refuse_deep(levels, node.start_mark)
        self._refuse_twice(node)
        known[id(node)] = (values, levels)
        return known

    def _refuse_twice(self, node: yaml.Node) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        keys: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            # Other keys cannot be compared, and a merge may be given several times.
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            first = keys.setdefault(self.construct_object(key), key)
            if first is not key:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' is given twice, first in line {first.start_mark.line + 1}",
                    problem_mark=key.start_mark,
                )


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


class _Dumper(yaml.SafeDumper):
    """Safe YAML that puts what :class:`Loader` would take for another kind of value in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value each time."""
        return True


_Dumper.add_multi_representer(int, lambda dumper, value: dumper.represent_int(int(value)))
_Dumper.add_multi_representer(float, lambda dumper, value: dumper.represent_float(float(value)))
_Dumper.add_multi_representer(dict, lambda dumper, value: dumper.represent_dict(dict(value)))
_Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))

for _kind in (Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(
            r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|Inf|INF|nan|NaN|NAN)|[-+]\.(inf|Inf|INF))$"
        ),
        list("-+0123456789."),
    )
    # None is what RecBole's users write for nothing; RecBole evaluates it.
    _kind.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^None$"), ["N"])


class ReadSettings(dict[str, Any]):
    """Settings as YAML has given them: a text in them was in quotes, and is not typed once more."""

    def over(self, more: Mapping[str, Any]) -> ReadSettings:
        """Return these settings with others on top."""
        return ReadSettings({**self, **more})


def settings_under(given: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others on top; what YAML has typed stays so."""
    return given.over(more) if isinstance(given, ReadSettings) else {**(given or {}), **more}


def written_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as YAML from which :func:`read_written` makes them again, each value of its kind."""
    return str(yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=False))


def read_written(text: str) -> ReadSettings:
    """Return the settings that :func:`written_settings` has written."""
    return ReadSettings(yaml.load(text, Loader=Loader))


# What PyYAML raises where a value is not of its tag or form, such as a 13th month, beside its own errors.
_NO_YAML = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError)


def read_yaml(text: str, source: str) -> Any:
    """Parse YAML; a mistake in it is the user's."""
    try:
        return yaml.load(text, Loader=Loader)
    except _NO_YAML as error:
        raise OptionError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read one config file: a path, or a name of those that come with the package."""
    path = found_config(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = shipped_hint(path) if isinstance(error, FileNotFoundError) else ""
        raise OptionError(
            f"Cannot read the config file '{path}': {getattr(error, 'strerror', None) or error}.{hint}"
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
    # Unlike pathlib's, it takes a text that is too long for a name.
    return [text] if os.path.exists(text) else text.replace(",", " ").split()


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
        interval = re.fullmatch(r"([\[(][^,;\[\](){}]+,[^,;\[\](){}]+[\])];?)+", value.replace(" ", ""))
        # Several intervals, and half-open ones, are no YAML.
        as_text = interval and any(sign in value for sign in "();")
        # A separator (--field_separator=,) is no YAML.
        separator = is_separator(value) or (len(value) == 1 and not value.isalnum() and value != "~")
        typed = value if as_text or separator else read_yaml(value, f"The value of --{key}")
        if not isinstance(typed, (str, bool, int, float, list, dict, type(None))):
            # A date to YAML is text to RecBole.
            typed = value
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
    except _NO_YAML:
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
