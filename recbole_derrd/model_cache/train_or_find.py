"""Plain RecBole models, trained once and found again: the teacher, and the student to compare with."""

from __future__ import annotations

import dataclasses
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
from recbole_derrd.model_cache.keys import cache_entry, cache_key, evaluation_settings
from recbole_derrd.model_cache.results import (
    TrainedModel,
    both_splits,
    is_complete,
    keep_result,
    measured,
    own_settings,
    store_result,
    stored_result,
)
from recbole_derrd.runtime.files import locked, working_folder, working_name
from recbole_derrd.runtime.processes import is_main_process
from recbole_derrd.training.snapshots import Snapshots, best_epoch, snapshot_epochs
from recbole_derrd.training.trainer import trainer_for

#: Files and folders of an entry of the cache.
MODEL = "model.pth"
# TrainerMixin.training_file of that model.
TRAINING = "model.training.pth"
SNAPSHOTS = "snapshots"


def find_trained(config: DistillConfig, fingerprint: Fingerprint) -> TrainedModel | None:
    """Return the model that an earlier run trained with these settings on these data; no data are read for it.

    None also where it was not yet evaluated by the metrics that are asked for.
    """
    entry = cache_entry(config, cache_key(config, fingerprint))
    found = stored_result(entry, entry / MODEL)
    if found is not None and not _is_evaluated(found, config):
        found = stored_result(_cache_entry_of_metrics(config, fingerprint), entry / MODEL)
        found = found if found is not None and is_complete(found, config) else None
    # As this run names them: which of them are defaults is nothing that was trained.
    return None if found is None else dataclasses.replace(found, settings=own_settings(config))


def _is_evaluated(known: TrainedModel, config: DistillConfig) -> bool:
    """Say whether a model was evaluated by the metrics that are asked for, and has them all."""
    return known.evaluation_settings == evaluation_settings(config) and is_complete(known, config)


def _cache_entry_of_metrics(config: DistillConfig, fingerprint: Fingerprint) -> Path:
    """Return the folder of what a model that is found is measured at by other metrics than at its training."""
    return cache_entry(config, cache_key(config, fingerprint, ["evaluated", evaluation_settings(config)]))


def train_or_find(
    config: DistillConfig, data: Data | None = None, *, role: str = "", snapshots: int = 1
) -> TrainedModel:
    """Train a plain RecBole model, or find the one that an earlier run trained with the same settings on the same data.

    It is trained in a folder of its own, ``<entry>.training``, which outlives a killed process: with ``resume`` the
    next run goes on from the training checkpoint in it. Runs that want the same model at once wait for one another.

    Args:
        config: configuration without distillers.
        data: fresh data of this configuration; prepared here if None.
        role: "teacher" or "student": the sub-folder of the TensorBoard logs.
        snapshots: how many snapshots of the model are wanted on its way, the final one included; a model that is found
            may lack them, see :func:`recbole_derrd.model_cache.replay.earlier_snapshots`.
    """
    data = data or prepare_data(config)
    found = find_trained(config, data.fingerprint)
    if found is not None:
        return found
    key = cache_key(config, data.fingerprint)
    entry = cache_entry(config, key)
    with locked(entry, f"trains this {role or 'model'}", _cache_entry_of_metrics(config, data.fingerprint)):
        # Another run may have trained it while this one waited, or was killed after its last word on it.
        found = find_trained(config, data.fingerprint)
        if found is not None:
            return found
        known = stored_result(entry, entry / MODEL)
        if known is None:
            finished = stored_result(working_name(entry), working_name(entry) / MODEL)
            anew = finished is None and not config.run_options.resume
            with working_folder(entry, anew=anew, marker=TRAINING) as folder:
                known = finished or _trained_in(folder, config, data, key, role, snapshots)
            known = dataclasses.replace(known, checkpoint=entry / MODEL)
        return known if _is_evaluated(known, config) else _evaluated_again(known, config, data, role)


def _trained_in(folder: Path, config: DistillConfig, data: Data, key: str, role: str, snapshots: int) -> TrainedModel:
    """Train a model in the folder in which its entry is built, going on from a training checkpoint that lies there."""
    started = time.perf_counter()
    model = build_model(config, data)
    getLogger().info(set_color("Training", "yellow") + f" the {role or 'model'}, until it is done in {folder}:")
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
        # These settings end so every time: nothing to go on from.
        if is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if snapshots > 1 and is_main_process():
        kept.reduce(snapshot_epochs(best_epoch(folder / MODEL), len(trainer.epoch_seconds), snapshots))
    elif is_main_process():
        # A killed run that wanted them may have left some.
        shutil.rmtree(kept.folder, ignore_errors=True)
    trainer.load_best()
    result = measured(config, key, folder / MODEL, trainer, data, valid, started)
    store_result(result, folder)
    return result


def _evaluated_again(known: TrainedModel, config: DistillConfig, data: Data, role: str) -> TrainedModel:
    """Evaluate a model that is found but was not evaluated by these metrics."""
    getLogger().info(set_color("Evaluating", "yellow") + f" the {role or 'model'} that is found, by other metrics.")
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
    keep_result(result, _cache_entry_of_metrics(config, data.fingerprint))
    return result
