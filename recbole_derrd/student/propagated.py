"""A graph student whose propagated embeddings are read in few bits.

What it serves with are two tables, so its checkpoint is that of a RecBole BPR of these tables: codes cannot be had from
a graph's own tables, which are propagated anew by whoever reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_derrd.adapters import Adapter
from recbole_derrd.errors import CheckpointError
from recbole_derrd.ops.packing import STEP_BYTES, packed_size
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.student.bits import Bits, QuantizedRows, steps_in_file

#: The student's module that holds the quantiser of each side.
READERS = "propagated_bits"
SIDES = ("user", "item")


def table_of(side: str) -> str:
    """Return the name of the BPR table that a side is saved as."""
    return f"{side}_embedding"


def readers_of(model: nn.Module) -> Mapping[str, QuantizedRows]:
    """Return the quantisers of a graph student by side; empty in float32."""
    return dict(getattr(model, READERS, nn.ModuleDict()).items())


@torch.no_grad()
def _served(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """Return both sides' embeddings as they are served."""
    was_training = model.training
    model.eval()
    with kept_random_state(), adapter.shared():
        sides = {side: adapter.embeddings(side).detach() for side in SIDES}
    model.train(was_training)
    return sides


def quantize_propagated(model: nn.Module, adapter: Any, bits: Bits) -> None:
    """Let a graph student's propagated embeddings be read through their quantiser; before its optimizer is built.

    Args:
        model: the student.
        adapter: its adapter, through which every propagation passes.
        bits: bits of its sides.
    """
    served = _served(model, adapter)
    wanted = {"user": bits.user, "item": bits.item}
    readers = {side: QuantizedRows(served[side], own) for side, own in wanted.items() if own < 32}
    setattr(model, READERS, nn.ModuleDict(readers))
    adapter.readers = readers


def served_weights(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """Return the state of the BPR that a graph student in few bits serves with; empty for any other student."""
    if not readers_of(model):
        return {}
    return {f"{table_of(side)}.weight": every.clone() for side, every in _served(model, adapter).items()}


def propagated_steps(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the table of each side in few bits, and its bits and steps, and the unit of these."""
    for side, reader in readers_of(model).items():
        yield table_of(side), {"bits": reader.bits, "steps": reader.steps().detach(), "unit": reader.unit.detach()}


def load_steps(model: nn.Module, steps: Mapping[str, Any]) -> None:
    """Take the steps that :func:`propagated_steps` gave.

    Raises:
        CheckpointError: there are none, or they do not fit.
    """
    for side, reader in readers_of(model).items():
        known = steps_in_file(steps, table_of(side), reader)
        if known is None:
            raise CheckpointError(f"The checkpoint holds no steps of the {side}s. Train the student again.")
        reader.start_at(known)


def served_rows(model: nn.Module, adapter: Adapter) -> dict[str, tuple[int, int, int]]:
    """Return (rows, numbers of a row, its bytes) of each side of what is served; empty in float32."""
    readers, size = readers_of(model), adapter.logit_work()
    found = {}
    for side, count in (("user", adapter.n_users), ("item", adapter.n_items)) if readers else ():
        coded = packed_size(size, readers[side].bits) + STEP_BYTES if side in readers else 4 * size
        found[side] = count, size, coded
    return found
