"""A metric's means over fixed groups of users: what tells a difference of two models from noise, in few numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from recbole.evaluator import Evaluator

#: Groups that users are dealt into, one after another: enough for a standard error, few enough to keep.
GROUPS = 20

# RecBole's metrics that are means over users, and how many of the collected parts each takes.
_OF_USERS = {"hit": 1, "mrr": 1, "precision": 1, "map": 2, "ndcg": 2, "recall": 2}


def group_means(values: np.ndarray[Any, Any], groups: int = GROUPS) -> list[list[float]]:
    """Return the means of each column over each group of rows, the groups of a column together.

    Args:
        values: one row a user, in an order that is the same for all models.
        groups: into how many groups users are dealt; as many as there are users, where these are fewer.
    """
    count = min(groups, len(values))
    means = np.array([values[group::count].mean(axis=0) for group in range(count)])
    return [[float(value) for value in column] for column in means.T]


class GroupingEvaluator(Evaluator):
    """RecBole's evaluator, which can keep means over groups of users beside those over all."""

    def __init__(self, config: Any) -> None:
        """Build RecBole's evaluator."""
        super().__init__(config)
        self._grouping = False
        #: Of the latest evaluation, each metric's means over groups of users; empty unless they were asked for.
        self.groups: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def grouping(self) -> Iterator[None]:
        """Keep the means over groups of what is evaluated in the block."""
        self._grouping = True
        try:
            yield
        finally:
            self._grouping = False

    def evaluate(self, dataobject: Any) -> Any:
        """Evaluate as RecBole does."""
        self.groups = {}
        for name in self.metrics if self._grouping else ():
            if name in _OF_USERS:
                metric = self.metric_class[name]
                found = group_means(metric.metric_info(*metric.used_info(dataobject)[: _OF_USERS[name]]))
                self.groups.update({f"{name}@{cutoff}": found[cutoff - 1] for cutoff in metric.topk})
        return super().evaluate(dataobject)
