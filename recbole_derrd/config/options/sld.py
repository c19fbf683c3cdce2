"""Options of Soft Label Distillation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, option, share_of_users
from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class SLDOptions(Options):
    """Soft Label Distillation, the output layer of MKD (2023); a reconstruction."""

    prefix: ClassVar[str] = "sld_"

    weight: float = option(0.001, "Weight of the term in the loss.", low=0)
    k: int = option(100, "Interesting items a user, from the teacher's list (K).", low=1)
    l: int = option(200, "Uninteresting items a user, from the rest of the catalogue (L).", low=0)  # noqa: E741
    top_n: int = option(500, "Length of the teacher's list that interesting items are drawn from (N).", low=1)
    decay: float = option(10.0, "Rank k is drawn with probability proportional to exp(-k / decay) (T).", above=0)
    temperature: float = option(0.1, "Temperature of both softmaxes (tau).", above=0)
    student_share: float = option(
        0.0, "Share of the student's own logits in the soft labels (w); 0 is the teacher alone.", low=0, high=0.99
    )
    sample: float = share_of_users()

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.top_n < self.k:
            raise OptionError(
                f"sld_top_n = {self.top_n} is shorter than sld_k = {self.k}: interesting items are drawn from that "
                "list. Raise sld_top_n or lower sld_k."
            )
