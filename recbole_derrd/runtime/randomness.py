"""Random states: keeping them while a side task draws, and storing them in a training checkpoint."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return Python's, numpy's and torch's random states as tensors and plain values."""
    state: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = state
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` returned."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    # Numpy believes any position, and would read beyond its 624 words.
    if type(position) is not int or not 0 <= position <= 624:
        raise ValueError(f"a random state has no position {position!r}")
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        # Written on a machine with more GPUs, perhaps: a run's own is the first.
        for index, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(one.cpu(), index)


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Put the random states back when the block ends."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
