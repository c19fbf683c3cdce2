"""Options of HetComp."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, in_blocks_of_users, option, share_of_users
from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class HetCompOptions(Options):
    """HetComp: easy rankings first, whole ensembles of teachers (WWW 2023)."""

    prefix: ClassVar[str] = "hetcomp_"

    weight: float = option(
        0.01, "Weight of the term while the rankings still change (phase 1); 0 takes the whole method out.", low=0
    )
    fine_weight: float = option(0.005, "Weight of the term once they are the teachers' last (phase 2).", low=0)
    k: int = option(100, "Length of the ranking that a user is taught (K).", low=1)
    observed: int = option(10, "Training items a user that are taught as well, the teachers' best (K/10).", low=0)
    fine_lists: list[int] = option(
        [50, 10],
        "Phase 2 teaches the order of so many of the K items, averaged over these lengths (K/2 and K/10); the first "
        "release's is [100].",
    )
    top_n: int = option(100, "Length of the lists that are kept of each snapshot of each teacher (N).", low=1)
    trajectory: bool = option(
        True, "Whether teaching begins with earlier snapshots of the teachers; False is the ablation without them."
    )
    fine: bool = option(True, "Whether phase 2 follows; False stays with the losses of phase 1, as an ablation.")
    interval: int = option(10, "The student is compared with the teachers' next snapshots every so many epochs.", low=1)
    alpha: float = option(
        1.05,
        "A user goes on to a teacher's next snapshot once the discrepancy to it has shrunk by this factor, which falls "
        "by 0.5 % each time.",
        above=0,
    )
    move: str = option(
        "closer_or_further",
        "Who goes on besides: users whose discrepancy has grown (closer_or_further, the published code), or nobody "
        "(closer, the first release).",
        choices=("closer_or_further", "closer"),
    )
    finish: str = option(
        "all",
        "Phase 2 begins when all users have arrived at the last snapshots (all), or when each teacher's mean snapshot "
        "is the last to two decimals (rounded, the published code).",
        choices=("all", "rounded"),
    )
    discrepancy: str = option(
        "overlap",
        "What is compared: which of the teacher's items the student has (overlap, the published code), or an NDCG with "
        "the teacher's ranks as relevance (graded).",
        choices=("overlap", "graded"),
    )
    discrepancy_k: int = option(50, "Length of the lists that are compared (k).", low=1)
    remainder: int = option(
        0,
        "Items outside the K that stand for the rest of the catalogue, drawn anew for each user and step; 0 is all of "
        "them, exactly.",
        low=0,
    )
    fused: bool = in_blocks_of_users()
    sample: float = share_of_users()

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        whole = all(isinstance(length, int) and not isinstance(length, bool) for length in self.fine_lists)
        if not self.fine_lists or not whole or min(self.fine_lists) < 1:
            raise OptionError(
                f"hetcomp_fine_lists must hold at least one whole number from 1 on, but is {self.fine_lists}."
            )
        if max(self.fine_lists) > self.k:
            half, tenth = max(1, self.k // 2), max(1, self.k // 10)
            raise OptionError(
                f"hetcomp_fine_lists = {self.fine_lists} reaches beyond hetcomp_k = {self.k}. Lower it, usually to a "
                f"half and a tenth of hetcomp_k ([{half}, {tenth}]), or raise hetcomp_k."
            )
        for name in ("k", "discrepancy_k"):
            if self.top_n < getattr(self, name):
                raise OptionError(
                    f"hetcomp_top_n = {self.top_n} is shorter than hetcomp_{name} = {getattr(self, name)}, which "
                    f"is taken from these lists. Raise hetcomp_top_n or lower hetcomp_{name}."
                )
