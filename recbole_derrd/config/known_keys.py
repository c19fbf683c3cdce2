"""Which keys there are: RecBole's, ours, those that are no longer read, and those that a user's own model reads."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import recbole

from recbole_derrd.config.options.recbole_keys import READ_BY_CODE, READ_BY_SCRIPTS
from recbole_derrd.config.options.retired import retired
from recbole_derrd.errors import OptionError, did_you_mean, nearest
from recbole_derrd.recbole_compat.models import model_class, own_classes, own_sources


@functools.cache
def recbole_keys() -> frozenset[str]:
    """Return every key that some default file of RecBole names, and those that only its code names."""
    from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

    found = set(READ_BY_CODE | READ_BY_SCRIPTS)
    properties = Path(recbole.__file__).parent / "properties"
    data = [properties / "dataset" / name for name in ("sample.yaml", "ml-100k.yaml")]
    settings = [*properties.glob("model/*.yaml"), *properties.glob("quick_start_config/*.yaml")]
    for file in (properties / "overall.yaml", *data, *settings):
        found.update(re.findall(r"^([A-Za-z_][\w-]*)\s*:", file.read_text(encoding="utf-8"), re.M))
    for group in (general_arguments, training_arguments, evaluation_arguments, dataset_arguments):
        found.update(group)
    return frozenset(found)


def mentions(model: str, key: str) -> bool:
    """Return whether the source of a user's own model, or of its module, mentions a key."""
    if "." not in model:
        return False
    word = re.compile(rf"(?<![\w-]){re.escape(key)}(?![\w-])")
    return any(word.search(text) for text in _texts(model))


@functools.cache
def _texts(model: str) -> tuple[str, ...]:
    kind = model_class(model)
    # A notebook's class has no source, but its code knows the texts and names in it.
    return tuple(own_sources(kind)) or tuple(text for one in own_classes(kind) for text in _in_code_of(one))


def _in_code_of(kind: type[Any]) -> Iterator[str]:
    pending: list[Any] = [getattr(member, "__code__", None) for member in vars(kind).values()]
    while pending:
        code = pending.pop()
        if isinstance(code, CodeType):
            yield from code.co_names
            pending += code.co_consts
        elif isinstance(code, str):
            yield code


def unknown_keys(
    settings: Mapping[str, Any],
    place: str,
    *,
    ours: Collection[str],
    prefixes: tuple[str, ...],
    also: Iterable[str],
    models: Iterable[str],
) -> list[str]:
    """Refuse keys that are misspelt or no longer read; return those that nobody is known to read.

    Args:
        settings: the settings that the user gives.
        place: where, e.g. " in 'teacher'"; "" for the run itself.
        ours: this package's options.
        prefixes: what the options of its methods begin with.
        also: further keys that are read.
        models: the models of the run, whose own keys are read if they are the user's.

    Raises:
        OptionError: which key, and what to write.
    """
    known = {*ours, *recbole_keys(), *also}
    own = [model for model in models if "." in model]
    unknown = []
    for key in settings:
        if not isinstance(key, str):
            raise OptionError(f"The key {key!r}{place} is not a name; RecBole's keys are names.")
        instead = retired(key, settings)
        if (key in known and instead is None) or key.startswith("alias_of_"):
            continue
        if any(mentions(model, key) for model in own):
            continue
        if instead is not None:
            raise OptionError(instead if not place else f"Unknown option{place}: {instead}")
        _refuse_misspelt(key, place, ours=ours, prefixes=prefixes, known=known)
        unknown.append(key)
    return unknown


def _refuse_misspelt(
    key: str, place: str, *, ours: Collection[str], prefixes: tuple[str, ...], known: Collection[str]
) -> None:
    if key.startswith(prefixes):
        family = [name for name in ours if name.startswith(key.split("_")[0])]
        raise OptionError(f"Unknown option '{key}'{place}.{did_you_mean(key, family)}")
    if key.startswith("teacher_") and key[len("teacher_") :] in known:
        name = key[len("teacher_") :]
        raise OptionError(f"Unknown option '{key}'. Write it as a key of 'teacher': --teacher='{{{name}: ...}}'.")
    match = nearest(key, known, cutoff=0.8)
    if match:
        raise OptionError(f"Unknown option '{key}'{place}. Did you mean '{match}'?")
