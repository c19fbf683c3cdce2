"""Options of Distillation Experts."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.hints import HintOptions
from recbole_derrd.config.options.schema import option, share_of_entities
from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class DEOptions(HintOptions):
    """Distillation Experts (CIKM 2020, section 3.1)."""

    prefix: ClassVar[str] = "de_"
    several_layers: ClassVar[bool] = True

    weight: float = option(0.01, "Weight of the term in the loss (lambda_DE).", low=0)
    num_experts: int = option(30, "Experts for users, and as many for items (M).", low=1, high=1000)
    hidden_size: int | None = option(
        None,
        "Hidden units of an expert; (student size + teacher size) // 2 if none.",
        low=1,
        kind=(int, type(None)),
    )
    gating: str = option(
        "gumbel",
        "How experts are combined: relaxed one-hot choice, or plain attention (the paper's ablation).",
        choices=("gumbel", "attention"),
    )
    temperature_start: float = option(1.0, "Temperature of the choice at the first epoch.", above=0)
    temperature_end: float = option(1e-10, "Temperature that the schedule falls to.", above=0)
    temperature_epochs: int = option(1000, "Epochs of the geometric fall, whatever `epochs` is.", low=1)
    norm: str = option(
        "squared",
        "Reconstruction error: squared L2 (authors' code) or L2 (the paper's text).",
        choices=("squared", "l2"),
    )
    fused: bool = option(
        True, "Compute errors and gradients together, and only the experts that matter; equal within rounding."
    )
    sample: float = share_of_entities()
    hint: str | None = option(
        None,
        "Student's hint layer, several joined by '+'; the model's first if none (see the table of models).",
        kind=(str, type(None)),
    )

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.temperature_end > self.temperature_start:
            raise OptionError("de_temperature_end must not be above de_temperature_start: the temperature falls.")
