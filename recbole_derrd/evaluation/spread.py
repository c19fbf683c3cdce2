"""How far chance and rounding may move a metric: two evaluations compared by parts of the users, and ties both ways."""

from __future__ import annotations

import math
from typing import Any

import torch
from recbole.evaluator.collector import DataStruct
from torch import Tensor

from recbole_derrd.data.loaders import taking_over
from recbole_derrd.evaluation.collector import BY_ROWS, PlainValuesCollector
from recbole_derrd.runtime.processes import broadcast, is_main_process

#: Parts of the users by which two evaluations are compared.
_PARTS = 64
_LEAST_PAIRS = 256
#: What another machine's order of summation may add to a score, as a share of the user's largest.
_ROUNDING = 1e-5


class _KeepingEvaluator:
    """RecBole's evaluator that keeps what it has evaluated last."""

    def __init__(self, evaluator: Any) -> None:
        self._evaluator = evaluator
        self.last: Any = None

    def evaluate(self, collected: Any) -> Any:
        self.last = collected
        return self._evaluator.evaluate(collected)

    def rows(self) -> int:
        return max((len(value) for key, value in self.last._data_dict.items() if key in BY_ROWS), default=0)

    def parts(self, metric: str) -> list[float]:
        content = self.last._data_dict
        # AUC needs both kinds of pairs in each part.
        least = _LEAST_PAIRS if "rec.score" in content else 1
        count = max(1, min(_PARTS, self.rows() // least))
        split = {key: torch.tensor_split(value, count) for key, value in content.items() if key in BY_ROWS}
        found = []
        for index in range(count):
            part = DataStruct()
            part._data_dict.update({**content, **{key: pieces[index] for key, pieces in split.items()}})
            found.append(float(self._evaluator.evaluate(part)[metric]))
        return found


class Evaluating:
    """Evaluates a trainer's model on one split as often as it is asked to.

    Args:
        trainer: the trainer; it is used for nothing else.
        data: the split.
        metric: the metric that is asked for, e.g. ``ndcg@10``.
    """

    def __init__(self, trainer: Any, data: Any, metric: str) -> None:
        """Evaluate nothing yet."""
        self._trainer, self._data, self._metric = trainer, data, metric
        trainer.evaluator = self._kept = _KeepingEvaluator(trainer.evaluator)

    def score(self) -> float:
        """Return the metric; drawn anew, where anything is."""
        return float(self._trainer.evaluate(self._data, load_best_model=False)[self._metric])

    def rows(self) -> int:
        """Return how many users, or pairs, the last evaluation was of."""
        count: int = broadcast(self._kept.rows() if is_main_process() else None)
        return count

    def parts(self) -> list[float]:
        """Return the metric of each part of the users in the last evaluation, in their order."""
        found: list[float] = broadcast(self._kept.parts(self._metric) if is_main_process() else None)
        return found

    def score_with_ties(self, favour: int) -> float:
        """Return the metric with each tie, within rounding, decided for (1) or against (-1) the held-out items."""
        usual = self._trainer.eval_collector
        self._trainer.eval_collector = one_way = taking_over(TiesOneWay, usual)
        one_way.favour = favour
        try:
            return self.score()
        finally:
            self._trainer.eval_collector = usual


def standard_error(one: list[float], other: list[float]) -> float:
    """Return the standard error of a metric that is drawn anew at each evaluation, from two of them.

    Args:
        one: the metric of each part of the users.
        other: the same of another evaluation.
    """
    # A part in which the metric is not defined says nothing.
    pairs = [(first, second) for first, second in zip(one, other) if math.isfinite(first - second)]
    squares = [(first - second) ** 2 / 2 for first, second in pairs]
    return math.sqrt(sum(squares)) / max(len(squares), 1)


class TiesOneWay(PlainValuesCollector):
    """Collects as if each tie, within rounding, were decided for the held-out items, or each against them."""

    favour: int = 1

    def eval_batch_collect(self, scores: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor) -> None:
        """Collect a batch's best items, and which of them are positives."""
        if scores.dim() == 2:
            size = scores.masked_fill(~scores.isfinite(), 0).abs().amax(dim=1).clamp(min=1e-30)
            rows, columns = positive_u.to(scores.device), positive_i.to(scores.device)
            scores = scores.clone()
            scores[rows, columns] = scores[rows, columns] + self.favour * _ROUNDING * size[rows]
        super().eval_batch_collect(scores, interaction, positive_u, positive_i)
