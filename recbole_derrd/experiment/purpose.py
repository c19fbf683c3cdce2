"""Settings that a run cannot show the effect of: one sentence each, which the run's table repeats."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from recbole.utils import InputType, ModelType

from recbole_derrd.config.distill_config import DistillConfig, model_settings, trains_on_whole_users
from recbole_derrd.config.options.evaluation import left_out
from recbole_derrd.config.options.recbole_keys import SET_BY_RECBOLE
from recbole_derrd.config.options.schema import AUTO
from recbole_derrd.config.other_methods import idle_options, without_effect
from recbole_derrd.config.settings import candidate_count
from recbole_derrd.data.prepare import Data
from recbole_derrd.distillers import Need
from recbole_derrd.evaluation.metrics import within_noise
from recbole_derrd.model_cache.results import TrainedModel, gap_errors
from recbole_derrd.recbole_compat.models import recbole_ancestor
from recbole_derrd.registry import method_class
from recbole_derrd.teacher import TeacherSpec, teacher_specs


def of_settings(config: DistillConfig) -> list[str]:
    """Return what a configuration asks for in vain."""
    teacher = weak_teacher(config)
    return [
        *_unread(config),
        *_without_distillers(config),
        *_without_weight(config),
        *_idle_options(config),
        *_without_snapshots(config),
        *([teacher] if teacher else []),
        *_beside_an_export(config),
        *_left_out(config),
        *_labels(config),
        *_candidates(config),
        *_device(config),
    ]


def _listed(names: Iterable[str]) -> str:
    *first, last = [f"'{name}'" for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def _unread(config: DistillConfig) -> list[str]:
    """Name keys that nobody reads, and those that RecBole sets itself."""
    found = []
    own = "." in config["model"]
    for place, keys in config.unknown_keys.items():
        if keys:
            unless = ", unless your own model reads it from elsewhere" if own else ""
            found.append(
                f"RecBole and recbole_derrd do not know {_listed(keys)}{place}, so setting it has no effect{unless}: "
                "correct the name, or take it out."
            )
    for key, decides in SET_BY_RECBOLE.items():
        given = config.external_config_dict.get(key)
        if given is not None and str(given) != str(config[key]):
            found.append(f"{key}: {given} has no effect: RecBole sets it itself, and {decides}.")
    return found


def of_other_methods(config: DistillConfig) -> list[str]:
    """Return that a run's files have options of methods that it does not use.

    It is for the log alone: a file may be for several runs, and so may that of a benchmark, which says so itself.
    """
    options = config.run_options
    if options.benchmark or not options.distillers:
        return []
    found = idle_options(config.external_config_dict, options.distillers)
    return [without_effect(found)] if found else []


def _left_out(config: DistillConfig) -> list[str]:
    without = left_out(config)
    return [
        *(
            ["eval_args leaves no validation split: every model trains all of its epochs, without early stopping."]
            if "validation" in without
            else []
        ),
        *(["eval_args leaves no test split: no test metrics, and no gap."] if "test" in without else []),
    ]


def _without_distillers(config: DistillConfig) -> list[str]:
    if config.distillers_given:
        return []
    teacher = [
        key for key in ("teacher", "teacher_model", "teacher_checkpoint", "teacher_export", "teachers") if config[key]
    ]
    return [
        "No distillers are given, so this is plain RecBole training"
        f"{f', and {_listed(teacher)} is not used' if teacher else ''}. To distil, add e.g. distillers: [de, rrd]; "
        "distillers: [] says that nothing shall be distilled."
    ]


def _beside_an_export(config: DistillConfig) -> list[str]:
    if not (config.run_options.teacher_export and config.run_options.distillers and config["teacher"]):
        return []
    return ["teacher has no effect: the teacher is the finished one of teacher_export. Take one of them out."]


def _without_weight(config: DistillConfig) -> list[str]:
    return [
        f"{name} has no effect, since {options.prefix}weight is 0: raise it, or take {name} out of distillers."
        for name, options in config.method_options.items()
        if getattr(options, "weight", 1) == 0
    ]


def _idle_options(config: DistillConfig) -> list[str]:
    """Name options of a method that its other options leave unread."""
    found = []
    for options in config.method_options.values():
        for field in dataclasses.fields(options):
            key = options.prefix + field.name
            if not field.metadata.get("idle") or config.external_config_dict.get(key) is None:
                continue
            other, value = field.metadata["idle"]
            if getattr(options, other) == value:
                found.append(
                    f"{key} has no effect with {options.prefix}{other}: {value}. Change that, or take {key} out."
                )
    return found


def _without_snapshots(config: DistillConfig) -> list[str]:
    """Say so where a method follows its teachers' trainings, and there is none to follow."""
    found = []
    for name, options in config.method_options.items():
        if Need.TRAJECTORY not in method_class(name).needs or not getattr(options, "trajectory", True):
            continue
        brought = not any(spec.trained_here for spec in teacher_specs(config))
        if config.run_options.teacher_snapshots == 1 or brought:
            why = "all teachers are brought" if brought else "teacher_snapshots is 1"
            found.append(
                f"{name} has only the finished teachers to learn from and no earlier snapshots of them, since {why}: "
                f"{'train them here' if brought else 'raise it'}, or set {options.prefix}trajectory: False."
            )
    return found


def weak_teacher(config: DistillConfig) -> str | None:
    """Say so where the settings give the student's own model as its teacher, and no larger.

    A student in few bits may well have a teacher of its own size.
    """
    spec, options = _only_trained(config), config.run_options
    if spec is None or options.store_bits or options.codes_items:
        return None
    name = spec.name(config)
    # Of a class of the user's own only its parameters tell the size.
    if name != config["model"]:
        return None
    teacher = config.derived(name, spec.settings, teacher=True)
    describing = {"embedding_size", *model_settings(name)}
    differing = {key for key in describing if teacher[key] != config[key]}
    advice = "Make it larger, e.g. teacher: {embedding_size: 128}, or choose another teacher_model."
    if not differing:
        kept = {"seed", *describing}
        alike = all(teacher[key] == config[key] for key in spec.settings if key not in kept)
        what = "size and settings" if alike else "size"
        return f"The teacher is a {name} of the student's own {what}: a student can hardly gain by it. {advice}"
    if differing == {"embedding_size"} and teacher["embedding_size"] < config["embedding_size"]:
        return (
            f"The teacher's embedding_size {teacher['embedding_size']} is smaller than the student's "
            f"{config['embedding_size']}: a student can hardly gain by it. {advice}"
        )
    return None


def _only_trained(config: DistillConfig) -> TeacherSpec | None:
    """Return the run's teacher if it is one, and trained by it; several may be good together, whatever their size."""
    specs = teacher_specs(config) if config.run_options.distillers else []
    return specs[0] if len(specs) == 1 and specs[0].trained_here else None


def _labels(config: DistillConfig) -> list[str]:
    if config["threshold"] is None or any(map(_reads_labels, _trained_here(config))):
        return []
    ((column, value),) = config["threshold"].items()
    return [
        f"threshold: {{{column}: {value}}} has no effect: it labels interactions and removes none, and in ranking each "
        f'counts as a positive. To keep those from {value} on, write val_interval: {{{column}: "[{value},inf)"}}.'
    ]


def _trained_here(config: DistillConfig) -> list[DistillConfig]:
    """Return the configurations of the models that a run trains."""
    specs = teacher_specs(config) if config.run_options.distillers else []
    teachers = (spec for spec in specs if spec.trained_here)
    return [config, *(config.derived(spec.name(config), spec.settings, teacher=True) for spec in teachers)]


def _reads_labels(config: DistillConfig) -> bool:
    if "labeled" in config["eval_args"]["mode"].values():
        return True
    sampled = config["train_neg_sample_args"]["distribution"] != "none"
    by_pairs = config["MODEL_INPUT_TYPE"] != InputType.POINTWISE or config["MODEL_TYPE"] == ModelType.TRADITIONAL
    return not (sampled or by_pairs or trains_on_whole_users(config["model"]))


def _candidates(config: DistillConfig) -> list[str]:
    modes = config["eval_args"]["mode"].values()
    given = [key for key in ("candidates_seed", "candidates_file") if config.external_config_dict.get(key) is not None]
    if not given or any(candidate_count(mode) for mode in modes):
        return []
    mode = " and ".join(dict.fromkeys(modes))
    return [f"{_listed(given)} has no effect with mode: {mode}; eval_args with mode: fixed499 ranks among candidates."]


def _device(config: DistillConfig) -> list[str]:
    if config["use_gpu"] is not False or config["device"].type == "cpu":
        return []
    return ["use_gpu: False does not keep RecBole 1.2 off the GPU. For the CPU write gpu_id: ''."]


def of_data(config: DistillConfig, data: Data) -> list[str]:
    """Return what a configuration asks of these data in vain."""
    return [*_one_label(config, data), *_tiny_shares(config, data)]


def _one_label(config: DistillConfig, data: Data) -> list[str]:
    feat, label = data.dataset.inter_feat, config["LABEL_FIELD"]
    if config["threshold"] is None or label not in feat or not any(map(_reads_labels, _trained_here(config))):
        return []
    labels = {float(value) for value in feat[label].unique()}
    if len(labels) > 1:
        return []
    which = "all interactions positive" if labels == {1.0} else "no interaction positive"
    return [
        f"threshold: {config['threshold']} makes {which}, so labels say nothing. Choose a value between the data's."
    ]


def _tiny_shares(config: DistillConfig, data: Data) -> list[str]:
    """Name methods that look at one user or item of a batch."""
    users = min(data.history.n_users - 1, config["train_batch_size"])
    return [
        f"{options.prefix}sample = {share} is less than one user of a batch, so {name} looks at one alone and learns "
        f"next to nothing: set it to {_rounded_up(1 / users)} at the very least."
        for name, options in config.method_options.items()
        if (share := getattr(options, "sample", AUTO)) != AUTO and share * users < 1
    ]


def _rounded_up(number: float) -> str:
    """Return a number below 1 with one digit, none below it."""
    scale: float = 10.0 ** math.floor(math.log10(number))
    return f"{math.ceil(round(number / scale, 9)) * scale:.1g}"


def refined_is_better(config: DistillConfig, teacher: TrainedModel, refined: TrainedModel) -> bool:
    """Return whether a refined teacher is better on the validation split, or there is none to tell it by."""
    metric = config["valid_metric"].lower()
    sign = 1 if config["valid_metric_bigger"] else -1
    gain = sign * (refined.valid.get(metric, math.nan) - teacher.valid.get(metric, math.nan))
    return math.isnan(gain) or gain > 0


def of_refined(
    config: DistillConfig, teacher: TrainedModel, refined: TrainedModel, *, first_teaches: bool
) -> list[str]:
    """Return that a teacher's second training has made it no better, if so, and who teaches.

    Args:
        config: the run's configuration.
        teacher: the teacher, or what several are together.
        refined: the refined teacher.
        first_teaches: whether the teacher itself teaches then.
    """
    if refined_is_better(config, teacher, refined):
        return []
    metric = config["valid_metric"].lower()
    return [
        f"The refined teacher is no better than the teacher, {refined.valid[metric]:.4f} to "
        f"{teacher.valid[metric]:.4f} in {metric} on the validation split"
        + (", so the teacher itself teaches. " if first_teaches else ". ")
        + "Train it longer (teacher_refine: {epochs: 50}), or take out teacher_refine."
    ]


def of_models(config: DistillConfig, teacher: TrainedModel, student: TrainedModel | None) -> list[str]:
    """Return why nothing can be gained from this teacher, by this plain student.

    Args:
        config: the run's configuration.
        teacher: the teacher, or what several are together.
        student: the plain student, if there is one.
    """
    if student is None:
        return _brought_alike(config, teacher)
    found = []
    same = recbole_ancestor(teacher.model) == recbole_ancestor(student.model)
    # As many, trained here with other settings, e.g. more layers of a graph, may well be better.
    fewer = teacher.params < student.params or (teacher.params == student.params and _only_trained(config) is None)
    if same and fewer and weak_teacher(config) is None and not config.run_options.store_bits:
        found.append(
            f"The teacher has {teacher.params:,} parameters and the student {student.params:,}, both {student.model}: "
            "a student can hardly gain by it. Make the teacher larger, or choose another teacher_model."
        )
    metric = config["valid_metric"].lower()
    sign = 1 if config["valid_metric_bigger"] else -1
    if sign * (teacher.valid[metric] - student.valid[metric]) <= 0:
        found.append(
            f"The teacher is no better than the plain student, {teacher.valid[metric]:.4f} to "
            f"{student.valid[metric]:.4f} in {metric} on the validation split: there is nothing to distil. Train it "
            "longer or with other settings, make it larger, or choose another teacher_model."
        )
    gap, error = teacher.test.get(metric, 0.0) - student.test.get(metric, 0.0), gap_errors(teacher, student).get(metric)
    if sign * gap > 0 and error is not None and within_noise(gap, error):
        found.append(
            f"The gap between teacher and plain student, {abs(gap):.4f} in {metric}, is within the noise (twice its "
            f"standard error over users is {2 * error:.4f}), so no share of it is given. Take a better teacher, a "
            "smaller student or more test users; more seeds with 'recbole-derrd benchmark' tell more."
        )
    return found


def _brought_alike(config: DistillConfig, teacher: TrainedModel) -> list[str]:
    """Say so where a brought teacher is the student's own model in its own sizes, and no plain student shows it."""
    specs = teacher_specs(config)
    options = config.run_options
    if len(specs) != 1 or specs[0].checkpoint is None or options.store_bits or options.codes_items:
        return []
    sizes = ["embedding_size", *model_settings(config["model"])]
    if teacher.model != config["model"] or any(teacher.settings.get(key) != config[key] for key in sizes):
        return []
    return [
        f"The teacher is a {teacher.model} of the student's own size: a student can hardly gain by it. Bring a larger "
        "one, or choose another model."
    ]
