"""One process that makes the checks in their order and tells its parent about each, line by line."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import logging
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

#: A process whose card no longer answers ends with this status, and another goes on.
POISONED = 86


def main(given: argparse.Namespace, told: Callable[[dict[str, Any]], None]) -> int:
    """Make the checks.

    Args:
        given: the command line, with ``seconds`` left and ``done``: names of checks that are not made again.
        told: takes each message for the parent.
    """
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    deadline = time.monotonic() + given.seconds
    import torch

    from device.machine import facts
    from device.plan import Bench
    from device.pretend import pretended_card

    if given.device == "cuda":
        # RecBole sets CUDA_VISIBLE_DEVICES; from here on that no longer hides the card from this process.
        torch.cuda.init()
        torch.cuda.device_count()
    told({"facts": facts(given.device)})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="device-check-", dir=given.work)))
        os.chdir(folder)
        device = torch.device(given.device if given.device != "pretend" else "cuda")
        if given.device == "pretend":
            device = stack.enter_context(pretended_card())
        bench = Bench(given.device, device, given.small, folder)
        checks = [check for check in every_check(bench) if fnmatch.fnmatch(check.name, given.only)]
        told({"plan": [check.name for check in checks]})
        for check in checks:
            if check.name in given.done:
                continue
            told({"start": check.name})
            result = outcome_of(check, deadline - time.monotonic())
            told({"result": result})
            if result["status"] == "FAIL" and not answers(given.device):
                return POISONED
    told({"end": True})
    return 0


def every_check(bench: Any) -> Iterator[Any]:
    """Yield all checks, the most valuable first."""
    from device.checks_fast import fast_checks
    from device.checks_losses import loss_checks
    from device.checks_models import model_checks
    from device.checks_speed import search_checks, speed_checks
    from device.checks_training import checkpoint_checks, process_checks, training_checks

    yield from loss_checks(bench)
    yield from fast_checks(bench)
    yield from checkpoint_checks(bench)
    yield from training_checks(bench)
    yield from search_checks(bench, "citeulike")
    yield from speed_checks(bench, "citeulike")
    yield from process_checks(bench)
    yield from search_checks(bench, "gowalla")
    yield from speed_checks(bench, "gowalla")
    yield from model_checks(bench)


def outcome_of(check: Any, left: float) -> dict[str, Any]:
    """Make one check, or skip it where too little time is left; an error of any kind is its failure alone."""
    from device.plan import FailedError, SkippedError, kept_environment

    if left < check.seconds:
        why = f"{max(left, 0):.0f} s are left, it takes about {check.seconds:.0f}"
        return {"name": check.name, "status": "SKIP", "seconds": 0.0, "numbers": {}, "message": why}
    started = time.perf_counter()
    status, message, numbers = "PASS", "", {}
    try:
        with kept_environment():
            numbers = dict(check.run())
    except FailedError as error:
        status, message, numbers = "FAIL", str(error), error.numbers
    except SkippedError as error:
        status, message = "SKIP", str(error)
    except Exception as error:
        status, message = "FAIL", f"{type(error).__name__}: {' '.join(str(error).split())[:500]} [{place_of(error)}]"
        traceback.print_exc()
    message = numbers.pop("note", "") if status == "PASS" else message
    seconds = time.perf_counter() - started
    return {"name": check.name, "status": status, "seconds": seconds, "numbers": numbers, "message": message}


def place_of(error: BaseException) -> str:
    """Return where an error was raised: the innermost lines of this repository."""
    root = str(Path(__file__).resolve().parents[2])
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(root)]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-3:]))


def answers(device: str) -> bool:
    """Say whether the card still computes: after an assertion on the card nothing does in this process."""
    if device != "cuda":
        return True
    import torch

    try:
        torch.cuda.synchronize()
        return bool((torch.ones(2, device="cuda") + 1).sum().item() == 4)
    except RuntimeError:
        return False


def writer_to(descriptor: int) -> Callable[[dict[str, Any]], None]:
    """Return what writes messages to a pipe."""
    pipe = os.fdopen(descriptor, "w", encoding="utf-8")

    def told(message: dict[str, Any]) -> None:
        pipe.write(json.dumps(message, default=str) + "\n")
        pipe.flush()

    return told
