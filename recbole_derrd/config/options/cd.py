"""Options of Collaborative Distillation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, option, share_of_users
from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class CDOptions(Options):
    """Collaborative Distillation (ICDM 2019)."""

    prefix: ClassVar[str] = "cd_"

    # Published re-implementations draw 2 items at weight 0.5 on three data sets, 50 on others; the paper draws half of
    # all. On ml-100k, one seed, 2 at this weight were worse than none and 50 better than the plain student.
    weight: float = option(0.5, "Weight of the term in the loss (lambda).", low=0)
    n_distill: int = option(50, "Unobserved items drawn for each user and epoch.", low=1)
    t1: float = option(2.0, "Scale of the soft labels sigmoid((t + T2) / T1).", above=0)
    t2: float = option(0.0, "Shift of the soft labels (T2).")
    guide: str = option(
        "student",
        "Whose ranks make an item likelier: the student's, anew in each epoch; the teacher's; or nobody's (uniform).",
        choices=("student", "teacher", "uniform"),
    )
    top_n: int = option(
        0,
        "Items are drawn from the guide's N best unobserved ones only; 0 draws from all unobserved items, as the paper "
        "does, and ranks nothing.",
        low=0,
    )
    sample: float = share_of_users()

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.top_n and self.guide == "uniform":
            raise OptionError("cd_guide: uniform has no best items: take out cd_top_n, or choose student or teacher.")
        if 0 < self.top_n < self.drawn:
            raise OptionError(
                f"cd_top_n = {self.top_n} is too short for cd_n_distill = {self.n_distill}: {self.drawn} items are "
                "drawn from it, two for each that is taken. Raise cd_top_n or lower cd_n_distill."
            )

    @property
    def drawn(self) -> int:
        """Items that are drawn for each user: two for each that is taken, unless drawing is uniform."""
        return self.n_distill if self.guide == "uniform" else 2 * self.n_distill
