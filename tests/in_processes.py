"""What the processes of test_processes.py do; a fresh process must be able to import it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import trainer as recbole_trainer

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import DistillError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.runtime.artifact_cache import ArtifactCache, Resumable
from recbole_derrd.runtime.processes import (
    all_gather,
    barrier,
    broadcast,
    gather_rows,
    is_main_process,
    rank,
    shard_range,
)
from recbole_derrd.runtime.stored_arrays import DamagedFileError
from recbole_derrd.training.trainer import trainer_for


def quiet() -> None:
    """Keep a process off the other's core, and the log short."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


def weights_of(model: Any) -> str:
    """Hash of a model's weights."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def plain(local_rank: int, model: str, settings: dict[str, Any]) -> str:
    """Train a plain model; tell each process's weights, batches and metrics."""
    quiet()
    config = DistillConfig(model, "tiny", config_dict={**settings, "local_rank": local_rank})
    data = prepare_data(config)
    # RecBole names the checkpoint by the second; one process may come to it after the second has passed.
    recbole_trainer.get_local_time = lambda: f"second {rank()}"
    trainer = trainer_for(config, build_model(config, data))
    trainer.fit(data.train, data.valid)
    result = {name: float(value) for name, value in trainer.evaluate(data.test).items()}
    rows = sum(len(batch) for batch in data.train)
    return json.dumps(
        {
            "weights": all_gather(weights_of(trainer.model)),
            "results": all_gather(result),
            "rows": all_gather(rows),
            "checkpoint": trainer.saved_model_file,
            "losses": all_gather(trainer.train_loss_dict),
        }
    )


def talk(local_rank: int, settings: dict[str, Any]) -> str:
    """Use every way in which processes speak to each other."""
    quiet()
    DistillConfig("BPR", "tiny", config_dict={**settings, "local_rank": local_rank})
    start, stop = shard_range(7)
    rows = gather_rows(torch.arange(start, stop).view(-1, 1).expand(-1, 2))
    return json.dumps({"rows": rows.tolist(), "first": broadcast(rank() + 5), "each": all_gather(is_main_process())})


def build_once(local_rank: int, settings: dict[str, Any], folder: str) -> str:
    """Build an artifact in two processes, and read it again; tell what each process has got and done."""
    quiet()
    DistillConfig("BPR", "tiny", config_dict={**settings, "local_rank": local_rank})
    read_by: list[int] = []

    def build(place: Path) -> str:
        (place / str(rank())).write_text("a part")
        return f"built by {rank()}"

    def read(place: Path) -> str | None:
        read_by.append(rank())
        parts = sorted(path.name for path in place.iterdir())
        if len(parts) < 2:
            raise DamagedFileError("a part is missing")
        return f"read by {rank()}: {parts}"

    cache = ArtifactCache(Path(folder))
    answers = []
    for resumable in (None, Resumable("marker")):
        key = f"{resumable}"
        if is_main_process():
            (cache.path(key)).mkdir(parents=True)
        barrier()
        for _ in range(2):
            answers.append(cache.get_or_build(key, build, read, doing="builds this", resumable=resumable))
    return json.dumps({"answers": all_gather(answers), "read by": all_gather(sorted(set(read_by)))})


def linger(local_rank: int) -> str:
    """Say that this process is there, and stay."""
    # In one piece, whatever the buffering.
    os.write(1, f"{local_rank} is here\n".encode())
    time.sleep(600)
    return ""


def fail(local_rank: int, settings: dict[str, Any]) -> str:
    """Let the second process fail while the first one waits for it."""
    quiet()
    DistillConfig("BPR", "tiny", config_dict={**settings, "local_rank": local_rank})
    if local_rank == 1:
        raise DistillError("The second process has no more disk.")
    return str(all_gather(0))


def where(local_rank: int, settings: dict[str, Any]) -> str:
    """Say in which folder each process is."""
    quiet()
    DistillConfig("BPR", "tiny", config_dict={**settings, "local_rank": local_rank})
    return json.dumps(all_gather(os.getcwd()))


def die(local_rank: int, settings: dict[str, Any], how: str) -> str:
    """Let the second process end without a word, or in an error, while the first one waits for it."""
    quiet()
    DistillConfig("BPR", "tiny", config_dict={**settings, "local_rank": local_rank})
    if local_rank == 1:
        if how == "memory":
            raise MemoryError("Unable to allocate 3.2 GiB")
        if how == "defect":
            raise ZeroDivisionError("our fault")
        if how == "SIGINT":
            # A background job of a shell inherits that it is ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(600)
    return str(all_gather(0))
