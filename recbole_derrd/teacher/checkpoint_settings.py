"""The model's settings in a teacher checkpoint: hyper-parameters alone, each checked, and never a path."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_derrd.config.distill_config import model_settings
from recbole_derrd.config.known_keys import mentions
from recbole_derrd.config.options import RunOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.config.options.recbole_keys import SET_BY_RECBOLE
from recbole_derrd.errors import CheckpointError, shown

#: Settings that make RecBole's models load a file while they are built. A checkpoint holds the weights itself.
_LOADS = ("use_pretrain", "train_method", "train_stage")
#: Settings that the user alone may set: with several categories LDiffRec unpickles a file of the data set.
_OF_THE_USER = ("n_cate",)

#: Keys of every configuration that no model is described by.
_OF_THE_RUN = frozenset("model dataset config_files encoding ip port nproc world_size offset group_offset".split())

#: A number that no weight in the file confirms may be so many times RecBole's default, and in any case so large.
_TIMES, _ALWAYS = 100, 1000
_LONGEST_LIST = 200


def checkpoint_settings(
    model: str, content: Mapping[str, Any], source: str | Path, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of a teacher checkpoint: those in the file, the user's over them, and none that loads a file.

    Args:
        model: the model's name.
        content: what :func:`recbole_derrd.training.checkpoint.read_checkpoint` has read.
        source: the checkpoint's file.
        given: the user's settings for this teacher.

    Raises:
        CheckpointError: the type or size of a setting in the file is impossible for the model.
    """
    described, defaults, sizes = content["config"], model_settings(model), _sizes(content)
    found = {}
    for key, default in defaults.items():
        value = _plain(described.get(key))
        if key in given or key in _OF_THE_USER or loads_a_file(key) or value is None:
            continue
        fault = _fault(key, value, default, sizes)
        if fault:
            raise CheckpointError(
                f"'{source}' cannot be a {model}: its setting {key} is {shown(value)}, {fault}. If the file is from a "
                f"source that you trust, say so yourself in the teacher's settings: {{{key}: ...}}."
            )
        found[key] = value
    found.update(_of_an_own_class(model, described, {*defaults, *given}, sizes, source))
    return {**found, **given, **{key: default for key, default in defaults.items() if loads_a_file(key)}}


def _of_an_own_class(
    model: str, described: Mapping[str, Any], others: Collection[str], sizes: frozenset[int], source: str | Path
) -> dict[str, Any]:
    """Return the settings that a class of the user's own reads beside those of RecBole's model: its source names them.

    Left to the run, they would be those of its student, and the teacher another model without a word.

    Raises:
        CheckpointError: a number is impossible.
    """
    found = {}
    for key, given in described.items() if "." in model else ():
        if not isinstance(key, str) or key in others or key in _not_of_models() or loads_a_file(key):
            continue
        value = _plain(given)
        # Paths are those of the machine that wrote the file.
        if not _is_plain(value) or not mentions(model, key):
            continue
        numbers = value if isinstance(value, list) else [value]
        fault = next(filter(None, (_fault_of_own(key, one, sizes) for one in numbers)), None)
        if fault:
            raise CheckpointError(
                f"'{source}' cannot be a {model}: its setting {key} is {shown(value)}, {fault}. If the file is from a "
                f"source that you trust, say so yourself in the teacher's settings: {{{key}: ...}}."
            )
        found[key] = value
    return found


@functools.cache
def _not_of_models() -> frozenset[str]:
    """Return RecBole's keys of data, training and evaluation, and this plugin's own of a run."""
    from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

    recboles = {*dataset_arguments, *evaluation_arguments, *general_arguments, *training_arguments}
    return frozenset({*recboles, *SET_BY_RECBOLE, *_OF_THE_RUN, *RunOptions.keys(), *CompressOptions.keys()})


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= _LONGEST_LIST and all(_is_plain(one) and not isinstance(one, list) for one in value)
    if isinstance(value, str):
        return re.fullmatch(r"[\w.-]{1,64}", value) is not None
    return isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))


def _fault_of_own(key: str, value: Any, sizes: frozenset[int]) -> str | None:
    if isinstance(value, (bool, str)):
        return None
    return _fault_of_number(key, value, 0.0 if isinstance(value, float) else 0, sizes)


def checkpoint_seed(content: Mapping[str, Any]) -> int | None:
    """Return the seed in a checkpoint's settings: NNCF draws its neighbours by it as it is built."""
    seed = content["config"].get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 else None


def loads_a_file(key: str) -> bool:
    """Return whether a setting makes a RecBole model load a file while it is built."""
    return key in _LOADS or key.endswith("path")


def _plain(value: Any) -> Any:
    """Return a value with Python's numbers instead of numpy's, and lists instead of tuples."""
    if isinstance(value, (list, tuple)):
        return [one.item() if isinstance(one, np.generic) else one for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _fault(key: str, value: Any, default: Any, sizes: frozenset[int]) -> str | None:
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "which is neither true nor false"
    if isinstance(default, str):
        plain = isinstance(value, str) and re.fullmatch(r"[\w.-]{1,64}", value)
        return None if plain else "which is no name"
    if isinstance(default, list):
        if not isinstance(value, list) or len(value) > _LONGEST_LIST:
            return f"which is no list of at most {_LONGEST_LIST} numbers"
        largest = max((abs(one) for one in default), default=0)
        return next(filter(None, (_fault_of_number(key, one, largest, sizes) for one in value)), None)
    return _fault_of_number(key, value, default, sizes)


def _fault_of_number(key: str, value: Any, default: Any, sizes: frozenset[int]) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "which is no number"
    if isinstance(value, float) and not math.isfinite(value):
        return "which is no finite number"
    # Weights of this size confirm it, and so do the stacked layers of GCMC.
    if isinstance(value, int) and any(value == size * times for size in sizes for times in (1, 2, 3, 4)):
        return None
    most = _ALWAYS if re.search("size|dim", key) else max(_ALWAYS, _TIMES * abs(default))
    if isinstance(default, float):
        most = max(most, 1e9)
    return f"which is more than {most:g} and than its weights show" if abs(value) > most else None


def _sizes(content: Mapping[str, Any]) -> frozenset[int]:
    """Return every length of a side of the file's tensors and arrays."""
    parts = [*content["state_dict"].values(), *(content.get("other_parameter") or {}).values()]
    return frozenset(size for one in parts if _has_numbers(one) for size in one.shape)


def _has_numbers(one: Any) -> bool:
    """Return whether this is a dense array: an empty or sparse one may have any shape."""
    if isinstance(one, np.ndarray):
        return one.size > 0
    return isinstance(one, torch.Tensor) and one.layout == torch.strided and one.numel() > 0
