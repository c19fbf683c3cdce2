"""What RecBole's models keep of their training in plain attributes, which no state_dict holds.

MultiVAE's annealing, DiffRec's loss history, NCL's centroids, LINE's order of users.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

#: Tensors up to this size are taken for state of the training, larger ones where they have changed.
_COUNTER_SIZE = 100_000


def _plain_state(model: Any) -> dict[str, Any]:
    """Return the numbers, tensors and arrays that a model holds in plain attributes; not what it only remembers."""
    return {
        name: value
        for name, value in vars(model).items()
        if name != "training"
        and not name.startswith(("_", "restore_"))
        and (
            isinstance(value, (bool, int, float))
            or (isinstance(value, torch.Tensor) and not value.is_sparse)
            or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
        )
    }


def _mark(value: Any) -> Any:
    """Return what tells whether a tensor or an array has changed since."""
    if isinstance(value, torch.Tensor):
        return value, value._version
    return hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=8).digest()


def marks_of(model: Any) -> dict[str, Any]:
    """Return marks of a model's numbers, tensors and arrays in plain attributes, as they are now."""
    return {
        name: value if isinstance(value, (bool, int, float)) else _mark(value)
        for name, value in _plain_state(model).items()
    }


def _has_changed(value: Any, before: Any) -> bool:
    now = _mark(value)
    if isinstance(value, torch.Tensor) and isinstance(before, tuple):
        return now[0] is not before[0] or now[1] != before[1]
    return bool(now != before)


def kept_attributes(model: Any, as_built: dict[str, Any]) -> dict[str, Any]:
    """Return what must be kept to go on with a training, arrays as tensors.

    Args:
        model: the model.
        as_built: its marks before any training, see :func:`marks_of`.
    """
    return {
        name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for name, value in _plain_state(model).items()
        if not _of_a_batch(value, as_built.get(name))
        and (
            isinstance(value, (bool, int, float))
            or (isinstance(value, torch.Tensor) and value.numel() <= _COUNTER_SIZE)
            or _has_changed(value, as_built.get(name))
        )
    }


def _of_a_batch(value: Any, built: Any) -> bool:
    """Say whether a number has become many: what the last batch has left, as RaCT's counts of items."""
    many = isinstance(value, (torch.Tensor, np.ndarray)) and int(np.prod(value.shape)) != 1
    return many and isinstance(built, (bool, int, float))


def put_back(model: Any, kept: dict[str, Any]) -> None:
    """Give a model the attributes that :func:`kept_attributes` has found, each where the model has its own."""
    for name, value in kept.items():
        present = getattr(model, name, None)
        if isinstance(present, np.ndarray):
            value = value.cpu().numpy()
        elif isinstance(value, torch.Tensor):
            value = value.to(present.device if isinstance(present, torch.Tensor) else model.device)
        setattr(model, name, value)
