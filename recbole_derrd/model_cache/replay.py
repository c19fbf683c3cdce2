"""How a trained model came to be what it is: its earlier snapshots, trained again where they were not kept."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path

import torch
from recbole.utils import set_color

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.model_cache.results import TrainedModel
from recbole_derrd.model_cache.train_or_find import MODEL, SNAPSHOTS, TRAINING
from recbole_derrd.runtime.files import locked, working_folder
from recbole_derrd.runtime.processes import barrier, broadcast, is_main_process
from recbole_derrd.training.snapshots import Snapshots, best_epoch, snapshot_epochs
from recbole_derrd.training.trainer import trainer_for


@contextlib.contextmanager
def earlier_snapshots(config: DistillConfig, trained: TrainedModel, snapshots: int) -> Iterator[list[Path]]:
    """Give the weights of a model at equal shares of its way to the best epoch, oldest first, without the best ones.

    Where they are not kept, the model is trained once more as far as they go, which gives the very same weights. They
    are gone when the block has succeeded: what is wanted of them is to be written down in it.

    Args:
        config: the model's configuration.
        trained: a model that :func:`train_or_find` has given.
        snapshots: how many are wanted, the final one included.
    """
    entry = trained.checkpoint.parent
    best: int = broadcast(_best_epoch(trained) if is_main_process() else None)
    epochs: list[int] = broadcast(snapshot_epochs(best, len(trained.epochs), snapshots))
    if len(epochs) < snapshots - 1:
        getLogger().info(
            f"{trained.model} was best after {best} of its epochs and has {len(epochs) + 1} "
            f"snapshot{'s' * bool(epochs)}, not {snapshots}."
        )
    kept = Snapshots(entry / SNAPSHOTS)
    with locked(kept.folder, "asks for earlier snapshots of this teacher"):
        if epochs and not broadcast(kept.whole(epochs) if is_main_process() else None):
            getLogger().info(
                set_color("Training", "yellow") + f" {trained.model} once more up to epoch {epochs[-1]}: it is known, "
                f"but its weights after epoch {', '.join(map(str, epochs))} are not kept."
            )
            with working_folder(kept.folder, anew=not config.run_options.resume, marker=TRAINING) as folder:
                _replay(folder, config, epochs)
        yield [kept.path(epoch) for epoch in epochs]
        barrier()
        if is_main_process():
            shutil.rmtree(kept.folder, ignore_errors=True)


def _best_epoch(trained: TrainedModel) -> int:
    best = best_epoch(trained.checkpoint)
    if best > max(1, len(trained.epochs)):
        raise CheckpointError(
            f"'{trained.checkpoint}' is damaged: its weights cannot be those after epoch {best} of "
            f"{len(trained.epochs)}. Remove the folder '{trained.checkpoint.parent}'; the model is then trained anew."
        )
    return best


@torch.enable_grad()  # lists are asked for where nothing is trained
def _replay(folder: Path, config: DistillConfig, epochs: list[int]) -> None:
    """Train a model again up to the last of some epochs and leave their weights in the folder."""
    # Fresh data: the draws of a loader that was used before would go on where they ended.
    data = prepare_data(config)
    trainer = trainer_for(config, build_model(config, data), checkpoint=folder / MODEL, role="snapshots")
    trainer.snapshots = Snapshots(folder, only=epochs)
    trainer.epochs = epochs[-1]
    if trainer.training_file.exists():
        trainer.resume_checkpoint(trainer.training_file)
    trainer.fit(data.train, data.valid, saved=True, show_progress=config["show_progress"])
    if is_main_process():
        # In this order: a training that has ended and whose model is gone cannot be resumed.
        (folder / TRAINING).unlink(missing_ok=True)
        (folder / MODEL).unlink(missing_ok=True)
