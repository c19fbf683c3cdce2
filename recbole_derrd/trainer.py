"""RecBole's trainer for a model, with safe checkpoints, named losses, an epoch hook and exact resumption."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any, Callable

import torch
from recbole.utils import get_trainer, set_color
from torch.utils.tensorboard import SummaryWriter

from recbole_derrd.backbones import backbone_of
from recbole_derrd.batches import CatalogueSizedLoader
from recbole_derrd.candidates import CandidateLoader
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
from recbole_derrd.optimizer import give_rows, quick_adam, takes_rows
from recbole_derrd.parallel import NoWriter, Wrapping, refuse_unequal_weights
from recbole_derrd.processes import (
    from_each,
    from_first,
    is_first,
    mean_of_all,
    rank,
    together,
    wait_for_all,
    world_size,
)
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
    clip_grad_norm: dict[str, Any] | None
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
        if role or not is_first():
            folder = Path(self.tensorboard.log_dir)
            self.tensorboard.close()
            for empty in folder.glob(f"events.out.tfevents.*.{os.getpid()}.*"):
                empty.unlink(missing_ok=True)
            self.tensorboard = SummaryWriter(str(folder / role)) if is_first() else NoWriter()
        self.eval_collector = PlainValuesCollector(config, quick="ranking" in self._fast)
        self.epoch_seconds: list[float] = []
        self.extra: dict[str, Any] = {}
        self._train_data: Any = None
        self._batches = 1

    @property
    def _fast(self) -> frozenset[str]:
        # A stock Config knows of no quicker ways.
        return frozenset(getattr(self.config, "fast", ()))

    def _build_optimizer(self, **kwargs: Any) -> Any:
        stock = super()._build_optimizer(**kwargs)  # type: ignore[misc]
        if "adam" not in self._fast:
            return stock
        optimizer = quick_adam(stock)
        if "rows" in self._fast and takes_rows(optimizer) and self._by_rows():
            give_rows(self.model)
        return optimizer

    def _by_rows(self) -> bool:
        # Rows cannot be clipped by norm nor added up over processes, and a GPU adds dense gradients faster.
        return self.device.type == "cpu" and not self.clip_grad_norm and not together()

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
        refuse_unequal_weights(self.model, self.config["model"])
        self.tensorboard.flush()
        return result[0], self.best_valid_result

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        if hasattr(self.model, "begin_epoch"):
            self.model.begin_epoch(epoch_idx)
        self._epoch = epoch_idx
        losses = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]
        self.epoch_seconds.append(time.perf_counter() - started)
        if not together():
            return losses
        means = mean_of_all(list(losses) if isinstance(losses, tuple) else [losses])
        return tuple(means) if isinstance(losses, tuple) else means[0]

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        """Score a batch's catalogue, or its candidates alone."""
        if not isinstance(self._judging, CandidateLoader):
            return super()._full_sort_batch_eval(batched_data)  # type: ignore[misc]
        interaction, items, rows, columns = batched_data
        users = interaction[self._judging.uid_field]
        scores = self._scorer.score(users.to(self.device), items.to(self.device)).float()
        scores = scores.masked_fill(items.to(self.device) == 0, -torch.inf)
        self.eval_collector.columns = items
        return interaction, scores, rows, columns

    def _map_reduce(self, result: Any, num_sample: int) -> Any:
        # What RecBole would average here was measured on all users together already.
        return result

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
                {**group, "params": [key for key in group["params"] if key < own], "fused": None}
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
        if not is_first():
            return
        path = Path(kwargs.pop("saved_model_file", self.saved_model_file))
        write_stock_checkpoint(path, self._stock_state(epoch))
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def save_pretrained_model(self, epoch: int, saved_model_file: str) -> None:
        """Keep RecBole's pretraining stages (RaCT) to one safe file."""
        if is_first():
            write_stock_checkpoint(Path(self.saved_model_file), self._stock_state(epoch))

    def load_best(self, path: str | Path | None = None) -> None:
        """Load the weights of a checkpoint into the model, leaving its distillers as they are."""
        path = path or self.saved_model_file
        wait_for_all()
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
        measure = functools.partial(super().evaluate, eval_data, load_best_model=False, show_progress=show_progress)  # type: ignore[misc]
        self._judging, self._scorer = eval_data, backbone_of(self.model)
        shared = together() and isinstance(eval_data, CatalogueSizedLoader)
        self.eval_collector.share_out(shared)
        with self._scorer.shared():
            if shared or not together():
                return measure()
            # RecBole's sampled candidates are drawn from a random stream: one process draws and judges for all.
            return from_first(measure() if is_first() else None)

    # -- the training checkpoint: everything needed to go on exactly

    _pending: dict[str, Any] | None = None
    _judging: Any = None
    _scorer: Any = None

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
        streams = from_each(
            {
                "random": random_state(),
                "distillers": self.model.sampling_state() if hasattr(self.model, "sampling_state") else {},
            }
        )
        if not is_first():
            return
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
            "streams": streams,
            "loader": generator.get_state() if generator is not None else None,
        }
        write_plain(self.training_file, content)

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Go on from a training checkpoint; the random states are put back when ``fit`` starts."""
        content = read_plain(Path(resume_file), self.device)
        needed = {"optimizers", "counters", "model", "epoch", "streams", "cur_step", "best_valid_score", "train_loss"}
        known = {"python", "numpy", "torch", "cuda"}
        if not needed <= content.keys() or not all(known <= one["random"].keys() for one in content["streams"]):
            raise CheckpointError(f"'{resume_file}' is no training checkpoint of this plugin.")
        if len(content["streams"]) != world_size():
            raise CheckpointError(
                f"'{resume_file}' was written by {len(content['streams'])} processes, this run has {world_size()}. Go "
                "on with as many, or remove it to start anew."
            )
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
        streams = content["streams"][rank()]
        if hasattr(self.model, "load_sampling_state"):
            self.model.load_sampling_state(streams["distillers"])
        set_random_state(streams["random"])
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
    return type(f"Distill{stock.__name__}", (TrainerMixin, stock, Wrapping), {"__module__": __name__})


def trainer_for(config: DistillConfig, model: Any, *, checkpoint: Path | None = None, role: str = "") -> Any:
    """Return RecBole's trainer for this model, with :class:`TrainerMixin` in front of it."""
    stock = get_trainer(config["MODEL_TYPE"], config["model"])
    return _with_mixin(stock)(config, model, checkpoint=checkpoint, role=role)
