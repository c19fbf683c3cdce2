"""What a training leaves on disk: the student in stock RecBole's format, and everything needed to go on exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from recbole.utils import set_color

from recbole_derrd.errors import CheckpointError
from recbole_derrd.runtime.machine_errors import refuse_limit
from recbole_derrd.runtime.processes import all_gather, barrier, is_main_process, rank, world_size
from recbole_derrd.runtime.randomness import random_state, set_random_state
from recbole_derrd.training.attributes import kept_attributes, put_back
from recbole_derrd.training.checkpoint import (
    read_checkpoint,
    read_plain,
    served_config,
    stock_config,
    write_plain,
    write_stock_checkpoint,
)
from recbole_derrd.training.fitting import fitting_values, refuse_other_weights, sizes_of_entries
from recbole_derrd.training.resumption import (
    UnfitError,
    refuse_unfit_attributes,
    refuse_unfit_numbers,
    refuse_unfit_optimizer,
    refuse_unfit_weights,
)

#: Parameters under this name belong to distillation and never reach the student's checkpoint.
DISTILLERS = "distillers"
#: Where the checkpoint of a coded student holds its tables' steps or codebooks; stock RecBole does not read it.
ENTRIES = "table_steps"
#: Where the checkpoint of a graph student in few bits, a BPR's, holds the graph model's own weights and values.
GRAPH = "graph_student"


class SavingMixin:
    """The part of :class:`recbole_derrd.training.trainer.TrainerMixin` that writes and reads checkpoints."""

    config: Any
    model: Any
    logger: Any
    device: torch.device
    saved_model_file: str
    start_epoch: int
    cur_step: int
    best_valid_score: float
    best_valid_result: dict[str, float] | None
    eval_collector: Any
    _valid_epoch: Any
    train_loss_dict: dict[int, float]
    epoch_seconds: list[float]
    valid_scores: list[list[float]]
    progress: dict[str, list[list[Any]]]
    optimizer: Any
    extra: dict[str, Any]
    _train_data: Any
    #: Marks of the model's plain attributes before any training.
    as_built: dict[str, Any]

    # -- the student's checkpoint: stock RecBole's format

    def _own_parameters(self) -> int:
        names = [name for name, _ in self.model.named_parameters()]
        return sum(not name.startswith(DISTILLERS + ".") for name in names)

    def _stock_state(self, epoch: int) -> dict[str, Any]:
        weights = plain_weights(self.model)
        coded: dict[str, Any] = self.model.table_entries() if hasattr(self.model, "table_entries") else {}
        optimizer = self.optimizer.state_dict()
        # Of a coded student it belongs to other parameters than the weights in the file.
        own = 0 if coded else self._own_parameters()
        optimizer = {
            "state": {key: value for key, value in optimizer["state"].items() if key < own},
            "param_groups": [
                {**group, "params": [key for key in group["params"] if key < own], "fused": None}
                for group in optimizer["param_groups"]
            ],
        }
        config, others, added = stock_config(self.config), self.model.other_parameter(), dict(self.extra)
        served: dict[str, Any] = self.model.served_weights() if hasattr(self.model, "served_weights") else {}
        if served:
            added[GRAPH] = {"state_dict": weights, "other_parameter": others}
            weights, others = served, {}
            config = served_config(self.config, next(iter(served.values())).shape[1])
        return {
            "config": config,
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": self.best_valid_score,
            "state_dict": weights,
            "other_parameter": others,
            "optimizer": optimizer,
            **added,
            **({ENTRIES: coded} if coded else {}),
        }

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        if not is_main_process():
            return
        path = Path(kwargs.pop("saved_model_file", self.saved_model_file))
        write_stock_checkpoint(path, self._stock_state(epoch))
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def save_pretrained_model(self, epoch: int, saved_model_file: str) -> None:
        """Keep RecBole's pretraining stages (RaCT) to one safe file."""
        if is_main_process():
            write_stock_checkpoint(Path(self.saved_model_file), self._stock_state(epoch))

    def load_best(self, path: str | Path | None = None) -> None:
        """Load the weights of a checkpoint into the model, leaving its distillers as they are."""
        path = path or self.saved_model_file
        barrier()
        load_weights(self.model, read_checkpoint(path, self.device), path)
        self.logger.info(f"Loading model structure and parameters from {path}")

    def keep_start(self, train_data: Any, valid_data: Any) -> None:
        """Validate the weights that a training begins with: they are the best until an epoch is better."""
        self.eval_collector.data_collect(train_data)
        self.best_valid_score, self.best_valid_result = self._valid_epoch(valid_data)
        self._save_checkpoint(-1, verbose=False)
        score = f"{self.config['valid_metric'].lower()} {self.best_valid_score:.4f}"
        self.logger.info(f"Before the first epoch: {score} on the validation split")

    # -- the training checkpoint: everything needed to go on exactly

    _pending: dict[str, Any] | None = None

    @property
    def training_file(self) -> Path:
        """File of the training checkpoint, beside the student's."""
        best = Path(self.saved_model_file)
        return best.with_name(f"{best.stem}.training.pth")

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return every optimizer once; RecVAE's trainer lets ``optimizer`` be now one, now the other of two more."""
        found = {name: value for name, value in vars(self).items() if isinstance(value, torch.optim.Optimizer)}
        others = [value for name, value in found.items() if name != "optimizer"]
        return {name: value for name, value in found.items() if name != "optimizer" or not others}

    def save_training(self, epoch: int) -> None:
        """Write the training checkpoint."""
        generator = getattr(self._train_data, "generator", None)
        streams = all_gather(
            {
                "random": random_state(),
                "distillers": self.model.sampling_state() if hasattr(self.model, "sampling_state") else {},
            }
        )
        if not is_main_process():
            return
        content = {
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": {name: float(value) for name, value in (self.best_valid_result or {}).items()},
            "train_loss": {int(key): float(value) for key, value in self.train_loss_dict.items()},
            "epoch_seconds": list(self.epoch_seconds),
            "valid_scores": list(self.valid_scores),
            "progress": self.progress,
            "model": self.model.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers().items()},
            "counters": kept_attributes(self.model, self.as_built),
            "streams": streams,
            "loader": generator.get_state() if generator is not None else None,
        }
        write_plain(self.training_file, content)

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Go on from a training checkpoint; the random states are put back when ``fit`` starts."""
        # To the CPU, where an optimizer counts its steps; all else is moved to where the model is.
        content = read_plain(Path(resume_file))
        metric = self.config["valid_metric"].lower()
        with self._unfit_text(resume_file):
            refuse_unfit_numbers(content)
            if metric not in content["best_valid_result"]:
                raise UnfitError(f"its best_valid_result has no {metric}")
        if len(content["streams"]) != world_size():
            raise CheckpointError(
                f"'{resume_file}' was written by {len(content['streams'])} processes, this run has {world_size()}. Go "
                "on with as many, or remove it to start anew."
            )
        with self._unfit_text(resume_file):
            refuse_unfit_weights(self.model, content["model"])
            refuse_unfit_attributes(self.model, content["counters"])
        try:
            self.model.load_state_dict(content["model"])
            for name, optimizer in self._optimizers().items():
                optimizer.load_state_dict(content["optimizers"][name])
        # Torch takes the content apart without a look at what it is.
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            refuse_limit(error)
            raise CheckpointError(
                f"'{resume_file}' belongs to a run with another model or other distillers. Remove it to start anew."
            ) from error
        with self._unfit_text(resume_file):
            for optimizer in self._optimizers().values():
                refuse_unfit_optimizer(optimizer)
        put_back(self.model, content["counters"])
        self.start_epoch = content["epoch"] + 1
        self.cur_step = content["cur_step"]
        self.best_valid_score = content["best_valid_score"]
        self.best_valid_result = content["best_valid_result"]
        self.train_loss_dict = dict(content["train_loss"])
        self.epoch_seconds = list(content["epoch_seconds"])
        self.valid_scores = list(content["valid_scores"])
        self.progress = dict(content["progress"])
        # The weights have been taken over, and need not stay in memory.
        self._pending = {name: content[name] for name in ("streams", "loader", "best_valid_result")}
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    def _restore(self, content: dict[str, Any]) -> None:
        streams = content["streams"][rank()]
        try:
            if hasattr(self.model, "load_sampling_state"):
                self.model.load_sampling_state(streams["distillers"])
            set_random_state(streams["random"])
            if content["loader"] is not None:
                self._train_data.generator.set_state(content["loader"].cpu())
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointError(
                f"A training cannot go on from '{self.training_file}': its random states are none. Remove it to start "
                "anew."
            ) from error

    @staticmethod
    @contextlib.contextmanager
    def _unfit_text(file: str | Path) -> Iterator[None]:
        try:
            yield
        except UnfitError as error:
            raise CheckpointError(
                f"A training cannot go on from '{file}': {error}. Remove it to start anew."
            ) from error


def plain_weights(model: Any) -> dict[str, Any]:
    """Return a model's weights under the names of its own class, without its distillers'."""
    state = model.plain_weights() if hasattr(model, "plain_weights") else model.state_dict()
    return {name: value for name, value in state.items() if not name.startswith(DISTILLERS + ".")}


def load_weights(model: Any, checkpoint: dict[str, Any], source: str | Path) -> None:
    """Load a checkpoint's weights into a model, whether or not the model carries distillers.

    Raises:
        CheckpointError: the weights are of another shape or another model.
    """
    graph = checkpoint.get(GRAPH)
    if graph is not None and hasattr(model, "served_rows") and model.served_rows():
        if not isinstance(graph, dict) or not isinstance(graph.get("state_dict"), dict):
            raise CheckpointError(f"'{source}' holds no weights of a {type(model).__name__}. Train it again.")
        checkpoint = {**checkpoint, **graph}
    refuse_other_weights(plain_weights(model), checkpoint["state_dict"], type(model).__name__, source)
    values = fitting_values(model, checkpoint.get("other_parameter") or {}, source)
    if hasattr(model, "load_plain_weights"):
        model.load_plain_weights(checkpoint["state_dict"], checkpoint.get(ENTRIES) or {})
    else:
        model.sizes_in_file = sizes_of_entries(checkpoint.get(ENTRIES), checkpoint["state_dict"], source)
        model.load_state_dict(checkpoint["state_dict"], strict=False)
    model.load_other_parameter(values)
