"""RecBole's Config with our options on top: typed as YAML, checked, and free of ``eval`` and of ``sys.argv``."""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import recbole
from recbole.config import Config
from recbole.evaluator import metric_types
from recbole.evaluator.register import metrics_dict
from recbole.utils import InputType, ModelType

from recbole_derrd.config.known_keys import unknown_keys
from recbole_derrd.config.options import Options, RunOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.config.options.evaluation import check_evaluation
from recbole_derrd.config.options.filters import check_counts, check_threshold, check_values
from recbole_derrd.config.options.recbole import RecBoleOptions
from recbole_derrd.config.options.recbole_keys import NOT_THE_TEACHERS
from recbole_derrd.config.settings import (
    Loader,
    ReadSettings,
    candidate_count,
    config_files,
    read_command_line,
    read_settings,
    typed_as_yaml,
)
from recbole_derrd.errors import OptionError, did_you_mean
from recbole_derrd.recbole_compat.models import model_class, name_of, recbole_ancestor
from recbole_derrd.registry import METHODS, method_class, method_names
from recbole_derrd.runtime.processes import is_main_process, join

_NEGATIVES = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")

#: Models that RecBole trains on whole users, not on pairs (a table of its data loaders).
WHOLE_USER_MODELS = frozenset("MultiDAE MultiVAE MacridVAE CDAE ENMF RaCT RecVAE DiffRec LDiffRec".split())

#: Options of a run that the training of a refined teacher has as well.
_OF_REFINING = frozenset(
    """
    distillers base_weight teacher_scale warm_start student_bits user_bits student_codebooks student_rotation
    learning_rate_end fast distill_seed checkpoint_step
    """.split()
)


def _typed(value: Any, *, inside: bool) -> Any:
    """Type strings as YAML and make Python's numbers of numpy's; inside of lists and dicts too, but for names."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if inside and isinstance(value, (list, tuple)):
        return [_typed(one, inside=True) if isinstance(one, dict) else one for one in value]
    if inside and isinstance(value, dict):
        names = ("model", "checkpoint", "export")
        return {
            key: one if key in names and not isinstance(one, os.PathLike) else _typed(one, inside=False)
            for key, one in value.items()
        }
    # From a loop over np.arange or the like.
    return typed_as_yaml(value.item() if isinstance(value, np.generic) else value)


class DistillConfig(Config):
    """RecBole's Config, with this plugin's defaults under the user's settings and every option checked.

    Priority: command line > dict > files > presets > this plugin's defaults > RecBole's defaults.

    Args:
        model: RecBole model name, a class of your own, or its dotted path; read from the settings if None.
        dataset: data set name; read from the settings if None.
        config_file_list: YAML files, later ones win.
        config_dict: settings; strings in it are typed as YAML, unless they are ``ReadSettings``.
        command_line: arguments ``--key=value``; the process's own arguments are never read.
        typed: strings in ``config_dict`` are what they are, since they have been typed before.
    """

    def __init__(
        self,
        model: str | type[Any] | None = None,
        dataset: str | None = None,
        config_file_list: Iterable[str | Path] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        command_line: Iterable[str] = (),
        *,
        typed: bool = False,
    ) -> None:
        """Build and check the configuration."""
        self._typed, self._as_read = typed, typed or isinstance(config_dict, ReadSettings)
        #: Keys that nobody is known to read, by their place in the settings ("" is the run itself).
        self.unknown_keys: dict[str, list[str]] = {}
        self._command_line = list(command_line)
        try:
            super().__init__(model, dataset, config_files(config_file_list), dict(config_dict or {}))
        except (LookupError, ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError) as error:
            message = " ".join(str(error.args[0] if error.args else error).split())
            raise OptionError(f"RecBole refuses this configuration: {message}") from error
        if isinstance(self["learner"], str):
            # RecBole reads it in any case of letters.
            self.final_config_dict["learner"] = self["learner"].lower()
        self.final_config_dict.update(
            {
                key: value
                for key, value in RecBoleOptions.from_keys(self.final_config_dict).to_keys().items()
                if key in self.final_config_dict
            }
        )
        self._check_filters()
        self._check_negatives()
        self._check_saved()
        self._check_model_keys()
        if self["log_wandb"] and importlib.util.find_spec("wandb") is None:
            raise OptionError("log_wandb needs the package wandb: pip install wandb, or take out log_wandb.")
        self.run_options = RunOptions.from_keys(self.final_config_dict)
        self.compress_options = CompressOptions.from_keys(self.final_config_dict)
        #: Quicker ways that this model takes; see the option of that name.
        self.fast = self.run_options.fast_parts(recbole_ancestor(self.model), teacher=False)
        # Options of methods that this run does not use are checked as well: a mistake in them is still a mistake.
        methods = dict.fromkeys([*METHODS, *self.run_options.distillers])
        checked = {name: method_class(name).options_class.from_keys(self.final_config_dict) for name in methods}
        self.method_options: dict[str, Any] = {name: checked[name] for name in self.run_options.distillers}

    def compatibility_settings(self) -> None:
        """Give numpy the aliases that RecBole's code uses, whichever numpy is installed."""
        for alias, kind in {
            "bool": np.bool_, "int": np.int_, "float": np.float64, "complex": np.complex128,
            "object": np.object_, "str": np.str_, "long": np.int_, "unicode": np.str_,
        }.items():  # fmt: skip
            setattr(np, alias, kind)

    def _init_device(self) -> None:
        """Choose the device; as one of several processes join the others, on gloo where RecBole knows nccl alone."""
        settings = self.final_config_dict
        if settings["gpu_id"] is None:
            settings["gpu_id"] = ""  # what --gpu_id= is read as
        if "local_rank" not in settings:
            super()._init_device()
            return
        gpu_id = settings["gpu_id"]
        settings["gpu_id"] = ",".join(map(str, gpu_id)) if isinstance(gpu_id, tuple) else str(gpu_id)
        os.environ["CUDA_VISIBLE_DEVICES"] = settings["gpu_id"]
        settings["device"] = join(settings["local_rank"], settings)
        settings["single_spec"] = False
        if not is_main_process():
            settings.update(show_progress=False, log_wandb=False)

    def _set_eval_neg_sample_args(self, phase: Any) -> None:
        mode = self.final_config_dict["eval_args"]["mode"][phase]
        if candidate_count(mode) is not None:
            self.final_config_dict[f"{phase}_neg_sample_args"] = {"distribution": "uniform", "sample_num": "none"}
            return
        super()._set_eval_neg_sample_args(phase)

    def _build_yaml_loader(self) -> type[Loader]:
        return Loader

    def _update_internal_config_dict(self, file: str) -> dict[str, Any]:
        """Take the settings of a file of RecBole's own, which each process reads once."""
        settings = copy.deepcopy(_own_settings(file))
        self.internal_config_dict.update(settings)
        return settings

    def _load_config_files(self, file_list: list[str | Path]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for file in file_list:
            merged.update(read_settings(file))
        return merged

    def _load_variable_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        if self._as_read:
            return config_dict
        within = ("teacher", "teachers", "teacher_refine")
        return {key: _typed(value, inside=key in within) for key, value in config_dict.items()}

    def _load_cmd_line(self) -> dict[str, Any]:
        return read_command_line(self._command_line)

    def _get_model_and_dataset(self, model: Any, dataset: str | None) -> tuple[str, type[Any], str]:
        model = model if model is not None else self.external_config_dict.get("model")
        dataset = dataset if dataset is not None else self.external_config_dict.get("dataset")
        for what, value in (("model", model), ("dataset", dataset)):
            if value is None:
                raise OptionError(f"No {what} is given. Set it with --{what}=NAME or '{what}: NAME' in a config file.")
        if isinstance(model, type):
            model = name_of(model)
        if "/" in str(dataset) or os.sep in str(dataset):
            folder, name = os.path.split(str(dataset).rstrip("/" + os.sep))
            raise OptionError(
                f"dataset is a name, not a path: '{dataset}'. Write dataset: {name or 'NAME'}, and in data_path the "
                f"folder in which its folder lies, e.g. data_path: {folder or '.'}."
            )
        return str(model), model_class(str(model)), str(dataset)

    def _load_internal_config_dict(self, model: str, model_class: type[Any], dataset: str) -> None:
        known = recbole_ancestor(model)
        super()._load_internal_config_dict(known, model_class, dataset)
        self.distillers_given = self.external_config_dict.get("distillers") is not None
        distillers = method_names(self.external_config_dict.get("distillers"))
        self.external_config_dict["distillers"] = distillers
        if self.external_config_dict.get("teacher", {}) is None:
            self.external_config_dict["teacher"] = {}
        methods = [method_class(name) for name in dict.fromkeys([*METHODS, *distillers])]
        groups: list[type[Options]] = [RunOptions, CompressOptions, *(method.options_class for method in methods)]
        self.parameters["Distillation"] = [key for group in groups for key in group.keys()]  # noqa: SIM118
        for group in groups:
            self.internal_config_dict.update(group.defaults())
        for method in methods:
            self.internal_config_dict.update(method.defaults_for(known))
            self.internal_config_dict.update(method.options_class.preset_of(self.external_config_dict))
        self._refuse_unread(self.external_config_dict, "")
        teacher = self.external_config_dict.get("teacher")
        if isinstance(teacher, dict):
            if "model" in teacher:
                raise OptionError("The teacher's model is not a key of 'teacher': write teacher_model: NAME.")
            self._refuse_in_teacher(teacher, " in 'teacher'")
        refining = self.external_config_dict.get("teacher_refine")
        if isinstance(refining, dict):
            self._refuse_unread(refining, " in 'teacher_refine'")
            _refuse_of_the_run(refining)
            self._refuse_others(refining, " in 'teacher_refine'")
        teachers = self.external_config_dict.get("teachers")
        for index, one in enumerate(teachers if isinstance(teachers, list) else ()):
            if isinstance(one, dict):
                keys = {
                    key: value for key, value in one.items() if key not in ("model", "checkpoint", "trusted", "export")
                }
                self._refuse_in_teacher(keys, f" in number {index + 1} of 'teachers'")

    def _refuse_in_teacher(self, teacher: Mapping[str, Any], place: str) -> None:
        self._refuse_unread(teacher, place)
        for key in teacher:
            if key in self.parameters["Distillation"]:
                raise OptionError(f"'{key}'{place} is an option of the run, not of a teacher: take it out there.")
        self._refuse_others(teacher, place)

    def _refuse_others(self, teacher: Mapping[str, Any], place: str) -> None:
        """Refuse what must be one for all models of a run."""
        for key in teacher:
            if key in NOT_THE_TEACHERS and teacher[key] != self.external_config_dict.get(key, teacher):
                raise OptionError(
                    f"'{key}' must be the same for teacher and student, or they could not be compared: set it for the "
                    f"run, not{place}."
                )

    def _set_default_parameters(self) -> None:
        kinds = {kind.__name__: metric_types[name].name.lower() for name, kind in metrics_dict.items()}
        check_evaluation(self.final_config_dict, kinds)
        super()._set_default_parameters()

    def _check_filters(self) -> None:
        for key in ("user_inter_num_interval", "item_inter_num_interval"):
            check_counts(key, self[key])
        check_values(self["val_interval"])
        check_threshold(self["threshold"])

    def _check_negatives(self) -> None:
        given = self["train_neg_sample_args"] or {}
        for key in given:
            if key in ("uniform", "popularity"):
                raise OptionError(
                    f"train_neg_sample_args has no '{key}', so RecBole would draw one negative: write "
                    f"train_neg_sample_args: {{distribution: {key}, sample_num: {given[key]}}}."
                )
            if key not in _NEGATIVES:
                raise OptionError(f"train_neg_sample_args has no '{key}'.{did_you_mean(str(key), _NEGATIVES)}")
        if given.get("dynamic") and (not isinstance(given.get("candidate_num"), int) or given["candidate_num"] < 1):
            raise OptionError(
                "dynamic in train_neg_sample_args takes the student's best of some candidates: set candidate_num to a "
                f"whole number from 1 on, not {given.get('candidate_num')}."
            )
        count = given.get("sample_num", 1)
        if given.get("distribution") != "none" and (not isinstance(count, int) or count < 1):
            raise OptionError(f"sample_num in train_neg_sample_args must be a whole number from 1 on, but is {count}.")
        needs = self["MODEL_TYPE"] != ModelType.TRADITIONAL and not trains_on_whole_users(self.model)
        pairs = needs and self["MODEL_INPUT_TYPE"] == InputType.PAIRWISE
        if pairs and given.get("distribution") == "none":
            raise OptionError(
                f"{self.model} learns from pairs of a positive and a negative item, and train_neg_sample_args: null "
                "leaves it no negatives. Take it out; a teacher may have its own in 'teacher'."
            )

    def _check_saved(self) -> None:
        if self["dataloaders_save_path"]:
            raise OptionError(
                "Saved data loaders keep batches, negatives and split of the run that saved them, whatever this one "
                "says. Take out dataloaders_save_path; a split is held by benchmark_filename or split_seed."
            )

    def _check_model_keys(self) -> None:
        """RecBole compares neither kinds nor signs: the mistake is an error of torch's, or NaN, far from its cause."""
        for key, default in model_settings(self.model).items():
            if isinstance(default, bool) or not isinstance(default, (int, float)):
                continue
            value = self[key]
            if isinstance(value, str):
                raise OptionError(f"{key} of {self.model} must be a number, e.g. {default}, but is '{value}'.")
            counts = isinstance(default, int) and default > 0
            if counts and isinstance(value, (int, float)) and value < 0:
                raise OptionError(f"{key} of {self.model} must not be negative, but is {value}; RecBole has {default}.")

    def _refuse_unread(self, settings: Mapping[str, Any], place: str) -> None:
        """Refuse keys that are misspelt or no longer read; keep those that nobody is known to read."""
        if self._typed:
            # Those of a derived model were looked at with the run's.
            return
        external = self.external_config_dict
        several = external.get("teachers")
        entries = several if isinstance(several, list) else []
        named = [one.get("model") if isinstance(one, dict) else one for one in entries]
        prefixes = (CompressOptions.prefix, *(method_class(name).options_class.prefix for name in METHODS))
        self.unknown_keys[place] = unknown_keys(
            settings,
            place,
            ours=self.parameters["Distillation"],
            prefixes=prefixes,
            also=self.internal_config_dict,
            models=[name for name in (self.model, external.get("teacher_model"), *named) if isinstance(name, str)],
        )

    def derived(self, model: str, settings: Mapping[str, Any], *, teacher: bool = False) -> DistillConfig:
        """Return the configuration of a plain model on the same data: the user's settings, these on top."""
        ours = {"model", "dataset", *self.parameters["Distillation"]}
        base = {key: value for key, value in self.external_config_dict.items() if key not in ours}
        kept = {
            key: self.final_config_dict[key]
            for key in (
                "record_dir",
                "cache_dir",
                "latency_users",
                "resume",
                "checkpoint_step",
                "fast",
                "threads",
                "split_seed",
                "candidates_file",
            )
        }
        # Also where the model has a seed of its own: all are evaluated among the same.
        kept["candidates_seed"] = self.candidates_seed
        # That a student trained on whole users samples no negatives says nothing of models that need them.
        whole_users = trains_on_whole_users(self.model) and not trains_on_whole_users(model)
        if whole_users and base.get("train_neg_sample_args", {}) is None:
            del base["train_neg_sample_args"]
        derived = DistillConfig(model, self.dataset, config_dict={**base, **kept, **settings}, typed=True)
        derived.fast = derived.run_options.fast_parts(recbole_ancestor(derived.model), teacher)
        return derived

    @property
    def candidates_seed(self) -> int:
        """Seed of the candidates of eval_args mode fixedN."""
        options = self.run_options
        given = (options.candidates_seed, options.split_seed, self["seed"])
        return int(next(seed for seed in given if seed is not None))

    @property
    def cache_dir(self) -> Path:
        """Folder of trained models and knowledge."""
        return Path(self.run_options.cache_dir or Path(self["checkpoint_dir"]) / "cache")


def trains_on_whole_users(model: str) -> bool:
    """Whether a model, or the RecBole model that it is derived from, is trained on whole users and not on pairs."""
    return recbole_ancestor(model) in WHOLE_USER_MODELS


def _refuse_of_the_run(refining: Mapping[str, Any]) -> None:
    """Refuse in ``teacher_refine`` what the refined teacher's training would not read, or must have of the run."""
    others = {*RunOptions.keys(), *CompressOptions.keys()} - _OF_REFINING
    for key in refining:
        if key == "model":
            raise OptionError("A refined teacher is a BPR: take 'model' out of 'teacher_refine'.")
        if key in others:
            raise OptionError(
                f"'{key}' in 'teacher_refine' is an option of the run, not of the refined teacher's training: take it "
                "out there."
            )
    if not refining.get("distillers", True):
        raise OptionError(
            "A refined teacher learns from the teacher, and 'teacher_refine' leaves it no distillers: take "
            "'distillers' out there, or name some."
        )


@functools.cache
def _own_settings(file: str) -> dict[str, Any]:
    return read_settings(file)


@functools.cache
def model_settings(model: str) -> dict[str, Any]:
    """Return RecBole's default file of a model: the settings that describe the model itself."""
    file = Path(recbole.__file__).parent / "properties" / "model" / f"{recbole_ancestor(model)}.yaml"
    return read_settings(file) if file.exists() else {}
