"""Earlier snapshots of a trained model, which is trained again where they were not kept."""

from __future__ import annotations

import contextlib
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
from recbole_derrd.runtime.artifact_cache import ArtifactCache, Resumable
from recbole_derrd.runtime.processes import broadcast, is_main_process
from recbole_derrd.training.snapshots import Snapshots, best_epoch, snapshot_epochs
from recbole_derrd.training.trainer import trainer_for


@contextlib.contextmanager
def earlier_snapshots(config: DistillConfig, trained: TrainedModel, snapshots: int) -> Iterator[list[Path]]:
    """Give the weights of a model at equal shares of its way to the best epoch, oldest first, without the best ones.

    Where they were not kept, the model is trained again up to the last of them, which gives the same weights. If the
    block succeeds, they are removed: the block must store what it needs of them.

    Args:
        config: the model's configuration.
        trained: a model that :func:`train_or_find` returned.
        snapshots: how many snapshots to give, the final one included.
    """
    best: int = broadcast(_best_epoch(trained) if is_main_process() else None)
    epochs: list[int] = broadcast(snapshot_epochs(best, len(trained.epochs), snapshots))
    if len(epochs) < snapshots - 1:
        getLogger().info(
            f"{trained.model} was best after {best} of its epochs and has {len(epochs) + 1} "
            f"snapshot{'s' * bool(epochs)}, not {snapshots}."
        )
    if not epochs:
        yield []
        return

    def replay(folder: Path) -> Snapshots:
        getLogger().info(
            set_color("Training", "yellow") + f" {trained.model} once more up to epoch {epochs[-1]}: the model is "
            f"cached, but its weights after epoch {', '.join(map(str, epochs))} are not."
        )
        _replay(folder, config, epochs)
        return Snapshots(folder)

    def read(folder: Path) -> Snapshots | None:
        kept = Snapshots(folder)
        return kept if kept.whole(epochs) else None

    cache = ArtifactCache(trained.checkpoint.parent)
    doing, resumable = "asks for earlier snapshots of this teacher", Resumable(TRAINING, not config.run_options.resume)
    with cache.borrow(SNAPSHOTS, replay, read, doing=doing, resumable=resumable):
        # A build returns the folder that it was built in.
        kept = Snapshots(cache.path(SNAPSHOTS))
        yield [kept.path(epoch) for epoch in epochs]


def _best_epoch(trained: TrainedModel) -> int:
    best = best_epoch(trained.checkpoint)
    if best > max(1, len(trained.epochs)):
        raise CheckpointError(
            f"'{trained.checkpoint}' is damaged: its weights cannot be those after epoch {best} of "
            f"{len(trained.epochs)}. Remove the folder '{trained.checkpoint.parent}'; the model is then trained anew."
        )
    return best


@torch.enable_grad()  # rankings are built without gradients
def _replay(folder: Path, config: DistillConfig, epochs: list[int]) -> None:
    """Train a model again up to the last of some epochs and leave their weights in the folder."""
    # Fresh data: a loader that was used before would continue its random draws.
    data = prepare_data(config)
    trainer = trainer_for(config, build_model(config, data), checkpoint=folder / MODEL, role="snapshots")
    trainer.snapshots = Snapshots(folder, only=epochs)
    trainer.epochs = epochs[-1]
    if trainer.training_file.exists():
        trainer.resume_checkpoint(trainer.training_file)
    trainer.fit(data.train, data.valid, saved=True, show_progress=config["show_progress"])
    if is_main_process():
        # In this order: a finished training cannot be resumed without its model.
        (folder / TRAINING).unlink(missing_ok=True)
        (folder / MODEL).unlink(missing_ok=True)
