"""The embeddings of both sides that a student and its teacher are compared at: what DE, NKD and CPD read."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.teacher import Knowledge

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

    def embeddings(self, side: str, ids: Tensor) -> Tensor:
        """Return the student's embeddings [n, d_s], float32."""
        return self.student.embeddings(side, ids, self.layer).float()

    @torch.no_grad()
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return the (student's, teacher's) width of each side."""
        one = torch.ones(1, dtype=torch.int64, device=self.student.device)
        return {side: (self.embeddings(side, one).shape[1], self.targets[side].shape[1]) for side in SIDES}
