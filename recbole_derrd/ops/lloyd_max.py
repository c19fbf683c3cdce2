r"""Quantisation of each row by levels that are best for Gaussian numbers, with a scale of the row's own.

A row that is turned at random has nearly Gaussian numbers, and for these the levels of the least squared error are not
equally far from each other ("Quantizing for Minimum Distortion", Max, 1960; "Least Squares Quantization in PCM", Lloyd,
1982). Code q stands for levels[q] · scale. One bit is the same rule as in ``quantize.py``.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

#: Scales that a row's search begins with, in root mean squares of the row, and rounds of each.
_BEGINNINGS = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 1.9)
_ROUNDS = 4


@functools.lru_cache(maxsize=8)
def gaussian_levels(bits: int) -> Tensor:
    r"""Return the 2^bits levels [2^bits], ascending, of the least mean squared error for a Gaussian of variance 1.

    Lloyd's algorithm with the density itself: the borders b_i are halfway between neighbouring levels, and each level
    becomes the mean between its borders, (φ(b_i) − φ(b_{i+1})) / (Φ(b_{i+1}) − Φ(b_i)), until nothing changes.

    Args:
        bits: 1 to 4; beyond that the tails' shares are rounding errors, and uniform levels are as good.
    """
    count = 2**bits
    levels = [(2 * q + 1 - count) * 2.0 / count for q in range(count)]
    moved = 1.0
    while moved > 1e-12:
        inner = [(low + high) / 2 for low, high in zip(levels, levels[1:])]
        borders = [-math.inf, *inner, math.inf]
        means = [_mean_between(low, high) for low, high in zip(borders, borders[1:])]
        moved = max(abs(new - old) for new, old in zip(means, levels))
        levels = means
    return torch.tensor(levels, dtype=torch.float32)


def _mean_between(low: float, high: float) -> float:
    """Return the mean of a Gaussian of variance 1 between two borders."""
    density = [0.0 if math.isinf(b) else math.exp(-b * b / 2) / math.sqrt(2 * math.pi) for b in (low, high)]
    share = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    return (density[0] - density[1]) / share


def encode_nearest(rows: Tensor, scales: Tensor, levels: Tensor) -> Tensor:
    """Return the code of the level nearest to each number, uint8 [n, d].

    Args:
        rows: [n, d].
        scales: [n], not negative; a row with scale 0 may have any codes.
        levels: [L], ascending.
    """
    safe = torch.where(scales > 0, scales, torch.ones_like(scales)).unsqueeze(1)
    borders = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(rows / safe, borders).to(torch.uint8)


def best_scales(rows: Tensor, levels: Tensor) -> Tensor:
    r"""Return the scales [n] that make each row's squared error small.

    From several beginnings codes and scale take turns: the nearest levels l, then the least squares' ⟨x, l⟩ / ⟨l, l⟩.
    Neither makes the error larger; the scale of the smallest error is kept.

    Args:
        rows: [n, d].
        levels: [L], ascending.
    """
    spread = rows.square().mean(dim=1).sqrt()
    best, smallest = torch.zeros_like(spread), torch.full_like(spread, torch.inf)
    for beginning in _BEGINNINGS:
        scales = beginning * spread
        for _ in range(_ROUNDS):
            level = levels[encode_nearest(rows, scales, levels).long()].to(rows.dtype)
            scales = (rows * level).sum(dim=1).clamp(min=0) / level.square().sum(dim=1)
        errors = squared_errors_of(rows, scales, levels)
        better = errors < smallest
        best, smallest = torch.where(better, scales, best), torch.where(better, errors, smallest)
    return best


def squared_errors_of(rows: Tensor, scales: Tensor, levels: Tensor) -> Tensor:
    """Return each row's squared error [n] with these scales."""
    coded = levels[encode_nearest(rows, scales, levels).long()] * scales.unsqueeze(1)
    return (rows - coded).square().sum(dim=1)
