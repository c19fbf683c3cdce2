"""Options of Distillation Experts."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.options.schema import Options, option

Text = (str, type(None))


@dataclasses.dataclass(frozen=True)
class DEOptions(Options):
    """Distillation Experts (CIKM 2020, section 3.1)."""

    prefix: ClassVar[str] = "de_"

    weight: float = option(0.01, "Weight of the term in the loss (lambda_DE).", low=0)
    num_experts: int = option(30, "Experts for users, and as many for items (M).", low=1)
    hidden_size: int | None = option(
        None,
        "Hidden units of an expert; (student size + teacher size) // 2 if none.",
        low=1,
        kind=(int, type(None)),
    )
    selection: str = option(
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
    hint: str | None = option(
        None,
        "Student's hint layer, several joined by '+'; the model's first if none (see the table of models).",
        kind=Text,
    )
    teacher_hint: str | None = option(
        None,
        "Teacher's hint layer; the same as the student's where it has that one, else its first.",
        kind=Text,
    )
