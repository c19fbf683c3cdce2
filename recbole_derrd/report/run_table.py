"""The table at the end of a run."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from recbole_derrd.evaluation.metrics import percent
from recbole_derrd.report.rows import stored_as

ROLES = (("teacher", "Teacher"), ("student", "Student alone"), ("distilled", "Distilled student"))
#: Metrics shown, those that are there; all of them are in the record.
_SHOWN = 6


def shown_size(count: float, unit: str) -> str:
    """Return a count with a prefix, e.g. 1.23 MB."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.2f} {prefix}{unit}"
    return f"{count:.0f} {unit}"


def run_table(record: dict[str, Any]) -> str:
    """Return teacher, plain student and distilled student side by side: test metrics, gap, size, speed; then notes."""
    titles = dict(ROLES)
    if not record.get("distillers"):
        # Nothing was distilled: a compressed teacher, or plain training.
        titles["distilled"] = "Compressed teacher" if record.get("compression") else "Student"
    rows = [(title, record[role], role) for role, title in titles.items() if record.get(role)]
    several = record.get("teachers") or []
    if several:
        rows[0] = ("All teachers", record["teacher"], "teacher")
        rows = [(f"Teacher {index + 1}", entry, "") for index, entry in enumerate(several)] + rows
    gaps = {"distilled": record.get("gap_recovered")}
    if record.get("stored"):
        rows.append((f"The same {stored_as(record['stored'])}", record["stored"], "stored"))
        gaps["stored"] = record["stored"].get("gap_recovered")
    metrics = list(record["distilled"]["test"])[:_SHOWN]
    head = [
        "",
        "model",
        *metrics,
        f"gap recovered ({record['valid_metric']})",
        "parameters",
        "size",
        "one user (ms)",
        "users/s",
    ]
    body = [
        [title, *_line(record, entry, role, metrics, (gaps[role] or {}) if role in gaps else None)]
        for title, entry, role in rows
    ]
    table = tabulate(body, headers=head, disable_numparse=True, colalign=("left", "left", *["right"] * (len(head) - 2)))
    title = f"{record['dataset']}, test split, {record['protocol']['mode']['test']} ranking, seed {record['seed']}"
    return "\n".join([title, table, *(f"Note: {warning}" for warning in record.get("warnings") or ())])


def _line(
    record: dict[str, Any], entry: dict[str, Any], role: str, metrics: list[str], gap: dict[str, float | None] | None
) -> list[str]:
    """Return a model's cells but for its title; ``gap`` is None of models that are not to recover any."""
    latency = (record.get("latency") or {}).get(role) or entry.get("latency")
    return [
        entry["model"],
        *(f"{entry['test'].get(metric, float('nan')):.4f}" for metric in metrics),
        "" if gap is None else percent(gap.get(record["valid_metric"])),
        shown_size(entry["params"], "").strip(),
        shown_size(entry["bytes"], "B"),
        f"{latency['p50_ms']:.2f}" if latency else "-",
        f"{latency['users_per_second']:,.0f}" if latency else "-",
    ]
