"""What a run has brought, as the record says it."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options import RunOptions
from recbole_derrd.config.settings import candidate_count
from recbole_derrd.data.atomic_files import data_files
from recbole_derrd.data.fingerprint import content_digest, interactions_digest
from recbole_derrd.data.prepare import Data
from recbole_derrd.evaluation import latency as measurement
from recbole_derrd.evaluation.latency import measure_latency
from recbole_derrd.evaluation.metrics import bigger_is_better, gap_recovered
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes, parameter_count
from recbole_derrd.model_cache.named_files import named_files
from recbole_derrd.model_cache.results import TrainedModel, TrainResult, gap_errors, own_settings
from recbole_derrd.report.environment import git_commit, peak_rss_bytes, versions
from recbole_derrd.report.schema import (
    BenchmarkEntry,
    Checkpoints,
    Cost,
    DataEntry,
    Fingerprint,
    Latency,
    ModelEntry,
    RunRecord,
    StoredEntry,
)
from recbole_derrd.runtime.processes import is_main_process
from recbole_derrd.teacher import StoredKnowledge, Teacher

#: Options of a run that change its result and that few runs set.
_SELDOM = (
    "teacher_scale", "warm_start", "teacher_refine", "student_bits", "user_bits", "student_codebooks",
    "student_rotation", "distill_seed", "teacher_snapshots", "knowledge_search",
)  # fmt: skip
_USUAL = RunOptions()


def record_of(
    config: DistillConfig,
    data: Data,
    taught: list[TrainedModel],
    plain: TrainedModel | None,
    knowledge: StoredKnowledge | None,
    product: TrainResult,
    seconds: float,
    stored: StoredEntry | None = None,
    warnings: Sequence[str] = (),
    *,
    refined: Teacher | None = None,
) -> RunRecord:
    """Return the record of a run: every number that its tables and plots are made from.

    Args:
        config: the run's configuration.
        data: its data.
        taught: its teacher; of several, first what they are together and then each.
        plain: the plain student.
        knowledge: what the teachers know.
        product: the student that the run has made.
        seconds: how long the run took.
        stored: that student in few bits.
        warnings: what the settings ask for in vain.
        refined: the refined teacher, which has taught in the place of the first.
    """
    teacher = taught[0] if taught else None
    if stored is not None:
        stored = dataclasses.replace(stored, gap_recovered=_gaps(teacher, plain, stored.test))
    return dataclasses.replace(
        _of_the_settings(config, data, _distilled_entry(config, product)),
        teacher=_model_entry(teacher) if teacher else None,
        teachers=[_model_entry(one) for one in taught[1:]],
        refined=_model_entry(refined.trained) if refined else None,
        student=_model_entry(plain) if plain else None,
        stored=stored,
        gap_recovered=_gaps(teacher, plain, product.test),
        gap_error=gap_errors(teacher, plain) if teacher and plain else None,
        diagnostics=_diagnostics(product.model, data),
        search_recall=knowledge.search_recall if knowledge else None,
        cost=_cost(knowledge, product, seconds),
        checkpoints=_checkpoints(product, taught),
        warnings=list(warnings),
    )


def checkpoint_record(
    config: DistillConfig, data: Data, entry: ModelEntry, checkpoint: str, distillers: Sequence[str], command: str
) -> RunRecord:
    """Return the record of a checkpoint that is evaluated without a training.

    Args:
        config: the checkpoint's configuration.
        data: its data.
        entry: its model and metrics.
        checkpoint: its file.
        distillers: the methods that it was distilled by, as its file says.
        command: the command that evaluates it.
    """
    return dataclasses.replace(
        _of_the_settings(config, data, entry),
        distillers=list(distillers),
        options={},
        checkpoints=Checkpoints(student=checkpoint),
        evaluated=checkpoint,
        command=command,
    )


def _of_the_settings(config: DistillConfig, data: Data, distilled: ModelEntry) -> RunRecord:
    """Return a record of what the run was asked for, on which data and by which versions, and what it has made."""
    return RunRecord(
        model=config["model"],
        dataset=config["dataset"],
        seed=config["seed"],
        protocol=config["eval_args"],
        valid_metric=config["valid_metric"].lower(),
        data=_data_entry(config, data),
        distilled=distilled,
        distillers=list(config.run_options.distillers),
        split_seed=config.run_options.split_seed,
        valid_metric_bigger=config["valid_metric_bigger"],
        benchmark=benchmark_entry(config),
        candidates=data.candidates,
        candidates_file=str(data.candidates_file) if data.candidates_file else None,
        candidates_given=candidates_given(config),
        options=_options(config),
        command=command_line(),
        fast=sorted(config.fast),
        versions=versions(),
        git_commit=git_commit(),
    )


def _data_entry(config: DistillConfig, data: Data) -> DataEntry:
    first = is_main_process()
    return DataEntry(
        fingerprint=Fingerprint(**dataclasses.asdict(data.fingerprint)),
        users=data.history.n_users - 1,
        items=data.history.n_items - 1,
        training_interactions=int(data.history.indptr[-1]),
        interactions=interactions_digest(data.dataset),
        content=content_digest(data.dataset),
        files=data_files(config) if first else {},
        named_files=named_files(config.external_config_dict, config["data_path"]) if first else {},
    )


def _model_entry(trained: TrainedModel) -> ModelEntry:
    """Return what a record says of a teacher or a plain student."""
    check = trained.split_check
    return ModelEntry(
        model=trained.model,
        test=trained.test,
        valid=trained.valid,
        key=trained.key,
        params=trained.params,
        bytes=trained.bytes,
        bytes_per_item=trained.bytes_per_item,
        latency=latency_entry(trained.latency),
        seconds=trained.seconds,
        epochs=len(trained.epochs),
        valid_scores=trained.valid_scores,
        found=trained.found,
        trusted=None if check is None else check.get("by") == "trusted",
        split_check=check,
        settings=trained.settings,
    )


def _distilled_entry(config: DistillConfig, product: TrainResult) -> ModelEntry:
    model, trainer = product.model, product.trainer
    users = config.run_options.latency_users
    return ModelEntry(
        model=config["model"],
        test=product.test,
        valid=product.valid,
        params=parameter_count(model),
        bytes=model_bytes(model),
        bytes_per_item=bytes_per_item(model),
        latency=latency_entry(measure_latency(model, users, seed=config["seed"])) if is_main_process() else None,
        seconds=product.seconds,
        epochs=len(trainer.epoch_seconds),
        valid_scores=trainer.valid_scores,
        progress=trainer.progress,
        settings=own_settings(config),
    )


def latency_entry(measured: measurement.Latency | None) -> Latency | None:
    """Return what a record says of a latency."""
    return Latency(**dataclasses.asdict(measured)) if measured else None


def benchmark_entry(config: DistillConfig) -> BenchmarkEntry | None:
    """Return which experiment of which benchmark a run is, if of any."""
    return BenchmarkEntry.read(config.run_options.benchmark) if config.run_options.benchmark else None


def _diagnostics(model: Any, data: Data) -> dict[str, dict[str, Any]]:
    found = {
        one.name: {**one.diagnostics(data.history.lengths), **_share(one)} for one in getattr(model, "distillers", ())
    }
    return {method: entry for method, entry in found.items() if entry}


def _share(distiller: Any) -> dict[str, float]:
    """Return the share of a batch that ``sample: auto`` has found."""
    return {} if distiller.found_share is None else {"share": round(distiller.found_share, 6)}


def _cost(knowledge: StoredKnowledge | None, product: TrainResult, seconds: float) -> Cost:
    return Cost(
        total_seconds=seconds,
        knowledge_seconds=knowledge.total_seconds() if knowledge else 0.0,
        epoch_seconds=product.trainer.epoch_seconds,
        peak_rss_bytes=peak_rss_bytes(),
    )


def _checkpoints(product: TrainResult, taught: list[TrainedModel]) -> Checkpoints:
    paths = [str(one.checkpoint) for one in taught]
    return Checkpoints(
        student=product.trainer.saved_model_file,
        training=str(product.trainer.training_file),
        teacher=paths[0] if len(paths) == 1 else None,
        teachers=paths[1:],
    )


def _options(config: DistillConfig) -> dict[str, Any]:
    """Return the options of the run and its methods; some are left out where they are the defaults."""
    options = config.run_options
    return {
        **({} if options.base_weight == 1 or not options.distillers else {"base_weight": options.base_weight}),
        **{key: getattr(options, key) for key in _SELDOM if getattr(options, key) != getattr(_USUAL, key)},
        **{
            key: value
            for group in config.method_options.values()
            for key, value in group.to_keys().items()
            if value is not None or key != f"{group.prefix}preset"
        },
    }


def candidates_given(config: DistillConfig) -> bool:
    """Whether a run says by seed or file which candidates its held-out items are ranked among, if among any."""
    options = config.run_options
    among = any(candidate_count(mode) for mode in config["eval_args"]["mode"].values())
    return among and (options.candidates_seed is not None or options.candidates_file is not None)


def _gaps(
    teacher: TrainedModel | None, plain: TrainedModel | None, test: dict[str, float]
) -> dict[str, float | None] | None:
    if teacher is None or plain is None:
        return None
    errors = gap_errors(teacher, plain)
    return {
        metric: gap_recovered(
            teacher.test[metric],
            plain.test[metric],
            value,
            bigger=bigger_is_better(metric),
            error=errors.get(metric),
        )
        for metric, value in test.items()
    }


def command_line() -> str:
    """Return the command of this process as one would type it, whatever folder its program lies in."""
    program, arguments = sys.argv[0], sys.argv[1:]
    python = os.path.basename(sys.executable)
    if os.path.basename(program) == "__main__.py":
        return shlex.join([python, "-m", os.path.basename(os.path.dirname(program)), *arguments])
    if not os.path.isabs(program):
        return shlex.join([python, program, *arguments])
    # A console script by its name; another program of the user's by its name as well.
    name = os.path.basename(program)
    return shlex.join([*([python] if name.endswith(".py") else []), name, *arguments])
