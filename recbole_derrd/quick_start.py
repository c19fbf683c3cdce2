"""One experiment, from configuration to record, as ``recbole.quick_start`` does for a plain model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.utils import init_logger, set_color
from threadpoolctl import threadpool_limits

from recbole_derrd.backbones import adapter_of
from recbole_derrd.checks import check_data, check_run
from recbole_derrd.config import DistillConfig
from recbole_derrd.data import Data, prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.evaluation import measure_latency, model_bytes, parameter_count
from recbole_derrd.files import locked, remove_file
from recbole_derrd.model import build_student
from recbole_derrd.models import model_class
from recbole_derrd.processes import from_first, is_first, meeting_of, start
from recbole_derrd.record import SCHEMA, gap_recovered, git_commit, peak_rss_bytes, versions, write_record
from recbole_derrd.report import run_table
from recbole_derrd.teacher import Knowledge, Teacher
from recbole_derrd.teacher.knowledge import knowledge_folder
from recbole_derrd.trained import TrainedModel, content_key, find_trained, own_settings, plain_metrics, train_or_find
from recbole_derrd.trainer import trainer_for


def run_recbole_derrd(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command_line: Iterable[str] = (),
) -> dict[str, Any]:
    """Train (or find) teacher and plain student, distil, evaluate, and write the record.

    Args:
        model: the student's RecBole model.
        dataset: the data set.
        config_file_list: YAML files, later ones win.
        config_dict: settings over the files.
        command_line: arguments ``--key=value`` over everything.

    Returns:
        The record, as written to ``record_dir``.

    Raises:
        DistillError: something the user can mend; its message says what and how.
    """
    files, settings, arguments = list(config_file_list or []), dict(config_dict or {}), list(command_line)
    config = DistillConfig(model, dataset, files, settings, arguments)
    check_run(config)
    meeting = meeting_of(config)
    if meeting is None:
        return _in_this_process(config)
    # What is said of the processes on the command line goes over a dict; here it is settled.
    others = [argument for argument in arguments if argument.lstrip("-").partition("=")[0] not in meeting]
    path = start(_one_of_several, meeting["nproc"], model, dataset, files, {**settings, **meeting}, others)
    if path is None:
        # The first process, which writes the record, runs on another machine.
        return {}
    return {**json.loads(Path(path).read_text(encoding="utf-8")), "path": path}


def _in_this_process(config: DistillConfig) -> dict[str, Any]:
    with _own_log(config), _own_threads(config.run_options.threads, int(config["nproc"] or 1)):
        return _run(config)


def _one_of_several(
    local_rank: int,
    model: str | None,
    dataset: str | None,
    files: list[str | Path],
    settings: dict[str, Any],
    arguments: list[str],
) -> str:
    """Do a whole run as one of its processes; the path of the record."""
    # RecBole's and torch's own deprecations are not the user's to mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    config = DistillConfig(model, dataset, files, {**settings, "local_rank": local_rank}, arguments)
    return str(_in_this_process(config)["path"])


@contextlib.contextmanager
def _own_log(config: DistillConfig) -> Iterator[None]:
    """Give the run its own log file; the next run of the same process gets another."""
    root = getLogger()
    before = list(root.handlers)
    if not is_first():
        root.setLevel(logging.ERROR)
        yield
        return
    try:
        init_logger(config)
    except OSError as error:
        raise OptionError(
            f"Cannot write the log under '{Path.cwd()}': {error.strerror or error}. Start the run in another folder."
        ) from error
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)
            handler.close()


@contextlib.contextmanager
def _own_threads(threads: int, processes: int) -> Iterator[None]:
    """Bind torch, and the libraries behind numpy, to this many threads; several processes share the cores."""
    before = torch.get_num_threads()
    threads = threads or (max(1, before // processes) if processes > 1 else 0)
    if threads:
        torch.set_num_threads(threads)
    try:
        with threadpool_limits(limits=threads or None):
            yield
    finally:
        torch.set_num_threads(before)


def _run(config: DistillConfig) -> dict[str, Any]:
    options = config.run_options
    logger = getLogger()
    logger.info(config)
    started = time.perf_counter()

    data = prepare_data(config)
    logger.info(data.dataset)
    check_data(config, data)
    teacher = Teacher.of(config, data) if options.distillers else None
    if teacher is not None:
        _say(teacher.trained, "Teacher")
    plain = None
    if options.distillers and options.compare_student:
        own = config.derived(config["model"], {})
        plain = find_trained(own, data.fingerprint) or train_or_find(own, role="student")
        _say(plain, "Student alone")

    knowledge = knowledge_of(config, teacher, data) if teacher is not None else None
    product = _train_student(config, data, knowledge)
    if knowledge is not None:
        knowledge.forget_teacher()
    record = _record(config, data, teacher, plain, knowledge, product, time.perf_counter() - started)
    name = "-".join([config["model"], config["dataset"], *(options.distillers or ["plain"]), f"seed{config['seed']}"])
    name = name.replace("/", "_")
    path = from_first(write_record(record, Path(options.record_dir), name) if is_first() else None)
    record["path"] = str(path)
    logger.info(set_color("Result", "yellow") + f":\n\n{run_table(record)}\n")
    logger.info(
        set_color("Student", "yellow") + f": {record['checkpoints']['student']} (an ordinary RecBole checkpoint)"
    )
    logger.info(set_color("Record", "yellow") + f":  {path}")
    return record


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
    record = run_recbole_derrd(
        config_dict={"compare_student": False, **(config_dict or {})}, config_file_list=config_file_list
    )
    valid = record["distilled"]["valid"]
    return {
        "model": record["model"],
        "best_valid_score": valid[record["valid_metric"]],
        "valid_score_bigger": record["valid_metric_bigger"],
        "best_valid_result": valid,
        "test_result": record["distilled"]["test"],
    }


def knowledge_of(config: DistillConfig, teacher: Teacher, data: Data) -> Knowledge:
    """Return the knowledge of a run's teacher, kept under the teacher's content key."""
    return Knowledge(
        knowledge_folder(config.cache_dir, teacher.trained.key, data.fingerprint.train),
        teacher.load,
        data.history,
        teacher_hints=adapter_of(model_class(teacher.config["model"])).hints,
        chunk=config.run_options.knowledge_batch_size,
        show_progress=config["show_progress"],
        search=config.run_options.knowledge_search,
    )


def _say(trained: TrainedModel, who: str) -> None:
    how = f"trained in {trained.seconds:.0f} s" if trained.epochs else "brought"
    how = "found, not trained again" if trained.found else how
    getLogger().info(set_color(who, "yellow") + f": {trained.model} ({how}), test {trained.test}")


@dataclasses.dataclass(frozen=True)
class _Product:
    trainer: Any
    model: Any
    valid: dict[str, float]
    test: dict[str, float]
    seconds: float


def _train_student(config: DistillConfig, data: Data, knowledge: Knowledge | None) -> _Product:
    """Train the distilled student, alone on its files: another run of this very student waits meanwhile."""
    if knowledge is None:
        knowledge = Knowledge(Path(), _no_teacher, data.history)
    methods = "-".join(config.run_options.distillers) or "plain"
    method_settings = [(name, sorted(options.to_keys().items())) for name, options in config.method_options.items()]
    key = content_key(
        config,
        data.fingerprint,
        (knowledge.folder.name, knowledge.search, method_settings, config.run_options.distill_seed),
    )
    name = f"{config['model']}-{config['dataset']}-{methods}-{key}.pth".replace("/", "_")
    checkpoint = Path(config["checkpoint_dir"]) / name
    with locked(checkpoint, "trains this very student", checkpoint.with_suffix(".training.pth")) as waited:
        # The name holds every setting, so what the run before this one has just left need not be trained again.
        return _train_alone(config, data, knowledge, checkpoint, goes_on=waited or config.run_options.resume)


def _train_alone(
    config: DistillConfig, data: Data, knowledge: Knowledge, checkpoint: Path, *, goes_on: bool
) -> _Product:
    model = build_student(config, data, knowledge)
    logger = getLogger()
    logger.info(set_color("Distilling", "yellow") + f" {' + '.join(config.run_options.distillers) or 'nothing'} into:")
    logger.info(model)
    trainer = trainer_for(config, model, checkpoint=checkpoint, role="distilled")
    trainer.extra["derrd"] = {
        "fingerprint": dataclasses.asdict(data.fingerprint),
        "distillers": config.run_options.distillers,
    }
    if not goes_on:
        # Were it left, a run killed before its own first one would be resumed from an earlier run's end.
        if is_first():
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
    return _Product(trainer, model, plain_metrics(valid), plain_metrics(test), seconds)


def _no_teacher() -> Any:
    raise OptionError("This run has no teacher. Add distillers, e.g. distillers: [de, rrd].")


def _record(
    config: DistillConfig,
    data: Data,
    teacher: Teacher | None,
    plain: TrainedModel | None,
    knowledge: Knowledge | None,
    product: _Product,
    seconds: float,
) -> dict[str, Any]:
    options = config.run_options
    params, size = parameter_count(product.model), model_bytes(product.model)
    latency = {
        "teacher": dataclasses.asdict(teacher.trained.latency) if teacher and teacher.trained.latency else None,
        "student": dataclasses.asdict(plain.latency) if plain and plain.latency else None,
    }
    own = measure_latency(product.model, options.latency_users, seed=config["seed"]) if is_first() else None
    latency["distilled"] = dataclasses.asdict(own) if own else None
    gaps = None
    if teacher is not None and plain is not None:
        gaps = {
            metric: gap_recovered(teacher.trained.test[metric], plain.test[metric], value)
            for metric, value in product.test.items()
        }
    interactions = int(data.history.indptr[-1])
    return {
        "schema": SCHEMA,
        "model": config["model"],
        "dataset": config["dataset"],
        "distillers": list(options.distillers),
        "seed": config["seed"],
        "protocol": config["eval_args"],
        "valid_metric": config["valid_metric"].lower(),
        "valid_metric_bigger": config["valid_metric_bigger"],
        "data": {
            "users": data.history.n_users - 1,
            "items": data.history.n_items - 1,
            "training_interactions": interactions,
            "fingerprint": dataclasses.asdict(data.fingerprint),
        },
        "teacher": teacher.trained.summary() if teacher else None,
        "student": plain.summary() if plain else None,
        "distilled": {
            "model": config["model"],
            "params": params,
            "bytes": size,
            "valid": product.valid,
            "test": product.test,
            "epochs": len(product.trainer.epoch_seconds),
            "settings": own_settings(config),
        },
        "gap_recovered": gaps,
        "search_recall": knowledge.search_recall if knowledge else None,
        "seconds": {
            "teacher": teacher.trained.seconds if teacher else 0.0,
            "knowledge": knowledge.seconds if knowledge else 0.0,
            "student": plain.seconds if plain else 0.0,
            "distilled": product.seconds,
            "epochs": product.trainer.epoch_seconds,
            "total": seconds,
        },
        "peak_rss_bytes": peak_rss_bytes(),
        "latency": latency,
        "checkpoints": {
            "student": product.trainer.saved_model_file,
            "training": str(product.trainer.training_file),
            "teacher": str(teacher.trained.checkpoint) if teacher else None,
        },
        "options": {key: value for group in config.method_options.values() for key, value in group.to_keys().items()},
        "command": shlex.join([os.path.basename(sys.executable), *sys.argv]),
        "versions": versions(),
        "git_commit": git_commit(),
    }
