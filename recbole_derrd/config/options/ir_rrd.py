"""Options of RRD with the item-side ranking."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, option
from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class IRRRDOptions(Options):
    """Item-side ranking regularised distillation (Information Sciences 2021)."""

    prefix: ClassVar[str] = "ir_rrd_"

    weight: float = option(0.001, "Weight of the term in the loss (the user side's, lambda_U).", low=0)
    item_weight: float = option(
        0.5, "Weight of the item side in units of the user side's (lambda_I / lambda_U); 0 is RRD.", low=0
    )
    k: int = option(40, "Interesting items a user (K).", low=1)
    l: int = option(40, "Uninteresting items a user (L).", low=0)  # noqa: E741 (the paper's L)
    top_n: int = option(500, "Length of the teacher's list of items that interesting ones are drawn from (N).", low=1)
    decay: float = option(
        10.0, "Items of rank k are drawn with probability proportional to exp(-k / decay) (T).", above=0
    )
    item_k: int = option(20, "Interesting users an item (K_I).", low=1)
    item_l: int = option(20, "Uninteresting users an item (L_I).", low=0)
    item_top_n: int = option(500, "Length of the teacher's list of users that interesting ones are drawn from.", low=1)
    item_decay: float = option(
        10.0, "Users of rank k are drawn with probability proportional to exp(-k / decay) (T_I).", above=0
    )
    interesting: str = option(
        "sampled",
        "Interesting items and users: drawn anew each epoch, or always the first of the list.",
        choices=("sampled", "topk"),
    )
    max_items: int = option(
        0,
        "Items of a step whose users are ranked at most, drawn anew each step: faster, with the same term on average; "
        "0 is all items that the batch's users have drawn.",
        low=0,
    )
    sample: float = option(
        1.0,
        "Share of a batch's distinct users whose items are ranked, drawn anew each step; below 1 is faster, with the "
        "same term on average. The item side has ir_rrd_max_items.",
        above=0,
        high=1,
    )
    fused: bool = option(True, "Compute scores, loss and gradients together; equal within rounding.")

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        for side, top_n, k in (("", self.top_n, self.k), ("item_", self.item_top_n, self.item_k)):
            if top_n < k:
                raise OptionError(
                    f"ir_rrd_{side}top_n = {top_n} is shorter than ir_rrd_{side}k = {k}: the interesting ones are "
                    f"drawn from that list. Raise ir_rrd_{side}top_n or lower ir_rrd_{side}k."
                )
