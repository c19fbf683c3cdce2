"""The embeddings of both sides that a student and its teacher are compared at: what DE, NKD, CPD and FreqD read."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import Options, option
from recbole_derrd.errors import OptionError
from recbole_derrd.teacher import Knowledge

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


SIDES = ("user", "item")


class HintEmbeddings:
    """A hint layer of a student and one of its teacher's.

    Args:
        student: the student.
        knowledge: what the teacher knows.
        layer: the student's hint layer.
        teacher_layer: the teacher's; the same as the student's where it has that one, else its first, if None.
    """

    def __init__(self, student: Adapter, knowledge: Knowledge, layer: str, teacher_layer: str | None) -> None:
        """Read the teacher's embeddings."""
        self.student, self.layer = student, layer
        #: The teacher's hint layer; None is its first.
        self.teacher_layer = teacher_layer or (layer if layer in knowledge.teacher_hints else None)
        # Plain tensors, no buffers: buffers would reach the checkpoint and be broadcast at every distributed step.
        self.targets = {
            side: torch.from_numpy(knowledge.embeddings(side, self.teacher_layer)).to(student.device) for side in SIDES
        }

    @classmethod
    def of_tables(cls, student: Adapter, knowledge: Knowledge, options: HintOptions) -> HintEmbeddings:
        """Return the layers that the options name, by default the embedding tables, which graph models call ego."""
        layer = student.layer(options.hint or ("ego" if "ego" in student.hints else None))
        tables = "ego" if "ego" in knowledge.teacher_hints and layer not in knowledge.teacher_hints else None
        return cls(student, knowledge, layer, options.teacher_hint or tables)

    def embeddings(self, side: str, ids: Tensor) -> Tensor:
        """Return the student's embeddings [n, d_s], float32."""
        return self.student.embeddings(side, ids, self.layer).float()

    @torch.no_grad()
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return the (student's, teacher's) width of each side."""
        one = torch.ones(1, dtype=torch.int64, device=self.student.device)
        return {side: (self.embeddings(side, one).shape[1], self.targets[side].shape[1]) for side in SIDES}
