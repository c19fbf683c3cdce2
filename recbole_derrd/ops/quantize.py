r"""Symmetric quantisation of each row with a step of its own.

Code q of b bits stands for (q − (2^b − 1) / 2) · step: levels ±1/2, ±3/2 ... steps, half of them on either side of 0.
One bit is a sign, and two, four, eight bits are the same rule with more levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Shares of a row's largest magnitude at which the search puts the outermost level.
_SHARES = torch.linspace(0.1, 1.0, 46)
#: Numbers that a chunk of rows may have while its steps are searched (16 MB of float32 an array).
_CHUNK_NUMBERS = 1 << 22


def encode(rows: Tensor, steps: Tensor, bits: int) -> Tensor:
    """Return the code of the nearest level.

    Args:
        rows: [n, d].
        steps: [n], not negative; a row with step 0 may have any codes.
        bits: 1 to 8.

    Returns:
        uint8 [n, d].
    """
    safe = torch.where(steps > 0, steps, torch.ones_like(steps)).unsqueeze(1)
    return (rows / safe).floor().add_(2 ** (bits - 1)).clamp_(0, 2**bits - 1).to(torch.uint8)


def levels(codes: Tensor, bits: int) -> Tensor:
    """Return what codes stand for, in steps: q − (2^b − 1) / 2."""
    centred: Tensor = codes.float() - (2**bits - 1) / 2
    return centred


def best_steps(rows: Tensor, bits: int) -> Tensor:
    r"""Return the steps [n] that make each row's squared error small.

    For one bit the best level is the mean magnitude, so the step is twice that. For more bits the outermost level is
    tried at several shares of the row's largest magnitude (what lies beyond is clipped); for the codes x ↦ q of each,
    the step is refined to the least squares' ⟨x, l⟩ / ⟨l, l⟩ with l = q − (2^b − 1) / 2, and the best one is kept.

    Args:
        rows: [n, d].
        bits: 1 to 8.
    """
    if bits == 1:
        return 2 * rows.abs().mean(dim=1)
    chunk = max(1, _CHUNK_NUMBERS // rows.shape[1])
    return torch.cat([_searched(part, bits) for part in rows.split(chunk)])


def _searched(rows: Tensor, bits: int) -> Tensor:
    largest = rows.abs().amax(dim=1)
    best, smallest = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    for share in _SHARES.tolist():
        tried = share * largest / ((2**bits - 1) / 2)
        level = levels(encode(rows, tried, bits), bits)
        refined = (rows * level).sum(dim=1) / level.square().sum(dim=1)
        for steps in (tried, refined):
            errors = squared_errors(rows, steps, bits)
            better = errors < smallest
            best, smallest = torch.where(better, steps, best), torch.where(better, errors, smallest)
    return best


def squared_errors(rows: Tensor, steps: Tensor, bits: int) -> Tensor:
    """Return each row's squared error [n] with these steps."""
    return (rows - levels(encode(rows, steps, bits), bits) * steps.unsqueeze(1)).square().sum(dim=1)
