"""What a checkpoint of this plugin says of its run's split and evaluation, beside the settings of stock RecBole."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from recbole_derrd.data.prepare import Data
from recbole_derrd.errors import CheckpointError, DataError, shown

#: Options of a run that make its split and its candidates.
OF_THE_SPLIT = ("split_seed", "candidates_seed", "candidates_file")
#: What a user may give to have held-out items ranked among others than those of the run.
_OTHERS = ("eval_args", "candidates_seed", "candidates_file", "split_seed", "seed")
_LONGEST = 4096


def options_of_the_run(content: Mapping[str, Any], checkpoint: Path, given: Collection[str]) -> dict[str, Any]:
    """Return the run's own options of its split and candidates, but for those that the user gives.

    Args:
        content: what the checkpoint holds.
        checkpoint: its file.
        given: keys of the user's settings; with their eval_args, candidates are theirs to name too.

    Raises:
        CheckpointError: one is no option.
        DataError: the file of its candidates is not there, which a run would draw anew.
    """
    ours = _ours(content)
    found: dict[str, Any] = {}
    for key in OF_THE_SPLIT:
        value = ours.get(key)
        if value is None or key in given or ("eval_args" in given and key != "split_seed"):
            continue
        if not (_is_file_name(value) if key == "candidates_file" else _is_seed(value)):
            raise CheckpointError(
                f"The {key} in '{checkpoint}' is {shown(value)}, which cannot be. Give your own: --{key}=VALUE."
            )
        found[key] = value
    file = found.get("candidates_file")
    if file is not None and not os.path.isfile(file):
        raise DataError(
            f"Held-out items of '{checkpoint}' are ranked among the candidates in '{file}', and there is no such file. "
            "Name the file: --candidates_file=FILE."
        )
    return found


def mode_of_the_run(content: Mapping[str, Any], checkpoint: Path) -> dict[str, str] | None:
    """Return the run's mode of evaluation where stock RecBole does not have it; None elsewhere.

    Raises:
        CheckpointError: it is none.
    """
    mode = _ours(content).get("mode")
    if mode is None:
        return None
    if not (isinstance(mode, dict) and set(mode) == {"valid", "test"} and all(map(_is_file_name, mode.values()))):
        raise CheckpointError(
            f"The mode in '{checkpoint}' is {shown(mode)}, which is no mode of evaluation. Give your own: "
            "--eval_args={mode: full}."
        )
    return mode


def refuse_other_candidates(content: Mapping[str, Any], data: Data, checkpoint: Path, given: Collection[str]) -> None:
    """Refuse other candidates than those of which a checkpoint says that held-out items were ranked among them.

    Raises:
        DataError: they are others, and the user has not asked for others.
    """
    theirs = _ours(content).get("candidates")
    if not isinstance(theirs, str) or theirs == data.candidates or set(_OTHERS) & set(given):
        return
    raise DataError(
        f"Held-out items of '{checkpoint}' were ranked among other candidates than those in '{data.candidates_file}'. "
        "Give the file of its run (--candidates_file=FILE), or evaluate it otherwise: --eval_args={mode: full}."
    )


def _ours(content: Mapping[str, Any]) -> Mapping[str, Any]:
    ours = content.get("derrd")
    return ours if isinstance(ours, dict) else {}


def _is_seed(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and "\0" not in value
