"""Options of Distillation Experts."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.errors import OptionError
from recbole_derrd.options.schema import Options, option

Text = (str, type(None))


@dataclasses.dataclass(frozen=True)
class DEOptions(Options):
    """Distillation Experts (CIKM 2020, section 3.1)."""

    prefix: ClassVar[str] = "de_"

    weight: float = option(0.01, "Weight of the term in the loss (lambda_DE).", low=0)
    num_experts: int = option(30, "Experts for users, and as many for items (M).", low=1, high=1000)
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
    fused: bool = option(
        True, "Compute errors and gradients together, and only the experts that matter; equal within rounding."
    )
    sample: float = option(
        1.0,
        "Share of a batch's distinct users and items that the term looks at, drawn anew each step; below 1 is faster, "
        "with the same term on average.",
        above=0,
        high=1,
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

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.temperature_end > self.temperature_start:
            raise OptionError("de_temperature_end must not be above de_temperature_start: the temperature falls.")
        layers, teacher_layers = self.layers(), self.teacher_layers()
        if len(teacher_layers) not in (1, len(layers)):
            raise OptionError(
                f"de_teacher_hint names {len(teacher_layers)} layers, de_hint {len(layers)}: give one or as many."
            )

    def layers(self) -> list[str | None]:
        """Return the student's hint layers; None is its default."""
        return [layer.strip() for layer in self.hint.split("+")] if self.hint else [None]

    def teacher_layers(self) -> list[str | None]:
        """Return the teacher's hint layers, one for all or one each; None is the student's or the teacher's default."""
        return [layer.strip() for layer in self.teacher_hint.split("+")] if self.teacher_hint else [None]
