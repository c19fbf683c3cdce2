"""Options of preference-consistent distillation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.de import DEOptions
from recbole_derrd.config.options.hints import HintOptions
from recbole_derrd.config.options.schema import option, share_of_entities
from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class CPDOptions(HintOptions):
    """Consistent Preference Distillation, the middle layer of MKD (2023), and Preference-Consistent KD (2025)."""

    prefix: ClassVar[str] = "cpd_"

    weight: float = option(0.05, "Weight of the term in the loss.", low=0)
    feature: str = option(
        "experts",
        "What is regularised: DE's experts and their squared error, or the mean of small networks and 1 - cosine.",
        choices=("experts", "cosine"),
    )
    ranking_weight: float = option(0.1, "Weight of the regulariser by lists beside the feature loss.", low=0)
    pair_weight: float = option(0.0, "Weight of the regulariser by pairs beside the feature loss.", low=0)
    pairs: str = option(
        "logistic",
        "Regulariser by pairs: -log sigmoid of the product of the differences (later code), or what it is below 0 "
        "(hinge, first code).",
        choices=("logistic", "hinge"),
    )
    q: int = option(5, "Items a user whose order is to be kept, drawn anew each epoch (Q).", low=2)
    top_n: int = option(100, "Length of the teacher's list that they are drawn from.", low=2)
    decay: float = option(10.0, "Rank k is drawn with probability proportional to exp(-k / decay).", above=0)
    tau: float = option(0.1, "Temperature of the lists' softmaxes.", above=0)
    num_experts: int = option(30, "Experts for users, and as many for items (E).", low=1, high=1000)
    hidden_size: int | None = option(
        None,
        "Hidden units of an expert; (student size + teacher size) // 2 if none.",
        low=1,
        kind=(int, type(None)),
    )
    dropout: float = option(0.1, "Dropout before each layer of the small networks (feature: cosine).", low=0, high=0.9)
    temperature_start: float = option(
        1.0, "Temperature of the experts' choice at the first epoch (feature: experts).", above=0
    )
    temperature_end: float = option(1e-10, "Temperature that the schedule falls to.", above=0)
    temperature_epochs: int = option(1000, "Epochs of the geometric fall, whatever `epochs` is.", low=1)
    sample: float = share_of_entities()

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.top_n < self.q:
            raise OptionError(
                f"cpd_top_n = {self.top_n} is shorter than cpd_q = {self.q}: the items are drawn from that list. Raise "
                "cpd_top_n or lower cpd_q."
            )
        if self.temperature_end > self.temperature_start:
            raise OptionError("cpd_temperature_end must not be above cpd_temperature_start: the temperature falls.")

    def of_experts(self) -> DEOptions:
        """Return the options of the experts that are regularised."""
        same = ("num_experts", "hidden_size", "temperature_start", "temperature_end", "temperature_epochs", "sample")
        return DEOptions(hint=self.hint, teacher_hint=self.teacher_hint, **{key: getattr(self, key) for key in same})
