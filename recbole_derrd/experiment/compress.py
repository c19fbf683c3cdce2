"""One compressed teacher, from configuration to record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import set_color

from recbole_derrd.adapters import EmbeddingAdapter, adapter_class
from recbole_derrd.compression import Tables, check_rank, check_recipe, compress, evaluate_tables
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.config.settings import config_files, settings_under
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment import purpose
from recbole_derrd.experiment.log import Notes, deprecations_hidden, log_data, log_model, own_log, own_threads
from recbole_derrd.experiment.preflight import check_run
from recbole_derrd.experiment.record_entries import benchmark_entry, candidates_given, record_of
from recbole_derrd.experiment.refine import check_refining, refined_teacher
from recbole_derrd.model_cache.named_files import named_files
from recbole_derrd.recbole_compat.models import missing_package, model_class
from recbole_derrd.report import run_table
from recbole_derrd.report.schema import Checkpoints, Compression, RunRecord
from recbole_derrd.report.writing import write_record
from recbole_derrd.runtime.console import PRINTED, SHOWN
from recbole_derrd.runtime.processes import rendezvous
from recbole_derrd.teacher import Teacher, only_spec


def run_compressed(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command_line: Iterable[str] = (),
    notes: Iterable[str] = (),
    show_result: bool = True,
) -> dict[str, Any]:
    """Train, find or load the teacher of a run, compress it, evaluate it and write the record.

    The settings are those of a distillation run, whose teacher is found again; ``distillers`` and the student's own
    settings are not looked at. The ``compress_`` options say what is done.

    Args:
        model: the RecBole model of the run; the teacher's, unless ``teacher_model`` is set.
        dataset: the data set.
        config_file_list: YAML files, later ones win.
        config_dict: settings over the files.
        command_line: arguments ``--key=value`` over everything.
        notes: sentences for the log, the table and the record, of what the caller has decided.
        show_result: whether the console shows the table and the record's path; the log file has them anyway.

    Returns:
        The record, as written to ``record_dir``: an ordinary one whose ``distilled`` is the compressed teacher.

    Raises:
        DistillError: something the user can mend; its message says what and how.
    """
    arguments = [argument for argument in command_line if not argument.startswith(("--distillers=", "--warm_start="))]
    settings = settings_under(config_dict, {"distillers": [], "warm_start": "none"})
    config = DistillConfig(model, dataset, config_files(config_file_list), settings, arguments)
    check_run(config)
    check_compressing(config)
    if rendezvous(config) is not None:
        raise OptionError("A teacher is compressed by one process: take out nproc and world_size.")
    with own_log(config) as log, own_threads(config.run_options.threads, 1), deprecations_hidden():
        return {**_run(config, list(notes), SHOWN if show_result else PRINTED), "log": log and str(log)}


def check_compressing(config: DistillConfig) -> None:
    """Refuse a teacher that cannot be compressed, from the configuration alone.

    Raises:
        DistillError: what is wrong and what to do.
    """
    spec = only_spec(config)
    if spec.export is not None:
        raise OptionError("compress takes a teacher that is a model: name it by teacher_model or teacher_checkpoint.")
    name = spec.name(config)
    lacking = None if spec.checkpoint else missing_package(name)
    if lacking:
        raise OptionError(lacking)
    if not config.run_options.teacher_refine:
        adapter = adapter_class(model_class(name))
        # Where a model's embeddings can be set, they are its embeddings; elsewhere they are seen once it is there.
        size = spec.embedding_size(config) if adapter.takes_start else None
        check_recipe(config.compress_options, adapter, name, size)


def _run(config: DistillConfig, given: list[str], result: dict[str, Any]) -> dict[str, Any]:
    notes = Notes()
    notes.add([*given, *purpose.of_settings(config)])
    started = time.perf_counter()
    options = config.compress_options
    data = prepare_data(config)
    log_data(config, data)
    check_rank(options, data.history.n_users - 1, data.history.n_items - 1)
    if config.run_options.teacher_refine:
        own = check_refining(config, data)
        check_recipe(options, adapter_class(model_class(own["model"])), own["model"], own["embedding_size"])
    teacher = Teacher.of(config, data)
    log_model(teacher.trained, "Teacher")
    refined = refined_teacher(config, data, [teacher]) if config.run_options.teacher_refine else None
    source = refined or teacher
    check_recipe(options, adapter_class(model_class(source.config["model"])), source.config["model"], None)
    adapter = source.load()
    assert isinstance(adapter, EmbeddingAdapter)
    begun = time.perf_counter()
    tables = compress(adapter, options, _seed(config))
    seconds = time.perf_counter() - begun
    product = evaluate_tables(source.config, data, tables, role="compressed", seconds=seconds)
    whole = time.perf_counter() - started
    record = record_of(
        source.config, data, [teacher.trained], None, None, product, whole, warnings=notes, refined=refined
    )
    record = _of_the_run(record, config, source.trained.key, data, tables, seconds)
    label = "-".join([record.model, record.dataset, recipe_name(options), f"seed{config['seed']}"])
    path = write_record(record, Path(config.run_options.record_dir), label.replace("/", "_"))
    getLogger().info(
        set_color("Compressed", "yellow") + f" teacher, {tables.items.bytes_a_row} bytes an item "
        f"(and {tables.items.shared_bytes} that all items share):\n\n{run_table(record)}\n",
        extra=result,
    )
    getLogger().info(set_color("Record", "yellow") + f":  {path}", extra=result)
    return {**record.to_json(), "path": str(path)}


def _of_the_run(
    record: RunRecord, config: DistillConfig, teacher_key: str, data: Data, tables: Tables, seconds: float
) -> RunRecord:
    """Return the record of a teacher's configuration as that of the run, whose seed and candidates may be others."""
    options, compression = config.compress_options, _compression(config, tables, seconds)
    # Without a rotation or codebook that is drawn all seeds have one model.
    drawn = options.turned != "none" or options.method == "product"
    made = [teacher_key, sorted(options.to_keys().items()), _seed(config) if drawn else None]
    refined = config.run_options.teacher_refine
    return dataclasses.replace(
        record,
        seed=config["seed"],
        split_seed=config.run_options.split_seed,
        benchmark=benchmark_entry(config),
        candidates_given=candidates_given(config),
        data=dataclasses.replace(
            record.data, named_files=named_files(config.external_config_dict, config["data_path"])
        ),
        distilled=dataclasses.replace(
            record.distilled,
            key=hashlib.sha256(json.dumps(made, default=repr).encode()).hexdigest()[:16],
            params=tables.users.size * (data.history.n_users + data.history.n_items),
            bytes_per_item=tables.items.bytes_a_row,
        ),
        compression=compression,
        # Those of a refined teacher have trained it, and not this model.
        distillers=[],
        options={**options.to_keys(), **({"teacher_refine": refined} if refined else {})},
        # A compressed model has no RecBole class that could load a checkpoint of it.
        checkpoints=Checkpoints(teacher=record.checkpoints.teacher if record.checkpoints else None),
    )


def _seed(config: DistillConfig) -> int:
    return int(config["seed"] if config.compress_options.seed is None else config.compress_options.seed)


def _compression(config: DistillConfig, tables: Tables, seconds: float) -> Compression:
    options = config.compress_options
    return Compression(
        method=options.method,
        size=tables.items.size,
        bits=options.bits if options.method == "quantized" else None,
        rotation=options.turned,
        levels=options.levels if options.method == "quantized" else None,
        codebooks=options.codebooks if options.method == "product" else None,
        svd=options.size is not None,
        seed=_seed(config),
        bytes_per_item=tables.items.bytes_a_row,
        codebook_bytes=tables.items.shared_bytes,
        bytes_per_user=tables.users.bytes_a_row,
        seconds=seconds,
    )


def _rotation_name(options: CompressOptions) -> str:
    """Name a rotation that is not the method's own."""
    if options.method == "svd" or options.rotation is None:
        return ""
    return "unrotated" if options.turned == "none" else options.turned


def recipe_name(options: CompressOptions) -> str:
    """Return a recipe in a word, for the record's name: "svd20", "svd160-4bit-random", "8bit", "svd160-pq80-users"."""
    parts = [
        f"svd{options.size}" if options.size is not None else "",
        f"{options.bits}bit" if options.method == "quantized" else "",
        "lloyd_max" if options.levels == "lloyd_max" else "",
        f"{options.codebooks}{options.bytes}" if options.method == "product" else "",
        _rotation_name(options),
        "users" if options.users else "",
    ]
    return "-".join(part for part in parts if part)
