"""A student that is trained to be read in few bits, or in codebooks: its tables are what their codes stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recbole_derrd.adapters import Adapter
from recbole_derrd.evaluation.size import Stored
from recbole_derrd.ops.rotation import learned_rotation, random_rotation
from recbole_derrd.student.bits import Bits, QuantizedRows, Reader
from recbole_derrd.student.codewords import CodewordRows
from recbole_derrd.student.propagated import quantize_propagated

#: How torch names the parameter that a table is read from, and what its reader has.
_LATENT, _READER = ".parametrizations.weight.original", ".parametrizations.weight.0."


def quantize_student(model: Any, adapter: Adapter, bits: Bits, seed: int) -> None:
    """Let a student's tables, or what a graph makes of them, be read through their codes from now on.

    To be called before its optimizer is built. Where a rotation of both sides can be had, they are turned first, which
    leaves every score as it is.

    Args:
        model: the student.
        adapter: its adapter, which names its tables.
        bits: bits of its tables.
        seed: seed of the rotation.
    """
    # A sum of codewords turns with them: no rotation makes it lose less.
    if min(bits.user, bits.item) < 32 and bits.rotation != "none" and adapter.rotates:
        shaped, own = ("item", bits.item) if bits.item < 32 else ("user", bits.user)
        rows = adapter.embeddings(shaped).detach().cpu().float()[1:]
        rotation = random_rotation(rows.shape[1], seed) if bits.rotation == "random" else None
        adapter.turn(learned_rotation(rows, own, seed) if rotation is None else rotation)
    if adapter.propagates:
        quantize_propagated(model, adapter, bits)
        return
    for side, own in (("user", bits.user), ("item", bits.item)):
        for table in (model.get_submodule(name) for name in adapter.tables[side]):
            if side == "item" and bits.codebooks:
                reader, table.weight = CodewordRows.of(table.weight, bits.codebooks, seed)
                # The table and its parameter are of different shapes.
                _read_through(table, reader, unsafe=True)
            elif own < 32:
                _read_through(table, QuantizedRows(table.weight, own))


def _read_through(table: Any, reader: nn.Module, *, unsafe: bool = False) -> None:
    table.sparse = False
    parametrize.register_parametrization(table, "weight", reader, unsafe=unsafe)


def coded_tables(model: nn.Module) -> Iterator[tuple[str, Reader, nn.Parameter]]:
    """Yield the name, the reader and the latent parameter of each table of a model that is read through codes."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and parametrize.is_parametrized(module, "weight"):
            reader = module.parametrizations.weight[0]  # type: ignore[index,union-attr]
            assert isinstance(reader, (QuantizedRows, CodewordRows))
            yield name, reader, model.get_parameter(name + _LATENT)


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state under the names of its own class: of a coded table what its codes stand for."""
    state = model.state_dict()
    with torch.no_grad():
        for name, reader, latent in coded_tables(model):
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.parametrizations.")}
            state[f"{name}.weight"] = reader(latent)
    return state


def stored_sizes(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, Stored]:
    """Return what each parameter of coded tables takes where it is stored.

    Args:
        model: the model.
        names: the tables that are asked for; all if none.
    """
    found: dict[str, Stored] = {}
    for name, reader, latent in coded_tables(model):
        if names is None or name in names:
            found[name + _LATENT] = reader.stored(latent)
            for other, _ in cast(nn.Module, reader).named_parameters():
                found[name + _READER + other] = Stored(0, 0, 0)
    return found


def table_entries(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint holds of each coded table beside its plain weights: bits and steps, or codebooks."""
    return {name: reader.entry(latent) for name, reader, latent in coded_tables(model)}


@torch.no_grad()
def load_plain_weights(model: nn.Module, weights: Mapping[str, Tensor], entries: Mapping[str, Any]) -> None:
    """Load what :func:`plain_weights` gave, and codes as they were.

    Args:
        model: the model, with coded tables or not.
        weights: its state under the names of its own class.
        entries: what :func:`table_entries` gave.
    """
    weights = dict(weights)
    for name, reader, latent in coded_tables(model):
        reader.load(latent, weights.pop(f"{name}.weight"), entries.get(name), name)
    model.load_state_dict(weights, strict=False)
