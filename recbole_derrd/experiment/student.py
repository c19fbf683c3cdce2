"""The distilled student of a run: trained on files of its own, whose name holds every setting."""

from __future__ import annotations

import time
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

from recbole.utils import set_color

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data
from recbole_derrd.distillers import Need
from recbole_derrd.experiment.log import shown_metrics
from recbole_derrd.experiment.teachers import follows_teachers, snapshots_wanted, weighting_of
from recbole_derrd.model_cache.keys import cache_key, evaluation_settings
from recbole_derrd.model_cache.named_files import with_contents
from recbole_derrd.model_cache.results import TrainResult, split_metrics
from recbole_derrd.registry import method_class
from recbole_derrd.runtime.console import SHOWN, where_no_bar
from recbole_derrd.runtime.files import remove_file
from recbole_derrd.runtime.locks import locked
from recbole_derrd.runtime.processes import is_main_process
from recbole_derrd.student.model import build_student
from recbole_derrd.teacher import NoTeacher, StoredKnowledge
from recbole_derrd.training.trainer import trainer_for


def train_student(config: DistillConfig, data: Data, knowledge: StoredKnowledge | None) -> TrainResult:
    """Train the distilled student, alone on its files, and evaluate it; another run of this very student waits."""
    if knowledge is None:
        knowledge = StoredKnowledge(Path(), NoTeacher(), data.history)
    methods = config.run_options.distillers
    name = "-".join([config["model"], config["dataset"], *(methods or ["plain"]), student_key(config, data, knowledge)])
    checkpoint = Path(config["checkpoint_dir"]) / f"{name}.pth".replace("/", "_")
    with locked(checkpoint, "trains this very student", checkpoint.with_suffix(".training.pth")) as waited:
        # The name holds every setting, so what the run before this one has just left need not be trained again.
        goes_on = waited or config.run_options.resume
        fitted = fit_student(config, data, knowledge, checkpoint, goes_on=goes_on)
        trainer, valid = fitted.trainer, fitted.valid
        if valid is None:
            valid = trainer.evaluate(data.valid, load_best_model=False)
        test = trainer.evaluate(data.test, load_best_model=False, show_progress=config["show_progress"])
    of_valid, of_test = split_metrics(config, valid), split_metrics(config, test)
    done = f": {len(trainer.epoch_seconds)} epochs in {fitted.seconds:.0f} s, test {shown_metrics(of_test)}"
    getLogger().info(set_color("Distilled student" if methods else "Student", "yellow") + done, extra=SHOWN)
    return TrainResult(trainer, trainer.model, of_valid, of_test, fitted.seconds)


def student_key(config: DistillConfig, data: Data, knowledge: StoredKnowledge) -> str:
    """Return the cache key of a run's student: of every setting that it depends on."""
    method_settings = [
        (name, sorted(with_contents(name, options.to_keys(), config["data_path"]).items()))
        for name, options in config.method_options.items()
    ]
    return cache_key(
        config,
        data.fingerprint,
        (
            knowledge.folder.name,
            knowledge.settings.search,
            method_settings,
            config.run_options.distill_seed,
            evaluation_settings(config),
            config.run_options.base_weight,
            config.run_options.warm_start,
            *_added_settings(config),
            # Other methods read nothing of the snapshots, and the weighting of an ensemble is in its folder's name.
            [snapshots_wanted(config), repr(weighting_of(config))] if follows_teachers(config) else None,
        ),
    )


def _added_settings(config: DistillConfig) -> list[Any]:
    """Return bits, codebooks, falling rate and the teacher's scale of a training, for its key; nothing without."""
    options = config.run_options
    trained = [options.student_bits, options.user_bits, options.student_rotation]
    coded = [] if options.student_bits == options.user_bits == 32 else [trained]
    books = [["student_codebooks", options.student_codebooks]] if options.student_codebooks else []
    falling = [] if options.learning_rate_end is None else [["learning_rate_end", options.learning_rate_end]]
    scaled = [] if options.teacher_scale == 1 else [["teacher_scale", options.teacher_scale]]
    return [*coded, *books, *falling, *scaled]


def starts_at_codes(config: DistillConfig) -> bool:
    """Return whether a student begins as its teacher's codes, which are a model that a training may spoil."""
    options = config.run_options
    return options.warm_start != "none" and (options.codes_items or options.user_bits < 32)


class Fitted(NamedTuple):
    """A student at its best epoch.

    Attributes:
        trainer: its trainer, which holds the model.
        valid: its metrics on the validation split, as the trainer gives them, where training has computed them.
        seconds: how long it was trained, all interruptions left out.
    """

    trainer: Any
    valid: Any
    seconds: float


def fit_student(
    config: DistillConfig, data: Data, knowledge: StoredKnowledge, checkpoint: Path, *, goes_on: bool
) -> Fitted:
    """Build a run's student and train it, or go on from its training checkpoint."""
    model = build_student(config, data, knowledge)
    if not any(Need.SCORES in method_class(name).needs for name in config.method_options):
        # All that is asked of it is on disk by now.
        knowledge.forget_teacher()
    logger = getLogger()
    methods = " + ".join(config.run_options.distillers)
    what = (
        ("Distilling", f" {methods} into {config['model']}")
        if methods
        else ("Training", f" {config['model']} without distillation")
    )
    logger.info(set_color(what[0], "yellow") + what[1], extra=where_no_bar(config["show_progress"]))
    logger.info(model)
    trainer = trainer_for(config, model, checkpoint=checkpoint, role="distilled")
    trainer.extra["derrd"] = {**data.seen, "distillers": config.run_options.distillers, "tokens": data.tokens}
    if not goes_on:
        # Were it left, a run killed before its own first one would be resumed from an earlier run's end.
        if is_main_process():
            remove_file(trainer.training_file)
    elif trainer.training_file.exists():
        trainer.resume_checkpoint(trainer.training_file)
    elif config.run_options.resume:
        logger.warning(
            f"Nothing to resume: there is no '{trainer.training_file}' (other settings have another name). "
            "Starting anew."
        )
    started = time.perf_counter() - sum(trainer.epoch_seconds)
    if trainer.start_epoch == 0 and starts_at_codes(config) and data.valid and config["eval_step"] > 0:
        trainer.keep_start(data.train, data.valid)
    _, valid = trainer.fit(data.train, data.valid, saved=True, show_progress=config["show_progress"])
    seconds = time.perf_counter() - started
    trainer.load_best()
    return Fitted(trainer, valid, seconds)
