"""Plain RecBole models, trained once and found again: the teacher, and the student to compare with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Collection
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import init_seed, set_color

from recbole_derrd.backbones import adapter_of
from recbole_derrd.checkpoint import read_checkpoint
from recbole_derrd.config import DistillConfig, model_keys
from recbole_derrd.data import Data, Fingerprint, candidates_seed, prepare_data
from recbole_derrd.errors import OptionError, TrainingError
from recbole_derrd.evaluation import Latency, bytes_per_item, measure_latency, model_bytes, parameter_count
from recbole_derrd.files import locked, replacing_file, working_folder, working_name
from recbole_derrd.models import model_class
from recbole_derrd.options.run import FAST_ROUNDED
from recbole_derrd.processes import from_first, is_first, rank, world_size
from recbole_derrd.saving import load_weights
from recbole_derrd.settings import candidate_count
from recbole_derrd.trainer import trainer_for
from recbole_derrd.versions import Versions, best_epoch, version_epochs

#: Raised whenever what is stored changes, so that older entries are trained anew.
CACHE_FORMAT = 1

#: Files and folders of an entry of the cache.
MODEL = "model.pth"
# TrainerMixin.training_file of that model.
TRAINING = "model.training.pth"
VERSIONS = "versions"

# RecBole's settings that change where things are written or shown, but not what is trained.
_WITHOUT_EFFECT = frozenset(
    """
    checkpoint_dir show_progress state log_wandb wandb_project data_path device gpu_id use_gpu save_dataset
    dataset_save_path save_dataloaders dataloaders_save_path config_files loss_decimal_place local_rank single_spec
    nproc world_size ip port offset group_offset
    """.split()
)
# What a finished model is judged by; the metric that ends its training is another setting.
_JUDGED_BY = frozenset({"metrics", "topk"})


@dataclasses.dataclass(frozen=True)
class Product:
    """A model that a run has made, its trainer, and what it was measured at."""

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
    found: bool = False

    def summary(self) -> dict[str, Any]:
        """Return what a record says of this model."""
        return {
            "model": self.model,
            "key": self.key,
            "params": self.params,
            "bytes": self.bytes,
            "bytes_per_item": self.bytes_per_item,
            "valid": self.valid,
            "test": self.test,
            "seconds": self.seconds,
            "epochs": len(self.epochs),
            "valid_scores": self.valid_scores,
            "found": self.found,
            "settings": self.settings,
        }


def content_key(config: DistillConfig, fingerprint: Fingerprint, more: Any = None) -> str:
    """Return the key of a model: its settings, the data, the format, and ``more``; not what it is judged by."""
    ours = set(config.parameters.get("Distillation", ()))
    settings = {
        key: repr(value)
        for key, value in config.final_config_dict.items()
        if key not in _WITHOUT_EFFECT | _JUDGED_BY and key not in ours
    }
    if any(candidate_count(mode) for mode in config["eval_args"]["mode"].values()):
        settings["candidates"] = repr((candidates_seed(config), config.run_options.candidates_file))
    # What gives RecBole's numbers to the bit is the same model.
    rounded = sorted(config.fast.intersection(FAST_ROUNDED))
    kind = model_class(config["model"])
    if "scores" in rounded and not adapter_of(kind).catalogue_at_once(kind):
        rounded.remove("scores")
    content = [CACHE_FORMAT, config["model"], settings, rounded, world_size(), dataclasses.asdict(fingerprint), more]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def judged_by(config: DistillConfig) -> list[Any]:
    """Return what goes beside :func:`content_key` into the key of something that holds metrics."""
    return [repr(config[key]) for key in sorted(_JUDGED_BY)]


def entry_of(config: DistillConfig, key: str) -> Path:
    """Return the folder of the cache that belongs to a model's key."""
    return config.cache_dir / f"{config['model']}-{config['dataset']}-{key}"


def build_model(config: DistillConfig, data: Data, kind: type[Any] | None = None) -> Any:
    """Build a RecBole model as stock RecBole does, seeded the same way.

    Args:
        config: the configuration.
        data: the data.
        kind: a subclass of the configuration's model class, if not that class itself.
    """
    init_seed(config["seed"] + rank(), config["reproducibility"])
    kind = kind or model_class(config["model"])
    try:
        return kind(config, data.train._dataset).to(config["device"])
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        RuntimeError,
        ImportError,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        settings = {key: config[key] for key in model_keys(config["model"])}
        raise OptionError(f"RecBole cannot build {config['model']} with {settings}: {reason}") from error


def load_model(config: DistillConfig, data: Data, checkpoint: Path) -> Any:
    """Build a model and load its weights; it is frozen and in evaluation mode."""
    content = read_checkpoint(checkpoint, config["device"])
    model = build_model(config, data)
    load_weights(model, content, checkpoint)
    return freeze(model)


def freeze(model: Any) -> Any:
    """Take a model out of training for good."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


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
_STORED = tuple(field.name for field in dataclasses.fields(TrainedModel) if field.name != "found")
# Entries of earlier versions lack these; they are no reason to train anew.
_LATER: dict[str, Any] = {"bytes_per_item": None, "valid_scores": []}


def store_result(result: TrainedModel, folder: Path) -> None:
    """Write what is known of a model beside it."""
    if not is_first():
        return
    content = {name: value for name, value in dataclasses.asdict(result).items() if name in _STORED}
    with replacing_file(folder / "result.json") as partial:
        partial.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")


def stored_result(entry: Path, checkpoint: Path) -> TrainedModel | None:
    """Read what is known of a model, if both are whole."""
    # One look for all processes that train together: between two, another run may have ended.
    found: TrainedModel | None = from_first(_read(entry, checkpoint) if is_first() else None)
    return found


def _read(entry: Path, checkpoint: Path) -> TrainedModel | None:
    try:
        content = {**_LATER, **json.loads((entry / "result.json").read_text(encoding="utf-8"))}
        latency = Latency(**content["latency"]) if content["latency"] else None
        kept = {name: content[name] for name in _STORED if name not in ("latency", "checkpoint")}
        measured = all(kept[split] and isinstance(kept[split], dict) for split in ("valid", "test"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not measured:
        return None
    return TrainedModel(checkpoint=checkpoint, latency=latency, found=True, **kept) if checkpoint.is_file() else None


def measured(
    config: DistillConfig, key: str, checkpoint: Path, trainer: Any, data: Data, valid: Any, started: float
) -> TrainedModel:
    """Evaluate, freeze and measure a trained model."""
    if valid is None:
        valid = trainer.evaluate(data.valid, load_best_model=False)
    test = trainer.evaluate(data.test, load_best_model=False, show_progress=config["show_progress"])
    seconds = time.perf_counter() - started
    model = freeze(trainer.model)
    return TrainedModel(
        model=config["model"],
        key=key,
        checkpoint=checkpoint,
        params=parameter_count(model),
        bytes=model_bytes(model),
        valid=plain_metrics(valid),
        test=plain_metrics(test),
        seconds=seconds,
        epochs=trainer.epoch_seconds,
        # Timed by one process: several would share the cores.
        latency=measure_latency(model, config["latency_users"], seed=config["seed"]) if is_first() else None,
        settings=own_settings(config),
        bytes_per_item=bytes_per_item(model),
        valid_scores=trainer.valid_scores,
    )


def find_trained(config: DistillConfig, fingerprint: Fingerprint) -> TrainedModel | None:
    """Return the model that an earlier run trained with these settings on these data; no data are read for it."""
    entry = entry_of(config, content_key(config, fingerprint))
    result = stored_result(entry, entry / MODEL)
    return _judged(result, config) if result is not None and _is_judged(result, config) else None


def train_or_find(
    config: DistillConfig, data: Data | None = None, *, role: str = "", versions: int = 1
) -> TrainedModel:
    """Train a plain RecBole model, or find the one that an earlier run trained with the same settings on the same data.

    It is trained in a folder of its own, ``<entry>.training``, which outlives a killed process: with ``resume`` the
    next run goes on from the training checkpoint in it. Runs that want the same model at once wait for one another.

    Args:
        config: configuration without distillers.
        data: fresh data of this configuration; prepared here if None.
        role: "teacher" or "student": the sub-folder of the TensorBoard logs.
        versions: how many versions of the model are wanted on its way, the final one included; a model that is found
            may lack them, see :func:`recbole_derrd.retrace.earlier_versions`.
    """
    data = data or prepare_data(config)
    found = find_trained(config, data.fingerprint)
    if found is not None:
        return found
    key = content_key(config, data.fingerprint)
    entry = entry_of(config, key)
    with locked(entry, f"trains this {role or 'model'}"):
        # Another run may have trained it while this one waited, or was killed after its last word on it.
        found = find_trained(config, data.fingerprint)
        if found is not None:
            return found
        known = stored_result(entry, entry / MODEL)
        if known is not None:
            return _judged_anew(known, config, data, role)
        finished = stored_result(working_name(entry), working_name(entry) / MODEL)
        anew = finished is None and not config.run_options.resume
        with working_folder(entry, anew=anew, marker=TRAINING) as folder:
            result = finished or _trained_in(folder, config, data, key, role, versions)
    return dataclasses.replace(result, checkpoint=entry / MODEL)


def _trained_in(folder: Path, config: DistillConfig, data: Data, key: str, role: str, versions: int) -> TrainedModel:
    """Train a model in the folder in which its entry is built, going on from a training checkpoint that lies there."""
    started = time.perf_counter()
    model = build_model(config, data)
    getLogger().info(set_color("Training", "yellow") + f" the {role or 'model'}, until it is done in {folder}:")
    getLogger().info(model)
    trainer = trainer_for(config, model, checkpoint=folder / MODEL, role=role)
    trainer.extra["derrd"] = {"fingerprint": dataclasses.asdict(data.fingerprint)}
    if trainer.training_file.exists():
        trainer.resume_checkpoint(trainer.training_file)
        started -= sum(trainer.epoch_seconds)
    kept = Versions(folder / VERSIONS)
    if versions > 1:
        trainer.versions = kept
    try:
        _, valid = trainer.fit(data.train, data.valid, saved=True, show_progress=config["show_progress"])
    except TrainingError:
        # These settings end so every time: nothing to go on from.
        if is_first():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if versions > 1 and is_first():
        kept.reduce(version_epochs(best_epoch(folder / MODEL), len(trainer.epoch_seconds), versions))
    elif is_first():
        # A killed run that wanted them may have left some.
        shutil.rmtree(kept.folder, ignore_errors=True)
    trainer.load_best()
    result = measured(config, key, folder / MODEL, trainer, data, valid, started)
    store_result(result, folder)
    return result


def _asked_for(config: DistillConfig, names: Collection[str]) -> list[str]:
    """Return the names of the metrics that the settings ask for: ``gauc``, or ``ndcg@5`` and ``ndcg@10``."""
    return [
        name
        for metric in map(str.lower, config["metrics"])
        for name in ([metric] if metric in names else [f"{metric}@{k}" for k in config["topk"]])
    ]


def _is_judged(result: TrainedModel, config: DistillConfig) -> bool:
    return all(set(_asked_for(config, split)) <= split.keys() for split in (result.valid, result.test))


def _judged(result: TrainedModel, config: DistillConfig) -> TrainedModel:
    """Leave out the metrics that other runs have asked for."""
    valid, test = (
        {name: split[name] for name in _asked_for(config, split) if name in split}
        for split in (result.valid, result.test)
    )
    settings = {**result.settings, **{key: config[key] for key in _JUDGED_BY & result.settings.keys()}}
    return dataclasses.replace(result, valid=valid, test=test, settings=settings)


def _judged_anew(known: TrainedModel, config: DistillConfig, data: Data, role: str) -> TrainedModel:
    """Evaluate a model that is found but was not judged by these metrics, and keep them beside the earlier ones."""
    getLogger().info(set_color("Evaluating", "yellow") + f" the {role or 'model'} that is found by further metrics.")
    trainer = trainer_for(config, build_model(config, data), checkpoint=known.checkpoint, role=role)
    trainer.eval_collector.data_collect(data.train)
    trainer.load_best()
    valid, test = (
        plain_metrics(trainer.evaluate(split, load_best_model=False, show_progress=config["show_progress"]))
        for split in (data.valid, data.test)
    )
    result = dataclasses.replace(known, valid={**known.valid, **valid}, test={**known.test, **test})
    store_result(result, known.checkpoint.parent)
    return _judged(result, config)


def plain_metrics(metrics: Any) -> dict[str, float]:
    """Return RecBole's metric dict with plain numbers."""
    return {str(name): float(value) for name, value in (metrics or {}).items()}
