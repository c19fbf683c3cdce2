"""The same rows after the same number of epochs: what early stopping, whose epoch varies, has no part in."""

from __future__ import annotations

import dataclasses
import statistics

from recbole_derrd.evaluation.metrics import bigger_is_better
from recbole_derrd.report.comparison import fullest
from recbole_derrd.report.comparison_tables import spread
from recbole_derrd.report.rows import Group, Row, curve_of
from recbole_derrd.report.table import BEST, Cell, Table

#: Shares of the shortest training at which rows are compared.
_SHARES = (0.25, 0.5, 1.0)


def _curves(row: Row) -> list[list[tuple[int, float]]]:
    """Return (epochs trained, validation score) of each distinct model; none where one was validated once at most."""
    scores = [curve_of(entry) for entry in row.distinct()]
    if any(len(curve) < 2 for curve in scores):
        return []
    return [[(epoch + 1, score) for epoch, score in curve] for curve in scores]


def equal_epochs_table(group: Group) -> Table | None:
    """Return the best validation score that each row has had by a few epochs; None where fewer than two rows have any.

    The budgets are shares of the epochs of the shortest training, so that every row reaches them.
    """
    curves = {row.key: _curves(row) for row in group.ordered() if row.role != "teacher"}
    rows = [row for row in group.ordered() if curves.get(row.key)]
    if len(rows) < 2:
        return None
    validation = dataclasses.replace(group, split="valid")
    shortest = min(curve[-1][0] for row in rows for curve in curves[row.key])
    first = max(curve[0][0] for row in rows for curve in curves[row.key])
    budgets = sorted({epochs for share in _SHARES if (epochs := int(share * shortest)) >= first})
    if not budgets:
        # One of them was validated for the first time when another had ended.
        return None
    best = max if bigger_is_better(group.chosen_by) else min
    values = {
        row.key: [
            [best(score for epoch, score in curve if epoch <= epochs) for curve in curves[row.key]]
            for epochs in budgets
        ]
        for row in rows
    }
    ranked = fullest(rows)
    leading = [best(statistics.fmean(values[row.key][place]) for row in ranked) for place in range(len(budgets))]
    body = []
    for row in rows:
        marked = [
            Cell(spread(found), BEST if row in ranked and statistics.fmean(found) == top else "")
            for found, top in zip(values[row.key], leading)
        ]
        stops = Cell(f"{statistics.fmean(curve[-1][0] for curve in curves[row.key]):,.0f}")
        body.append([Cell(row.label), Cell(row.model), Cell(str(len(curves[row.key]))), *marked, stops])
    head = ["", "model", "runs", *[f"by epoch {epochs:,}" for epochs in budgets], "epochs until it stopped"]
    notes = [
        f"The best {group.chosen_by} up to an epoch, mean ± sample standard deviation; the last "
        f"is the end of the shortest of these trainings ({shortest:,} epochs)."
    ]
    return Table(f"{validation.title}: {group.chosen_by} after equal epochs", head, body, notes)
