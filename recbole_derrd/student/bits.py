"""What a student of few bytes is made of: rows that are read through their quantiser, and how many bits they have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recbole_derrd.errors import CheckpointError
from recbole_derrd.evaluation.size import Stored
from recbole_derrd.ops.quantize import best_steps
from recbole_derrd.ops.straight_through import quantized, stored_steps, unit_of
from recbole_derrd.training.fitting import fitting_steps


class Reader(Protocol):
    """What a table is read through: torch's parametrization of its weight, whose own parameter is the latent one."""

    def __call__(self, latent: Tensor) -> Tensor:
        """Return the table as it is read [n, d]."""

    def entry(self, latent: Tensor) -> dict[str, Any]:
        """Return what a checkpoint holds beside the table as it is read."""

    def load(self, latent: Tensor, rows: Tensor, entry: Any, name: str) -> None:
        """Read these rows from now on: by a checkpoint's entry, or as near to them as can be where it has none.

        Raises:
            CheckpointError: the entry does not fit the table.
        """

    def stored(self, latent: Tensor) -> Stored:
        """Return what the table takes, of which other parameters of the reader take nothing."""


class QuantizedRows(nn.Module):
    """A table's rows as their codes stand for them; the rows themselves stay torch's parameter.

    Steps are trained as log(s / s at the start), so that weight decay pulls them to where they began.

    Args:
        rows: the table as training begins [n, d].
        bits: bits a dimension, 1 to 8.
    """

    unit: Tensor
    start: Tensor

    def __init__(self, rows: Tensor, bits: int) -> None:
        """Find the steps to begin with."""
        super().__init__()
        self.bits = bits
        steps = best_steps(rows.detach(), bits)
        self.register_buffer("unit", unit_of(steps))
        # A row of zeros would have no way back.
        self.register_buffer("start", stored_steps(steps.clamp(min=torch.finfo(torch.float32).tiny), self.unit))
        self.log_ratios = nn.Parameter(torch.zeros_like(steps))

    def steps(self) -> Tensor:
        """Return the steps [n], as they are stored."""
        return stored_steps(self.start * self.log_ratios.exp(), self.unit)

    def forward(self, rows: Tensor) -> Tensor:
        """Return what the rows' codes stand for [n, d]."""
        with torch.autocast(rows.device.type, enabled=False):
            return quantized(rows, self.steps(), self.bits)

    @torch.no_grad()
    def start_at(self, steps: Tensor) -> None:
        """Take these steps [n]."""
        self.log_ratios.copy_((steps.to(self.start) / self.start).log())

    def entry(self, latent: Tensor) -> dict[str, Any]:
        """Return bits, steps, and the unit that they are stored in."""
        return {"bits": self.bits, "steps": self.steps().detach(), "unit": self.unit.detach()}

    @torch.no_grad()
    def load(self, latent: Tensor, rows: Tensor, entry: Any, name: str) -> None:
        """Take the steps; the rows stand where their codes do."""
        rows = rows.to(self.start)
        known = steps_in_file({} if entry is None else {name: entry}, name, self)
        self.start_at(best_steps(rows, self.bits) if known is None else known)
        latent.copy_(rows)

    def stored(self, latent: Tensor) -> Stored:
        """Return the size of codes and steps; of the ratios nothing is stored."""
        return Stored.in_bits(len(latent), latent.shape[1], self.bits)


@dataclasses.dataclass(frozen=True)
class Bits:
    """Bits a dimension of a student's tables while it is trained; 32 is float32.

    Attributes:
        user: of the users' tables.
        item: of the items' tables.
        rotation: how the tables are turned before: learned, random or none.
        codebooks: codebooks of the items' table in place of bits; 0 is none.
    """

    user: int = 32
    item: int = 32
    rotation: str = "learned"
    codebooks: int = 0

    def __bool__(self) -> bool:
        """Whether any table is in few bits or in codebooks."""
        return self.user < 32 or self.item < 32 or self.codebooks > 0


def steps_in_file(steps: Mapping[str, Any], name: str, reader: QuantizedRows) -> Tensor | None:
    """Return the steps of a table that a checkpoint holds; None where it holds none.

    Raises:
        CheckpointError: they do not fit the table.
    """
    if steps.get(name) is None:
        return None
    own = fitting_steps(steps[name], len(reader.start))
    if own is None:
        raise CheckpointError(f"The steps of '{name}' in the checkpoint do not fit its table. Train the student again.")
    return own
