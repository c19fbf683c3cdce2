"""The table at the end of a run."""

from __future__ import annotations

from tabulate import tabulate

from recbole_derrd.evaluation.metrics import percent, shown_metric
from recbole_derrd.report.schema import ModelEntry, RunRecord, mode_of
from recbole_derrd.report.titles import stored_as

#: Metrics shown, those that are there; all of them are in the record.
_SHOWN = 6


def shown_size(count: float, unit: str) -> str:
    """Return a count with a prefix.

    Example:
        >>> shown_size(1_280_000, "B"), shown_size(22, "B")
        ('1.28 MB', '22 B')
    """
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.2f} {prefix}{unit}"
    return f"{count:.0f} {unit}"


def run_table(record: RunRecord) -> str:
    """Return teacher, plain student and distilled student side by side: test metrics, gap, size, speed; then notes."""
    metrics = list(record.distilled.test)[:_SHOWN]
    gap = f"gap recovered ({record.valid_metric})"
    head = ["", "model", *metrics, gap, "parameters", "size", "one user (ms)", "users/s"]
    gaps = _gaps(record)
    body = [[title, *_line(entry, metrics, gaps.get(title, ""))] for title, entry in _titled(record).items()]
    table = tabulate(body, headers=head, disable_numparse=True, colalign=("left", "left", *["right"] * (len(head) - 2)))
    among = mode_of(record.protocol, "test")
    title = f"{record.dataset}, test split, {among} ranking, seed {record.seed}"
    return "\n".join([title, table, *(f"Note: {warning}" for warning in record.warnings)])


def _titled(record: RunRecord) -> dict[str, ModelEntry]:
    """Return the models of a run by what they are called in its table."""
    teacher = "All teachers" if record.teachers else "Teacher"
    titled = {
        **{f"Teacher {place}": one for place, one in enumerate(record.teachers, 1)},
        teacher: record.teacher,
        "Refined teacher": record.refined,
        "Student alone": record.student,
        _made(record): record.distilled,
        _stored(record): record.stored,
    }
    return {title: one for title, one in titled.items() if one is not None}


def _made(record: RunRecord) -> str:
    if record.distillers:
        return "Distilled student"
    return "Compressed teacher" if record.compression else "Student"


def _stored(record: RunRecord) -> str:
    return f"The same {stored_as(record.stored)}" if record.stored else ""


def _gaps(record: RunRecord) -> dict[str, str]:
    """Return the gap recovered by title, of those that are to recover any."""
    found = {_made(record): record.gap_recovered}
    if record.stored:
        found[_stored(record)] = record.stored.gap_recovered
    return {title: percent((gaps or {}).get(record.valid_metric)) for title, gaps in found.items()}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _line(entry: ModelEntry, metrics: list[str], gap: str) -> list[str]:
    """Return a model's cells but for its title."""
    latency = entry.latency
    return [
        entry.model,
        *(shown_metric(_number(entry.test.get(metric))) for metric in metrics),
        gap,
        "-" if entry.params is None else shown_size(entry.params, "").strip(),
        "-" if entry.bytes is None else shown_size(entry.bytes, "B"),
        f"{latency.p50_ms:.2f}" if latency and latency.p50_ms is not None else "-",
        f"{latency.users_per_second:,.0f}" if latency and latency.users_per_second is not None else "-",
    ]
