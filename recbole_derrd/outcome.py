"""What a run has brought, as the record says it."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from typing import Any

from recbole_derrd.config import DistillConfig
from recbole_derrd.data import Data
from recbole_derrd.evaluation import bytes_per_item, expert_choice, measure_latency, model_bytes, parameter_count
from recbole_derrd.processes import is_first
from recbole_derrd.record import SCHEMA, gap_recovered, git_commit, peak_rss_bytes, versions
from recbole_derrd.teacher import Knowledge, Teacher
from recbole_derrd.trained import TrainedModel, own_settings


@dataclasses.dataclass(frozen=True)
class Product:
    """A model that a run has made, its trainer, and what it was measured at."""

    trainer: Any
    model: Any
    valid: dict[str, float]
    test: dict[str, float]
    seconds: float


def record_of(
    config: DistillConfig,
    data: Data,
    teacher: Teacher | None,
    plain: TrainedModel | None,
    knowledge: Knowledge | None,
    product: Product,
    seconds: float,
) -> dict[str, Any]:
    """Return the record of a run: every number that its tables and plots are made from."""
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
        "split_seed": options.split_seed,
        "benchmark": options.benchmark or None,
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
            "bytes_per_item": bytes_per_item(product.model),
            "valid": product.valid,
            "test": product.test,
            "epochs": len(product.trainer.epoch_seconds),
            "valid_scores": product.trainer.valid_scores,
            "settings": own_settings(config),
        },
        "gap_recovered": gaps,
        "expert_choice": expert_choice(product.model, data.history.lengths),
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
