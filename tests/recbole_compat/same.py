"""Whether two things that were read are the same, tensors and arrays to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_derrd.recbole_compat import Inert


def bits(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor's numbers; numpy has no bfloat16."""
    flat = tensor.detach().clone().reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    return flat.view(torch.uint8).numpy().tobytes()


def same(one: Any, other: Any) -> bool:
    """Compare types and values, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        if one.layout != torch.strided or other.layout != torch.strided:
            return one.layout == other.layout and one.shape == other.shape and same(one.to_dense(), other.to_dense())
        kept = one.dtype == other.dtype and one.shape == other.shape and one.requires_grad == other.requires_grad
        return kept and bits(one) == bits(other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Inert):
        return one.path == other.path and same(one.state, other.state)
    return bool(one == other) or (one != one and other != other)
