"""Plain models that are measured, not trained here: a teacher that the user brings, several teachers together."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Callable

from recbole_derrd.atomic_files import content_digest
from recbole_derrd.config import DistillConfig
from recbole_derrd.data import Data, Fingerprint
from recbole_derrd.errors import CheckpointError
from recbole_derrd.files import locked
from recbole_derrd.randomness import kept_random_state
from recbole_derrd.trained.building import build_model
from recbole_derrd.trained.keys import content_key, entry_of, judged_by
from recbole_derrd.trained.measured import TrainedModel, keep_result, measured, stored_result
from recbole_derrd.trainer import trainer_for
from recbole_derrd.training.saving import load_weights


def _judged_entry(config: DistillConfig, fingerprint: Fingerprint, checkpoint: Path) -> tuple[str, Path]:
    """Return the key of the model and the folder of what is measured of it."""
    digest = content_digest(checkpoint)
    return (
        content_key(config, fingerprint, digest),
        entry_of(config, content_key(config, fingerprint, [digest, judged_by(config)])),
    )


def find_judged(config: DistillConfig, fingerprint: Fingerprint, checkpoint: Path) -> TrainedModel | None:
    """Return what an earlier run measured of this very file on these data; no data are read for it."""
    return stored_result(_judged_entry(config, fingerprint, checkpoint)[1], checkpoint)


def judge_checkpoint(config: DistillConfig, data: Data, checkpoint: Path, content: dict[str, Any]) -> TrainedModel:
    """Evaluate a model that the user brings, so that it stands in the table like one trained here.

    Args:
        config: the model's configuration.
        data: the data of this configuration.
        checkpoint: the model's file.
        content: what :func:`read_checkpoint` has read from it.
    """
    refuse_other_data(content, config, data.fingerprint, checkpoint)
    key, entry = _judged_entry(config, data.fingerprint, checkpoint)
    with locked(entry, "measures this teacher"):
        found = find_judged(config, data.fingerprint, checkpoint)
        if found is not None:
            return found
        started = time.perf_counter()
        model = build_model(config, data)
        load_weights(model, content, checkpoint)
        trainer = trainer_for(config, model, checkpoint=checkpoint, role="teacher")
        trainer.eval_collector.data_collect(data.train)
        result = measured(config, key, checkpoint, trainer, data, None, started)
        keep_result(result, entry)
    return result


def judge_model(config: DistillConfig, data: Data, name: str, *, more: Any, build: Callable[[], Any]) -> TrainedModel:
    """Evaluate a model that is put together, not trained, or find what an earlier run measured of it.

    Args:
        config: a plain model's configuration on the same data; its evaluation settings count.
        data: the data.
        name: what the model is called.
        more: what tells it from others.
        build: gives it, in evaluation mode.
    """
    key = content_key(config, data.fingerprint, [name, more])
    measures = content_key(config, data.fingerprint, [name, more, judged_by(config)])
    entry = config.cache_dir / f"{name}-{config['dataset']}-{measures}"
    found = stored_result(entry, entry / "result.json")
    if found is not None:
        return found
    with locked(entry, f"measures this {name.lower()}"):
        found = stored_result(entry, entry / "result.json")
        if found is not None:
            return found
        started = time.perf_counter()
        with kept_random_state():
            checkpoint = config.cache_dir / "none.pth"
            trainer = trainer_for(config, build(), checkpoint=checkpoint, role=name.lower(), plain=True)
            trainer.eval_collector.data_collect(data.train)
            result = measured(config, key, entry / "result.json", trainer, data, None, started)
        result = dataclasses.replace(result, model=name)
        keep_result(result, entry)
    return result


# What a stock checkpoint's settings say of its split: a difference in any of these is another split.
_SPLIT_KEYS = (
    "dataset", "seed", "eval_args", "benchmark_filename", "threshold", "val_interval", "user_inter_num_interval",
    "item_inter_num_interval", "filter_inter_by_user_or_item", "rm_dup_inter",
)  # fmt: skip


def refuse_other_data(
    content: dict[str, Any], config: DistillConfig, fingerprint: Fingerprint, checkpoint: Path
) -> None:
    """Refuse a model that the user brings and that was trained on other data.

    Args:
        content: what :func:`read_checkpoint` has read from it.
        config: the model's configuration.
        fingerprint: of this run's data.
        checkpoint: the model's file.

    Raises:
        CheckpointError: what differs, and what to do.
    """
    settings = content["config"]
    if settings.get("dataset") not in (None, config["dataset"]):
        raise CheckpointError(
            f"The teacher '{checkpoint}' was trained on the data set '{settings['dataset']}', this run uses "
            f"'{config['dataset']}'. Give a teacher of the same data."
        )
    ours = content.get("derrd")
    theirs = ours.get("fingerprint") if isinstance(ours, dict) else None
    if isinstance(theirs, dict) and theirs.keys() == dataclasses.asdict(fingerprint).keys():
        difference = Fingerprint(**theirs).difference(fingerprint)
        if difference:
            raise CheckpointError(
                f"The teacher '{checkpoint}' was not trained on this run's data: {difference}. "
                "Use the teacher's own seed, eval_args and filters, or another teacher."
            )
        return
    # A split in order of time, or one that is given, does not depend on the seed.
    drawn = config["eval_args"]["order"] == "RO" and not config["benchmark_filename"]
    for key in _SPLIT_KEYS if drawn else [key for key in _SPLIT_KEYS if key != "seed"]:
        theirs, here = settings.get(key), config[key]
        if key == "seed" and config.run_options.split_seed is not None:
            # A stock model's seed drew its split; ours here is drawn by another.
            here = config.run_options.split_seed
        if key == "eval_args" and isinstance(theirs, dict):
            theirs, here = (
                {part: args.get(part) for part in ("split", "order", "group_by")} for args in (theirs, here)
            )
        if key in settings and theirs != here:
            raise CheckpointError(
                f"The teacher '{checkpoint}' was trained with {key} = {theirs}, this run has {here}: another split, so "
                f"the teacher may have seen the test items. Set {key} to the teacher's value."
            )
