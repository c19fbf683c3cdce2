"""The same rows after the same number of epochs: what early stopping, whose epoch varies, has no part in."""

from __future__ import annotations

import dataclasses
import statistics

from recbole_derrd.evaluation.metrics import bigger_is_better
from recbole_derrd.report.comparison import fullest
from recbole_derrd.report.comparison_tables import spread
from recbole_derrd.report.rows import Group, Row
from recbole_derrd.report.table import BEST, Cell, Table

#: Shares of the shortest training at which rows are compared.
_SHARES = (0.25, 0.5, 1.0)

#: (epochs trained, validation score) of each validation.
Curve = list[tuple[int, float]]


def equal_epochs_table(group: Group) -> Table | None:
    """Return the best validation score that each row has had by a few epochs; None where fewer than two rows have any.

    The budgets are shares of the epochs of the shortest training, so that every row reaches them.
    """
    found = {row.key: _curves(row) for row in group.ordered() if row.role != "teacher"}
    curves = {key: one for key, one in found.items() if one}
    budgets = _budgets([curve for several in curves.values() for curve in several])
    if len(curves) < 2 or not budgets:
        return None
    rows = [row for row in group.ordered() if row.key in curves]
    best = max if bigger_is_better(group.chosen_by) else min
    values = {key: [[best(_until(curve, epochs)) for curve in curves[key]] for epochs in budgets] for key in curves}
    ranked = fullest(rows)
    leading = [best(statistics.fmean(values[row.key][place]) for row in ranked) for place in range(len(budgets))]
    body = []
    for row in rows:
        tops = leading if row in ranked else []
        stop = statistics.fmean(curve[-1][0] for curve in curves[row.key])
        first = [Cell(row.label), Cell(row.model), Cell(str(len(curves[row.key])))]
        body.append([*first, *_marked(values[row.key], tops), Cell(f"{stop:,.0f}")])
    head = ["", "model", "runs", *[f"by epoch {epochs:,}" for epochs in budgets], "epochs until it stopped"]
    shortest = min(curve[-1][0] for several in curves.values() for curve in several)
    notes = [
        f"The best {group.chosen_by} up to an epoch, mean ± sample standard deviation; the last "
        f"is the end of the shortest of these trainings ({shortest:,} epochs)."
    ]
    validation = dataclasses.replace(group, split="valid")
    return Table(f"{validation.title}: {group.chosen_by} after equal epochs", head, body, notes)


def _curves(row: Row) -> list[Curve]:
    """Return the curve of each distinct model; none where one was validated once at most."""
    scores = [entry.curve() for entry in row.distinct()]
    if any(len(curve) < 2 for curve in scores):
        return []
    return [[(epoch + 1, score) for epoch, score in curve] for curve in scores]


def _budgets(curves: list[Curve]) -> list[int]:
    """Return the epochs at which rows are compared; none where one curve begins when another has ended."""
    shortest = min((curve[-1][0] for curve in curves), default=0)
    first = max((curve[0][0] for curve in curves), default=0)
    return sorted({epochs for share in _SHARES if (epochs := int(share * shortest)) >= first})


def _until(curve: Curve, epochs: int) -> list[float]:
    return [score for epoch, score in curve if epoch <= epochs]


def _marked(values: list[list[float]], tops: list[float]) -> list[Cell]:
    """Return a row's cells, the best of a column marked; of rows that are not ranked there are no tops."""
    means = [statistics.fmean(found) for found in values]
    marks = [BEST if top == mean else "" for top, mean in zip(tops, means)] or [""] * len(values)
    return [Cell(spread(found), mark) for found, mark in zip(values, marks)]
