"""The tables of a group of records: results, and tests against the best baseline."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from recbole_derrd.evaluation.metrics import bigger_is_better, percent
from recbole_derrd.report.comparison import (
    Comparison,
    baseline_of,
    best_two,
    comparisons,
    fullest,
    gap_is_noise,
    gap_of,
)
from recbole_derrd.report.rows import Group, Row
from recbole_derrd.report.run_table import shown_size
from recbole_derrd.report.schema import RunRecord
from recbole_derrd.report.significance import MIN_PAIRS
from recbole_derrd.report.table import BEST, SECOND, Cell, Table
from recbole_derrd.report.titles import SPLITS

#: Metrics that fit beside the rest of a table on a narrow page.
_FEW = 4


def spread(values: list[float]) -> str:
    """Write mean ± sample standard deviation, the mean alone of one value."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def _number(value: float | None, positions: int) -> str:
    return "-" if value is None else f"{value:,.{positions}f}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def results_table(group: Group) -> Table:
    """Return the table of results: every row's test metrics, the gap recovered, size and speed."""
    rows = group.ordered()
    marked = {metric: best_two(rows, metric) for metric in group.metrics}
    head = ["", "model", "runs", *group.metrics, f"gap recovered ({group.headline})", "parameters", "size",
            "bytes an item", "one user (ms)", "training (s)"]  # fmt: skip
    notes = [
        f'Mean ± sample standard deviation over {_over(group)} ("runs" counts distinct trained models). Best in bold, '
        f"second best underlined, of all rows but the teacher's{_and_fewer(rows)}. {_direction(group.metrics)}",
        "Gap recovered: (row - student alone) / (teacher - student alone), of the means over the row's "
        f"{_over(group)}, with its "
        f'own teacher or ensemble; "-" where that is no better{_or_noise(group)}, or there is none. Bytes an item: of '
        "the served item embeddings, or all bytes over the items where a model has no embeddings.",
    ]
    notes += _missing_folds(group, rows)
    warned = Counter(words for record in group.records for words in record.warnings)
    notes += [f"{count} of {len(group.records)} runs: {words}" for words, count in warned.items()]
    return Table(group.title, head, [_result(group, row, marked) for row in rows], notes, details=_details(group, head))


def _direction(metrics: Sequence[str]) -> str:
    """Say which way the metrics are better."""
    smaller = [metric for metric in metrics if not bigger_is_better(metric)]
    if not smaller:
        return "Larger is better."
    others = ", larger in the others" if len(smaller) < len(metrics) else ""
    return f"Smaller is better in {', '.join(smaller)}{others}."


def _details(group: Group, head: list[str]) -> frozenset[int]:
    """Return the columns that a narrow page can do without: the number of parameters, and most of many metrics."""
    shown = {*group.metrics[:2], group.headline}
    many = [metric for metric in group.metrics if metric not in shown] if len(group.metrics) > _FEW else []
    return frozenset(place for place, name in enumerate(head) if name in {*many, "parameters"})


def _over(group: Group) -> str:
    """Return what the values of a row are of."""
    if not group.folds:
        return "seeds"
    return "seeds and folds" if len({record.seed for record in group.records}) > 1 else "folds"


def _missing_folds(group: Group, rows: list[Row]) -> list[str]:
    """Say which rows are not of all folds of the table: their means are of other data."""
    lacking = []
    for row in rows:
        own = {fold for _, fold in row.entries}
        missing = [fold for fold in group.folds if fold not in own]
        if missing:
            lacking.append(f"'{row.label}' lacks {', '.join(missing)}")
    return [f"Not on all folds of this table: {'; '.join(lacking)}."] if lacking else []


def _and_fewer(rows: list[Row]) -> str:
    students = [row for row in rows if row.role != "teacher"]
    return "" if len(fullest(students)) == len(students) else " and those with fewer seeds or splits than others"


def _or_noise(group: Group) -> str:
    methods = [row for row in group.rows.values() if row.role == "method"]
    noisy = any(gap_is_noise(group, row, group.headline) for row in methods)
    return (
        ", or better by no more than the standard error over seeds (of one seed: twice that over users)"
        if noisy
        else ""
    )


def _result(group: Group, row: Row, marked: dict[str, tuple[set[str], set[str]]]) -> list[Cell]:
    measured = []
    for metric in group.metrics:
        best, second = marked[metric]
        mark = BEST if row.key in best else SECOND if row.key in second else ""
        measured.append(Cell(spread(row.values(metric)), mark))
    gap = gap_of(group, row, group.headline)
    shown = [
        "" if row.role != "method" else percent(gap),
        _number(row.number("params"), 0),
        "-" if row.number("bytes") is None else shown_size(row.number("bytes") or 0.0, "B"),
        _number(row.number("bytes_per_item"), 1),
        _number(row.number("latency_ms"), 3),
        _number(row.number("train_seconds"), 1),
    ]
    first = [Cell(row.label), Cell(row.model), Cell(str(len(row.distinct())))]
    return [*first, *measured, *map(Cell, shown)]


def significance_table(group: Group, baseline: str | None = None) -> Table | None:
    """Return the table of tests against the best baseline; None where nothing can be compared."""
    against = baseline_of(group, baseline)
    if against is None:
        return None
    compared = comparisons(group, against)
    if not compared:
        return None
    head = ["", "model", "pairs", "mean difference", "t-test p", "t-test p (Holm)", "Wilcoxon p", "Wilcoxon p (Holm)"]
    body = [
        [
            Cell(one.row.label),
            Cell(one.row.model),
            Cell(str(one.pairs)),
            Cell("-" if one.difference is None else f"{one.difference:+.4f}"),
            *map(Cell, map(_p, (one.t, one.t_holm, one.wilcoxon, one.wilcoxon_holm))),
        ]
        for one in compared
    ]
    notes = _notes_of_tests(group, against, compared, "which was asked for" if baseline else _BEST_BASELINE)
    return Table(f"{group.title}: {group.headline} against '{against.label}'", head, body, notes)


_BEST_BASELINE = "the baseline, of any size, with the best mean of it on this split"


def _notes_of_tests(group: Group, against: Row, compared: list[Comparison], which: str) -> list[str]:
    better = "larger" if bigger_is_better(group.headline) else "smaller"
    pairs = max(one.pairs for one in compared)
    notes = [
        f"Each row's {group.headline} on the {SPLITS[group.split]} split against that of '{against.label}', {which}. "
        f"Paired by seed and split; one-sided: the alternative is that the row's {group.headline} is {better}. "
        "Paired t-test and exact Wilcoxon signed-rank test, in which ties count against the row. Holm's correction is "
        f'over the {len(compared)} rows of this table, for each test by itself. "-": fewer than {MIN_PAIRS} pairs, or '
        "differences without spread.",
    ]
    if len({split for _, split in against.entries}) == 1 and pairs > 1:
        notes.append("All seeds have one split: the tests speak of the training's randomness alone.")
    if len(group.folds) > 1:
        notes.append(
            "Folds share most of their training data, so the pairs are not independent: p-values are too small."
        )
    if pairs >= MIN_PAIRS:
        notes.append(f"With {pairs} pairs the Wilcoxon test cannot give a p-value below {_p(0.5**pairs)}.")
    return notes


def provenance(records: Iterable[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return what made the numbers: (heading, lines): commands, versions, commits, machines' threads."""
    commands: dict[str, None] = {}
    versions: dict[str, None] = {}
    commits: dict[str, None] = {}
    for record in records:
        commands.setdefault(str(record.command))
        versions.setdefault(", ".join(f"{name} {number}" for name, number in record.versions.items()))
        commits.setdefault(record.git_commit or "none (installed as a package)")
    found = [("Commands", commands), ("Versions", versions), ("Commits", commits)]
    # A command may go over several lines.
    return [(heading, [part for line in lines for part in line.splitlines()]) for heading, lines in found]
