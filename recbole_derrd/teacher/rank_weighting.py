r"""Rank weighting: what a rank in a teacher's ranking counts in an ensemble of several teachers.

SeongKu Kang et al.: "Distillation from Heterogeneous Models for Top-K Recommendation" (HetComp), WWW 2023, adds up
importances of ranks over the teachers; we could not find its formula. The authors' later work counts r^-0.05 over the
whole catalogue. Rankings that end at rank N give the same order of the listed items if every unlisted item stands at
rank N + 1 and the weight of that rank is subtracted from all weights:

    w_r = r^-p - (N + 1)^-p   for r = 1 ... N,   0 for unlisted items,

or, as the alternative, w_r = exp(-r / decay).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class RankWeighting:
    """How much ranks count.

    Attributes:
        kind: "power" or "exponential".
        power: exponent p of the power.
        decay: of the exponential, in ranks.
    """

    kind: str = "power"
    power: float = 0.05
    decay: float = 10.0

    def of_ranks(self, ranks: Tensor, listed: int | None = None) -> Tensor:
        """Return what ranks, from 1, count [same shape], float64.

        Args:
            ranks: ranks of any shape.
            listed: length N of the rankings; None for ranks in an order of all items, from which nothing is subtracted.
        """
        exact = ranks.double()
        if self.kind == "exponential":
            return torch.exp(-exact / self.decay)
        if listed is None:
            return exact.pow(-self.power)
        # The difference of two nearly equal powers, without cancellation.
        last = torch.tensor(listed + 1.0, dtype=torch.float64, device=ranks.device)
        return last.pow(-self.power) * torch.expm1(self.power * (last / exact).log())

    def of_ranking(self, listed: int) -> Tensor:
        """Return what the ranks of a ranking count [listed], float64."""
        return self.of_ranks(torch.arange(1, listed + 1), listed)
