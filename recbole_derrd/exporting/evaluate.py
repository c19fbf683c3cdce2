"""Checkpoints evaluated on their own splits, without a training: the metrics that RecBole's trainer computes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_derrd.config.distill_config import DistillConfig, model_settings
from recbole_derrd.config.options.evaluation import measured_names
from recbole_derrd.errors import CheckpointError, OptionError
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes, parameter_count
from recbole_derrd.experiment.log import deprecations_hidden
from recbole_derrd.experiment.record_entries import checkpoint_record
from recbole_derrd.exporting.checkpoint import (
    Preparation,
    Trained,
    data_key,
    described_by,
    fingerprint_in,
    load_trained,
)
from recbole_derrd.exporting.protocol import mode_of_the_run
from recbole_derrd.exporting.request import Source
from recbole_derrd.model_cache.results import plain_metrics
from recbole_derrd.model_cache.same_split import FINGERPRINT, SCORE, TRUSTED
from recbole_derrd.model_cache.valid_score import (
    Comparison,
    ReportedScore,
    compared,
    evaluable,
    evaluated_alike,
    reported_by,
    rounding_of,
)
from recbole_derrd.report.schema import ModelEntry, RunRecord
from recbole_derrd.report.writing import write_record
from recbole_derrd.runtime.files import try_writing, write_errors_named
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.teacher.checkpoint_settings import loads_a_file
from recbole_derrd.training.trainer import trainer_for

#: Settings of a checkpoint's training by which its row of a report is told from others, beside those of its model.
_OF_THE_TRAINING = ("learning_rate", "train_batch_size", "weight_decay", "epochs")
#: Where RecBole's trainers write for TensorBoard.
_BOARDS = Path("log_tensorboard")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Checkpoints to evaluate.

    Attributes:
        checkpoints: their files.
        splits: "valid", "test", or both.
        trusted: evaluate also one whose file says that it was trained on another split.
        model: the dotted path of a model class of the user's own.
        settings: RecBole keys over those of the checkpoints, as ``--key=value``.
        command: the command line, for the records.
    """

    checkpoints: tuple[Path, ...]
    splits: tuple[str, ...] = ("valid", "test")
    trusted: bool = False
    model: str | None = None
    settings: tuple[str, ...] = ()
    command: str = ""


def evaluate_checkpoints(asked: Evaluation) -> list[RunRecord]:
    """Evaluate checkpoints, each on the split that its settings make; return a record of each.

    Raises:
        DistillError: one cannot be evaluated; all files are looked at before the first is.
    """
    sources = [Source(path, "evaluate", asked.model, asked.settings) for path in asked.checkpoints]
    with deprecations_hidden(), _boards_removed():
        keys = [data_key(described_by(source)[0]) for source in sources]
        preparation, found = Preparation(), {}
        # Those of the same data one after the other: these are prepared once.
        for place in sorted(range(len(sources)), key=lambda place: keys.index(keys[place])):
            found[place] = _evaluated(sources[place], asked, preparation)
        return [found[place] for place in range(len(sources))]


def refuse_unwritable(folder: Path) -> None:
    """Refuse a folder of records that cannot be written, before anything is evaluated.

    Raises:
        DistillError: why not.
    """
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--records must name a folder, and '{folder}' is a file.")
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    with write_errors_named(folder):
        try_writing(there)


def write_records(records: Sequence[RunRecord], folder: Path) -> list[Path]:
    """Write a record of each checkpoint, all or none; return where.

    Raises:
        DistillError: they cannot be written.
    """
    paths: list[Path] = []
    try:
        for record in records:
            label = f"{record.model}-{record.dataset}-evaluated-seed{record.seed}"
            paths.append(write_record(record, folder, label.replace("/", "_")))
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return paths


def _evaluated(source: Source, asked: Evaluation, preparation: Preparation) -> RunRecord:
    trained = load_trained(source, preparation)
    config, data, model = trained.config, trained.data, trained.adapter.model
    with write_errors_named(_BOARDS):
        trainer = trainer_for(config, model, checkpoint=source.checkpoint, role="evaluated")
    trainer.eval_collector.data_collect(data.train)
    found: dict[str, dict[str, float]] = {}
    for split in asked.splits:
        # Each as if it were the first: what is drawn for it is what RecBole draws after loading the model.
        with evaluable(source.checkpoint, "checkpoint"), kept_random_state():
            loader = data.valid if split == "valid" else data.test
            found[split] = plain_metrics(trainer.evaluate(loader, load_best_model=False, show_progress=False))
    check, notes = _split_check(trained, source.checkpoint, found.get("valid"), trusted=asked.trusted)
    if "test" not in asked.splits:
        notes.append(f"The test split of '{source.checkpoint.name}' was not evaluated.")
    entry = ModelEntry(
        model=config["model"],
        # A record has every metric of the test split; one that is not known is no number.
        test=found.get("test") or dict.fromkeys(measured_names(config), math.nan),
        valid=found.get("valid", {}),
        params=parameter_count(model),
        bytes=model_bytes(model),
        bytes_per_item=bytes_per_item(model),
        trusted=check["by"] not in (FINGERPRINT, SCORE),
        split_check=check,
        settings=_settings(config, trained.content),
    )
    record = checkpoint_record(config, data, entry, str(source.checkpoint), trained.distillers or (), asked.command)
    return dataclasses.replace(record, warnings=notes)


def _split_check(
    trained: Trained, checkpoint: Path, valid: dict[str, float] | None, *, trusted: bool
) -> tuple[dict[str, Any], list[str]]:
    """Return what shows that the split is the checkpoint's own, and what is to be said about it.

    Raises:
        CheckpointError: its file says that the split is another one.
    """
    reported = reported_by(trained.content)
    if fingerprint_in(trained.content) is not None:  # compared when it was loaded
        return {"by": FINGERPRINT}, _other_score(trained, checkpoint, reported, valid)
    if isinstance(reported, str):
        words = f"Nothing shows that '{checkpoint.name}' was trained on this split, and has seen no held-out item of it"
        return {"by": "nothing", "reason": reported}, [f"{words}: {reported}."]
    comparison = _comparison(trained, checkpoint, reported, valid)
    if comparison.agree:
        little = (
            f"'{checkpoint.name}' was validated among candidates that are drawn anew ({reported.mode}), so that its "
            "validation score proves little about its split."
        )
        return {"by": SCORE, **comparison.summary()}, [little] if comparison.wide else []
    fault = (
        f"'{checkpoint}' was not trained on this split: its file says {reported.metric} = "
        f"{reported.value:.{reported.decimals}f} on its validation split (best_valid_score), and on this one it has "
        f"{comparison.here:.{reported.decimals}f}. It may have seen held-out items, or its users and items are "
        "numbered otherwise (rows in another order)."
    )
    if not trusted:
        raise CheckpointError(
            f"{fault} Give the very data that it was trained on (--data_path=FOLDER). If you know better, --trusted "
            "evaluates it all the same."
        )
    return {"by": TRUSTED, **comparison.summary()}, [f"Evaluated all the same (--trusted): {fault}"]


def _other_score(
    trained: Trained, checkpoint: Path, reported: ReportedScore | str, valid: dict[str, float] | None
) -> list[str]:
    """Return what is to be said where a checkpoint's validation score on its own split is another one in its file."""
    if isinstance(reported, str) or valid is None:
        return []
    # Stock RecBole's settings, which are read for it, do not know the modes of this plugin.
    mode = (mode_of_the_run(trained.content, checkpoint) or {}).get("valid", reported.mode)
    reported = dataclasses.replace(reported, mode=mode)
    if not evaluated_alike(trained.config, reported):
        return []
    comparison = _comparison(trained, checkpoint, reported, valid)
    if comparison.agree:
        return []
    return [
        f"'{checkpoint.name}' says {reported.metric} = {reported.value:.{reported.decimals}f} on its validation split "
        f"(best_valid_score), and on the same split it has {comparison.here:.{reported.decimals}f} here. Its run may "
        "have ranked held-out items among others, which files of earlier versions do not say: give its own --eval_args."
    ]


def _comparison(
    trained: Trained, checkpoint: Path, reported: ReportedScore, valid: dict[str, float] | None
) -> Comparison:
    """Compare the validation score in a file with the model's on this validation split."""
    if valid is not None and evaluated_alike(trained.config, reported):
        here = valid[reported.metric]
        if abs(here - reported.value) <= rounding_of(reported):
            return Comparison(reported, here, here, here)
    with kept_random_state():
        return compared(trained.config, trained.data, trained.adapter.model, reported, checkpoint, what="checkpoint")


def _settings(config: DistillConfig, content: dict[str, Any]) -> dict[str, Any]:
    """Return what tells a checkpoint's row of a report from others: settings of its model and of its training."""
    keys = (key for key in model_settings(config["model"]) if not loads_a_file(key))
    settings = {key: config[key] for key in (*keys, "seed", "repeatable")}
    if config["benchmark_filename"]:
        settings["benchmark_filename"] = config["benchmark_filename"]
    described = {key: content["config"].get(key) for key in _OF_THE_TRAINING}
    numbers = {key: value for key, value in described.items() if type(value) in (int, float) and math.isfinite(value)}
    return {**settings, **numbers}


@contextlib.contextmanager
def _boards_removed() -> Iterator[None]:
    """Remove what RecBole's trainers write for TensorBoard, which is of trainings alone."""
    pattern = f"**/events.out.tfevents.*.{os.getpid()}.*"
    before = set(_BOARDS.glob(pattern))
    try:
        yield
    finally:
        for file in set(_BOARDS.glob(pattern)) - before:
            with contextlib.suppress(OSError):
                file.unlink()
                for folder in (place for place in file.parents if _BOARDS in (place, *place.parents)):
                    folder.rmdir()
