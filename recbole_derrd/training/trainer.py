"""RecBole's trainer for a model, with safe checkpoints, named losses, an epoch hook and exact resumption."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Any, Callable

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer
from recbole.utils import get_trainer, set_color
from torch.nn.utils import parametrize
from torch.utils.tensorboard import SummaryWriter

from recbole_derrd.adapters import adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.error_translation import FAULTS, is_of_the_model, refusal
from recbole_derrd.data.candidates import CandidateLoader
from recbole_derrd.data.loaders import CatalogueSizedLoader
from recbole_derrd.errors import CheckpointError, TrainingError
from recbole_derrd.evaluation.by_groups import GroupingEvaluator
from recbole_derrd.evaluation.collector import PlainValuesCollector
from recbole_derrd.recbole_compat.models import recbole_ancestor
from recbole_derrd.runtime.console import TrainingBar, shows_bars
from recbole_derrd.runtime.processes import broadcast, is_distributed, is_main_process, mean_of_all
from recbole_derrd.training.attributes import marks_of
from recbole_derrd.training.checkpointing import SavingMixin
from recbole_derrd.training.distributed import NoWriter, Wrapping, refuse_unequal_weights
from recbole_derrd.training.optimizer import give_rows, quick_adam, takes_rows
from recbole_derrd.training.silent_terms import SilentTerms
from recbole_derrd.training.snapshots import Snapshots
from recbole_derrd.training.subnormals import subnormals_flushed
from recbole_derrd.training.tracking import TrainingLogger


class TrainerMixin(SavingMixin):
    """Mixed in over the class that RecBole's ``get_trainer`` returns; no loop of RecBole's is copied.

    A model may offer ``begin_epoch(epoch)`` and ``loss_names``; a plain RecBole model offers neither and trains as
    in stock RecBole, to the bit.
    """

    tensorboard: Any
    epochs: int
    stopping_step: int
    clip_grad_norm: dict[str, Any] | None
    eval_collector: Any

    def __init__(self, config: DistillConfig, model: Any, *, checkpoint: Path | None = None, role: str = "") -> None:
        """Build RecBole's trainer.

        Args:
            config: the configuration.
            model: the model, on its device.
            checkpoint: file of the best model; RecBole's own timed name if None.
            role: sub-folder of the TensorBoard logs and prefix in W&B ("teacher", "student", "distilled").
        """
        # RecBole looks whether the folder is there and then makes it: of two processes one would fail.
        Path(config["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)
        super().__init__(config, model)  # type: ignore[call-arg]
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            self.saved_model_file = str(checkpoint)
        else:
            # Named by the second: two processes may come to it in different ones.
            self.saved_model_file = broadcast(self.saved_model_file)
        self._idle_folder: Path | None = None
        self._role = role
        if role or not is_main_process():
            folder = Path(self.tensorboard.log_dir)
            self.tensorboard.close()
            for empty in folder.glob(f"events.out.tfevents.*.{os.getpid()}.*"):
                empty.unlink(missing_ok=True)
            if is_main_process():
                self.tensorboard = SummaryWriter(str(folder / role))
            else:
                self.tensorboard, self._idle_folder = NoWriter(), folder
        if config["log_wandb"]:
            self.wandblogger = TrainingLogger(config, role, self._loss_means)
        self.eval_collector = PlainValuesCollector(config, quick="ranking" in self._fast)
        self.evaluator = GroupingEvaluator(config)
        self.as_built = marks_of(model)
        self.epoch_seconds: list[float] = []
        #: Validations of this process's training; those before it was resumed are not among them.
        self._validations = 0
        #: [epoch, score] of each validation.
        self.valid_scores: list[list[float]] = []
        #: For each method that follows its teachers, [epoch, where it stands] at each change.
        self.progress: dict[str, list[list[Any]]] = {}
        self.extra: dict[str, Any] = {}
        self._silent = SilentTerms(getattr(model, "distillers", ()))
        #: Where weights of some epochs are kept, if they are wanted.
        self.snapshots: Snapshots | None = None
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
        return self.device.type == "cpu" and not self.clip_grad_norm and not is_distributed()

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
        if hasattr(train_data, "seen"):
            self.extra.setdefault("derrd", train_data.seen)
        if self._pending is not None:
            self._restore(self._pending)
            if self.start_epoch >= self.epochs or self.cur_step > self.stopping_step:
                return self._ended_before(train_data)
        self._validations = 0
        after_validation = functools.partial(self._after_validation, saved, callback_fn)
        self._log_slow_ranking(valid_data)
        # As "adam" is, flushing is within rounding: what trains as stock RecBole to the bit keeps every bit.
        show_progress, one_bar = self._bars(show_progress)
        flushed = subnormals_flushed("adam" in self._fast)
        with self._written_to(), self._problems_logged(), flushed, self._training_bar(one_bar) as self._bar:
            result = super().fit(train_data, valid_data, verbose, saved, show_progress, after_validation)  # type: ignore[misc]
        if self._pending is not None and self.best_valid_result is None:
            self.best_valid_result = self._pending["best_valid_result"]
        if saved and not self.valid_scores and self.train_loss_dict:
            # RaCT's pretraining stages validate nothing and keep a file only every save_step epochs.
            self._save_checkpoint(max(self.train_loss_dict), verbose=False)
        self._after_training()
        return result[0], self.best_valid_result

    def _after_validation(
        self, saved: bool, callback_fn: Callable[[int, float], None] | None, epoch: int, score: float
    ) -> None:
        """Keep a validation's score, and every ``checkpoint_step`` of them a training checkpoint."""
        if math.isnan(score):
            raise TrainingError(
                f"{self.config['valid_metric']} on the validation split is not a number after epoch {epoch}: it is "
                "not defined there (AUC needs positives and negatives). Choose another valid_metric."
            )
        self._validations += 1
        self.valid_scores.append([epoch, float(score)])
        self._bar.best(self.config["valid_metric"].lower(), self.best_valid_score)
        if saved and self._validations % (self.config["checkpoint_step"] or 1) == 0:
            self.save_training(epoch)
        if callback_fn:
            callback_fn(epoch, score)

    def _ended_before(self, train_data: Any) -> tuple[float, dict[str, float] | None]:
        """Return what a training that is resumed after its end has come to; RecBole would save its last weights."""
        if not Path(self.saved_model_file).is_file():
            raise CheckpointError(
                f"The run has ended, but its student '{self.saved_model_file}' is gone. Remove "
                f"'{self.training_file}' to start anew."
            )
        self.eval_collector.data_collect(train_data)
        return self.best_valid_score, self.best_valid_result

    def _after_training(self) -> None:
        refuse_unequal_weights(self.model, self.config["model"])
        self._silent.warn()
        for name, steps in self.progress.items():
            if not steps[-1][1].get("finished", True):
                self._log_note(name, finished=False)
        if self._idle_folder is not None:
            with contextlib.suppress(OSError):  # Not before: the first process may be about to write its file there.
                self._idle_folder.rmdir()

    @contextlib.contextmanager
    def _written_to(self) -> Iterator[None]:
        """Keep the TensorBoard file open; its threads would outlive a trainer that left it so."""
        self._fitting = True
        try:
            yield
        finally:
            self._fitting = False
            self.tensorboard.close()

    @contextlib.contextmanager
    def _problems_logged(self) -> Iterator[None]:
        """Turn what RecBole's model cannot take, which it shows at its first steps or lists, into a sentence."""
        try:
            yield
        except FAULTS as error:
            if self.valid_scores or not is_of_the_model(self.config, error):
                raise
            raise refusal(self.config, "train", error) from error

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        if hasattr(self.model, "begin_epoch"):
            self.model.begin_epoch(epoch_idx)
        self._epoch = epoch_idx
        self._set_learning_rate(epoch_idx)
        self._log_progress(epoch_idx)
        self._bar.epoch(epoch_idx)
        losses = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]
        self._silent.see(self._loss_means(losses))
        self.epoch_seconds.append(time.perf_counter() - started)
        if self.snapshots is not None and is_main_process() and self.snapshots.wants(epoch_idx + 1):
            # To go on from is the training checkpoint's part.
            self.snapshots.keep(epoch_idx + 1, {**self._stock_state(epoch_idx), "optimizer": None})
        if not is_distributed():
            return losses
        means = mean_of_all(list(losses) if isinstance(losses, tuple) else [losses])
        return tuple(means) if isinstance(losses, tuple) else means[0]

    def _set_learning_rate(self, epoch: int) -> None:
        """Let a distilled student's rate fall to learning_rate_end: rate · (end / rate)^(epoch / (epochs − 1))."""
        end = getattr(getattr(self.config, "run_options", None), "learning_rate_end", None)
        if end is None or not hasattr(self.model, "distillers"):
            return
        begin, way = self.config["learning_rate"], min(1.0, epoch / max(1, self.epochs - 1))
        for optimizer in self._optimizers().values():
            for group in optimizer.param_groups:
                group["lr"] = begin * (end / begin) ** way

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        """Score a batch's catalogue, at once where RecBole would go pair by pair, or its candidates alone."""
        if isinstance(self._judging, CandidateLoader):
            return self._among_candidates(*batched_data)
        if "scores" in self._fast and self._scorer.catalogue_at_once(type(self.model)):
            return self._catalogue_at_once(*batched_data)
        return super()._full_sort_batch_eval(batched_data)  # type: ignore[misc]

    def _among_candidates(self, interaction: Any, items: torch.Tensor, rows: Any, columns: Any) -> Any:
        users = interaction[self._judging.uid_field]
        scores = self._scorer.score(users.to(self.device), items.to(self.device)).float()
        scores = scores.masked_fill(items.to(self.device) == 0, -torch.inf)
        self.eval_collector.columns = items
        return interaction, scores, rows, columns

    def _catalogue_at_once(self, interaction: Any, known: Any, rows: Any, columns: Any) -> Any:
        scores = self._scorer.score_all(interaction[self._judging.uid_field].to(self.device)).float()
        scores[:, 0] = -torch.inf
        if known is not None:
            # Each user's known items, which RecBole hides as well.
            scores[known] = -torch.inf
        return interaction, scores, rows, columns

    def _map_reduce(self, result: Any, num_sample: int) -> Any:
        # What RecBole would average here was measured on all users together already.
        return result

    def _check_nan(self, loss: torch.Tensor) -> None:
        # RecBole asks once a batch.
        self._bar.batch()
        if torch.isfinite(loss):
            return
        terms = getattr(self.model, "last_terms", None) or {"base": loss}
        guilty = [name for name, value in terms.items() if not torch.isfinite(value)] or ["sum"]
        raise TrainingError(
            f"The loss term '{guilty[0]}' is not a finite number in epoch {getattr(self, '_epoch', 0)}. "
            "The usual cause is a learning_rate or a weight of a term that is too large; lower it."
        )

    # -- what the user sees

    def _bars(self, wanted: bool) -> tuple[bool, bool]:
        """Return (whether RecBole shows its bars, an epoch's and an evaluation's; whether the training has one bar)."""
        options = getattr(self.config, "run_options", None)
        # A stock Config has RecBole's console.
        shown, recboles = shows_bars(wanted), options is None or options.verbose
        return shown and recboles, shown and not recboles

    def _training_bar(self, show: bool) -> TrainingBar:
        who = {"teacher": "Teacher", "student": "Student alone", "distilled": "Student"}.get(self._role, "Training")
        methods = " + ".join(distiller.name for distiller in getattr(self.model, "distillers", ()))
        what = f"{who} {self.config['model']}" + (f", {methods}" if methods else "")
        return TrainingBar(what, self.epochs, self._batches, show=show, begun=self.start_epoch)

    def _log_slow_ranking(self, valid_data: Any) -> None:
        at_once = adapter_of(self.model).catalogue_at_once(type(self.model))
        whole = isinstance(valid_data, FullSortEvalDataLoader) and not isinstance(valid_data, CandidateLoader)
        if at_once and whole and "scores" not in self._fast:
            getLogger().info(
                f"{self.config['model']} is ranked pair by pair, as in RecBole. "
                "'fast: all' ranks the whole catalogue at once, many times faster and the same within rounding."
            )

    def _log_progress(self, epoch: int) -> None:
        """Log where methods stand that follow their teachers' training, whenever that has changed."""
        for distiller in getattr(self.model, "distillers", ()):
            now = distiller.progress()
            before = self.progress.get(distiller.name, [])
            if now and (not before or before[-1][1] != now):
                self.progress.setdefault(distiller.name, []).append([epoch, now])
                if before and now.get("finished"):
                    self._log_note(distiller.name, finished=True)
                for name, value in now.items():
                    self.tensorboard.add_scalar(f"Progress/{distiller.name}/{name}", value, epoch)

    def _log_note(self, method: str, *, finished: bool) -> None:
        """Log what a method says of its progress, finished in this epoch or not at the training's end."""
        for distiller in getattr(self.model, "distillers", ()):
            note = distiller.progress_note(finished) if distiller.name == method else None
            if note:
                getLogger().info(f"{method}: {note}{f' (epoch {self._epoch})' if finished else ''}.")

    def _loss_means(self, losses: Any) -> dict[str, float]:
        values = losses if isinstance(losses, tuple) else (losses,)
        names = getattr(self.model, "loss_names", None) or ["base"]
        if len(names) < len(values):
            names = [f"base{index + 1}" for index in range(len(values))]
        means = {name: value / self._batches for name, value in zip(names, values)}
        return dict(sorted(means.items(), key=lambda term: not term[0].startswith("base")))

    def _generate_train_loss_output(self, epoch_idx: int, s_time: float, e_time: float, losses: Any) -> str:
        positions = self.config["loss_decimal_place"] or 4
        shown = ", ".join(
            f"{set_color(name, 'blue')}: {value:.{positions}f}" for name, value in self._loss_means(losses).items()
        )
        head = set_color(f"epoch {epoch_idx} training", "green")
        return f"{head} [{set_color('time', 'blue')}: {e_time - s_time:.2f}s, {shown}]"

    def _add_train_loss_to_tensorboard(self, epoch_idx: int, losses: Any, tag: str = "Loss/Train") -> None:
        means = self._loss_means(losses)
        for name, value in means.items():
            self.tensorboard.add_scalar(f"{tag}/{name}", value, epoch_idx)
        if len(means) > 1:
            self.tensorboard.add_scalar(f"{tag}/sum", sum(means.values()), epoch_idx)

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
        show_progress, _ = self._bars(show_progress)
        measure = functools.partial(super().evaluate, eval_data, load_best_model=False, show_progress=show_progress)  # type: ignore[misc]
        self._judging, self._scorer = eval_data, adapter_of(self.model)
        shared = is_distributed() and isinstance(eval_data, CatalogueSizedLoader)
        self.eval_collector.share_out(shared)
        # Those of the split before, which may have another mode.
        self.eval_collector.columns = None
        if not self._fitting:
            # It opens itself again if it is written to.
            self.tensorboard.close()
        # A table in few bits is decoded once.
        with self._scorer.shared(), parametrize.cached():
            if shared or not is_distributed():
                return measure()
            # RecBole's sampled candidates are drawn from a random stream: one process draws and judges for all.
            return broadcast(measure() if is_main_process() else None)

    _fitting = False
    _bar = TrainingBar("", 0, 0, show=False)
    _judging: Any = None
    _scorer: Any = None


@functools.cache
def _with_mixin(stock: type[Any]) -> type[Any]:
    return type(f"Distill{stock.__name__}", (TrainerMixin, stock, Wrapping), {"__module__": __name__})


def trainer_for(
    config: DistillConfig, model: Any, *, checkpoint: Path | None = None, role: str = "", plain: bool = False
) -> Any:
    """Return RecBole's trainer for this model, with :class:`TrainerMixin` in front of it.

    Args:
        config: the configuration.
        model: the model, on its device.
        checkpoint: see :class:`TrainerMixin`.
        role: see :class:`TrainerMixin`.
        plain: take RecBole's general trainer: the model is only evaluated, and is not the configuration's.
    """
    stock = Trainer if plain else get_trainer(config["MODEL_TYPE"], recbole_ancestor(config["model"]))
    return _with_mixin(stock)(config, model, checkpoint=checkpoint, role=role)
