"""Every method's loss on the device: value and gradients against the readable formula on the CPU, in float32."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch

from device.plan import Bench, Check, FailedError, relative_error, within
from device.worlds import batch_of, built, variants_of, world_on
from recbole_derrd.errors import OptionError
from recbole_derrd.registry import METHODS, method_class

#: Epochs looked at: the first, and one after which the schedules (temperatures, versions of teachers) have gone on.
EPOCHS = (0, 151)
#: Variants of a method that the small form looks at.
FEW = 5
#: How the forward pass is computed: bounds of the value and of the gradients, as shares of the largest number of the
#: same tensor (or of a thousandth of the largest of all).
BOUNDS = {
    "float32": (2e-5, 2e-4),
    # 10 bits of mantissa in matrix products.
    "tf32": (5e-3, 3e-2),
    # What enable_amp is on this device: float16 on a card (10 bits), bfloat16 on the CPU (7 bits); and bfloat16.
    "amp": (2e-2, 2e-1),
    "bfloat16": (2e-2, 2e-1),
}
#: What the loss is multiplied by before the backward pass in half precision, as a gradient scaler does.
_SCALE = 1024.0

Found = tuple[torch.Tensor, dict[str, torch.Tensor]]


def loss_checks(bench: Bench) -> Iterator[Check]:
    """Yield one check for each registered method."""
    for method in METHODS:
        yield Check(f"loss/{method}", 3, functools.partial(check_loss, bench, method))


@contextlib.contextmanager
def computed_as(mode: str, device: torch.device) -> Iterator[float]:
    """Within the block products are computed in this way; gives the factor of the loss."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if mode == "tf32" else "highest")
    try:
        if mode not in ("amp", "bfloat16"):
            yield 1.0
            return
        with torch.autocast(device.type, dtype=torch.bfloat16 if mode == "bfloat16" else None):
            yield _SCALE
    finally:
        torch.set_float32_matmul_precision(before)


def modes_on(bench: Bench) -> tuple[str, ...]:
    """Return the ways of computing that this device has."""
    if bench.kind == "pretend":
        return ("float32",)
    return ("float32", "amp") if bench.kind == "cpu" else tuple(BOUNDS)


def check_loss(bench: Bench, method: str) -> dict[str, Any]:
    """Compare a method in all its variants."""
    worst = {f"{mode} {what}": 0.0 for mode in modes_on(bench) for what in ("value", "gradient")}
    looked_at, failed = 0, []
    for name, size, options, epoch, last_phase in _cases(bench, method):
        try:
            wanted = _found(bench, method, options, size, epoch, last_phase, None)
        except OptionError:
            continue  # these data do not allow it
        looked_at += 1
        for mode in modes_on(bench):
            found = _found(bench, method, options, size, epoch, last_phase, mode)
            errors = {
                f"{mode} value": relative_error(found[0], wanted[0]),
                f"{mode} gradient": _gradient_error(found, wanted),
            }
            worst = {key: max(value, errors.get(key, 0.0)) for key, value in worst.items()}
            try:
                within(errors, dict(zip(errors, BOUNDS[mode])), f"{name}, {size} world, epoch {epoch}")
            except FailedError as error:
                failed.append(str(error))
    numbers = {"variants": looked_at, **worst}
    if not looked_at:
        raise FailedError("no variant could be built", numbers)
    if failed:
        raise FailedError(f"{len(failed)} of {looked_at} variants: " + " | ".join(failed[:3]), numbers)
    return numbers


def _cases(bench: Bench, method: str) -> Iterator[tuple[str, str, dict[str, Any], int, bool]]:
    """Yield (name, size of the world, options, epoch, whether in the last phase)."""
    phases = (False, True) if hasattr(method_class(method), "in_fine_order") else (False,)
    variants = list(variants_of(method))
    for index, (name, options) in enumerate(variants[:FEW] if bench.small else variants):
        for epoch in EPOCHS if index == 0 or not bench.small else EPOCHS[:1]:
            yield name, "tiny", options, epoch, False
        if phases[1:] and (index == 0 or not bench.small):
            yield f"{name}, last phase", "tiny", options, 0, True
    if not bench.small:
        for name, options in (("as published", {}), *variants):
            yield name, "large", options, EPOCHS[0], False
        yield "as published", "large", {}, EPOCHS[1], False
        if phases[1:]:
            yield "as published, last phase", "large", {}, 0, True


def _found(
    bench: Bench, method: str, options: dict[str, Any], size: str, epoch: int, last_phase: bool, mode: str | None
) -> Found:
    """Return the loss and its gradients; on the CPU, as the formula reads, where no way of computing is named."""
    device = torch.device("cpu") if mode is None else bench.device
    world = world_on(bench.folder / "worlds", size, method, device)
    world.student.fused = mode is not None
    with bench.noise_of_the_cpu():
        distiller = built(method, options, world, epoch, last_phase=last_phase)
        batch = batch_of(world, device)
        with computed_as(mode or "float32", device) as scale:
            loss = distiller(batch)
            (scale * loss).backward()
    named = {**dict(world.student.model.named_parameters()), **dict(distiller.named_parameters())}
    gradients = {name: part.grad.detach().cpu() / scale for name, part in named.items() if part.grad is not None}
    return loss.detach().cpu(), gradients


def _gradient_error(found: Found, wanted: Found) -> float:
    """Return the largest error of a gradient; those of parameters that hardly matter count less."""
    if found[1].keys() != wanted[1].keys():
        raise FailedError(f"gradients reach {sorted(found[1])}, on the CPU {sorted(wanted[1])}")
    largest = max((float(part.abs().max()) for part in wanted[1].values()), default=0.0)
    return max(relative_error(found[1][name], part, 1e-3 * largest) for name, part in wanted[1].items())
