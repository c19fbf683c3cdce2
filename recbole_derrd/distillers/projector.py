"""The map from the student's embeddings to the teacher's that NKD and CPD learn: the mean of small networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recbole_derrd.distillers.hint_embeddings import HintEmbeddings
from recbole_derrd.distillers.subsampling import DRAWN, NUMBER, Work, epoch_seed, of_parameters

#: Operations on each number between the layers and on each that they end in, forward and backward.
_PASSES = 6


def _whole(values: Tensor) -> Tensor:
    return values


def mean_of_networks(
    embeddings: Tensor,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    drop: Callable[[Tensor], Tensor] = _whole,
) -> Tensor:
    r"""Return 1/E sum_e (relu(x_e W1_e + b1_e) W2_e + b2_e).

    Args:
        embeddings: inputs x, of each network its own [E, n, d_s].
        first: W1 [E, d_s, h].
        first_bias: b1 [E, h].
        second: W2 [E, h, d_t].
        second_bias: b2 [E, d_t].
        drop: applied to the input of each layer.

    Returns:
        [n, d_t].
    """
    hidden = torch.baddbmm(first_bias.unsqueeze(1), drop(embeddings), first).relu()
    return torch.baddbmm(second_bias.unsqueeze(1), drop(hidden), second).mean(dim=0)


def dropped(values: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set a share of the numbers to 0 and scale the others up, so that they stay on average."""
    if not share:
        return values
    kept = torch.rand(values.shape, generator=generator, device=generator.device) >= share
    return values * kept / (1 - share)


def networks_work(student_size: int, teacher_size: int, networks: int, hidden: int, dropout: bool) -> Work:
    """Return the work of E two-layer networks for an embedding, and of the optimizer's steps on those of both sides."""
    units, inputs = networks * hidden, networks * student_size
    products = 3 * (units * (student_size + teacher_size))
    drawn = DRAWN * (units + inputs) if dropout else 0
    parameters = units * (student_size + teacher_size + 1) + networks * teacher_size
    return Work(products + drawn + NUMBER * _PASSES * (units + inputs + teacher_size), of_parameters(2 * parameters))


class MeanProjector(nn.Module):
    """E networks of two layers, for the users or the items, with dropout before each layer.

    Args:
        student_size: width of the student's embeddings.
        teacher_size: width of the teacher's embeddings.
        num_experts: E.
        hidden: units between the layers.
        dropout: share of the numbers that are dropped before each layer.
        generator: source of the initial weights, which are drawn as torch.nn.Linear draws those of its layers.
    """

    def __init__(
        self,
        student_size: int,
        teacher_size: int,
        num_experts: int,
        hidden: int,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        """Draw the weights."""
        super().__init__()

        def uniform(fan_in: int, *shape: int) -> nn.Parameter:
            bound = 1 / math.sqrt(fan_in)
            return nn.Parameter(torch.empty(num_experts, *shape).uniform_(-bound, bound, generator=generator))

        self.dropout = dropout
        self.sizes = (student_size, teacher_size)
        self.first, self.first_bias = uniform(student_size, student_size, hidden), uniform(student_size, hidden)
        self.second, self.second_bias = uniform(hidden, hidden, teacher_size), uniform(hidden, teacher_size)

    def work(self) -> Work:
        """Return the work of one embedding."""
        networks, _, hidden = self.first.shape
        return networks_work(*self.sizes, networks, hidden, bool(self.dropout))

    def forward(self, embeddings: Tensor, generator: torch.Generator) -> Tensor:
        """Return embeddings of the teacher's width [n, d_t] for the student's [n, d_s]."""
        every = embeddings.expand(len(self.first), *embeddings.shape)
        parts = (self.first, self.first_bias, self.second, self.second_bias)
        return mean_of_networks(every, *parts, drop=lambda values: dropped(values, self.dropout, generator))


def projectors_of(hints: HintEmbeddings, options: Any, seed: int, hidden: Callable[[int, int], int]) -> nn.ModuleDict:
    """Return a :class:`MeanProjector` for each side.

    Args:
        hints: the embeddings that are mapped, and what they are mapped to.
        options: the method's options.
        seed: the method's seed.
        hidden: units between the layers by (student's, teacher's size), where the options name none.
    """
    # Another stream than the noise's, which starts at the seed itself.
    initial = torch.Generator().manual_seed(epoch_seed(seed, -1))
    return nn.ModuleDict(
        {
            side: MeanProjector(
                *size, options.num_experts, options.hidden_size or max(1, hidden(*size)), options.dropout, initial
            )
            for side, size in hints.sizes().items()
        }
    )
