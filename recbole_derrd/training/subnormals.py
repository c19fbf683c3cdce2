"""Numbers too small for float32's full precision, which a CPU computes with a hundred times more slowly.

Adam's moments of weights that get no gradient (an expert that nobody chooses any more) shrink until they are such
numbers and then stay so; so do weights of experts at a low temperature.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def flushes_subnormals() -> bool:
    """Return whether this thread takes numbers below float32's smallest normal one, 1.2e-38, for 0."""
    return float(torch.tensor(1e-39, dtype=torch.float32) * 1.0) == 0.0


@contextlib.contextmanager
def subnormals_flushed(wanted: bool = True) -> Iterator[None]:
    """Within the block, take such numbers for 0, where the processor can; nothing happens unless it is wanted."""
    before = flushes_subnormals()
    if not wanted or before:
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
