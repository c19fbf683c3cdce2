"""One experiment, from configuration to record, as ``recbole.quick_start`` does for a plain model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

from recbole.utils import set_color

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.evaluation import left_out
from recbole_derrd.config.settings import config_files, settings_under
from recbole_derrd.data.prepare import Data, prepare_data
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
)
from recbole_derrd.experiment.preflight import check_data, check_run
from recbole_derrd.experiment.record_entries import record_of
from recbole_derrd.experiment.refine import check_refining, refined_teacher, teaches
from recbole_derrd.experiment.student import train_student
from recbole_derrd.experiment.teachers import (
    evaluated,
    knowledge_of,
    teachers_of,
)
from recbole_derrd.exporting.student import check_export, export_student
from recbole_derrd.model_cache.results import TrainedModel
from recbole_derrd.model_cache.train_or_find import find_trained, train_or_find
from recbole_derrd.report import run_table
from recbole_derrd.report.writing import write_record
from recbole_derrd.runtime.console import PRINTED, SHOWN
from recbole_derrd.runtime.processes import broadcast, is_main_process, rendezvous, start
from recbole_derrd.teacher import StoredKnowledge, Teacher


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
    files, settings, arguments = config_files(config_file_list), settings_under(config_dict, {}), list(command_line)
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
    several = settings_under(settings, meeting)
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
    config = DistillConfig(model, dataset, files, settings_under(settings, {"local_rank": local_rank}), arguments)
    record = _in_this_process(config, notes, show_result)
    return json.dumps({key: record[key] for key in ("path", "log")})


def _run(config: DistillConfig, given: list[str], show_result: bool) -> dict[str, Any]:
    options = config.run_options
    logger = getLogger()
    logger.info(config)
    notes = Notes()
    notes.add([*given, *purpose.of_settings(config)])
    for sentence in purpose.of_other_methods(config):
        logger.warning(sentence)
    started = time.perf_counter()

    data = prepare_data(config)
    logger.info(data.dataset)
    log_data(config, data)
    check_data(config, data)
    notes.add(purpose.of_data(config, data))
    if options.teacher_refine and options.distillers:
        check_refining(config, data)
    models = _models_before(config, data, notes)
    product = train_student(config, data, models.knowledge)
    if models.knowledge is not None:
        models.knowledge.forget_teacher()
    stored = None
    if options.store_bits:
        stored = export_student(config, data, product.model, Path(product.trainer.saved_model_file))
    seconds = time.perf_counter() - started
    record = record_of(
        config, data, models.taught, models.plain, models.knowledge, product, seconds, stored, notes,
        refined=models.refined,
    )  # fmt: skip
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


class _Models(NamedTuple):
    """What is there before the distilled student.

    Attributes:
        taught: the teacher; of several, first what they are together and then each.
        plain: the student alone, if it is compared.
        refined: the refined teacher, if that is wanted.
        knowledge: of the one that teaches.
    """

    taught: list[TrainedModel]
    plain: TrainedModel | None
    refined: Teacher | None
    knowledge: StoredKnowledge | None


def _models_before(config: DistillConfig, data: Data, notes: Notes) -> _Models:
    """Train or find the teachers and the student alone, and note what is odd about them."""
    options = config.run_options
    teachers = teachers_of(config, data) if options.distillers else []
    plain = None
    if options.distillers and options.compare_student:
        own = config.derived(config["model"], {})
        plain = find_trained(own, data.fingerprint) or train_or_find(own, role="student")
        log_model(plain, "Student alone")
    refined = refined_teacher(config, data, teachers) if options.teacher_refine and teachers else None
    knowledge = knowledge_of(config, teachers, data) if teachers else None
    taught = [teacher.trained for teacher in teachers]
    if knowledge is not None and len(teachers) > 1:
        taught.insert(0, evaluated(config, teachers, knowledge, data))
    notes.add(notes_of(teachers))
    if refined:
        better = teaches(config, taught[0], refined.trained)
        knowledge = knowledge_of(config, refined, data) if better else knowledge
        notes.add(purpose.of_refined(config, taught[0], refined.trained, first_teaches=not better))
    if taught:
        notes.add(purpose.of_models(config, taught[0], plain))
    return _Models(taught, plain, refined, knowledge)


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
