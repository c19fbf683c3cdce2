"""Which embeddings of student and teacher a method reads."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, option
from recbole_derrd.errors import OptionError

_TEXT = (str, type(None))


@dataclasses.dataclass(frozen=True)
class HintOptions(Options):
    """Options of methods that learn from embeddings."""

    #: Whether several layers may be named, joined by '+'.
    several_layers: ClassVar[bool] = False

    hint: str | None = option(
        None, "Student's hint layer; the model's first if none (see the table of models).", kind=_TEXT
    )
    teacher_hint: str | None = option(
        None,
        "Teacher's hint layer; the same as the student's where it has that one, else its first.",
        kind=_TEXT,
    )

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        layers, teacher_layers = self.layers(), self.teacher_layers()
        if not self.several_layers and max(len(layers), len(teacher_layers)) > 1:
            raise OptionError(f"{self.prefix}hint and {self.prefix}teacher_hint name one layer each here.")
        if len(teacher_layers) not in (1, len(layers)):
            raise OptionError(
                f"{self.prefix}teacher_hint names {len(teacher_layers)} layers, {self.prefix}hint {len(layers)}: give "
                "one or as many."
            )

    def layers(self) -> list[str | None]:
        """Return the student's hint layers; None is its default."""
        return [layer.strip() for layer in self.hint.split("+")] if self.hint else [None]

    def teacher_layers(self) -> list[str | None]:
        """Return the teacher's hint layers, one for all or one each; None is the student's or the teacher's default."""
        return [layer.strip() for layer in self.teacher_hint.split("+")] if self.teacher_hint else [None]
