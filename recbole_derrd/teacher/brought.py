"""What a brought teacher's file says of its model: hyper-parameters alone, each checked, and never a path."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_derrd.config.distill_config import model_settings
from recbole_derrd.errors import CheckpointError, shown

#: Settings by which RecBole's models load a file as they are built. A checkpoint has its weights itself.
_LOADS = ("use_pretrain", "train_method", "train_stage")
#: More categories than one make LDiffRec unpickle a file of the data set; that is the user's to say.
_OF_THE_USER = ("n_cate",)

#: Numbers that no weight of the file confirms may be this many times RecBole's default, and always this much.
_TIMES, _ALWAYS = 100, 1000
_LONGEST_RANKING = 200


def brought_settings(
    model: str, content: Mapping[str, Any], source: str | Path, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of a brought teacher: the file's of its model, the user's over them, none that loads a file.

    Args:
        model: the model's name.
        content: what :func:`recbole_derrd.training.checkpoint.read_checkpoint` has read.
        source: the checkpoint's file.
        given: what the user says of this teacher.

    Raises:
        CheckpointError: a setting in the file is of another kind or size than the model can have.
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
    return {**found, **given, **{key: default for key, default in defaults.items() if loads_a_file(key)}}


def seed_of(content: Mapping[str, Any]) -> int | None:
    """Return the seed in a checkpoint's settings: NNCF draws its neighbours by it as it is built."""
    seed = content["config"].get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 else None


def loads_a_file(key: str) -> bool:
    """Say whether a setting of a RecBole model names or asks for a file that is loaded as the model is built."""
    return key in _LOADS or key.endswith("path")


def _plain(value: Any) -> Any:
    """Return a value with Python's numbers in the place of numpy's, and rankings in that of tuples."""
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
        if not isinstance(value, list) or len(value) > _LONGEST_RANKING:
            return f"which is no list of at most {_LONGEST_RANKING} numbers"
        largest = max((abs(one) for one in default), default=0)
        return next(filter(None, (_fault_of_number(key, one, largest, sizes) for one in value)), None)
    return _fault_of_number(key, value, default, sizes)


def _fault_of_number(key: str, value: Any, default: Any, sizes: frozenset[int]) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "which is no number"
    if isinstance(value, float) and not math.isfinite(value):
        return "which is no finite number"
    # Weights of this size show that it is right, parts of GCMC's stacked layers too.
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
    """Say whether this is a full array: one without numbers, or of a few, may have any shape."""
    if isinstance(one, np.ndarray):
        return one.size > 0
    return isinstance(one, torch.Tensor) and one.layout == torch.strided and one.numel() > 0
