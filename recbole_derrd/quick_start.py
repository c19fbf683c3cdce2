"""One experiment, from configuration to record, as ``recbole.quick_start`` does for a plain model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import set_color

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.evaluation import left_out
from recbole_derrd.config.settings import config_files
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.distillers import Need
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment import purpose
from recbole_derrd.experiment.exports import notes_of
from recbole_derrd.experiment.log import (
    Notes,
    deprecations_hidden,
    log_data,
    log_model,
    own_log,
    own_threads,
    shown_metrics,
)
from recbole_derrd.experiment.preflight import check_data, check_run
from recbole_derrd.experiment.record_entries import record_of
from recbole_derrd.experiment.teachers import (
    evaluated,
    follows_teachers,
    knowledge_of,
    snapshots_wanted,
    teachers_of,
    weighting_of,
)
from recbole_derrd.exporting.student import check_export, export_student
from recbole_derrd.model_cache.keys import cache_key, evaluation_settings
from recbole_derrd.model_cache.named_files import with_contents
from recbole_derrd.model_cache.results import TrainResult, split_metrics
from recbole_derrd.model_cache.train_or_find import find_trained, train_or_find
from recbole_derrd.registry import method_class
from recbole_derrd.report import run_table
from recbole_derrd.report.writing import write_record
from recbole_derrd.runtime.console import PRINTED, SHOWN, where_no_bar
from recbole_derrd.runtime.files import remove_file
from recbole_derrd.runtime.locks import locked
from recbole_derrd.runtime.processes import broadcast, is_main_process, rendezvous, start
from recbole_derrd.student.model import build_student
from recbole_derrd.teacher import NoTeacher, StoredKnowledge
from recbole_derrd.training.trainer import trainer_for


def run_recbole_derrd(
    model: str | type[Any] | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command_line: Iterable[str] = (),
    notes: Iterable[str] = (),
    show_result: bool = True,
) -> dict[str, Any]:
    """Train (or find) teacher and plain student, distil, evaluate, and write the record.

    Args:
        model: the student's RecBole model, or a class of your own.
        dataset: the data set.
        config_file_list: YAML files, later ones win.
        config_dict: settings over the files.
        command_line: arguments ``--key=value`` over everything.
        notes: sentences for the log, the table and the record, of what the caller has decided.
        show_result: whether the console shows the table and the files at the end; the log file has them anyway.

    Returns:
        The record, as written to ``record_dir``, with its ``path`` and that of the ``log``.

    Raises:
        DistillError: something the user can mend; its message says what and how.
    """
    files, settings, arguments = config_files(config_file_list), dict(config_dict or {}), list(command_line)
    config = DistillConfig(model, dataset, files, settings, arguments)
    check_run(config)
    check_export(config)
    if config.compress_options.method != "none":
        raise OptionError("compress_method compresses a teacher without training: use 'recbole-derrd compress'.")
    meeting = rendezvous(config)
    if meeting is None:
        return _in_this_process(config, list(notes), show_result)
    # The command line's processes go over those of a dict; here they are settled.
    others = [argument for argument in arguments if argument.lstrip("-").partition("=")[0] not in meeting]
    several = {**settings, **meeting}
    done = start(_one_of_several, meeting["nproc"], model, dataset, files, several, others, list(notes), show_result)
    if done is None:
        # The first process, which writes the record, runs on another machine.
        return {}
    places = json.loads(done)
    return {**json.loads(Path(places["path"]).read_text(encoding="utf-8")), **places}


def _in_this_process(config: DistillConfig, notes: list[str], show_result: bool) -> dict[str, Any]:
    threads = own_threads(config.run_options.threads, int(config["nproc"] or 1))
    with own_log(config) as log, threads, deprecations_hidden():
        return {**_run(config, notes, show_result), "log": log and str(log)}


def _one_of_several(
    local_rank: int,
    model: str | type[Any] | None,
    dataset: str | None,
    files: list[str | Path],
    settings: dict[str, Any],
    arguments: list[str],
    notes: list[str],
    show_result: bool,
) -> str:
    """Do a whole run as one of its processes; the paths of record and log, as JSON."""
    config = DistillConfig(model, dataset, files, {**settings, "local_rank": local_rank}, arguments)
    record = _in_this_process(config, notes, show_result)
    return json.dumps({key: record[key] for key in ("path", "log")})


def _run(config: DistillConfig, given: list[str], show_result: bool) -> dict[str, Any]:
    options = config.run_options
    logger = getLogger()
    logger.info(config)
    notes = Notes()
    notes.add([*given, *purpose.of_settings(config)])
    started = time.perf_counter()

    data = prepare_data(config)
    logger.info(data.dataset)
    log_data(config, data)
    check_data(config, data)
    notes.add(purpose.of_data(config, data))
    teachers = teachers_of(config, data) if options.distillers else []
    plain = None
    if options.distillers and options.compare_student:
        own = config.derived(config["model"], {})
        plain = find_trained(own, data.fingerprint) or train_or_find(own, role="student")
        log_model(plain, "Student alone")

    knowledge = knowledge_of(config, teachers, data) if teachers else None
    taught = [teacher.trained for teacher in teachers]
    if knowledge is not None and len(teachers) > 1:
        taught.insert(0, evaluated(config, teachers, knowledge, data))
    notes.add(notes_of(teachers))
    if taught:
        notes.add(purpose.of_models(config, taught[0], plain))
    product = _train_student(config, data, knowledge)
    if knowledge is not None:
        knowledge.forget_teacher()
    stored = None
    if options.store_bits:
        stored = export_student(config, data, product.model, Path(product.trainer.saved_model_file))
    record = record_of(config, data, taught, plain, knowledge, product, time.perf_counter() - started, stored, notes)
    name = "-".join([config["model"], config["dataset"], *(options.distillers or ["plain"]), f"seed{config['seed']}"])
    name = name.replace("/", "_")
    path = broadcast(write_record(record, Path(options.record_dir), name) if is_main_process() else None)
    for what, words in (
        ("Result", f":\n\n{run_table(record)}\n"),
        ("Student", f": {product.trainer.saved_model_file} (an ordinary RecBole checkpoint)"),
        ("Record", f":  {path}"),
    ):
        logger.info(set_color(what, "yellow") + words, extra=SHOWN if show_result else PRINTED)
    return {**record.to_json(), "path": str(path)}


def objective_function(
    config_dict: Mapping[str, Any] | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Objective for ``recbole.trainer.HyperTuning``: one run, scored on the validation split.

    Args:
        config_dict: the settings that are tried.
        config_file_list: the settings that stay.
        saved: kept for RecBole's signature; checkpoints are always written.
    """
    tried = {"compare_student": False, **(config_dict or {})}
    if "validation" in left_out(DistillConfig(config_file_list=config_file_list, config_dict=tried)):
        raise OptionError("Settings are tried on the validation split, and eval_args leaves none. Give it a share.")
    record = run_recbole_derrd(config_dict=tried, config_file_list=config_file_list)
    valid = record["distilled"]["valid"]
    return {
        "model": record["model"],
        "best_valid_score": valid[record["valid_metric"]],
        "valid_score_bigger": record["valid_metric_bigger"],
        "best_valid_result": valid,
        "test_result": record["distilled"]["test"],
    }


def _train_student(config: DistillConfig, data: Data, knowledge: StoredKnowledge | None) -> TrainResult:
    """Train the distilled student, alone on its files: another run of this very student waits meanwhile."""
    if knowledge is None:
        knowledge = StoredKnowledge(Path(), NoTeacher(), data.history)
    methods = "-".join(config.run_options.distillers) or "plain"
    method_settings = [
        (name, sorted(with_contents(name, options.to_keys(), config["data_path"]).items()))
        for name, options in config.method_options.items()
    ]
    key = cache_key(
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
    name = f"{config['model']}-{config['dataset']}-{methods}-{key}.pth".replace("/", "_")
    checkpoint = Path(config["checkpoint_dir"]) / name
    with locked(checkpoint, "trains this very student", checkpoint.with_suffix(".training.pth")) as waited:
        # The name holds every setting, so what the run before this one has just left need not be trained again.
        return _train_alone(config, data, knowledge, checkpoint, goes_on=waited or config.run_options.resume)


def _added_settings(config: DistillConfig) -> list[Any]:
    """Return the bits and the falling rate that a student is trained with, for its key; nothing where none are."""
    options = config.run_options
    trained = [options.student_bits, options.user_bits, options.student_rotation]
    falling = [] if options.learning_rate_end is None else [["learning_rate_end", options.learning_rate_end]]
    return falling if options.student_bits == options.user_bits == 32 else [trained, *falling]


def _train_alone(
    config: DistillConfig, data: Data, knowledge: StoredKnowledge, checkpoint: Path, *, goes_on: bool
) -> TrainResult:
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
    _, valid = trainer.fit(data.train, data.valid, saved=True, show_progress=config["show_progress"])
    seconds = time.perf_counter() - started
    trainer.load_best()
    if valid is None:
        valid = trainer.evaluate(data.valid, load_best_model=False)
    test = trainer.evaluate(data.test, load_best_model=False, show_progress=config["show_progress"])
    of_valid, of_test = split_metrics(config, valid), split_metrics(config, test)
    done = f": {len(trainer.epoch_seconds)} epochs in {seconds:.0f} s, test {shown_metrics(of_test)}"
    logger.info(set_color("Distilled student" if methods else "Student", "yellow") + done, extra=SHOWN)
    return TrainResult(trainer, model, of_valid, of_test, seconds)
