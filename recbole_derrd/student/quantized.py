"""A student that is trained to be read in few bits: its tables are what their codes stand for, in every loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recbole_derrd.adapters import Adapter
from recbole_derrd.ops.packing import STEP_BYTES, packed_size
from recbole_derrd.ops.quantize import best_steps
from recbole_derrd.ops.rotation import learned_rotation, random_rotation
from recbole_derrd.ops.straight_through import quantized, stored_steps, unit_of

#: How torch names the latent rows of a table, and the steps beside them.
_LATENT, _RATIOS = ".parametrizations.weight.original", ".parametrizations.weight.0.log_ratios"


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


@dataclasses.dataclass(frozen=True)
class Bits:
    """Bits a dimension of a student's tables while it is trained; 32 is float32.

    Attributes:
        user: of the users' tables.
        item: of the items' tables.
        rotation: how the tables are turned before: learned, random or none.
    """

    user: int = 32
    item: int = 32
    rotation: str = "learned"

    def __bool__(self) -> bool:
        """Whether any table is in few bits."""
        return self.user < 32 or self.item < 32


def quantize_student(model: Any, adapter: Adapter, bits: Bits, seed: int) -> None:
    """Let a student's tables be read through their quantiser from now on; before its optimizer is built.

    Where the score is the dot product of two tables, both are turned first, which leaves every score as it is.

    Args:
        model: the student.
        adapter: its adapter, which names its tables.
        bits: bits of its tables.
        seed: seed of the rotation.
    """
    tables = {side: [model.get_submodule(name) for name in adapter.tables[side]] for side in ("user", "item")}
    if bits.rotation != "none" and adapter.rotates:
        (users,), (items,) = tables["user"], tables["item"]
        shaped, own = (items, bits.item) if bits.item < 32 else (users, bits.user)
        rows = shaped.weight.detach().cpu().float()[1:]
        rotation = random_rotation(rows.shape[1], seed) if bits.rotation == "random" else None
        rotation = learned_rotation(rows, own, seed) if rotation is None else rotation
        with torch.no_grad():
            for table in (users, items):
                table.weight[1:] = table.weight[1:] @ rotation.to(table.weight)
    for side, own in (("user", bits.user), ("item", bits.item)):
        for table in tables[side] if own < 32 else ():
            table.sparse = False
            parametrize.register_parametrization(table, "weight", QuantizedRows(table.weight, own))


def quantized_tables(model: nn.Module) -> Iterator[tuple[str, QuantizedRows]]:
    """Yield the name and the quantiser of each table of a model that is read in few bits."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and parametrize.is_parametrized(module, "weight"):
            quantizer = module.parametrizations.weight[0]  # type: ignore[index,union-attr]
            assert isinstance(quantizer, QuantizedRows)
            yield name, quantizer


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state under the names of its own class: of a quantised table what its codes stand for."""
    state = model.state_dict()
    with torch.no_grad():
        for name, quantizer in quantized_tables(model):
            rows = state[name + _LATENT]
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.parametrizations.")}
            state[f"{name}.weight"] = quantizer(rows)
    return state


def row_bytes(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, int]:
    """Return the bytes that a row of each parameter of quantised tables takes: codes and step; of the ratios nothing.

    Args:
        model: the model.
        names: the tables that are asked for; all if none.
    """
    found: dict[str, int] = {}
    for name, quantizer in quantized_tables(model):
        if names is None or name in names:
            size = model.get_parameter(name + _LATENT).shape[1]
            found[name + _LATENT] = packed_size(size, quantizer.bits) + STEP_BYTES
            found[name + _RATIOS] = 0
    return found


def table_steps(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return bits and steps of each quantised table, for a checkpoint beside its plain weights."""
    return {
        name: {"bits": quantizer.bits, "steps": quantizer.steps().detach()}
        for name, quantizer in quantized_tables(model)
    }


@torch.no_grad()
def load_plain_weights(model: nn.Module, weights: Mapping[str, Tensor], steps: Mapping[str, Mapping[str, Any]]) -> None:
    """Load what :func:`plain_weights` gave: codes and steps come back, and the rows stand where their codes do.

    Args:
        model: the model, quantised or not.
        weights: its state under the names of its own class.
        steps: what :func:`table_steps` gave.
    """
    weights = dict(weights)
    for name, quantizer in quantized_tables(model):
        rows = weights.pop(f"{name}.weight").to(quantizer.start)
        known = steps.get(name)
        quantizer.start_at(best_steps(rows, quantizer.bits) if known is None else known["steps"])
        model.get_parameter(name + _LATENT).copy_(rows)
    model.load_state_dict(weights, strict=False)
