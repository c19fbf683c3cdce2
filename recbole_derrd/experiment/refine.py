"""The refined teacher: a student of its own size that learns from it, and then teaches in its place."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import dataset_arguments, set_color

from recbole_derrd.adapters import EmbeddingAdapter, adapter_class
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.recbole_keys import NOT_THE_TEACHERS
from recbole_derrd.config.other_methods import idle_options, without_effect
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import DistillError, OptionError
from recbole_derrd.evaluation.size import model_bytes
from recbole_derrd.experiment.log import log_model
from recbole_derrd.experiment.plans import Sizes, refining
from recbole_derrd.experiment.preflight import check_data, check_run, check_teachers
from recbole_derrd.experiment.purpose import refined_is_better
from recbole_derrd.experiment.student import fit_student, student_key
from recbole_derrd.experiment.teachers import AnyTeacher, knowledge_of
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.model_cache.keys import cache_entry, model_cache
from recbole_derrd.model_cache.results import TrainedModel, evaluate_trained, write_result
from recbole_derrd.model_cache.train_or_find import MODEL, TRAINING, read_trained
from recbole_derrd.recbole_compat.models import model_class
from recbole_derrd.runtime.artifact_cache import Resumable
from recbole_derrd.runtime.console import SHOWN
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.student.warm_start import check_start_size
from recbole_derrd.teacher import ExportTeacher, Teacher, TeacherSpec, read_exported, teacher_specs
from recbole_derrd.teacher.exported.matching import matched
from recbole_derrd.training.checkpoint import read_checkpoint

#: Options that say who teaches, and what is asked of a teacher.
_OF_THE_TEACHERS = (
    "teacher_checkpoint", "teacher_export", "teacher_trusted", "ensemble_top_n", "ensemble_weighting",
    "ensemble_power", "knowledge_batch_size", "knowledge_search",
)  # fmt: skip
#: RecBole's settings that the plans of a refined teacher, of a student in few bits and of one without a teacher set.
OF_THE_PLANS = (
    "embedding_size", "epochs", "eval_step", "stopping_step", "learning_rate", "weight_decay", "train_batch_size",
)  # fmt: skip


def who_teaches(config: DistillConfig) -> dict[str, Any]:
    """Return the settings that name a run's teachers, for a run with another student.

    A teacher trained here is given all that plans of students set, RecBole's defaults too: what it would inherit from
    such a student makes it another teacher.
    """
    options = config.run_options
    who: dict[str, Any] = {key: getattr(options, key) for key in _OF_THE_TEACHERS}
    shared = {**_inherited(config), **options.teacher}
    specs = teacher_specs(config)
    if options.teachers:
        who["teachers"] = [
            {"model": spec.name(config), **_defaults(config, spec, shared), **(one if isinstance(one, dict) else {})}
            if spec.trained_here
            else one
            for one, spec in zip(options.teachers, specs)
        ]
    elif specs[0].export is None:
        who["teacher_model"] = specs[0].name(config)
        shared |= _defaults(config, specs[0], shared) if specs[0].trained_here else {}
    return {**who, "teacher": shared}


def _inherited(config: DistillConfig) -> dict[str, Any]:
    """Return the settings that a teacher trained here takes over from its student."""
    without = {"model", "seed", *NOT_THE_TEACHERS, *dataset_arguments, *config.parameters["Distillation"]}
    return {key: value for key, value in config.external_config_dict.items() if key not in without}


def _defaults(config: DistillConfig, spec: TeacherSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a teacher has by default of the settings that plans set."""
    own = config.derived(spec.name(config), spec.settings, teacher=True)
    return {key: own[key] for key in OF_THE_PLANS if key not in given and key not in spec.settings}


def refined_config(config: DistillConfig, sizes: Sizes) -> DistillConfig:
    """Return the configuration of the second training of a run's teacher: the plan, the user's settings over it."""
    options = config.run_options
    given = options.teacher_refine if isinstance(options.teacher_refine, Mapping) else {}
    settings = {
        **who_teaches(config),
        # What a killed run has left of it is in the cache, which knows by itself.
        "resume": False,
        "compare_student": False,
        "verbose": options.verbose,
        **refining(sizes),
        **given,
    }
    return config.derived("BPR", settings)


def check_refining(config: DistillConfig, data: Data) -> DistillConfig:
    """Refuse a second training that cannot be, before the first one, and return its configuration.

    Raises:
        DistillError: what is wrong and what to do.
    """
    return _checked(config, Sizes.of(data, dimensions_named(config, data)))


def _checked(config: DistillConfig, sizes: Sizes) -> DistillConfig:
    own = refined_config(config, sizes)
    given = config.run_options.teacher_refine
    idle = idle_options(given if isinstance(given, Mapping) else {}, own.run_options.distillers)
    if idle:
        raise OptionError(without_effect(idle, " in 'teacher_refine'"))
    if config.run_options.warm_start != "none":
        check_start_size(config["embedding_size"], own["embedding_size"])
    check_run(own)
    return own


def refined_teacher(config: DistillConfig, data: Data, teachers: Sequence[AnyTeacher]) -> Teacher:
    """Train a run's teacher on, or find it, and return it as a teacher of its own.

    Args:
        config: the run's configuration, with ``teacher_refine``.
        data: the run's data.
        teachers: the run's teachers.

    Raises:
        DistillError: its settings cannot be trained.
    """
    own = _checked(config, Sizes.of(data, dimensions_of(teachers)))
    knowledge = knowledge_of(own, teachers, data)
    key = student_key(own, data, knowledge)
    cache, entry = model_cache(own), cache_entry(own, key, "Refined")
    checkpoint = cache.path(entry) / MODEL

    def train(folder: Path) -> TrainedModel:
        words = f" the teacher: a BPR of {own['embedding_size']} dimensions learns from it"
        getLogger().info(set_color("Refining", "yellow") + words, extra=SHOWN)
        own_data = prepare_data(own)
        # Its key holds the data of the run, and the run's are what it must have seen.
        Teacher.refuse_other_split(own_data, data)
        check_data(own, own_data)
        fitted = fit_student(own, own_data, knowledge, folder / MODEL, goes_on=True)
        started = time.perf_counter() - fitted.seconds
        result = evaluate_trained(own, key, folder / MODEL, fitted.trainer, own_data, fitted.valid, started)
        result = dataclasses.replace(result, settings={**result.settings, "refined": True})
        write_result(result, folder)
        return dataclasses.replace(result, checkpoint=checkpoint)

    read = functools.partial(read_trained, checkpoint=checkpoint)
    resumable = Resumable(TRAINING, anew=not config.run_options.resume)
    trained = cache.get_or_build(entry, train, read, doing="refines this teacher", resumable=resumable)
    knowledge.forget_teacher()
    log_model(trained, "Refined teacher")
    return Teacher(own, trained, data)


def teaches(config: DistillConfig, teacher: TrainedModel, refined: TrainedModel) -> bool:
    """Return whether a refined teacher is the one that teaches.

    It is, where it is better on the validation split, where there is none, or where the first one cannot.

    Args:
        config: the run's configuration.
        teacher: the teacher, or what several are together.
        refined: the refined teacher.
    """
    if refined_is_better(config, teacher, refined):
        return True
    try:
        check_teachers(config)
    except DistillError:
        return True
    return False


def dimensions_of(teachers: Sequence[AnyTeacher]) -> int | None:
    """Return the most dimensions of these teachers; None where no score is a dot product of two embeddings."""
    found = []
    for teacher in teachers:
        if isinstance(teacher, ExportTeacher):
            found += [teacher.size] if teacher.hints and not teacher.known else []
        else:
            found += _of_two_embeddings(teacher.config["model"], teacher.config["embedding_size"])
    return max(found, default=None)


def dimensions_named(config: DistillConfig, data: Data) -> int | None:
    """Return what :func:`dimensions_of` says of a run's teachers, before they are trained.

    Raises:
        DistillError: a checkpoint or an export cannot be read.
    """
    found = []
    for spec in teacher_specs(config):
        if spec.export is not None:
            export = matched(read_exported(spec.export), data)
            if export.embeddings is not None and not export.known:
                found.append(int(export.embeddings["item"].shape[1]))
        elif spec.checkpoint is not None:
            size = read_checkpoint(spec.checkpoint)["config"].get("embedding_size")
            found += _of_two_embeddings(spec.name(config), size if isinstance(size, int) else None)
        else:
            found += _of_two_embeddings(spec.name(config), spec.embedding_size(config))
    return max(found, default=None)


def bytes_named(config: DistillConfig, data: Data) -> int | None:
    """Return the bytes of a run's teachers together, before they are trained; None where only their training tells.

    They are built as they will be trained: of most models no setting alone says how many parameters they have.
    """
    found = []
    for spec in teacher_specs(config):
        if not spec.trained_here or not adapter_class(model_class(spec.name(config))).trainable:
            return None
        own = config.derived(spec.name(config), spec.settings, teacher=True)
        with kept_random_state():
            found.append(model_bytes(build_model(own, data)))
    return sum(found)


def _of_two_embeddings(model: str, size: Any) -> list[int]:
    return [int(size)] if size and issubclass(adapter_class(model_class(model)), EmbeddingAdapter) else []
