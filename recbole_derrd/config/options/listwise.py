"""Options of listwise distillation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, in_blocks_of_users, option, share_of_users
from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class ListwiseOptions(Options):
    """Softmax cross-entropy with the teacher over the whole catalogue."""

    prefix: ClassVar[str] = "listwise_"

    # No published value. A user's gradient by its scores adds up to at most 2 * weight / temperature, here 0.4, a fifth
    # of what one row of BPR has at most.
    weight: float = option(0.1, "Weight of the term in the loss.", low=0)
    temperature: float = option(0.5, "Temperature of both softmaxes (T); small looks at the best items only.", above=0)
    observed: bool = option(False, "Whether a user's training items take part, in both softmaxes.")
    top_n: int = option(
        0,
        "The teacher's mass is that of its N best unobserved items, kept on disk with their scores: faster; "
        "0 is the whole catalogue. The student's softmax is over the catalogue either way.",
        low=0,
    )
    fused: bool = in_blocks_of_users()
    sample: float = share_of_users()

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.observed and self.top_n:
            raise OptionError(
                "listwise_observed needs the whole catalogue, and the teacher's lists hold unobserved items only: take "
                "out listwise_observed or listwise_top_n."
            )
