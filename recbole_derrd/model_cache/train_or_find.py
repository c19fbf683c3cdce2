"""Plain RecBole models, trained once and then read from the cache: the teacher, and the student to compare with."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from logging import getLogger
from pathlib import Path

from recbole.utils import set_color

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.fingerprint import Fingerprint
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import TrainingError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.model_cache.keys import cache_entry, cache_key, evaluation_settings, model_cache
from recbole_derrd.model_cache.results import (
    TrainedModel,
    both_splits,
    evaluate_trained,
    is_complete,
    own_settings,
    read_result,
    write_result,
)
from recbole_derrd.runtime.artifact_cache import Resumable
from recbole_derrd.runtime.console import where_no_bar
from recbole_derrd.runtime.processes import is_main_process
from recbole_derrd.training.snapshots import Snapshots, best_epoch, snapshot_epochs
from recbole_derrd.training.trainer import trainer_for

#: Files and folders of a trained model's cache entry.
MODEL = "model.pth"
# TrainerMixin.training_file of that model.
TRAINING = "model.training.pth"
SNAPSHOTS = "snapshots"


def find_trained(config: DistillConfig, fingerprint: Fingerprint) -> TrainedModel | None:
    """Return the model that an earlier run trained with these settings on these data; no data are read for it.

    None also where that model was not yet evaluated by the metrics that the configuration asks for.
    """
    cache, names = model_cache(config), _Entries.of(config, fingerprint)
    checkpoint = cache.path(names.model) / MODEL
    found = cache.get(names.model, functools.partial(read_trained, checkpoint=checkpoint))
    if found is not None and not _is_evaluated(found, config):
        found = cache.get(names.metrics, functools.partial(_read_metrics, config=config, checkpoint=checkpoint))
    # Under this run's settings: which of them are defaults does not change the model.
    return None if found is None else dataclasses.replace(found, settings=own_settings(config))


@dataclasses.dataclass(frozen=True)
class _Entries:
    """Names of a model's two cache entries.

    Attributes:
        key: the model's cache key.
        model: the entry of its weights and results.
        metrics: the entry of its results by other metrics than those of its training run.
    """

    key: str
    model: str
    metrics: str

    @classmethod
    def of(cls, config: DistillConfig, fingerprint: Fingerprint) -> _Entries:
        key = cache_key(config, fingerprint)
        of_metrics = cache_key(config, fingerprint, ["evaluated", evaluation_settings(config)])
        return cls(key, cache_entry(config, key), cache_entry(config, of_metrics))


def read_trained(folder: Path, checkpoint: Path) -> TrainedModel | None:
    """Read the result in a folder that holds the weights as well, under the checkpoint's final path."""
    found = read_result(folder, folder / MODEL)
    return None if found is None else dataclasses.replace(found, checkpoint=checkpoint)


def _read_metrics(folder: Path, config: DistillConfig, checkpoint: Path) -> TrainedModel | None:
    found = read_result(folder, checkpoint)
    return found if found is not None and is_complete(found, config) else None


def _is_evaluated(known: TrainedModel, config: DistillConfig) -> bool:
    """Return whether a model was evaluated by the metrics that the configuration asks for, and has all of them."""
    return known.evaluation_settings == evaluation_settings(config) and is_complete(known, config)


def train_or_find(
    config: DistillConfig, data: Data | None = None, *, role: str = "", snapshots: int = 1
) -> TrainedModel:
    """Train a plain RecBole model, or read the one that an earlier run trained with these settings on these data.

    It is trained in ``<cache entry>.training``, which outlives a killed process: with ``resume`` the next run continues
    from the training checkpoint there. Runs that want the same model at once wait for one another.

    Args:
        config: configuration without distillers.
        data: fresh data of this configuration; prepared here if None.
        role: "teacher" or "student": the sub-folder of the TensorBoard logs.
        snapshots: how many snapshots of the model to keep during its training, the final one included; an earlier run's
            model may lack them, see :func:`recbole_derrd.model_cache.replay.earlier_snapshots`.
    """
    data = data or prepare_data(config)
    found = find_trained(config, data.fingerprint)
    if found is not None:
        return found
    cache, names = model_cache(config), _Entries.of(config, data.fingerprint)
    checkpoint = cache.path(names.model) / MODEL

    def train(folder: Path) -> TrainedModel:
        trained = _train(folder, config, data, names.key, role, snapshots)
        return dataclasses.replace(trained, checkpoint=checkpoint)

    trained = cache.get_or_build(
        names.model,
        train,
        functools.partial(read_trained, checkpoint=checkpoint),
        doing=f"trains this {role or 'model'}",
        resumable=Resumable(TRAINING, anew=not config.run_options.resume),
    )
    evaluated = trained if _is_evaluated(trained, config) else _by_other_metrics(trained, config, data, role)
    return dataclasses.replace(evaluated, settings=own_settings(config))


def _by_other_metrics(known: TrainedModel, config: DistillConfig, data: Data, role: str) -> TrainedModel:
    """Return the results of a cached model by other metrics than those of its training run."""
    return model_cache(config).get_or_build(
        _Entries.of(config, data.fingerprint).metrics,
        lambda folder: _evaluate_again(folder, known, config, data, role),
        functools.partial(_read_metrics, config=config, checkpoint=known.checkpoint),
        doing=f"evaluates this {role or 'model'}",
    )


def _train(folder: Path, config: DistillConfig, data: Data, key: str, role: str, snapshots: int) -> TrainedModel:
    """Train a model in a folder, from the training checkpoint there if there is one, and write its result."""
    started = time.perf_counter()
    model = build_model(config, data)
    words = f" the {role or 'model'} {config['model']} (kept in {folder} until it is done)"
    getLogger().info(set_color("Training", "yellow") + words, extra=where_no_bar(config["show_progress"]))
    getLogger().info(model)
    trainer = trainer_for(config, model, checkpoint=folder / MODEL, role=role)
    if trainer.training_file.exists():
        trainer.resume_checkpoint(trainer.training_file)
        started -= sum(trainer.epoch_seconds)
    kept = Snapshots(folder / SNAPSHOTS)
    if snapshots > 1:
        trainer.snapshots = kept
    try:
        _, valid = trainer.fit(data.train, data.valid, saved=True, show_progress=config["show_progress"])
    except TrainingError:
        # These settings fail every time: there is nothing to resume.
        if is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if is_main_process():
        _keep_snapshots(kept, folder / MODEL, len(trainer.epoch_seconds), snapshots)
    trainer.load_best()
    result = evaluate_trained(config, key, folder / MODEL, trainer, data, valid, started)
    write_result(result, folder)
    return result


def _keep_snapshots(kept: Snapshots, model: Path, epochs: int, snapshots: int) -> None:
    """Remove the weights of all epochs but those of the wanted snapshots."""
    wanted = snapshot_epochs(best_epoch(model), epochs, snapshots) if snapshots > 1 else []
    if wanted:
        kept.reduce(wanted)
    else:
        # A killed run that wanted snapshots may have left some.
        shutil.rmtree(kept.folder, ignore_errors=True)


def _evaluate_again(folder: Path, known: TrainedModel, config: DistillConfig, data: Data, role: str) -> TrainedModel:
    """Evaluate an earlier run's model by other metrics, and write the result."""
    getLogger().info(set_color("Evaluating", "yellow") + f" the cached {role or 'model'} by other metrics.")
    trainer = trainer_for(config, build_model(config, data), checkpoint=known.checkpoint, role=role)
    trainer.eval_collector.data_collect(data.train)
    trainer.load_best()
    valid, test = both_splits(trainer, config, data)
    result = dataclasses.replace(
        known,
        valid=valid,
        test=test,
        evaluation_settings=evaluation_settings(config),
        settings=own_settings(config),
        test_groups=trainer.evaluator.groups,
    )
    write_result(result, folder)
    return result
