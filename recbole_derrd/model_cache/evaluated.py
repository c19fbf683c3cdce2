"""Plain models that are measured, not trained here: a teacher that the user brings, several teachers together."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Callable

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.atomic_files import content_digest
from recbole_derrd.data.fingerprint import Fingerprint
from recbole_derrd.data.prepare import Data
from recbole_derrd.errors import CheckpointError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.model_cache.keys import cache_entry, cache_key, evaluation_settings
from recbole_derrd.model_cache.preference import preference_for_test_items, preference_for_training_items
from recbole_derrd.model_cache.results import (
    TrainedModel,
    is_complete,
    keep_result,
    measured,
    plain_metrics,
    stored_result,
)
from recbole_derrd.model_cache.same_split import IF_TRUSTED, SCORE, refuse_other_sizes
from recbole_derrd.model_cache.valid_score import (
    Comparison,
    compared,
    evaluable,
    evaluated_alike,
    reported_by,
    rounding_of,
)
from recbole_derrd.runtime.files import locked
from recbole_derrd.runtime.processes import broadcast, is_main_process
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.training.checkpointing import load_weights
from recbole_derrd.training.trainer import trainer_for

#: By so many standard errors a model must prefer training items, where its score proves little.
_ERRORS = 3.0
#: Raised whenever what shows a brought model's split changes, so that it is looked at anew.
_PROOFS = 3


def _evaluated_entry(config: DistillConfig, fingerprint: Fingerprint, checkpoint: Path, proof: str) -> tuple[str, Path]:
    """Return the key of the model and the folder of what is measured of it."""
    digest = content_digest(checkpoint)
    return (
        cache_key(config, fingerprint, digest),
        cache_entry(config, cache_key(config, fingerprint, [digest, evaluation_settings(config), _PROOFS, proof])),
    )


def find_evaluated(
    config: DistillConfig, fingerprint: Fingerprint, checkpoint: Path, proof: str
) -> TrainedModel | None:
    """Return what an earlier run measured of this very file on these data; no data are read for it.

    Args:
        config: the model's configuration.
        fingerprint: of this run's data.
        checkpoint: the model's file.
        proof: what shows that it has seen this run's split, see :func:`proof_of_split`.
    """
    found = stored_result(_evaluated_entry(config, fingerprint, checkpoint, proof)[1], checkpoint)
    return found if found is not None and is_complete(found, config) else None


def evaluate_checkpoint(
    config: DistillConfig, data: Data, checkpoint: Path, content: dict[str, Any], proof: str
) -> TrainedModel:
    """Evaluate a model that the user brings, so that it stands in the table like one trained here.

    Args:
        config: the model's configuration.
        data: the data of this configuration.
        checkpoint: the model's file.
        content: what :func:`read_checkpoint` has read from it.
        proof: what shows that it has seen this run's split, see :func:`proof_of_split`.

    Raises:
        CheckpointError: it is of other data, or not what its file says.
    """
    key, entry = _evaluated_entry(config, data.fingerprint, checkpoint, proof)
    with locked(entry, "measures this teacher"):
        found = find_evaluated(config, data.fingerprint, checkpoint, proof)
        if found is not None:
            return found
        started = time.perf_counter()
        model = build_model(config, data)
        refuse_other_sizes(model, content, checkpoint)
        load_weights(model, content, checkpoint)
        trainer = trainer_for(config, model, checkpoint=checkpoint, role="teacher")
        trainer.eval_collector.data_collect(data.train)
        valid: dict[str, float] | None = None
        shown_by: dict[str, Any] = {"by": proof}
        if proof == SCORE:
            valid, comparison = _same_score(config, data, trainer, content, checkpoint)
            shown_by.update(comparison.summary())
        result = measured(config, key, checkpoint, trainer, data, valid, started)
        result = dataclasses.replace(result, split_check=shown_by)
        keep_result(result, entry)
    return result


def _same_score(
    config: DistillConfig, data: Data, trainer: Any, content: dict[str, Any], checkpoint: Path
) -> tuple[dict[str, float] | None, Comparison]:
    """Return the validation metrics, where they were measured, and how the file's score compares.

    Raises:
        CheckpointError: both scores, and what to do.
    """
    reported = reported_by(content)
    if isinstance(reported, str):
        raise CheckpointError(
            f"Nothing shows that the teacher '{checkpoint}' has seen this run's split and none of its held-out items: "
            f"{reported}. Give a file that RecBole saved with a validation split. {IF_TRUSTED}"
        )
    valid, comparison = None, None
    if evaluated_alike(config, reported):
        with evaluable(checkpoint):
            valid = plain_metrics(trainer.evaluate(data.valid, load_best_model=False, show_progress=False))
        here = valid[reported.metric]
        if abs(here - reported.value) <= rounding_of(reported):
            comparison = Comparison(reported, here, here, here)
    if comparison is None:
        with kept_random_state():
            comparison = compared(config, data, trainer.model, reported, checkpoint)
    if not comparison.agree:
        raise CheckpointError(
            f"The teacher '{checkpoint}' was not trained on this run's split: its file says {reported.metric} = "
            f"{reported.value:.{reported.decimals}f} on the validation split (best_valid_score), and on this run's it "
            f"has {comparison.here:.{reported.decimals}f}{_far(comparison)}. It may have seen held-out items, or its "
            f"users and items are numbered otherwise (rows in another order). Use the very data that it was trained "
            f"on, or train one here (teacher_model). {IF_TRUSTED}"
        )
    if reported.mode != "full" or reported.repeatable:
        with kept_random_state(), evaluable(checkpoint):
            _refuse_other_items(config, data, trainer.model, comparison, checkpoint)
    return valid, comparison


def _refuse_other_items(
    config: DistillConfig, data: Data, model: Any, comparison: Comparison, checkpoint: Path
) -> None:
    """Refuse a model that knows this run's test items, or about which its score proves little.

    Full ranking hides a user's training items, so that another split has another score. Other ways do not.
    """
    # One process decides for all: where it alone has evaluated, the others' models are still in training mode.
    share, error = broadcast(
        preference_for_training_items(model, data, seed=config["seed"]) if is_main_process() else None
    )
    if comparison.wide and share < 0.5 + _ERRORS * error:
        raise CheckpointError(
            f"Nothing shows that the teacher '{checkpoint}' was trained on this run's split. It was validated "
            f"among candidates that are drawn anew ({comparison.reported.mode}), so its {comparison.reported.metric} "
            f"may come back by chance{_far(comparison)}. And it scores training items above held-out ones in "
            f"{share:.0%} of pairs only; a teacher of another split does so in 50%. Validate it by full ranking (mode: "
            f"full). {IF_TRUSTED}"
        )
    known, error = broadcast(preference_for_test_items(model, data, seed=config["seed"]) if is_main_process() else None)
    if known - 0.5 > max(_ERRORS * error, (share - 0.5) / 2):
        raise CheckpointError(
            f"The teacher '{checkpoint}' was not trained on this run's split: it scores this run's test items above "
            f"its validation items in {known:.0%} of pairs (training items in {share:.0%}), so it has seen them. Use "
            f"the very data that it was trained on, or train one here (teacher_model). {IF_TRUSTED}"
        )


def _far(comparison: Comparison) -> str:
    return f"; chance and rounding explain {comparison.low:.4f} to {comparison.high:.4f}"


def evaluate_model(
    config: DistillConfig, data: Data, name: str, *, more: Any, build: Callable[[], Any]
) -> TrainedModel:
    """Evaluate a model that is put together, not trained, or find what an earlier run measured of it.

    Args:
        config: a plain model's configuration on the same data; its evaluation settings count.
        data: the data.
        name: what the model is called.
        more: what tells it from others.
        build: gives it, in evaluation mode.
    """
    key = cache_key(config, data.fingerprint, [name, more])
    measures = cache_key(config, data.fingerprint, [name, more, evaluation_settings(config)])
    entry = config.cache_dir / f"{name}-{config['dataset']}-{measures}"
    found = stored_result(entry, entry / "result.json")
    if found is not None and is_complete(found, config):
        return found
    with locked(entry, f"measures this {name.lower()}"):
        found = stored_result(entry, entry / "result.json")
        if found is not None and is_complete(found, config):
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
