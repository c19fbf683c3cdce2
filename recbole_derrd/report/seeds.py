"""The same run over several seeds: mean and spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from tabulate import tabulate

from recbole_derrd.evaluation.metrics import bigger_is_better, gap_recovered, is_within_noise, percent
from recbole_derrd.report.comparison_tables import spread
from recbole_derrd.report.run_table import ROLES


def seeds_table(records: Iterable[dict[str, Any]]) -> str:
    """Return a Markdown table of the test metrics over seeds, mean ± sample standard deviation.

    The gap recovered is that of the means, since single seeds with a small gap would drown the others.
    """
    records = sorted(records, key=lambda record: record["seed"])
    metrics = list(records[0]["distilled"]["test"])
    body = []
    for role, title in ROLES:
        entries = [record[role] for record in records if record.get(role)]
        if not entries:
            continue
        shown = [spread([entry["test"][metric] for entry in entries]) for metric in metrics]
        body.append(
            [title, entries[0]["model"], *shown, f"{entries[0]['params']:,}", f"{entries[0]['bytes'] / 1000:,.0f} kB"]
        )
    table = str(
        tabulate(body, headers=["", "model", *metrics, "parameters", "size"], tablefmt="github", disable_numparse=True)
    )
    whole = all(record.get(role) for record in records for role in ("teacher", "student"))
    return f"{table}\n\n{_gap(records)}" if whole else table


def _gap(records: list[dict[str, Any]]) -> str:
    metric = records[0]["valid_metric"]
    bigger = bigger_is_better(metric)
    values = {role: [record[role]["test"][metric] for record in records] for role, _ in ROLES}
    means = {role: statistics.fmean(numbers) for role, numbers in values.items()}
    # Several seeds show their own spread; of one there is its users'.
    error = (records[0].get("gap_error") or {}).get(metric) if len(records) == 1 else None
    gap = gap_recovered(means["teacher"], means["student"], means["distilled"], bigger=bigger, error=error)
    pairs = zip(values["distilled"], values["student"])
    wins = sum((ours > plain) if bigger else (ours < plain) for ours, plain in pairs)
    noisy = is_within_noise([one - other for one, other in zip(values["teacher"], values["student"])])
    share = percent(None if noisy else gap)
    return (
        f"Gap recovered ({metric}, of the means): {share}. Distilled beats plain in {wins} "
        f"of {len(records)} seeds ({', '.join(str(record['seed']) for record in records)}; each seed has its own split "
        "and its own teacher)."
    )
