"""What a check is, how it says that it failed, and what checks are run with."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import torch

from device.noise import same_noise


class FailedError(Exception):
    """A check has found something wrong; its numbers are kept."""

    def __init__(self, message: str, numbers: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.numbers = dict(numbers or {})


class SkippedError(Exception):
    """A check cannot be made here."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: group/what.
        seconds: about how long it takes on a card; it is not begun with less left.
        run: makes it and returns its numbers.
    """

    name: str
    seconds: float
    run: Callable[[], Mapping[str, Any]]


def within(numbers: Mapping[str, Any], bounds: Mapping[str, float], where: str = "") -> None:
    """Say that each number keeps its bound.

    Raises:
        FailedError: one does not, or is not a number.
    """
    wrong = [f"{name} is {numbers[name]:.2g}, bound {bound:.2g}" for name, bound in bounds.items()
             if not (math.isfinite(numbers[name]) and numbers[name] <= bound)]  # fmt: skip
    if wrong:
        raise FailedError("; ".join(wrong) + (f" ({where})" if where else ""), numbers)


@dataclasses.dataclass
class Bench:
    """What the checks of one process share.

    Attributes:
        kind: "cuda", "cpu", or "pretend": a card that is none (``pretend.py``).
        device: where the package is checked; what it is compared with is the CPU.
        small: the small form, for every machine and every day.
        folder: for files.
    """

    kind: str
    device: torch.device
    small: bool
    folder: Path

    def config(self, model: str, *, on_device: bool = True, **settings: Any) -> Any:
        """Return a configuration on the device or on the CPU."""
        from recbole_derrd.config.distill_config import DistillConfig

        with kept_environment():
            return DistillConfig(model, config_dict=self.settings(on_device=on_device, **settings))

    def settings(self, *, on_device: bool = True, **more: Any) -> dict[str, Any]:
        """Return the settings of a run on the device or on the CPU; more on top."""
        place = "device" if on_device else "cpu"
        settings = {
            "gpu_id": "0" if on_device and self.kind != "cpu" else "",
            "checkpoint_dir": str(self.folder / place),
            "cache_dir": str(self.folder / "cache"),
            "record_dir": str(self.folder / "records"),
            "show_progress": False,
            "state": "ERROR",
            "latency_users": 0,
            "train_batch_size": 1024,
            "metrics": ["NDCG", "Recall"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "load_col": {"inter": ["user_id", "item_id"]},
        }
        return {**settings, **more}

    @contextlib.contextmanager
    def noise_of_the_cpu(self) -> Iterator[None]:
        """Within the block generators of the card give the numbers that one of the CPU gives with the same seed."""
        with same_noise() if self.kind == "cuda" else contextlib.nullcontext():
            yield

    def synchronize(self) -> None:
        """Wait for the card."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def forget_peak(self) -> None:
        """Begin to watch the card's memory anew."""
        if self.kind == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_mib(self) -> float | None:
        """Return the card's memory at its peak; None without a card."""
        return torch.cuda.max_memory_allocated() / 2**20 if self.kind == "cuda" else None


@contextlib.contextmanager
def kept_environment() -> Iterator[None]:
    """Put CUDA_VISIBLE_DEVICES back: RecBole sets it, and a process that is started later would see no card."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def relative_error(found: torch.Tensor, wanted: torch.Tensor, least: float = 0.0) -> float:
    """Return the largest difference as a share of the largest wanted number (or of ``least``, where that is larger)."""
    if found.shape != wanted.shape:
        raise FailedError(f"the shape is {tuple(found.shape)}, not {tuple(wanted.shape)}")
    if not found.numel():
        return 0.0
    wanted = wanted.detach().double().cpu()
    scale = max(float(wanted.abs().max()), least, 1e-30)
    return float((found.detach().double().cpu() - wanted).abs().max()) / scale


def equal(found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    """Say that two tensors are the same to the bit.

    Raises:
        FailedError: they are not.
    """
    if not torch.equal(found.cpu(), wanted.cpu()):
        raise FailedError(f"{what}: not what the CPU gives")
