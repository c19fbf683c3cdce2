"""A student that is trained to be read in few bits: its tables are what their codes stand for, in every loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recbole_derrd.adapters import Adapter
from recbole_derrd.ops.packing import STEP_BYTES, packed_size
from recbole_derrd.ops.quantize import best_steps
from recbole_derrd.ops.rotation import learned_rotation, random_rotation
from recbole_derrd.student.bits import Bits, QuantizedRows, steps_in_file
from recbole_derrd.student.propagated import quantize_propagated

#: How torch names the latent rows of a table, and the steps beside them.
_LATENT, _RATIOS = ".parametrizations.weight.original", ".parametrizations.weight.0.log_ratios"


def quantize_student(model: Any, adapter: Adapter, bits: Bits, seed: int) -> None:
    """Let a student's tables, or what a graph makes of them, be read through their quantiser from now on.

    To be called before its optimizer is built. Where a rotation of both sides can be had, they are turned first, which
    leaves every score as it is.

    Args:
        model: the student.
        adapter: its adapter, which names its tables.
        bits: bits of its tables.
        seed: seed of the rotation.
    """
    if bits.rotation != "none" and adapter.rotates:
        shaped, own = ("item", bits.item) if bits.item < 32 else ("user", bits.user)
        rows = adapter.embeddings(shaped).detach().cpu().float()[1:]
        rotation = random_rotation(rows.shape[1], seed) if bits.rotation == "random" else None
        adapter.turn(learned_rotation(rows, own, seed) if rotation is None else rotation)
    if adapter.propagates:
        quantize_propagated(model, adapter, bits)
        return
    for side, own in (("user", bits.user), ("item", bits.item)):
        for table in (model.get_submodule(name) for name in adapter.tables[side] if own < 32):
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
        known = steps_in_file(steps, name, quantizer)
        quantizer.start_at(best_steps(rows, quantizer.bits) if known is None else known)
        model.get_parameter(name + _LATENT).copy_(rows)
    model.load_state_dict(weights, strict=False)
