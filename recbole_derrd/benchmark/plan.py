"""From a benchmark file to its experiments: which settings each run has, and the key under which it is recorded."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from recbole_derrd.benchmark.folds import Fold, folds_of, on_fold, refuse_one_teacher
from recbole_derrd.config.options.benchmark import BenchmarkOptions
from recbole_derrd.config.settings import file_names, read_command_line, read_settings
from recbole_derrd.config.shipped import found_config
from recbole_derrd.errors import OptionError, did_you_mean
from recbole_derrd.registry import method_names
from recbole_derrd.report.schema import BenchmarkEntry

#: Raised whenever the same settings come to mean another run, so that experiments are run anew.
PLAN_FORMAT = 1

#: Settings that change where a run writes or how it is shown, but not what comes out.
_WITHOUT_EFFECT = frozenset(
    """
    record_dir checkpoint_dir cache_dir benchmark threads resume checkpoint_step show_progress state log_wandb
    wandb_project knowledge_batch_size loss_decimal_place data_path device gpu_id use_gpu verbose
    """.split()
)

#: Keys of earlier benchmark files, under the names that they have now.
_RENAMED = {"cells": "experiments", "ours": "proposed"}

#: Settings that the benchmark gives to its experiments.
_GIVEN = {"seed": "write seeds: [...]", "record_dir": "write it beside 'base'", "benchmark": "take it out"}


#: The options of a benchmark, or of one kind of them.
Known = TypeVar("Known", bound=BenchmarkOptions)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run."""

    name: str
    seed: int
    settings: dict[str, Any]
    key: str
    proposed: bool
    fold: str | None = None
    #: The keys in which it differs from the others.
    own: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}" + ("" if self.fold is None else f", fold '{self.fold}'")

    @property
    def compressed(self) -> bool:
        """Whether the run compresses a trained model instead of distilling one."""
        return bool(self.settings.get("compress_method", "none") != "none")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A benchmark: its experiments, where their records go and how many run at once."""

    name: str
    record_dir: Path
    options: BenchmarkOptions
    experiments: list[Experiment]
    #: Settings of the command line, over those of every experiment.
    over: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_plan(file: str | Path, arguments: Iterable[str] = ()) -> Plan:
    """Read a benchmark file.

    Args:
        file: the YAML file, or the name of one that comes with the package.
        arguments: ``--key=value``; keys of the benchmark, or settings that go over those of every experiment.

    Raises:
        OptionError: what is wrong with it and what to do.
    """
    file = found_config(file)
    return plan_of(file, *read_options(file, arguments, BenchmarkOptions))


def plan_of(file: Path, options: BenchmarkOptions, over: Mapping[str, Any]) -> Plan:
    """Return the plan of a benchmark file.

    Args:
        file: the file.
        options: what it says.
        over: settings of the command line, over those of every experiment.

    Raises:
        OptionError: what is wrong and what to do.
    """
    name = options.name or file.stem
    record_dir = Path(options.record_dir or Path("records") / name)
    base = base_settings(file, options, over)
    for where, settings in (("'base'", options.base), ("the command line", over)):
        _refuse_given(where, settings)
    seeds, folds = _seeds(options), folds_of(options.folds, base)
    names = [fold.name for fold in folds]
    places: list[Fold | None] = [*folds] or [None]
    experiments = []
    for position, (experiment, own, proposed) in enumerate(_experiments(options)):
        settings = {**base, **own, **over}
        refuse_one_teacher(folds, settings, experiment)
        # Without the seed and the fold: records of one name with other settings are another row of the table.
        data = _own_data(base, settings)
        entry = BenchmarkEntry(
            name=name,
            experiment=experiment,
            position=position,
            settings=experiment_key(settings, data),
            vary=options.vary,
            proposed=proposed,
            folds=names,
        )
        alone = {**own, **{key: value for key, value in over.items() if key != "data_path"}}
        for fold in places:
            placed = settings if fold is None else on_fold(fold, settings, experiment, alone)
            _refuse_unsplit(placed, options)
            entry = dataclasses.replace(entry, fold=None if fold is None else fold.name)
            for seed in seeds:
                whole = {**placed, **_seeded(placed, seed, seeds[0], options), "record_dir": str(record_dir)}
                one = _experiment(entry, seed, whole, data if fold is None else fold.name)
                experiments.append(dataclasses.replace(one, own=frozenset(own)))
    _refuse_same(experiments)
    experiments = _chosen(experiments, options.only)
    # Seed after seed, fold after fold: a benchmark that is stopped has whole tables of the first ones.
    experiments.sort(key=lambda one: (seeds.index(one.seed), names.index(one.fold) if one.fold is not None else 0))
    return Plan(name, record_dir, options, experiments, over)


def base_settings(file: Path, options: BenchmarkOptions, over: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under every experiment; the command line's data are those of all of them."""
    return {**_under(options, file), **options.base, **{key: over[key] for key in ("data_path",) if key in over}}


def read_options(file: Path, arguments: Iterable[str], kind: type[Known]) -> tuple[Known, dict[str, Any]]:
    """Return the benchmark's own keys, and the settings of the command line that go over those of every experiment.

    Raises:
        OptionError: a key that there is not.
    """
    given = read_command_line(arguments)
    content, known = read_settings(file), kind.keys()
    for key in (*content, *given):
        if key in _RENAMED:
            raise OptionError(f"'{key}' is called '{_RENAMED[key]}' now.")
    for key in content:
        if key not in known:
            raise OptionError(
                f"Unknown key '{key}' in the benchmark file '{file}'.{did_you_mean(str(key), known)} Settings of the "
                "runs stand under 'base' or in an experiment."
            )
    # A key without a value is a key left out.
    content = {key: value for key, value in content.items() if value is not None}
    options = kind.from_keys({**content, **{key: given[key] for key in known if key in given}})
    return options, {key: value for key, value in given.items() if key not in known}


def _experiment(entry: BenchmarkEntry, seed: int, settings: dict[str, Any], data: str | None) -> Experiment:
    key = experiment_key(settings, data)
    settings["benchmark"] = dataclasses.replace(entry, key=key).to_json()
    # An experiment that was killed goes on; where there is nothing to go on from, it begins.
    # What it would show on a console is its log in the records' folder.
    whole = {"resume": True, "show_progress": False, "verbose": True, **settings}
    return Experiment(str(entry.experiment), seed, whole, key, bool(entry.proposed), entry.fold)


def _own_data(base: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Return the data_path of an experiment whose data are not those of the benchmark."""
    usual, own = (one.get("data_path") for one in (base, settings))
    differs = own is not None and (usual is None or os.path.normpath(str(own)) != os.path.normpath(str(usual)))
    return os.path.normpath(str(own)) if differs else None


def experiment_key(settings: Mapping[str, Any], data: str | None = None) -> str:
    """Return the key of a run's settings; where it writes and how many threads it has are no part of it.

    Args:
        settings: the settings.
        data: the fold, or the folder of the experiment's data where these are its own; those of all experiments may
            lie anywhere.
    """
    content = {key: value for key, value in settings.items() if key not in _WITHOUT_EFFECT}
    if data is not None:
        content["data_path"] = data
    try:
        text = json.dumps([PLAN_FORMAT, content], sort_keys=True, default=repr)
    except TypeError as error:
        raise OptionError("A dict in the benchmark file has keys of several kinds; write them all as text.") from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _under(options: BenchmarkOptions, file: Path) -> dict[str, Any]:
    """Read the config files that the benchmark builds on."""
    names = options.config_files
    merged: dict[str, Any] = {}
    for name in _files(names, file.parent) if isinstance(names, str) else names:
        beside = file.parent / str(name)
        merged.update(read_settings(beside if beside.exists() and not Path(str(name)).exists() else str(name)))
    return merged


def _files(names: str, folder: Path) -> list[str]:
    return [names] if (folder / names).exists() else file_names(names)


def _seeds(options: BenchmarkOptions) -> list[int]:
    seeds = options.seeds
    if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds):
        raise OptionError(f"seeds must hold at least one whole number, e.g. [2020, 2021], but is {seeds!r}.")
    if len(set(seeds)) < len(seeds):
        raise OptionError(f"seeds holds a number twice: {seeds}.")
    return list(seeds)


def _chosen(experiments: list[Experiment], names: list[Any]) -> list[Experiment]:
    """Return the experiments with these names, of all seeds; all where there are none."""
    known = {experiment.name for experiment in experiments}
    for name in map(str, names):
        if name not in known:
            raise OptionError(f"'only' names the unknown experiment '{name}'.{did_you_mean(name, known)}")
    return [experiment for experiment in experiments if not names or experiment.name in map(str, names)]


def _refuse_given(place: str, settings: Mapping[str, Any]) -> None:
    for key, instead in _GIVEN.items():
        if key in settings:
            raise OptionError(f"'{key}' in {place} of a benchmark is given by the benchmark itself: {instead}.")


def _experiments(options: BenchmarkOptions) -> list[tuple[str, dict[str, Any], bool]]:
    """Return (name, the keys in which it differs, whether it is proposed) of each; the grid multiplied out."""
    named = []
    for experiment in options.experiments:
        if not isinstance(experiment, dict) or not isinstance(experiment.get("name"), (str, int, float)):
            raise OptionError(
                f"Each experiment needs a name, e.g. {{name: DE, distillers: [de]}}, but one is {experiment!r}."
            )
        own = {str(key): value for key, value in experiment.items() if key != "name"}
        _refuse_given(f"the experiment '{experiment['name']}'", own)
        named.append((str(experiment["name"]), own))
    if not named and not options.grid:
        raise OptionError("A benchmark needs 'experiments', a 'grid' or both.")
    _refuse_given("'grid'", options.grid)
    for key, values in options.grid.items():
        if not isinstance(values, list) or not values:
            raise OptionError(f"'{key}' in 'grid' must be a list of values, e.g. [8, 16], but is {values!r}.")
    # By its own name an experiment is proposed at every point of the grid, by that of a point there alone.
    proposed, known = set(map(str, options.proposed)), {name for name, _ in named}
    found = []
    for name, own in named or [("", {})]:
        for values in itertools.product(*options.grid.values()):
            point = dict(zip(options.grid, values))
            shown = [_shown(key, value) for key, value in point.items()]
            whole = ", ".join([name, *shown] if name else shown)
            known.add(whole)
            found.append((whole, {**own, **point}, bool({name, whole} & proposed)))
    for name in map(str, options.proposed):
        if name not in known:
            raise OptionError(f"'proposed' names the unknown experiment '{name}'.{did_you_mean(name, known)}")
    return found


def _shown(key: str, value: Any) -> str:
    if key == "distillers":
        names = method_names(value) if isinstance(value, str) else value or []
        return "-".join(map(str, names)).upper() or "plain"
    return str(value) if key in ("model", "dataset") else f"{key}={value}"


def _seeded(settings: Mapping[str, Any], seed: int, first: int, options: BenchmarkOptions) -> dict[str, Any]:
    """Return the settings that a seed changes.

    With ``vary: training`` the split, and the candidates of mode fixedN with it, stay those of the first seed, and so
    does the teacher unless it is told to vary: the student is what is compared, and publications distil one teacher.
    """
    if options.vary == "split":
        return {"seed": seed}
    # A key without a value is a key left out.
    split_seed = settings.get("split_seed")
    given: dict[str, Any] = {"seed": seed, "split_seed": first if split_seed is None else split_seed}
    if options.teacher_seed == "fixed":
        teacher = settings.get("teacher") or {}
        # What is no dict is refused when the experiments are checked.
        if isinstance(teacher, Mapping) and teacher.get("seed") is None:
            teacher = {**teacher, "seed": first}
        given["teacher"] = teacher
    return given


def _refuse_unsplit(settings: Mapping[str, Any], options: BenchmarkOptions) -> None:
    """With ``vary: split``, refuse what would hold the split fixed."""
    # What is no dict here is refused when the experiments are checked.
    teacher, arguments = (
        one if isinstance(one, Mapping) else {} for one in (settings.get("teacher"), settings.get("eval_args"))
    )
    several = settings.get("teachers")
    entries = [one for one in several if isinstance(one, dict)] if isinstance(several, list) else []
    if options.teacher_seed == "varies" and "seed" in teacher:
        raise OptionError("teacher_seed: varies, but 'teacher' has a seed of its own: take one of them out.")
    if options.vary != "split":
        return
    order = arguments.get("order", "RO")
    for held, holds in (
        ("split_seed", settings.get("split_seed") is not None),
        ("benchmark_filename", settings.get("benchmark_filename")),
        ("eval_args with order: TO", order == "TO"),
        ("a seed in 'teacher'", "seed" in teacher),
        ("teacher_checkpoint", settings.get("teacher_checkpoint")),
        ("teacher_export", settings.get("teacher_export")),
        ("a seed in 'teachers'", any("seed" in one for one in entries)),
        ("a checkpoint in 'teachers'", any("checkpoint" in one for one in entries)),
        ("an export in 'teachers'", any("export" in one for one in entries)),
    ):
        if holds:
            raise OptionError(
                f"vary: split draws a split for each seed and trains a teacher on it, but {held} holds it fixed. Take "
                "it out, or write vary: training."
            )


def _refuse_same(experiments: list[Experiment]) -> None:
    by_key: dict[str, Experiment] = {}
    by_name: dict[str, Experiment] = {}
    for experiment in experiments:
        if str(experiment) in by_name:
            raise OptionError(f"Two experiments have the name '{experiment.name}'.")
        other = by_key.setdefault(experiment.key, experiment)
        if other is not experiment:
            between = [key for key in _WITHOUT_EFFECT if other.settings.get(key) != experiment.settings.get(key)]
            but = ", ".join(sorted(set(between) - {"benchmark"}))
            raise OptionError(
                f"The experiments '{other.name}' and '{experiment.name}' have the same settings"
                + (f" but for {but}, which changes no result" if but else "")
                + ": take one out."
            )
        by_name[str(experiment)] = experiment
