"""Options of Relaxed Ranking Distillation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, option
from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class RRDOptions(Options):
    """Relaxed Ranking Distillation (CIKM 2020, section 3.2)."""

    prefix: ClassVar[str] = "rrd_"

    weight: float = option(0.001, "Weight of the term in the loss (lambda_RRD).", low=0)
    k: int = option(40, "Interesting items a user (K).", low=1)
    l: int = option(  # noqa: E741 (the paper's L)
        40, "Uninteresting items a user (L); 0 ranks the interesting items alone.", low=0
    )
    top_n: int = option(500, "Length of the teacher's list that interesting items are drawn from (N).", low=1)
    decay: float = option(10.0, "Rank k is drawn with probability proportional to exp(-k / decay) (T).", above=0)
    interesting: str = option(
        "sampled",
        "Interesting items: drawn anew each epoch, or always the first K of the list.",
        choices=("sampled", "topk"),
    )
    ranking: str = option(
        "relaxed",
        "Order of the uninteresting items: ignored (relaxed), or the teacher's as well (full, the paper's ablation).",
        choices=("relaxed", "full"),
    )
    fused: bool = option(True, "Compute scores, loss and gradients together; equal within rounding.")
    sample: float = option(
        1.0,
        "Share of a batch's distinct users whose lists are ranked, drawn anew each step; below 1 is faster, with the "
        "same term on average.",
        above=0,
        high=1,
    )

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.top_n < self.k:
            raise OptionError(
                f"rrd_top_n = {self.top_n} is shorter than rrd_k = {self.k}: interesting items are drawn from that "
                "list. Raise rrd_top_n or lower rrd_k."
            )
