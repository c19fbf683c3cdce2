r"""What a rank in a teacher's list counts in an ensemble of several teachers.

SeongKu Kang et al.: "Distillation from Heterogeneous Models for Top-K Recommendation" (HetComp), WWW 2023, adds up
importances of ranks over the teachers; its formula was not to be found. The authors' later work counts r^-0.05 over the
whole catalogue. Rankings that end at rank N give the same order of the listed items if every unlisted item is taken to
stand at rank N + 1 and what that counts is taken off all of them:

    w_r = r^-p - (N + 1)^-p   for r = 1 ... N,   0 for unlisted items,

or, as the alternative, w_r = exp(-r / decay).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class RankWeighting:
    """How ranks are weighed.

    Attributes:
        kind: "power" or "exponential".
        power: p of the former.
        decay: of the latter, in ranks.
    """

    kind: str = "power"
    power: float = 0.05
    decay: float = 10.0

    def of_ranks(self, ranks: Tensor, listed: int | None = None) -> Tensor:
        """Return what ranks, from 1, count [same shape], float64.

        Args:
            ranks: ranks of any shape.
            listed: length N of the rankings they are in; None for ranks in a whole order, which nothing is taken off.
        """
        exact = ranks.double()
        if self.kind == "exponential":
            return torch.exp(-exact / self.decay)
        if listed is None:
            return exact.pow(-self.power)
        # The difference of two nearly equal powers, without cancellation.
        last = torch.tensor(listed + 1.0, dtype=torch.float64, device=ranks.device)
        return last.pow(-self.power) * torch.expm1(self.power * (last / exact).log())

    def of_list(self, listed: int) -> Tensor:
        """Return what the ranks of a list count [listed], float64."""
        return self.of_ranks(torch.arange(1, listed + 1), listed)
