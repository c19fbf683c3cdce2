"""Plain models that are evaluated and not trained here: the user's own checkpoint, an ensemble of several teachers."""

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
from recbole_derrd.model_cache.keys import cache_entry, cache_key, evaluation_settings, model_cache
from recbole_derrd.model_cache.preference import preference_for_test_items, preference_for_training_items
from recbole_derrd.model_cache.results import (
    RESULT,
    TrainedModel,
    evaluate_trained,
    is_complete,
    plain_metrics,
    read_result,
    write_result,
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
from recbole_derrd.runtime.processes import broadcast, is_main_process
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.training.checkpointing import load_weights
from recbole_derrd.training.trainer import trainer_for

#: Where its score proves little, a model must prefer training items by this many standard errors.
_ERRORS = 3.0
#: Raised whenever the proof of a model's split changes: its results are then not found, and it is checked again.
_PROOFS = 3


def _entry(config: DistillConfig, fingerprint: Fingerprint, checkpoint: Path, proof: str) -> tuple[str, str]:
    """Return the model's cache key and the name of the cache entry of its results."""
    digest = content_digest(checkpoint)
    of_results = cache_key(config, fingerprint, [digest, evaluation_settings(config), _PROOFS, proof])
    return cache_key(config, fingerprint, digest), cache_entry(config, of_results)


def _reader(config: DistillConfig, checkpoint: Path | None = None) -> Callable[[Path], TrainedModel | None]:
    """Return what reads a complete result from a folder; a result without a checkpoint names itself as one."""

    def read(folder: Path) -> TrainedModel | None:
        found = read_result(folder, checkpoint or folder / RESULT)
        return found if found is not None and is_complete(found, config) else None

    return read


def find_evaluated(
    config: DistillConfig, fingerprint: Fingerprint, checkpoint: Path, proof: str
) -> TrainedModel | None:
    """Return an earlier run's results of this very file on these data; no data are read for it.

    Args:
        config: the model's configuration.
        fingerprint: of this run's data.
        checkpoint: the model's file.
        proof: what shows that it was trained on this run's split, see :func:`proof_of_split`.
    """
    _, entry = _entry(config, fingerprint, checkpoint, proof)
    return model_cache(config).get(entry, _reader(config, checkpoint))


def evaluate_checkpoint(
    config: DistillConfig, data: Data, checkpoint: Path, content: dict[str, Any], proof: str
) -> TrainedModel:
    """Evaluate the user's own checkpoint, so that it stands in the table like a model that is trained here.

    Args:
        config: the model's configuration.
        data: the data of this configuration.
        checkpoint: the model's file.
        content: what :func:`read_checkpoint` has read from it.
        proof: what shows that it was trained on this run's split, see :func:`proof_of_split`.

    Raises:
        CheckpointError: it belongs to other data, or is not what its file claims.
    """
    key, entry = _entry(config, data.fingerprint, checkpoint, proof)

    def evaluate(folder: Path) -> TrainedModel:
        result = _evaluated(config, data, checkpoint, content, proof, key)
        write_result(result, folder)
        return result

    reader = _reader(config, checkpoint)
    return model_cache(config).get_or_build(entry, evaluate, reader, doing="evaluates this teacher")


def _evaluated(
    config: DistillConfig, data: Data, checkpoint: Path, content: dict[str, Any], proof: str, key: str
) -> TrainedModel:
    started = time.perf_counter()
    model = build_model(config, data)
    refuse_other_sizes(model, content, checkpoint)
    load_weights(model, content, checkpoint)
    trainer = trainer_for(config, model, checkpoint=checkpoint, role="teacher")
    trainer.eval_collector.data_collect(data.train)
    valid: dict[str, float] | None = None
    split_check: dict[str, Any] = {"by": proof}
    if proof == SCORE:
        valid, comparison = _same_score(config, data, trainer, content, checkpoint)
        split_check.update(comparison.summary())
    result = evaluate_trained(config, key, checkpoint, trainer, data, valid, started)
    return dataclasses.replace(result, split_check=split_check)


def _same_score(
    config: DistillConfig, data: Data, trainer: Any, content: dict[str, Any], checkpoint: Path
) -> tuple[dict[str, float] | None, Comparison]:
    """Return the validation metrics, where they were computed, and how the file's score compares.

    Raises:
        CheckpointError: both scores, and what to do.
    """
    if not data.valid:
        raise CheckpointError(
            f"Nothing can show that the teacher '{checkpoint}' has seen none of this run's test items: eval_args "
            f"leaves no validation split, on which its score could be compared. {IF_TRUSTED}"
        )
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
    """Refuse a model that was trained on this run's test items, or whose score proves little about it.

    Full ranking hides a user's training items, so that another split has another score. Ranking among candidates does
    not hide them.
    """
    # The main process decides for all: where it alone has evaluated, the others' models are still in training mode.
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
    config: DistillConfig, data: Data, name: str, *, identity: Any, build: Callable[[], Any]
) -> TrainedModel:
    """Evaluate a model that is put together and not trained, or read an earlier run's results of it.

    Args:
        config: a plain model's configuration on the same data; its evaluation settings count.
        data: the data.
        name: what the model is called.
        identity: plain values that distinguish it from other models of that name.
        build: returns the model, in evaluation mode.
    """
    key = cache_key(config, data.fingerprint, [name, identity])
    of_results = cache_key(config, data.fingerprint, [name, identity, evaluation_settings(config)])
    cache, entry = model_cache(config), cache_entry(config, of_results, name)

    def evaluate(folder: Path) -> TrainedModel:
        started = time.perf_counter()
        with kept_random_state():
            no_file = config.cache_dir / "none.pth"
            trainer = trainer_for(config, build(), checkpoint=no_file, role=name.lower(), plain=True)
            trainer.eval_collector.data_collect(data.train)
            result = evaluate_trained(config, key, cache.path(entry) / RESULT, trainer, data, None, started)
        result = dataclasses.replace(result, model=name)
        write_result(result, folder)
        return result

    return cache.get_or_build(entry, evaluate, _reader(config), doing=f"evaluates this {name.lower()}")
