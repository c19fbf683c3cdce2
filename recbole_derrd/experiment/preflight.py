"""The user's mistakes that can be seen before an hour of training, not after."""

from __future__ import annotations

import os
from logging import getLogger
from pathlib import Path

import torch
from recbole.utils import FeatureType

from recbole_derrd.adapters import ADAPTERS, EmbeddingAdapter, adapter_class
from recbole_derrd.config.distill_config import DistillConfig, trains_on_whole_users
from recbole_derrd.config.options.filters import check_column
from recbole_derrd.config.other_methods import idle_options, without_effect
from recbole_derrd.data.prepare import Data
from recbole_derrd.distillers import Need
from recbole_derrd.distillers.hint_embeddings import HintOptions
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment.exports import check_exports
from recbole_derrd.experiment.log import most_threads
from recbole_derrd.recbole_compat.models import missing_package, model_class
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.report.schema import BenchmarkEntry
from recbole_derrd.runtime.files import try_writing
from recbole_derrd.student.warm_start import can_start, check_start_size
from recbole_derrd.teacher import TeacherSpec, teacher_specs
from recbole_derrd.teacher.exported.model import ExportedEmbeddings
from recbole_derrd.teacher.search import check_search


def check_run(config: DistillConfig) -> None:
    """Refuse what cannot end well, from the configuration alone.

    Raises:
        OptionError: what is wrong and what to do.
        CheckpointError: the teacher's checkpoint is unusable.
    """
    options = config.run_options
    _check_processes(config)
    _check_other_methods(config)
    fault = BenchmarkEntry.check()(options.benchmark)
    if fault is not None:
        raise OptionError(f"benchmark{fault}. Leave this option to 'recbole-derrd benchmark'.")
    if options.split_seed is not None and config["save_dataloaders"]:
        raise OptionError(
            "RecBole's saved data loaders know nothing of split_seed, and it would take them for another split: take "
            "out save_dataloaders or split_seed."
        )
    if not config["checkpoint_dir"]:
        raise OptionError("checkpoint_dir is empty: name a folder, '.' for the present one, or take it out.")
    for key, folder in (
        ("record_dir", options.record_dir),
        ("checkpoint_dir", config["checkpoint_dir"]),
        ("cache_dir", config.cache_dir),
    ):
        _refuse_unwritable(key, Path(folder))
    _check_bits(config)
    if options.teacher_refine:
        _check_refining(config)
    if not options.distillers:
        if options.warm_start != "none":
            raise OptionError(
                "warm_start needs a teacher, and a run without distillers has none. Add distillers, or set "
                "warm_start: none."
            )
        return
    _check_scale(config)
    if options.teacher_refine:
        # The refined teacher can teach; of the first one its own training asks, in a check of its own.
        check_roles(config["model"], ["BPR"], list(options.distillers))
        check_hints(config, ["BPR"])
        return
    check_teachers(config)


def check_teachers(config: DistillConfig) -> None:
    """Refuse teachers that cannot teach a run's student.

    Raises:
        OptionError: what is wrong and what to do.
        CheckpointError: a teacher's checkpoint is unusable.
    """
    options = config.run_options
    specs = teacher_specs(config)
    exported = check_exports(config, specs)
    models = [spec for spec in specs if spec.export is None]
    names = [spec.name(config) for spec in models]
    embedded = any(one.embeddings is not None for one in exported)
    check_roles(config["model"], names, list(options.distillers), embedded=embedded)
    check_hints(config, names, embedded=embedded)
    _check_start(config, specs, embedded=embedded)
    for name, spec in zip(names, models):
        _check_teacher(config, name, spec)


def _check_other_methods(config: DistillConfig) -> None:
    """Refuse options of other methods that somebody has typed; in a file they may be there for other runs."""
    # Where nothing is distilled on purpose, all that is said of distillation waits for another run.
    if config.run_options.distillers or not config.distillers_given:
        found = idle_options(config.cmd_config_dict, config.run_options.distillers)
        if found:
            raise OptionError(without_effect(found, dashes="--"))


def _check_scale(config: DistillConfig) -> None:
    """Refuse a scale of the teacher's scores that nothing reads if somebody has typed it, else say so."""
    options = config.run_options
    reads = any(Need.SCORES in method_class(name).needed(own) for name, own in config.method_options.items())
    if options.teacher_scale == 1 or reads or options.warm_start != "none":
        return
    words = (
        f"teacher_scale has no effect: {' and '.join(options.distillers)} read no scores of the teacher, and the "
        "student does not start at them (warm_start)."
    )
    if "teacher_scale" in config.cmd_config_dict:
        raise OptionError(f"{words} Take it out.")
    getLogger().warning(words)


def _check_bits(config: DistillConfig) -> None:
    options = config.run_options
    own = adapter_class(model_class(config["model"]))
    if options.student_codebooks and len(own.tables.get("item", ())) != 1:
        able = sorted(name for name, adapter in ADAPTERS.items() if len(adapter.tables.get("item", ())) == 1)
        raise OptionError(
            f"student_codebooks cannot train {config['model']}, only {', '.join(able)}, which learn from any teacher: "
            "set model, or take it out."
        )
    if options.student_bits == options.user_bits == 32:
        return
    if not own.tables and not own.propagates:
        able = sorted(name for name, adapter in ADAPTERS.items() if adapter.tables or adapter.propagates)
        raise OptionError(
            f"student_bits and user_bits cannot train {config['model']} in few bits, only {', '.join(able)}: a student "
            "such as BPR learns from any teacher. Or store the finished student in few bits: store_bits."
        )


def _check_refining(config: DistillConfig) -> None:
    if not config.run_options.distillers and config.compress_options.method == "none":
        raise OptionError(
            "teacher_refine trains a teacher further, and a run without distillers has none. Add distillers, or take "
            "it out."
        )
    following = [name for name in config.method_options if Need.TRAJECTORY in method_class(name).needs]
    if following:
        raise OptionError(
            f"{following[0]} follows the training of its teachers, which a refined one has not passed through: take "
            "out teacher_refine, or use another method."
        )
    _refuse_start_of(config["model"], config.run_options.warm_start)


def _refuse_start_of(student: str, start: str) -> None:
    if start != "none" and not adapter_class(model_class(student)).takes_start:
        able = sorted(name for name, adapter in ADAPTERS.items() if adapter.takes_start)
        raise OptionError(f"warm_start cannot set the embeddings of {student}, only those of {', '.join(able)}.")


def _check_start(config: DistillConfig, specs: list[TeacherSpec], *, embedded: bool) -> None:
    if config.run_options.warm_start == "none":
        return
    _refuse_start_of(config["model"], config.run_options.warm_start)
    if embedded:
        return
    wanted, sizes = config["embedding_size"], []
    for spec in specs:
        if spec.export is not None:
            continue
        teacher = spec.name(config)
        size = spec.embedding_size(config)
        adapter = adapter_class(model_class(teacher))
        if can_start(wanted, adapter, size):
            return
        if issubclass(adapter, EmbeddingAdapter):
            sizes.append(int(size or 0))
    if sizes:
        check_start_size(wanted, max(sizes))
    names = " or ".join(dict.fromkeys(spec.name(config) for spec in specs))
    raise OptionError(
        f"warm_start needs a teacher whose score is the dot product of two embeddings, and {names}'s is not. Take it "
        "out, or use a teacher such as BPR or LightGCN."
    )


def _check_teacher(config: DistillConfig, name: str, spec: TeacherSpec) -> None:
    check_search(config.run_options.knowledge_search, adapter_class(model_class(name)), name)
    lacking = None if spec.checkpoint else missing_package(name)
    if lacking:
        raise OptionError(lacking)
    config.derived(name, spec.settings, teacher=True)


def _check_processes(config: DistillConfig) -> None:
    most = most_threads(os.cpu_count() or 1)
    for key in ("nproc", "worker"):
        if int(config[key] or 0) > most:
            raise OptionError(
                f"{key} = {config[key]} are too many processes for the {os.cpu_count()} CPUs of this machine, where at "
                f"most {most} may be asked for. Lower it."
            )
    here, world = int(config["nproc"] or 1), int(config["world_size"] or -1)
    if world not in (-1, 1) and here + int(config["group_offset"] or 0) > world:
        raise OptionError(
            f"nproc = {here} from group_offset = {config['group_offset'] or 0} on are more than world_size = {world}: "
            "world_size counts the processes of all machines."
        )
    if world == 1 < here:
        raise OptionError(f"nproc = {here} needs world_size = {here} or more, or none.")
    if here == 1 and world in (-1, 1):
        return
    if config["worker"]:
        raise OptionError("Several processes load their own data: take out worker, or nproc.")
    gpus = [gpu for gpu in str(config["gpu_id"]).split(",") if gpu.strip()]
    if gpus and torch.cuda.is_available() and len(gpus) < here:
        raise OptionError(
            f"nproc = {here} needs as many GPUs, and gpu_id names {len(gpus)}. Name them (--gpu_id=0,1), or none for "
            "the CPU (--gpu_id=)."
        )


def check_data(config: DistillConfig, data: Data) -> None:
    """Refuse options that the data do not allow.

    Raises:
        OptionError: what is wrong and what to do.
    """
    _check_columns(config, data)
    run, most = config.run_options, data.history.n_items - 1
    if run.warm_start != "none" and config["embedding_size"] > min(most, data.history.n_users - 1):
        raise OptionError(
            f"warm_start: svd cannot fill {config['embedding_size']} dimensions: '{config['dataset']}' has "
            f"{data.history.n_users - 1} users and {most} items. Lower embedding_size, or take warm_start out."
        )
    for name, options in config.method_options.items():
        kind = method_class(name)
        kind.check(options, data.history)
        note = kind.note(options, data.history)
        if note:
            getLogger().warning(f"{name}: {note}")
        listed, option = kind.listed(options)
        listed = min(listed, most)
        if run.teachers and listed > min(run.ensemble_top_n, most):
            raise OptionError(
                f"{name} takes {listed} items of the ensemble's lists, which are made from {run.ensemble_top_n} of "
                f"each teacher and may hold fewer: set ensemble_top_n to {listed} or more, or lower {option}."
            )


def _check_columns(config: DistillConfig, data: Data) -> None:
    """Refuse parts of val_interval that do not go with their column's type, which only the data tell."""
    types = data.dataset.field2type
    for column, wanted in (config["val_interval"] or {}).items():
        # A column of numbers that threshold has read is there no more.
        if column in types or column in (config["threshold"] or {}):
            kind = types.get(column, FeatureType.FLOAT)
            check_column(column, wanted, numeric=kind in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ))


def _refuse_unwritable(key: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A cache that holds everything may be read-only.
        if key != "cache_dir":
            try_writing(folder)
    except OSError as error:
        raise OptionError(
            f"Cannot write to {key} = '{folder}': {error.strerror or error}. Choose another folder."
        ) from error


def check_roles(student: str, teachers: list[str], distillers: list[str], *, embedded: bool = False) -> None:
    """Refuse what these models cannot do.

    Args:
        student: the student's RecBole model.
        teachers: those of the teachers that are models.
        distillers: the methods.
        embedded: whether another teacher, which comes as files, has embeddings.

    Raises:
        OptionError: the student cannot learn, or a method asks for embeddings that a model does not have.
    """
    student_class = model_class(student)
    lacking = missing_package(student)
    if lacking:
        raise OptionError(lacking)
    if not adapter_class(student_class).trainable:
        raise OptionError(
            f"{student} is not trained by gradients and cannot be a student, only a teacher (teacher_model). "
            "Choose a student such as BPR, NeuMF or LightGCN."
        )
    for name in distillers:
        if Need.EMBEDDINGS not in method_class(name).needs:
            continue
        for role, models in (("teacher", teachers), ("student", [student])):
            if role == "teacher" and embedded:
                continue
            if not any(adapter_class(model_class(model)).hints for model in models):
                raise OptionError(
                    f"{name} needs user and item embeddings, and the {role} {' or '.join(models)} has none. "
                    f"Use distillers that need none ({_without_embeddings()}), or another {role}."
                )
        if trains_on_whole_users(student):
            raise OptionError(
                f"{name} needs the items of a batch, and {student} is trained on whole users. Use distillers that "
                f"need none: {_without_embeddings()}."
            )


def _without_embeddings() -> str:
    """Return the built-in methods that need no embeddings, as a list to write."""
    return f"[{', '.join(name for name in METHODS if Need.EMBEDDINGS not in method_class(name).needs)}]"


def check_hints(config: DistillConfig, teachers: list[str], *, embedded: bool = False) -> None:
    """Refuse hint layers that student or teachers do not have; which of several teaches by embeddings is seen later.

    Raises:
        OptionError: a layer is unknown.
    """
    for options in config.method_options.values():
        if not isinstance(options, HintOptions):
            continue
        for key, models, layers in (
            ("hint", [config["model"]], options.layers()),
            ("teacher_hint", teachers, options.teacher_layers()),
        ):
            files = ExportedEmbeddings.hints if embedded and key == "teacher_hint" else ()
            hints = list(
                dict.fromkeys([*files, *(hint for model in models for hint in adapter_class(model_class(model)).hints)])
            )
            for layer in layers:
                if layer is not None and layer not in hints:
                    raise OptionError(
                        f"{' or '.join(models) or 'The teacher'} has no hint layer '{layer}' ({options.prefix}{key}). "
                        f"It has: {', '.join(hints)}."
                    )
