"""Options of Ranking Distillation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, option, share_of_users


@dataclasses.dataclass(frozen=True)
class RDOptions(Options):
    """Ranking Distillation (KDD 2018)."""

    prefix: ClassVar[str] = "rd_"

    # The authors' code adds alpha = 1 times the sum over K, a mean over rows, to the base loss.
    weight: float = option(1.0, "Weight of the term in the loss (alpha).", low=0)
    k: int = option(10, "The teacher's best unobserved items that are taken for positives (K).", low=1)
    position_lambda: float = option(
        1.0, "Rank r has position weight exp(-r / lambda), normalised; large weighs all ranks alike.", above=0
    )
    mu: float = option(0.1, "Sharpness of the dynamic weights tanh(max(mu * (estimated rank - r), 0)).", above=0)
    negatives: int = option(
        100, "Unobserved items that estimate the student's ranks, drawn anew each epoch (Q).", low=1
    )
    start_epoch: int = option(10, "First epoch with dynamic weights; before it position weights alone.", low=0)
    # The paper normalises the product and so do re-implementations; the authors' code has the switch off.
    normalise: bool = option(
        True, "Whether a user's hybrid weights are made to sum to 1 (the paper), or left as they are (the code)."
    )
    sample: float = share_of_users()
