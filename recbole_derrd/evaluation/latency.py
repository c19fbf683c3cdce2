"""How long a top-10 list takes, for one user and for many at once."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import torch

from recbole_derrd.adapters import adapter_of

#: A slow model is timed on fewer users, so that measuring takes seconds at most.
_BUDGET_SECONDS = 2.0
_BATCH = 256
# The first of a size finds no memory of it.
_BATCHES = 5
_TOP = 10


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds of one user's top-10 list over the whole catalogue, and users a second in batches."""

    p50_ms: float
    p99_ms: float
    users_per_second: float
    device: str
    threads: int


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def measure_latency(model: Any, users: int, *, seed: int) -> Latency | None:
    """Time a frozen model; what serving computes once (a graph's propagation) is computed before.

    Args:
        model: a RecBole model in evaluation mode.
        users: single requests to time; 0 measures nothing.
        seed: which users are asked for.
    """
    if users == 0:
        return None
    was_training = model.training
    model.eval()
    adapter = adapter_of(model)
    device = adapter.device
    generator = torch.Generator().manual_seed(seed)
    asked = torch.randint(1, adapter.n_users, (users,), generator=generator).to(device)
    batch = torch.randint(1, adapter.n_users, (_BATCH,), generator=generator).to(device)
    top = min(_TOP, adapter.n_items - 1)
    with adapter.shared():
        adapter.score_all(asked[:1]).topk(top)
        single: list[float] = []
        begun = time.perf_counter()
        for user in asked:
            _wait(device)
            started = time.perf_counter()
            adapter.score_all(user.view(1)).topk(top)
            _wait(device)
            single.append(time.perf_counter() - started)
            if time.perf_counter() - begun > _BUDGET_SECONDS:
                break
        size = max(1, min(_BATCH, int(_BUDGET_SECONDS / max(float(np.median(single)), 1e-9))))
        batches: list[float] = []
        begun = time.perf_counter()
        while len(batches) < _BATCHES and time.perf_counter() - begun < _BUDGET_SECONDS:
            started = time.perf_counter()
            adapter.score_all(batch[:size]).topk(top)
            _wait(device)
            batches.append(time.perf_counter() - started)
    model.train(was_training)
    p50, p99 = np.percentile(single, [50, 99]) * 1000
    return Latency(float(p50), float(p99), size / float(np.median(batches)), device.type, torch.get_num_threads())
