"""The teachers of a run, what they know together, and how good they are together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from logging import getLogger
from typing import Callable, Union

from recbole.utils import set_color

from recbole_derrd.adapters import adapter_class
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options import Options
from recbole_derrd.config.options.schema import AUTO
from recbole_derrd.data.candidates import CandidateLoader
from recbole_derrd.data.prepare import Data
from recbole_derrd.distillers import Need
from recbole_derrd.errors import DistillError, OptionError
from recbole_derrd.evaluation.latency import Latency
from recbole_derrd.experiment.exports import refuse_partial_start
from recbole_derrd.experiment.log import log_model, shown_metrics
from recbole_derrd.model_cache.evaluated import evaluate_model
from recbole_derrd.model_cache.results import TrainedModel
from recbole_derrd.recbole_compat.models import model_class
from recbole_derrd.registry import method_class
from recbole_derrd.runtime.console import SHOWN, shows_bars
from recbole_derrd.runtime.processes import is_main_process
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.student.warm_start import can_start
from recbole_derrd.teacher import (
    BuildSettings,
    Ensemble,
    EnsembleKnowledge,
    ExportTeacher,
    RankWeighting,
    StoredKnowledge,
    Teacher,
    TeacherSpec,
    knowledge_folder,
    read_exported,
    teacher_specs,
)


def follows_teachers(config: DistillConfig) -> bool:
    """Return whether a method of the run follows the teachers' snapshots, or weights their ranks."""
    return bool(_following(config))


def _following(config: DistillConfig) -> list[Options]:
    methods = config.method_options.items()
    return [options for name, options in methods if Need.TRAJECTORY in method_class(name).needs]


def snapshots_wanted(config: DistillConfig) -> int:
    """Return how many snapshots of each teacher the run's methods read, the final one included."""
    several = any(getattr(options, "trajectory", True) for options in _following(config))
    return config.run_options.teacher_snapshots if several else 1


def weighting_of(config: DistillConfig) -> RankWeighting:
    """Return what a rank in a teacher's ranking counts."""
    options = config.run_options
    return RankWeighting(options.ensemble_weighting, options.ensemble_power)


#: A teacher that is a model, or one that comes as files.
AnyTeacher = Union[Teacher, ExportTeacher]


def teachers_of(config: DistillConfig, data: Data) -> list[AnyTeacher]:
    """Train, find or load the teachers of a run, one after another."""
    specs = teacher_specs(config)
    several = len(specs) > 1
    if several:
        _refuse_unfit(config, data, specs)
    teachers: list[AnyTeacher] = []
    for number, spec in enumerate(specs, 1):
        teachers.append(_teacher_of(config, data, spec))
        log_model(teachers[-1].trained, f"Teacher {number} of {len(specs)}" if several else "Teacher")
        if several:
            # One at a time, its data too.
            teachers[-1].forget()
    return teachers


def _teacher_of(config: DistillConfig, data: Data, spec: TeacherSpec) -> AnyTeacher:
    if spec.export is None:
        return Teacher.of(config, data, spec, snapshots_wanted(config))
    teacher = ExportTeacher.of(config, data, spec)
    if len(teacher_specs(config)) == 1:
        refuse_partial_start(config, teacher)
    return teacher


def _refuse_unfit(config: DistillConfig, data: Data, specs: Sequence[TeacherSpec]) -> None:
    """Refuse a teacher of other data, or one that is there already, before an hour is spent on the first."""
    known: dict[str, int] = {}
    for number, spec in enumerate(specs, 1):
        try:
            with kept_random_state():
                key = Teacher.check(config, data, spec) if spec.export is None else read_exported(spec.export).digest
        except DistillError as error:
            raise type(error)(f"Teacher {number} of {len(specs)}: {error}") from error
        if key in known:
            raise OptionError(
                f"Teachers {known[key]} and {number} are the same {spec.name(config)}, so that it would count twice: "
                "take one out, or give it other settings (another seed, too, with a split_seed of the run)."
            )
        known[key] = number


def knowledge_of(config: DistillConfig, teachers: AnyTeacher | Sequence[AnyTeacher], data: Data) -> StoredKnowledge:
    """Return the knowledge of a run's teacher or teachers, kept under their cache keys."""
    teachers = [teachers] if isinstance(teachers, (Teacher, ExportTeacher)) else list(teachers)
    options = config.run_options
    settings = BuildSettings(
        options.knowledge_batch_size,
        shows_bars(config["show_progress"]),
        options.knowledge_search,
        snapshots_wanted(config),
    )
    weighting = weighting_of(config)
    scale = None if options.teacher_scale == AUTO else float(options.teacher_scale)
    members = []
    for teacher in teachers:
        folder = knowledge_folder(config.cache_dir, teacher.trained.key, data.fingerprint.train)
        members.append(StoredKnowledge(folder, teacher, data.history, settings, weighting, scale))
    if len(members) == 1:
        return members[0]
    starter = _best(config, teachers, lambda teacher: _can_start(config, teacher))
    if starter is None and config.run_options.warm_start != "none":
        raise OptionError(
            "warm_start needs a teacher whose scores are dot products of embeddings as wide as the student's, and that "
            "knows all of this run's users and items: none of these is. Take warm_start out, or add such a teacher."
        )
    ensemble = Ensemble(
        members,
        teachers[0].config,
        data.train._dataset,
        weighting,
        count=min(options.ensemble_top_n, data.history.n_items - 1),
        leader=_best(config, teachers, lambda teacher: bool(teacher.hints)),
        starter=starter,
    )
    folder = knowledge_folder(config.cache_dir, ensemble.key, data.fingerprint.train)
    # The ensemble adds up rankings: there are no embeddings to search by.
    return EnsembleKnowledge(folder, ensemble, data.history, dataclasses.replace(settings, search="exact"), scale)


def _can_start(config: DistillConfig, teacher: AnyTeacher) -> bool:
    if isinstance(teacher, ExportTeacher):
        return bool(teacher.hints) and not teacher.known and teacher.size >= (config["embedding_size"] or 0)
    adapter = adapter_class(model_class(teacher.config["model"]))
    return can_start(config["embedding_size"] or 0, adapter, teacher.config["embedding_size"])


def _best(config: DistillConfig, teachers: Sequence[AnyTeacher], able: Callable[[AnyTeacher], bool]) -> int | None:
    """Return which of the teachers that are able is the best on the validation split; None where none is."""
    metric, sign = config["valid_metric"].lower(), 1 if config["valid_metric_bigger"] else -1
    positions = [index for index, teacher in enumerate(teachers) if able(teacher)]
    return max(positions, key=lambda index: sign * teachers[index].trained.valid[metric], default=None)


def evaluated(
    config: DistillConfig, teachers: Sequence[AnyTeacher], knowledge: StoredKnowledge, data: Data
) -> TrainedModel:
    """Return what the teachers are together: the one teacher itself, or the ensemble, evaluated or found.

    Its size is that of all of its members, its latency that of asking one after another.
    """
    if not isinstance(knowledge, EnsembleKnowledge):
        return teachers[0].trained
    members = [teacher.trained for teacher in teachers]
    found = evaluate_model(
        teachers[0].config,
        data,
        "Ensemble",
        identity=[knowledge.ensemble.key, [member.key for member in members]],
        build=lambda: knowledge.ensemble.model(among_candidates=isinstance(data.test, CandidateLoader)),
    )
    knowledge.forget_teacher()
    sizes = [member.bytes_per_item for member in members]
    ensemble = TrainedModel(
        model="Ensemble",
        key=found.key,
        checkpoint=found.checkpoint,
        params=sum(member.params for member in members),
        bytes=sum(member.bytes for member in members),
        valid=found.valid,
        test=found.test,
        seconds=sum(member.seconds for member in members),
        epochs=[],
        latency=_one_after_another([member.latency for member in members]),
        settings={
            "members": [{"model": member.model, **member.settings} for member in members],
            "ensemble_top_n": knowledge.ensemble.count,
            "ensemble_weighting": repr(knowledge.rank_weighting),
        },
        bytes_per_item=None if None in sizes else sum(size for size in sizes if size is not None),
        test_groups=found.test_groups,
        found=found.found,
    )
    if is_main_process():
        words = f" of {len(members)} teachers: test {shown_metrics(ensemble.test)}"
        getLogger().info(set_color("Ensemble", "yellow") + words, extra=SHOWN)
    return ensemble


def _one_after_another(parts: Sequence[Latency | None]) -> Latency | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return Latency(
        sum(part.p50_ms for part in known),
        sum(part.p99_ms for part in known),
        1 / sum(1 / part.users_per_second for part in known),
        known[0].device,
        known[0].threads,
    )
