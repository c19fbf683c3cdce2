"""RecBole's trainer for a model, with safe checkpoints, named losses, an epoch hook and exact resumption."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any, Callable

import torch
from recbole.utils import get_trainer, set_color
from torch.utils.tensorboard import SummaryWriter

from recbole_derrd.checkpoint import (
    read_checkpoint,
    read_plain,
    stock_config,
    write_plain,
    write_stock_checkpoint,
)
from recbole_derrd.collector import PlainValuesCollector
from recbole_derrd.config import DistillConfig
from recbole_derrd.errors import CheckpointError, TrainingError
from recbole_derrd.randomness import random_state, set_random_state

#: Parameters under this name belong to distillation and never reach the student's checkpoint.
DISTILLERS = "distillers"
#: Tensors up to this size that are neither parameter nor buffer are taken for state of the training.
_COUNTER_SIZE = 100_000


class TrainerMixin:
    """Mixed in over the class that RecBole's ``get_trainer`` returns; no loop of RecBole's is copied.

    A model may offer ``begin_epoch(epoch)`` and ``loss_names``; a plain RecBole model offers neither and trains as
    in stock RecBole, to the bit.
    """

    config: Any
    model: Any
    logger: Any
    optimizer: Any
    tensorboard: Any
    device: torch.device
    saved_model_file: str
    start_epoch: int
    epochs: int
    stopping_step: int
    eval_collector: Any
    cur_step: int
    best_valid_score: float
    best_valid_result: dict[str, float] | None
    train_loss_dict: dict[int, float]

    def __init__(self, config: DistillConfig, model: Any, *, checkpoint: Path | None = None, role: str = "") -> None:
        """Build RecBole's trainer.

        Args:
            config: the configuration.
            model: the model, on its device.
            checkpoint: file of the best model; RecBole's own timed name if None.
            role: sub-folder of the TensorBoard logs ("teacher", "student", "distilled").
        """
        super().__init__(config, model)  # type: ignore[call-arg]
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            self.saved_model_file = str(checkpoint)
        if role:
            folder = self.tensorboard.log_dir
            self.tensorboard.close()
            self.tensorboard = SummaryWriter(str(Path(folder) / role))
        self.eval_collector = PlainValuesCollector(config)
        self.epoch_seconds: list[float] = []
        self.extra: dict[str, Any] = {}
        self._train_data: Any = None
        self._batches = 1

    # -- training

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train as RecBole does, leaving a training checkpoint every ``checkpoint_step`` validations."""
        self._train_data, self._batches = train_data, max(len(train_data), 1)
        validations = 0

        def after_validation(epoch: int, score: float) -> None:
            nonlocal validations
            validations += 1
            if saved and validations % (self.config["checkpoint_step"] or 1) == 0:
                self.save_training(epoch)
            if callback_fn:
                callback_fn(epoch, score)

        if self._pending is not None:
            self._restore(self._pending)
            if self.start_epoch >= self.epochs or self.cur_step > self.stopping_step:
                # The run had ended; RecBole would save its last weights over its best ones.
                if not Path(self.saved_model_file).is_file():
                    raise CheckpointError(
                        f"The run has ended, but its student '{self.saved_model_file}' is gone. Remove "
                        f"'{self.training_file}' to start anew."
                    )
                self.eval_collector.data_collect(train_data)
                return self.best_valid_score, self.best_valid_result
        result = super().fit(train_data, valid_data, verbose, saved, show_progress, after_validation)  # type: ignore[misc]
        if self._pending is not None and self.best_valid_result is None:
            self.best_valid_result = self._pending["best_valid_result"]
        if saved and not validations and self.train_loss_dict:
            # RaCT's pretraining stages validate nothing and keep a file only every save_step epochs.
            self._save_checkpoint(max(self.train_loss_dict), verbose=False)
        self.tensorboard.flush()
        return result[0], self.best_valid_result

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        if hasattr(self.model, "begin_epoch"):
            self.model.begin_epoch(epoch_idx)
        self._epoch = epoch_idx
        losses = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]
        self.epoch_seconds.append(time.perf_counter() - started)
        return losses

    def _check_nan(self, loss: torch.Tensor) -> None:
        if torch.isfinite(loss):
            return
        terms = getattr(self.model, "last_terms", None) or {"base": loss}
        guilty = [name for name, value in terms.items() if not torch.isfinite(value)] or ["sum"]
        raise TrainingError(
            f"The loss term '{guilty[0]}' is not a finite number in epoch {getattr(self, '_epoch', 0)}. "
            "The usual cause is a learning_rate or a weight of a term that is too large; lower it."
        )

    # -- what the user sees

    def _loss_means(self, losses: Any) -> dict[str, float]:
        values = losses if isinstance(losses, tuple) else (losses,)
        names = getattr(self.model, "loss_names", None) or ["base"]
        if len(names) < len(values):
            names = [f"base{index + 1}" for index in range(len(values))]
        means = {name: value / self._batches for name, value in zip(names, values)}
        return dict(sorted(means.items(), key=lambda term: not term[0].startswith("base")))

    def _generate_train_loss_output(self, epoch_idx: int, s_time: float, e_time: float, losses: Any) -> str:
        places = self.config["loss_decimal_place"] or 4
        shown = ", ".join(
            f"{set_color(name, 'blue')}: {value:.{places}f}" for name, value in self._loss_means(losses).items()
        )
        head = set_color(f"epoch {epoch_idx} training", "green")
        return f"{head} [{set_color('time', 'blue')}: {e_time - s_time:.2f}s, {shown}]"

    def _add_train_loss_to_tensorboard(self, epoch_idx: int, losses: Any, tag: str = "Loss/Train") -> None:
        means = self._loss_means(losses)
        for name, value in means.items():
            self.tensorboard.add_scalar(f"{tag}/{name}", value, epoch_idx)
        if len(means) > 1:
            self.tensorboard.add_scalar(f"{tag}/sum", sum(means.values()), epoch_idx)

    # -- the student's checkpoint: stock RecBole's format

    def _own_parameters(self) -> int:
        names = [name for name, _ in self.model.named_parameters()]
        return sum(not name.startswith(DISTILLERS + ".") for name in names)

    def _stock_state(self, epoch: int) -> dict[str, Any]:
        weights = {key: value for key, value in self.model.state_dict().items() if not key.startswith(DISTILLERS + ".")}
        optimizer = self.optimizer.state_dict()
        own = self._own_parameters()
        optimizer = {
            "state": {key: value for key, value in optimizer["state"].items() if key < own},
            "param_groups": [
                {**group, "params": [key for key in group["params"] if key < own]}
                for group in optimizer["param_groups"]
            ],
        }
        return {
            "config": stock_config(self.config),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": self.best_valid_score,
            "state_dict": weights,
            "other_parameter": self.model.other_parameter(),
            "optimizer": optimizer,
            **self.extra,
        }

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = Path(kwargs.pop("saved_model_file", self.saved_model_file))
        write_stock_checkpoint(path, self._stock_state(epoch))
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def save_pretrained_model(self, epoch: int, saved_model_file: str) -> None:
        """Keep RecBole's pretraining stages (RaCT) to one safe file."""
        write_stock_checkpoint(Path(self.saved_model_file), self._stock_state(epoch))

    def load_best(self, path: str | Path | None = None) -> None:
        """Load the weights of a checkpoint into the model, leaving its distillers as they are."""
        path = path or self.saved_model_file
        load_weights(self.model, read_checkpoint(path, self.device), path)
        self.logger.info(f"Loading model structure and parameters from {path}")

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Evaluate as RecBole does; the checkpoint is read safely."""
        if eval_data and load_best_model:
            self.load_best(model_file)
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)  # type: ignore[misc]

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

    def _counters(self) -> dict[str, Any]:
        """Return what RecBole's models count in plain attributes (MultiVAE's annealing, DiffRec's loss history)."""
        return {
            name: value
            for name, value in vars(self.model).items()
            if name != "training"
            and not name.startswith("_")
            and (
                isinstance(value, (bool, int, float))
                or (isinstance(value, torch.Tensor) and not value.is_sparse and value.numel() <= _COUNTER_SIZE)
            )
        }

    def save_training(self, epoch: int) -> None:
        """Write the training checkpoint."""
        generator = getattr(self._train_data, "generator", None)
        content = {
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": {name: float(value) for name, value in (self.best_valid_result or {}).items()},
            "train_loss": {int(key): float(value) for key, value in self.train_loss_dict.items()},
            "epoch_seconds": list(self.epoch_seconds),
            "model": self.model.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers().items()},
            "counters": self._counters(),
            "distillers": self.model.sampling_state() if hasattr(self.model, "sampling_state") else {},
            "random": random_state(),
            "loader": generator.get_state() if generator is not None else None,
        }
        write_plain(self.training_file, content)

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Go on from a training checkpoint; the random states are put back when ``fit`` starts."""
        content = read_plain(Path(resume_file), self.device)
        needed = {"optimizers", "counters", "model", "epoch", "random", "cur_step", "best_valid_score", "train_loss"}
        if not needed <= content.keys() or not {"python", "numpy", "torch", "cuda"} <= content["random"].keys():
            raise CheckpointError(f"'{resume_file}' is no training checkpoint of this plugin.")
        try:
            self.model.load_state_dict(content["model"])
            for name, optimizer in self._optimizers().items():
                optimizer.load_state_dict(content["optimizers"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"'{resume_file}' belongs to a run with another model or other distillers. Remove it to start anew."
            ) from error
        for name, value in content["counters"].items():
            setattr(self.model, name, value)
        self.start_epoch = content["epoch"] + 1
        self.cur_step = content["cur_step"]
        self.best_valid_score = content["best_valid_score"]
        self.best_valid_result = content["best_valid_result"]
        self.train_loss_dict = dict(content["train_loss"])
        self.epoch_seconds = list(content["epoch_seconds"])
        self._pending = content
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    def _restore(self, content: dict[str, Any]) -> None:
        if hasattr(self.model, "load_sampling_state"):
            self.model.load_sampling_state(content["distillers"])
        set_random_state(content["random"])
        if content["loader"] is not None:
            self._train_data.generator.set_state(content["loader"].cpu())


def load_weights(model: Any, checkpoint: dict[str, Any], source: str | Path) -> None:
    """Load a checkpoint's weights into a model, whether or not the model carries distillers.

    Raises:
        CheckpointError: the weights are of another shape or another model.
    """
    try:
        missing, unexpected = model.load_state_dict(checkpoint["state_dict"], strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"The weights in '{source}' do not fit {type(model).__name__} with these settings and data: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    missing = [name for name in missing if not name.startswith(DISTILLERS + ".")]
    if missing or unexpected:
        raise CheckpointError(
            f"'{source}' is not a checkpoint of {type(model).__name__} with these settings: "
            f"missing {missing[:3] or 'nothing'}, unexpected {unexpected[:3] or 'nothing'}."
        )
    model.load_other_parameter(checkpoint.get("other_parameter"))


@functools.cache
def _with_mixin(stock: type[Any]) -> type[Any]:
    return type(f"Distill{stock.__name__}", (TrainerMixin, stock), {"__module__": __name__})


def trainer_for(config: DistillConfig, model: Any, *, checkpoint: Path | None = None, role: str = "") -> Any:
    """Return RecBole's trainer for this model, with :class:`TrainerMixin` in front of it."""
    stock = get_trainer(config["MODEL_TYPE"], config["model"])
    return _with_mixin(stock)(config, model, checkpoint=checkpoint, role=role)
