"""A teacher checkpoint's validation score: the one in its file against the one on this run's validation split."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from recbole.evaluator.register import metrics_dict

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.error_translation import FAULTS
from recbole_derrd.config.options.evaluation import WITHOUT_CUTOFF
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import CheckpointError
from recbole_derrd.evaluation.metrics import bigger_is_better
from recbole_derrd.evaluation.spread import Evaluating, standard_error
from recbole_derrd.runtime.machine_errors import refuse_limit
from recbole_derrd.training.trainer import trainer_for

#: Where candidates are drawn anew, the file's score may be worse than this run's by so many standard errors, and better
#: by more: it is the best of many epochs, so that chance has favoured it by about three.
_WORSE, _BETTER = 4.0, 6.0
#: A range that is wider than this share of the score proves little.
_WIDE = 0.05
#: What a model is evaluated on, by what it is called.
_SPLIT = {"teacher": "this run's validation split", "checkpoint": "its data"}
#: Decimals of this run's score.
_EXACT = 12


@dataclasses.dataclass(frozen=True)
class ReportedScore:
    """The validation score in a checkpoint, and how it was computed.

    Attributes:
        metric: the valid_metric, in lower case.
        value: its value, ``best_valid_score``.
        topk: the cut-offs of the metrics.
        mode: eval_args' mode of the validation split.
        repeatable: RecBole's setting of that name.
        decimals: decimals of the rounded value.
        processes: how many processes shared the users.
    """

    metric: str
    value: float
    topk: list[int]
    mode: str
    repeatable: bool
    decimals: int
    processes: int = 1


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The score in a file, this run's score, the limits for the file's score, and whether candidates are drawn."""

    reported: ReportedScore
    here: float
    low: float
    high: float
    drawn: bool = False

    @property
    def wide(self) -> bool:
        """Whether candidates are drawn anew and chance moves the score so far that it proves little."""
        return self.drawn and self.high - self.low > _WIDE * abs(self.here)

    @property
    def agree(self) -> bool:
        """Whether this run reproduces the file's score."""
        return self.low <= self.reported.value <= self.high

    def summary(self) -> dict[str, Any]:
        """Return its part of a record."""
        return {"metric": self.reported.metric, "in_file": self.reported.value, "here": round(self.here, 6)}


def reported_by(content: dict[str, Any]) -> ReportedScore | str:
    """Return the validation score in a checkpoint, or what is missing for it."""
    settings = content["config"]
    value: Any = content.get("best_valid_score")
    value = value.item() if isinstance(value, np.generic) else value
    # In this order: comparing fails for other types, and NaN is never at most 1e9.
    if not _is_number(value) or not abs(value) <= 1e9:
        return "it holds no best_valid_score: it was never validated"
    metric, topk = settings.get("valid_metric"), settings.get("topk")
    match = re.fullmatch(r"([A-Za-z]+)(?:@([1-9]\d{0,5}))?", metric) if isinstance(metric, str) else None
    if match is None or match[1].lower() not in metrics_dict:
        return "its valid_metric is none of RecBole's"
    topk = [topk] if isinstance(topk, int) else topk
    if not isinstance(topk, (list, tuple)) or not 0 < len(topk) <= 1000 or not all(map(_is_count, topk)):
        return "its topk is no list of whole numbers"
    without_cut = match[1].lower() in WITHOUT_CUTOFF
    if without_cut == bool(match[2]) or (match[2] and int(match[2]) not in topk):
        return "its valid_metric is not measured at its topk"
    mode = _valid_mode(settings.get("eval_args"))
    if mode is None:
        return "its eval_args name no mode of evaluation"
    decimals = settings.get("metric_decimal_place", 4)
    if not _is_count(decimals) or decimals < 2:
        return "its metric_decimal_place leaves less than two"
    shared = settings.get("world_size") if settings.get("single_spec") is False else 1
    processes = shared if _is_count(shared) else 1
    repeatable = settings.get("repeatable") is True
    return ReportedScore(metric.lower(), float(value), list(topk), mode, repeatable, min(decimals, _EXACT), processes)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10**6


def _valid_mode(arguments: Any) -> str | None:
    mode = arguments.get("mode") if isinstance(arguments, dict) else None
    mode = mode.get("valid", mode.get("test", "full")) if isinstance(mode, dict) else mode
    usual = isinstance(mode, str) and re.fullmatch(r"full|labeled|(uni|pop)[1-9]\d{0,4}", mode)
    return mode if usual else None


def evaluated_alike(config: DistillConfig, reported: ReportedScore) -> bool:
    """Return whether this run's own validation computes the score in the file."""
    own = [metric.lower() for metric in config["metrics"]]
    return reported.metric.partition("@")[0] in own and (
        reported.topk, reported.mode, reported.repeatable, reported.decimals
    ) == (
        config["topk"], config["eval_args"]["mode"]["valid"], bool(config["repeatable"]),
        config["metric_decimal_place"],
    )  # fmt: skip


def rounding_of(reported: ReportedScore, users: int = 10**9) -> float:
    """Return the difference that rounding explains, and that RecBole's processes count a few of the users twice."""
    return 10.0**-reported.decimals + min((reported.processes - 1) / max(users, 1), 0.02) + 1e-9


def compared(
    config: DistillConfig,
    data: Data,
    model: Any,
    reported: ReportedScore,
    checkpoint: Path,
    *,
    what: str = "teacher",
) -> Comparison:
    """Evaluate a checkpoint's model on this run's validation split, by the evaluation settings in its file.

    Args:
        config: the model's configuration.
        data: this run's data.
        model: the model, with its weights.
        reported: the score in its file.
        checkpoint: the file.
        what: what the model is called in an error.

    Raises:
        CheckpointError: it cannot be evaluated by these settings.
    """
    if max(reported.topk) >= data.history.n_items:
        raise CheckpointError(
            f"The {what} '{checkpoint}' was validated at topk {max(reported.topk)}, and these data have "
            f"{data.history.n_items - 1} items only: its data were others. Give a {what} of these data."
        )
    own = _as_reported(config, reported)
    alike = (reported.mode, reported.repeatable) == (config["eval_args"]["mode"]["valid"], bool(config["repeatable"]))
    valid = (data if alike else prepare_data(own)).valid
    trainer = trainer_for(own, model, checkpoint=checkpoint, role="teacher")
    trainer.eval_collector.data_collect(data.train)
    with evaluable(checkpoint, what):
        return comparison_of(reported, Evaluating(trainer, valid, reported.metric))


@contextlib.contextmanager
def evaluable(checkpoint: Path, what: str = "teacher") -> Iterator[None]:
    """Turn errors of a checkpoint's evaluation into a sentence, in which its model is called ``what``.

    Raises:
        CheckpointError: why not.
    """
    try:
        yield
    except FAULTS as fault:
        refuse_limit(fault)
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise CheckpointError(
            f"The {what} '{checkpoint}' cannot be evaluated on {_SPLIT[what]}: {reason}. Give another."
        ) from fault


def comparison_of(reported: ReportedScore, evaluating: Evaluating) -> Comparison:
    """Compare the score in a file with this run's score.

    One evaluation is enough where both agree to the file's rounding. Otherwise a second one shows how far chance moves
    the score, as candidates are drawn anew. If that does not explain the difference, a third one decides all ties one
    way, as another machine might have.
    """
    here = evaluating.score()
    rounding = rounding_of(reported, evaluating.rows())
    if abs(here - reported.value) <= rounding:
        return Comparison(reported, here, here - rounding, here + rounding)
    first = evaluating.parts()
    here = (here + evaluating.score()) / 2
    # The errors of the mean of two scores and of the file's one add up.
    error = standard_error(first, evaluating.parts())
    low, high = _limits(reported, here, math.sqrt(1.5) * error)
    if not low - rounding <= reported.value <= high + rounding:
        ties = evaluating.score_with_ties(1 if reported.value > here else -1)
        low, high = min(low, ties), max(high, ties)
    return Comparison(reported, here, low - rounding, high + rounding, drawn=error > 0)


def _limits(reported: ReportedScore, here: float, error: float) -> tuple[float, float]:
    """Return the limits of the file's score if chance alone explains its distance from this run's."""
    if bigger_is_better(reported.metric):
        return here - _WORSE * error, here + _BETTER * error
    return here - _BETTER * error, here + _WORSE * error


def _as_reported(config: DistillConfig, reported: ReportedScore) -> DistillConfig:
    mode = {"valid": reported.mode, "test": reported.mode}
    return config.derived(
        config["model"],
        {
            "metrics": [reported.metric.partition("@")[0]],
            "topk": reported.topk,
            "valid_metric": reported.metric,
            "eval_args": {**config["eval_args"], "mode": mode},
            "repeatable": reported.repeatable,
            "metric_decimal_place": _EXACT,
            "log_wandb": False,
        },
        teacher=True,
    )
