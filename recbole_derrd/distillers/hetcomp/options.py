"""HetComp's options."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, option, published, share_of_users
from recbole_derrd.errors import OptionError

#: KDs, which keeps three snapshots of the teacher.
_PRESETS = {
    "citeulike-bpr-kds": {"weight": 0.01, "fine_weight": 0.005, "k": 50, "observed": 5, "interval": 10, "alpha": 1.05},
}


@dataclasses.dataclass(frozen=True)
class HetCompOptions(Options):
    """HetComp: easy rankings first, whole ensembles of teachers (WWW 2023)."""

    prefix: ClassVar[str] = "hetcomp_"

    preset: str | None = published(_PRESETS)
    weight: float = option(
        0.01, "Weight of the term while the rankings still change (phase 1); 0 takes the whole method out.", low=0
    )
    fine_weight: float = option(0.005, "Weight of the term once the rankings are the teachers' last (phase 2).", low=0)
    k: int = option(100, "Length of the ranking that a user is taught (K).", low=1)
    observed: int = option(10, "Training items a user that are taught as well, the teachers' best (K/10).", low=0)
    top_n: int = option(100, "Length of the rankings that are kept of each snapshot of each teacher (N).", low=1)
    trajectory: bool = option(
        True, "Whether teaching begins with earlier snapshots of the teachers; False is the ablation without them."
    )
    fine: str = option(
        "parts",
        "Phase 2 teaches the order of K/2 and of K/10 items, on average (parts, the published code), or of all K "
        "(whole, its first release); none stays with the losses of phase 1, as an ablation.",
        choices=("parts", "whole", "none"),
    )
    interval: int = option(10, "The student is compared with the teachers' next snapshots every so many epochs.", low=1)
    alpha: float = option(
        1.05,
        "A user goes on to a teacher's next snapshot once the discrepancy to it has shrunk by this factor, which falls "
        "by 0.5 % each time.",
        above=0,
    )
    variant: str = option(
        "default",
        "Who goes on, and when phase 2 begins. default: users who have come closer or gone further; once all are at "
        "the last snapshots. published: once each teacher's mean snapshot is the last to two decimals. first_release: "
        "only users who have come closer go on.",
        choices=("default", "published", "first_release"),
    )
    discrepancy_k: int = option(50, "Length of the rankings that are compared (k).", low=1)
    remainder: int = option(
        0,
        "Items outside the K that stand for the rest of the catalogue, drawn again for each user and step; 0 is all of "
        "them, exactly.",
        low=0,
    )
    sample: float | str = share_of_users(auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        for name in ("k", "discrepancy_k"):
            if self.top_n < getattr(self, name):
                raise OptionError(
                    f"hetcomp_top_n = {self.top_n} is shorter than hetcomp_{name} = {getattr(self, name)}, which "
                    f"is taken from these rankings. Raise hetcomp_top_n or lower hetcomp_{name}."
                )

    @property
    def fine_lengths(self) -> list[int]:
        """How many of the K items phase 2 ranks; it averages over these lengths."""
        return [self.k] if self.fine == "whole" else [max(1, self.k // 2), max(1, self.k // 10)]

    @property
    def move(self) -> str:
        """Who goes on to the next snapshot, see :func:`~recbole_derrd.distillers.hetcomp.curriculum.ready`."""
        return "closer" if self.variant == "first_release" else "closer_or_further"

    @property
    def finish(self) -> str:
        """When phase 2 begins, see :func:`~recbole_derrd.distillers.hetcomp.curriculum.is_finished`."""
        return "rounded" if self.variant == "published" else "all"
