"""Results of a plain model: its metrics, size and latency, stored beside its weights."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.evaluation import measured_names
from recbole_derrd.data.prepare import Data
from recbole_derrd.evaluation.latency import Latency, measure_latency
from recbole_derrd.evaluation.metrics import paired_error
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes, parameter_count
from recbole_derrd.model_cache.building import freeze
from recbole_derrd.model_cache.keys import evaluation_settings
from recbole_derrd.runtime.files import replacing_file
from recbole_derrd.runtime.json_files import (
    anything,
    fields,
    mapping,
    nullable,
    number,
    read_json,
    row,
    sequence,
    text,
    whole,
    with_text_keys,
)
from recbole_derrd.runtime.processes import is_main_process
from recbole_derrd.runtime.stored_arrays import DamagedFileError, is_sealed, sealed


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A model that a run has trained, its trainer, and its metrics."""

    trainer: Any
    model: Any
    valid: dict[str, float]
    test: dict[str, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained plain model: what a run needs to know of it, and where its weights are."""

    model: str
    key: str
    checkpoint: Path
    params: int
    bytes: int
    valid: dict[str, float]
    test: dict[str, float]
    seconds: float
    epochs: list[float]
    latency: Latency | None
    settings: dict[str, Any]
    bytes_per_item: float | None = None
    valid_scores: list[list[float]] = dataclasses.field(default_factory=list)
    evaluation_settings: list[str] = dataclasses.field(default_factory=list)
    #: For each test metric that is a mean over users: its means over groups of users.
    test_groups: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    #: For the user's own checkpoint: the proof that the model was trained on this run's split.
    split_check: dict[str, Any] | None = None
    found: bool = False


def plain_metrics(metrics: Any) -> dict[str, float]:
    """Return RecBole's metric dict with plain numbers."""
    return {str(name): float(value) for name, value in (metrics or {}).items()}


def split_metrics(config: DistillConfig, metrics: Any) -> dict[str, float]:
    """Return a split's metrics with plain numbers; those of a split that is left out are undefined (not a number)."""
    return plain_metrics(metrics) or dict.fromkeys(measured_names(config), math.nan)


def own_settings(config: DistillConfig) -> dict[str, Any]:
    """Return the settings that the user or the model's defaults gave, as plain values for a record."""
    ours = set(config.parameters.get("Distillation", ()))
    keep = set(config.external_config_dict) | {
        "seed",
        "learning_rate",
        "train_batch_size",
        "weight_decay",
        "embedding_size",
    }
    return {
        key: value if isinstance(value, (int, float, str, bool, list, dict, type(None))) else str(value)
        for key, value in config.final_config_dict.items()
        if key in keep and key not in ours and key not in _OF_THE_MACHINE
    }


_OF_THE_MACHINE = ("data_path", "checkpoint_dir", "ip", "port", "offset", "group_offset", "local_rank")
#: The file in a folder that :func:`write_result` writes.
RESULT = "result.json"
# Whoever reads a result knows where the weights are, and that it was found.
_STORED = tuple(field.name for field in dataclasses.fields(TrainedModel) if field.name not in ("checkpoint", "found"))


def write_result(result: TrainedModel, folder: Path) -> None:
    """Write what is known of a model into a folder; the main process alone writes."""
    if not is_main_process():
        return
    content = {name: value for name, value in dataclasses.asdict(result).items() if name in _STORED}
    with replacing_file(folder / RESULT) as partial:
        # The seal is of the content as it will be read: settings may hold paths, which are text by then.
        partial.write_text(sealed(json.loads(json.dumps(with_text_keys(content), default=str))), encoding="ascii")


def read_result(folder: Path, checkpoint: Path) -> TrainedModel | None:
    """Read what :func:`write_result` has written; None where it, or the model's checkpoint, is missing.

    Raises:
        DamagedFileError: the result is not what was written.
        OSError: the system does not give the file.
    """
    file = folder / RESULT
    if not file.exists() or not checkpoint.is_file():
        return None
    try:
        content = read_json(file)
    except ValueError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
        raise DamagedFileError(f"'{RESULT}' {error}") from error
    fault = _RESULT(content)
    if fault is not None:
        raise DamagedFileError(f"'{RESULT}' holds a wrong value: {fault.lstrip('.')}")
    if not is_sealed(content):
        raise DamagedFileError(f"'{RESULT}' is not what was written (checksum)")
    latency = content["latency"] and Latency(**{name: content["latency"][name] for name in _LATENCY})
    kept = {name: content[name] for name in _STORED if name != "latency"}
    return TrainedModel(checkpoint=checkpoint, latency=latency, found=True, **kept)


def is_complete(result: TrainedModel, config: DistillConfig) -> bool:
    """Return whether a result has every metric that the configuration asks for."""
    return all(name in split for split in (result.valid, result.test) for name in measured_names(config))


#: A metric may be undefined; everything else is a number.
_METRICS = mapping(number(undefined=True), least=1)
_AMOUNT = number(low=0, high=1e15)
_LATENCY = {"p50_ms": _AMOUNT, "p99_ms": _AMOUNT, "users_per_second": _AMOUNT, "device": text(), "threads": whole()}
_RESULT = fields(
    {
        "model": text(),
        "key": text(),
        "params": whole(),
        "bytes": whole(),
        "valid": _METRICS,
        "test": _METRICS,
        "seconds": _AMOUNT,
        "epochs": sequence(_AMOUNT),
        "settings": mapping(anything),
        "latency": nullable(fields(_LATENCY)),
        "bytes_per_item": nullable(_AMOUNT),
        "valid_scores": sequence(row(number(low=0), number(undefined=True))),
        "evaluation_settings": sequence(text()),
        "test_groups": mapping(sequence(number(undefined=True))),
        "split_check": nullable(mapping(anything)),
    }
)


def both_splits(
    trainer: Any, config: DistillConfig, data: Data, valid: Any = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Evaluate a trainer's model: on the validation split, unless its metrics are given, and on the test split.

    Afterwards the trainer's evaluator holds the test metrics' means over groups of users.
    """
    show = {"load_best_model": False, "show_progress": config["show_progress"]}
    valid = trainer.evaluate(data.valid, **show) if valid is None else valid
    with trainer.evaluator.grouping():
        return split_metrics(config, valid), split_metrics(config, trainer.evaluate(data.test, **show))


def gap_errors(teacher: TrainedModel, student: TrainedModel) -> dict[str, float]:
    """Return the standard error over users of teacher - student, for each test metric where it is known."""
    errors = {
        metric: paired_error(groups, student.test_groups.get(metric, []))
        for metric, groups in teacher.test_groups.items()
    }
    return {metric: error for metric, error in errors.items() if error is not None}


def evaluate_trained(
    config: DistillConfig, key: str, checkpoint: Path, trainer: Any, data: Data, valid: Any, started: float
) -> TrainedModel:
    """Evaluate a trainer's model, freeze it, and measure its size and latency.

    Args:
        config: the model's configuration.
        key: its cache key.
        checkpoint: where its weights are.
        trainer: RecBole's trainer, which holds the model.
        data: the data of this configuration.
        valid: the validation metrics, where they are known; else None.
        started: when its training or evaluation began, by ``time.perf_counter``.
    """
    valid, test = both_splits(trainer, config, data, valid)
    groups = trainer.evaluator.groups
    seconds = time.perf_counter() - started
    model = freeze(trainer.model)
    return TrainedModel(
        model=config["model"],
        key=key,
        checkpoint=checkpoint,
        params=parameter_count(model),
        bytes=model_bytes(model),
        valid=valid,
        test=test,
        seconds=seconds,
        epochs=trainer.epoch_seconds,
        # One process measures: several would share the cores.
        latency=measure_latency(model, config["latency_users"], seed=config["seed"]) if is_main_process() else None,
        settings=own_settings(config),
        bytes_per_item=bytes_per_item(model),
        valid_scores=trainer.valid_scores,
        evaluation_settings=evaluation_settings(config),
        test_groups=groups,
    )
