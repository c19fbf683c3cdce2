"""The CPU's random numbers on a card: what is drawn there can then be compared with what the CPU draws."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: Functions that draw from a generator which they are given.
DRAWING = (torch.rand, torch.randn, torch.randint, torch.randperm)


class same_noise(TorchFunctionMode):  # noqa: N801 (used as a function)
    """Within the block, drawing on a card gives the numbers of a CPU's generator that was seeded with the same seed."""

    def __init__(self) -> None:
        super().__init__()
        self._twins: weakref.WeakKeyDictionary[torch.Generator, torch.Generator] = weakref.WeakKeyDictionary()

    def _twin(self, generator: torch.Generator) -> torch.Generator:
        if generator not in self._twins:
            self._twins[generator] = torch.Generator().manual_seed(generator.initial_seed())
        return self._twins[generator]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Draw on the CPU where a card's generator is given."""
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if func not in DRAWING or generator is None or generator.device.type == "cpu":
            return func(*args, **kwargs)
        device = kwargs.get("device") or generator.device
        drawn = func(*args, **{**kwargs, "generator": self._twin(generator), "device": "cpu"})
        return drawn.to(device)
