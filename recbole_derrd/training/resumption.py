"""What a training checkpoint must hold before a training goes on from it: every value is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

#: What of a training checkpoint is never missing.
NEEDED = (
    "epoch", "cur_step", "best_valid_score", "best_valid_result", "train_loss", "epoch_seconds", "valid_scores",
    "progress", "model", "optimizers", "counters", "streams", "loader",
)  # fmt: skip
#: Whole numbers are below this.
_MOST = 1 << 62
_STREAMS = ("python", "numpy", "torch", "cuda")


class UnfitError(Exception):
    """A training cannot go on from this; the message is the reason."""


def refuse_unfit_numbers(content: Mapping[str, Any]) -> None:
    """Refuse what is missing, and counters and scores that no training leaves.

    Raises:
        UnfitError: what is wrong.
    """
    missing = [name for name in NEEDED if name not in content]
    if missing:
        raise UnfitError(f"it has no {missing[0]}")
    losses = content["train_loss"]
    _require(isinstance(losses, dict) and all(map(_is_count, losses)), "train_loss", losses)
    _require(all(map(_is_finite, losses.values())), "train_loss", losses)
    # Each epoch has left its loss, so that no other number can be the last one's.
    _require(_is_count(content["epoch"]) and content["epoch"] in losses, "epoch", content["epoch"])
    _require(_is_count(content["cur_step"]) and content["cur_step"] <= len(losses), "cur_step", content["cur_step"])
    _require(_is_finite(content["best_valid_score"]), "best_valid_score", content["best_valid_score"])
    result, seconds = content["best_valid_result"], content["epoch_seconds"]
    # A metric may be undefined on a split.
    _require(isinstance(result, dict) and all(map(_is_metric, result.items())), "best_valid_result", result)
    _require(_is_list_of(seconds, lambda value: _is_finite(value) and value >= 0), "epoch_seconds", seconds)
    _require(_is_list_of(content["valid_scores"], _is_validation), "valid_scores", content["valid_scores"])
    progress = content["progress"]
    steps = list(progress.values()) if isinstance(progress, dict) else [None]
    _require(all(one and _is_list_of(one, _is_step) for one in steps), "progress", progress)
    _refuse_unfit_streams(content["streams"])


def _refuse_unfit_streams(streams: Any) -> None:
    _require(_is_list_of(streams, lambda one: isinstance(one, dict)), "streams", streams)
    for one in streams:
        random = one.get("random")
        if not isinstance(random, dict) or not all(name in random for name in _STREAMS):
            raise UnfitError("it has no random states")


def _require(well: bool, name: str, value: Any) -> None:
    if not well:
        shown = repr(value)
        raise UnfitError(f"its {name} cannot be {shown if len(shown) < 60 else shown[:60] + ' ...'}")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_finite(value: Any) -> bool:
    # Python's whole numbers have no limit, and those of everything that counts with them do.
    return (type(value) is int and abs(value) < _MOST) or (type(value) is float and math.isfinite(value))


def _is_metric(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and type(item[1]) in (int, float)


def _is_list_of(values: Any, well: Any) -> bool:
    return isinstance(values, list) and all(map(well, values))


def _is_validation(entry: Any) -> bool:
    return isinstance(entry, (list, tuple)) and len(entry) == 2 and _is_count(entry[0]) and _is_finite(entry[1])


def _is_step(entry: Any) -> bool:
    return isinstance(entry, (list, tuple)) and len(entry) == 2 and _is_count(entry[0]) and isinstance(entry[1], dict)


def refuse_unfit_weights(model: torch.nn.Module, weights: Any) -> None:
    """Refuse parameters that are no finite numbers; whether they are those of the model, the model says.

    Raises:
        UnfitError: which.
    """
    if not isinstance(weights, Mapping):
        raise UnfitError("it has no weights")
    for name, _ in model.named_parameters():
        value = weights.get(name)
        if isinstance(value, torch.Tensor) and not _finite(value):
            raise UnfitError(f"its weights '{name}' are not finite numbers")


def _finite(value: torch.Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


_HOW = ("foreach", "fused")
#: What an optimizer cannot do without once it has made a step.
_STATES: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.SparseAdam: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.Adagrad: ("step", "sum"),
    torch.optim.RMSprop: ("step", "square_avg"),
}


def refuse_unfit_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse what an optimizer has loaded where it does not fit its parameters; torch compares their number alone.

    Raises:
        UnfitError: what is wrong.
    """
    needed = next((names for kind, names in _STATES.items() if isinstance(optimizer, kind)), ())
    if not all(isinstance(key, torch.Tensor) for key in optimizer.state):
        raise UnfitError("its optimizer has a state of parameters that there are not")
    for group in optimizer.param_groups:
        for name, value in optimizer.defaults.items():
            # How the update is computed is each machine's own choice.
            if name in _HOW and group.get(name) in (None, True, False):
                continue
            if not _is_setting(group.get(name), value):
                raise UnfitError(f"its optimizer's {name} cannot be {group.get(name)!r}")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            missing = set(needed) - set(state) if isinstance(state, dict) else set(needed)
            if state and missing:
                raise UnfitError(f"its optimizer lacks '{min(missing)}'")
            for name, value in state.items():
                _refuse_unfit_state(name, value, parameter, needed=name in needed)


def _is_setting(held: Any, default: Any) -> bool:
    if isinstance(default, float):
        return _is_finite(held) and held >= 0
    if isinstance(default, tuple):
        return isinstance(held, (tuple, list)) and len(held) == len(default) and all(map(_is_setting, held, default))
    return type(held) is type(default) and bool(held == default)


def _refuse_unfit_state(name: str, value: Any, parameter: torch.Tensor, *, needed: bool) -> None:
    if name == "step":
        steps = float(value) if isinstance(value, torch.Tensor) and value.numel() == 1 else value
        fits = type(steps) in (int, float) and math.isfinite(steps) and steps >= 0
    elif isinstance(value, torch.Tensor):
        fits = value.shape == parameter.shape and _finite(value)
    else:
        fits = not needed and (value is None or _is_finite(value))
    if not fits:
        raise UnfitError(f"its optimizer's '{name}' does not fit weights of shape {tuple(parameter.shape)}")


def refuse_unfit_attributes(model: Any, kept: Any) -> None:
    """Refuse attributes that a training does not leave in this model: only numbers and tensors take a number's place.

    Raises:
        UnfitError: which.
    """
    if not isinstance(kept, dict):
        raise UnfitError("it has no counters")
    for name, value in kept.items():
        number = type(value) in (bool, float) or (type(value) is int and abs(value) < _MOST)
        plain = number or (isinstance(value, torch.Tensor) and not value.is_sparse)
        of_class = getattr(type(model), name, None) if isinstance(name, str) else None
        ours = isinstance(name, str) and not name.startswith("_") and not callable(of_class)
        ours = ours and name not in {*model._modules, *model._parameters, *model._buffers}
        if not ours or isinstance(of_class, property) or not plain:
            raise UnfitError(f"its counter {name!r} is none of {type(model).__name__}")
        own = vars(model).get(name)
        if isinstance(own, (torch.Tensor, np.ndarray)):
            fits = isinstance(value, torch.Tensor) and tuple(value.shape) == tuple(own.shape)
        else:
            # What is made during the training was nothing before it, or was not there; a mean may begin as a number.
            one = not isinstance(value, torch.Tensor) or value.dim() == 0
            fits = own is None or (isinstance(own, (bool, int, float)) and one)
        # The sizes of the data are no counters.
        fits = fits and (name not in ("n_users", "n_items") or own is None or bool(value == own))
        if not fits or (isinstance(value, float) and value != value and own == own):
            raise UnfitError(f"its counter '{name}' does not fit {type(model).__name__}")
