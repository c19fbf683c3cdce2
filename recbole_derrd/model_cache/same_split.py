"""Whether a teacher checkpoint was trained on this run's split, as far as the settings in its file show it."""

from __future__ import annotations

import dataclasses
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import set_color

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.fingerprint import Fingerprint
from recbole_derrd.errors import CheckpointError, shown

#: Proofs that a checkpoint was trained on this run's split; the last is the user's word alone.
FINGERPRINT, SCORE, TRUSTED = "fingerprint", "valid score", "trusted"
IF_TRUSTED = (
    "If you know that it has seen no held-out item of this run, set teacher_trusted: True "
    "(of several teachers: trusted: True beside checkpoint)."
)

# Settings in a stock checkpoint that determine its split: a difference in any of them makes another split.
_SPLIT_KEYS = (
    "dataset", "seed", "eval_args", "benchmark_filename", "threshold", "val_interval", "user_inter_num_interval",
    "item_inter_num_interval", "filter_inter_by_user_or_item", "rm_dup_inter",
)  # fmt: skip


def trusted_anyway(fault: str, trusted: bool) -> None:
    """Refuse a checkpoint for a fault of its split; only warn where the user trusts it.

    Raises:
        CheckpointError: it is not trusted.
    """
    if not trusted:
        raise CheckpointError(f"{fault} {IF_TRUSTED}")
    getLogger().warning(set_color("Trusted", "yellow") + f" all the same, because of teacher_trusted: {fault}")


def proof_of_split(
    content: dict[str, Any], config: DistillConfig, fingerprint: Fingerprint, checkpoint: Path, *, trusted: bool
) -> str:
    """Return the proof that a checkpoint was trained on this run's split; refuse it where its file shows another.

    Args:
        content: what :func:`read_checkpoint` has read from it.
        config: the model's configuration.
        fingerprint: of this run's data.
        checkpoint: the model's file.
        trusted: whether the user accepts it without proof.

    Returns:
        FINGERPRINT; TRUSTED; or SCORE, which the caller must still compare.

    Raises:
        CheckpointError: what differs, and what to do.
    """
    ours = content.get("derrd")
    fault = fault_of_settings(content["config"], config, checkpoint, ("dataset",))
    if fault is None and ours is not None:
        fault = _fault_of_ours(ours, fingerprint, checkpoint)
        if fault is None:
            return FINGERPRINT
    elif fault is None:
        fault = fault_of_settings(content["config"], config, checkpoint, _SPLIT_KEYS)
    if fault is not None:
        trusted_anyway(fault, trusted)
    elif trusted:
        getLogger().warning(
            set_color("Trusted", "yellow")
            + f" without a check of its scores, because of teacher_trusted: the teacher '{checkpoint}'. Nothing "
            "shows that it has not seen this run's held-out items."
        )
    return TRUSTED if trusted else SCORE


def _fault_of_ours(ours: Any, fingerprint: Fingerprint, checkpoint: Path) -> str | None:
    theirs = ours.get("fingerprint") if isinstance(ours, dict) else None
    names = [field.name for field in dataclasses.fields(Fingerprint)]
    if not isinstance(theirs, dict) or not all(isinstance(theirs.get(name), str) for name in names):
        return (
            f"The teacher '{checkpoint}' does not name the data it was trained on, though this plugin has written it: "
            "its 'derrd' part is damaged, or of another version. Train it anew, or give another."
        )
    difference = Fingerprint(**{name: theirs[name] for name in names}).difference(fingerprint)
    if difference is None:
        return None
    counts = {side: ours.get(side) for side in ("users", "items")}
    if theirs["ids"] != fingerprint.ids and all(isinstance(count, int) for count in counts.values()):
        difference += f" (it has {counts['users']} users and {counts['items']} items)"
    return (
        f"The teacher '{checkpoint}' was not trained on this run's data: {difference}. Use the teacher's own data, "
        "seed, eval_args and filters, or another teacher."
    )


def fault_of_settings(
    settings: dict[str, Any], config: DistillConfig, checkpoint: Path, keys: tuple[str, ...]
) -> str | None:
    """Return which setting in a file shows another split than this run's; None where none does."""
    if "dataset" in keys and settings.get("dataset") is not None and not _equal(settings["dataset"], config["dataset"]):
        return (
            f"The teacher '{checkpoint}' was trained on the data set {shown(settings['dataset'])}, this run uses "
            f"'{config['dataset']}'. Give a teacher of the same data."
        )
    # A split by time, or one that the data set defines, does not depend on the seed.
    drawn = config["eval_args"]["order"] == "RO" and not config["benchmark_filename"]
    idle = set() if drawn else {"seed"}
    if config["benchmark_filename"]:
        idle.add("eval_args")
    for key in (key for key in keys if key not in idle):
        theirs, here = settings.get(key), config[key]
        if key == "seed" and config.run_options.split_seed is not None:
            # A stock model's seed draws its split; here split_seed does.
            here = config.run_options.split_seed
        if key == "eval_args" and isinstance(theirs, dict):
            theirs, here = (
                {part: args.get(part) for part in ("split", "order", "group_by")} for args in (theirs, here)
            )
        if key in settings and not _equal(theirs, here):
            return (
                f"The teacher '{checkpoint}' was trained with {key} = {shown(theirs)}, this run has {here}: another "
                f"split, so the teacher may have seen the test items. Set {key} to the teacher's value."
            )
    return None


def refuse_other_sizes(model: Any, content: dict[str, Any], checkpoint: Path) -> None:
    """Refuse weights of another number of users or items than this run's data have.

    Args:
        model: the model, built for this run's data.
        content: what :func:`read_checkpoint` has read.
        checkpoint: the file.

    Raises:
        CheckpointError: both numbers, and what to do.
    """
    built = {
        **model.state_dict(),
        **{name: getattr(model, name, None) for name in content["other_parameter"] if isinstance(name, str)},
    }
    shapes = {
        name: (tuple(theirs.shape), tuple(built[name].shape))
        for name, theirs in {**content["state_dict"], **content["other_parameter"]}.items()
        if all(isinstance(one, (torch.Tensor, np.ndarray)) for one in (theirs, built.get(name)))
    }
    differ = other_sizes(shapes, int(model.n_users), int(model.n_items))
    if differ:
        # Number 0 of each is the padding.
        counts = " and ".join(f"{theirs - 1} {side}, not {here - 1}" for side, (theirs, here) in differ.items())
        raise CheckpointError(
            f"The teacher '{checkpoint}' was trained on other data than this run's: it has {counts}. Its rows "
            "belong to users and items by their numbers, so that none can be matched. Train a teacher on today's "
            "data, or give this run the data of the teacher."
        )


def other_sizes(
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], n_users: int, n_items: int
) -> dict[str, tuple[int, int]]:
    """Return (the file's number, this run's number) of users and of items, where the weights show that they differ.

    Args:
        shapes: (the file's, the built model's) shape of each of the weights.
        n_users: number of users, padding included.
        n_items: number of items, padding included.
    """
    found: dict[str, tuple[int, int]] = {}
    for name, (theirs, here) in shapes.items():
        for other, own in zip(theirs, here) if len(theirs) == len(here) else ():
            if other != own and own in (n_users, n_items):
                users = own == n_users and (n_users != n_items or "user" in name.lower())
                found.setdefault("users" if users else "items", (other, own))
    return found


def _equal(theirs: Any, here: Any) -> bool:
    try:
        return bool(theirs == here)
    except (ValueError, TypeError, RuntimeError):  # arrays, and values that are nested too deeply to compare
        return False
