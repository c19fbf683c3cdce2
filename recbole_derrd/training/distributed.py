"""What RecBole's trainer needs among several processes: gradients averaged by torch, on the CPU as well as on GPUs."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from recbole.trainer.trainer import AbstractTrainer
from torch.nn.parallel import DistributedDataParallel

from recbole_derrd.errors import TrainingError
from recbole_derrd.runtime.processes import all_gather, is_distributed


class Wrapping(AbstractTrainer):
    """Stands behind RecBole's trainer, in the place of its base class, which wraps models on GPUs only."""

    def __init__(self, config: Any, model: Any) -> None:
        """Keep the model, wrapped for several processes if there are any."""
        self.config, self.model = config, model
        if not is_distributed():
            return
        on_gpu = config["device"].type == "cuda"
        if on_gpu:
            self.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.distributed_model = DistributedDataParallel(
            self.model, device_ids=[config["local_rank"]] if on_gpu else None
        )


class NoWriter:
    """TensorBoard of a process that writes nothing."""

    log_dir = ""

    def __getattr__(self, name: str) -> Any:
        """Return what does nothing."""
        return lambda *args, **kwargs: None


def refuse_unequal_weights(model: torch.nn.Module, name: str) -> None:
    """Hold several processes to what synchronised gradients promise: one model.

    Raises:
        TrainingError: their weights differ.
    """
    if not is_distributed():
        return
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    if len(set(all_gather(digest.hexdigest()))) > 1:
        raise TrainingError(
            f"The processes' weights of {name} have drifted apart: its training keeps something that gradients do not "
            "synchronise. Train it with nproc: 1."
        )
