r"""Rows read through their quantiser while they are trained: the forward pass sees codes, gradients reach real rows.

With a latent row v, its step s and levels l(z) = floor(z) + 1/2, held within ±m = ±(2^b − 1) / 2 (``quantize.py``):

    v̂ = s · l(v / s)

is constant almost everywhere, so its gradient is that of "Estimating or Propagating Gradients Through Stochastic
Neurons" (Bengio, Léonard and Courville, 2013), straight through the rounding, with the step learnt as in "Learned Step
Size Quantization" (Esser et al., ICLR 2020, equations 1 to 3), whose levels are whole numbers and here halves:

    ∂v̂ / ∂v = 1                   where |v| ≤ c · s, else 0
    ∂v̂ / ∂s = l(v / s) − v / s     there, else l(v / s)

c is the outermost level and half a step, where l clips: 2^(b−1). For one bit, whose levels are ±1/2, that would stop
the gradient of all that is larger than the mean magnitude's double; there c is 3/2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_derrd.ops.quantize import encode, levels

#: The largest numbers that a float16 holds, and the smallest that it holds to its full precision.
_FLOAT16 = torch.finfo(torch.float16)


def clip_at(bits: int) -> float:
    """Return c: beyond so many steps a latent number has no gradient."""
    return 1.5 if bits == 1 else 2.0 ** (bits - 1)


def readable_quantized(rows: Tensor, steps: Tensor, bits: int) -> Tensor:
    """Return v̂ [n, d] by autograd alone: what stands in brackets is taken for a constant.

    v̂ = s (z̄ + [l(v / s) − z̄]) with z̄ = v / s held within ±c: within, the step's derivative is l − z̄ + z̄ − v / s.

    Args:
        rows: latent rows v [n, d].
        steps: s [n], positive.
        bits: 1 to 8.
    """
    step = steps.unsqueeze(1)
    ratio = rows / step
    held = torch.where(ratio.abs() <= clip_at(bits), ratio, ratio.detach() * 0)
    level = levels(encode(rows, steps, bits), bits).to(rows.dtype)
    return step * (held + (level - held).detach())


class _Quantized(torch.autograd.Function):
    """:func:`readable_quantized` in fewer passes, with one array kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, steps: Tensor, bits: int) -> Tensor:
        step = steps.unsqueeze(1)
        ratio = rows / step
        most = 2 ** (bits - 1)
        level = ratio.floor().clamp_(-most, most - 1).add_(0.5)
        ctx.clip = clip_at(bits)
        ctx.save_for_backward(ratio, level)
        return level * step

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        ratio, level = ctx.saved_tensors
        within = ratio.abs() <= ctx.clip
        own = gradient * within
        by_step = (gradient * level).sum(dim=1) - (own * ratio).sum(dim=1)
        return own, by_step, None


def quantized(rows: Tensor, steps: Tensor, bits: int) -> Tensor:
    """Return rows as their codes of few bits stand for them; see the file's head for the gradient.

    Args:
        rows: latent rows v [n, d].
        steps: s [n], positive.
        bits: 1 to 8.

    Returns:
        [n, d], each number one of the row's 2^b levels.
    """
    result: Tensor = _Quantized.apply(rows, steps, bits)
    return result


def stored_steps(steps: Tensor, unit: Tensor) -> Tensor:
    """Return steps [n] as a float16 times ``unit`` holds them, so that what is trained is what is stored.

    The gradient passes straight through the rounding.

    Args:
        steps: s [n], positive.
        unit: a power of two [1], by which division is exact.
    """
    held = (steps.detach() / unit).clamp(_FLOAT16.tiny, _FLOAT16.max).half()
    return steps + (held.to(steps.dtype) * unit - steps).detach()


def unit_of(steps: Tensor) -> Tensor:
    """Return the power of two [1] that puts the largest of these steps [n] between 1 and 2."""
    largest = steps.max().clamp(min=torch.finfo(torch.float32).tiny).reshape(1)
    return largest.log2().floor().exp2()
