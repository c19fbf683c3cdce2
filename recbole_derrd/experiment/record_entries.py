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
from recbole_derrd.data.fingerprint import interactions_digest
from recbole_derrd.data.prepare import Data
from recbole_derrd.evaluation.expert_utilisation import expert_utilisation
from recbole_derrd.evaluation.latency import Latency, measure_latency
from recbole_derrd.evaluation.metrics import bigger_is_better, gap_recovered
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes, parameter_count
from recbole_derrd.model_cache.named_files import named_files
from recbole_derrd.model_cache.results import TrainedModel, TrainResult, gap_errors, own_settings
from recbole_derrd.report.reading import SCHEMA
from recbole_derrd.report.writing import git_commit, peak_rss_bytes, versions
from recbole_derrd.runtime.processes import is_main_process
from recbole_derrd.teacher import StoredKnowledge

#: Options of a run that change its result and that few runs set.
_SELDOM = ("warm_start", "distill_seed", "teacher_snapshots", "knowledge_search")
_USUAL = RunOptions()


def record_of(
    config: DistillConfig,
    data: Data,
    taught: list[TrainedModel],
    plain: TrainedModel | None,
    knowledge: StoredKnowledge | None,
    product: TrainResult,
    seconds: float,
    stored: dict[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the record of a run: every number that its tables and plots are made from.

    Args:
        config: the run's configuration.
        data: its data.
        taught: its teacher; of several, first what they are together and then each.
        plain: the plain student.
        knowledge: what the teachers know.
        product: the student that the run has made.
        seconds: how long the run took.
        stored: what there is to say of the student in few bits.
        warnings: what the settings ask for in vain.
    """
    teacher = taught[0] if taught else None
    options = config.run_options
    params, size = parameter_count(product.model), model_bytes(product.model)
    latency = {
        "teacher": _plain(teacher.latency) if teacher else None,
        "student": _plain(plain.latency) if plain else None,
    }
    own = measure_latency(product.model, options.latency_users, seed=config["seed"]) if is_main_process() else None
    latency["distilled"] = _plain(own)
    gaps = _gaps(teacher, plain, product.test)
    if stored is not None:
        stored = {**stored, "gap_recovered": _gaps(teacher, plain, stored["test"])}
    interactions = int(data.history.indptr[-1])
    return {
        "schema": SCHEMA,
        "model": config["model"],
        "dataset": config["dataset"],
        "distillers": list(options.distillers),
        "seed": config["seed"],
        "split_seed": options.split_seed,
        "benchmark": options.benchmark or None,
        "protocol": config["eval_args"],
        "candidates": data.candidates,
        "candidates_file": str(data.candidates_file) if data.candidates_file else None,
        "candidates_given": candidates_given(config),
        "valid_metric": config["valid_metric"].lower(),
        "valid_metric_bigger": config["valid_metric_bigger"],
        "data": {
            "users": data.history.n_users - 1,
            "items": data.history.n_items - 1,
            "training_interactions": interactions,
            "interactions": interactions_digest(data.dataset),
            "fingerprint": dataclasses.asdict(data.fingerprint),
            "files": data_files(config) if is_main_process() else {},
            "named_files": named_files(config.external_config_dict, config["data_path"]) if is_main_process() else {},
        },
        "teacher": teacher.summary() if teacher else None,
        "teachers": [{**one.summary(), "latency": _plain(one.latency)} for one in taught[1:]],
        "student": plain.summary() if plain else None,
        "distilled": {
            "model": config["model"],
            "params": params,
            "bytes": size,
            "bytes_per_item": bytes_per_item(product.model),
            "valid": product.valid,
            "test": product.test,
            "epochs": len(product.trainer.epoch_seconds),
            "valid_scores": product.trainer.valid_scores,
            "progress": product.trainer.progress,
            "settings": own_settings(config),
        },
        **({} if stored is None else {"stored": stored}),
        "gap_recovered": gaps,
        "gap_error": gap_errors(teacher, plain) if teacher and plain else None,
        "expert_choice": expert_utilisation(product.model, data.history.lengths),
        "search_recall": knowledge.search_recall if knowledge else None,
        "seconds": {
            "teacher": teacher.seconds if teacher else 0.0,
            "knowledge": knowledge.total_seconds() if knowledge else 0.0,
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
            "teacher": str(teacher.checkpoint) if teacher and not taught[1:] else None,
            "teachers": [str(one.checkpoint) for one in taught[1:]],
        },
        "options": {
            # Left out where they are the defaults, as in records from before them: a report compares options.
            **({} if options.base_weight == 1 or not options.distillers else {"base_weight": options.base_weight}),
            **{key: getattr(options, key) for key in _SELDOM if getattr(options, key) != getattr(_USUAL, key)},
            **{key: value for group in config.method_options.values() for key, value in group.to_keys().items()},
        },
        "warnings": list(warnings),
        "command": command_line(),
        "fast": sorted(config.fast),
        "versions": versions(),
        "git_commit": git_commit(),
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


def _plain(latency: Latency | None) -> dict[str, Any] | None:
    return dataclasses.asdict(latency) if latency else None
