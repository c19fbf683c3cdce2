"""The tables of checkpoints that are evaluated without a training: one for each data set and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from recbole_derrd.report.run_table import shown_size
from recbole_derrd.report.same_data import sorted_by_data
from recbole_derrd.report.schema import ModelEntry, RunRecord
from recbole_derrd.report.titles import SPLITS, numbered, ranking

#: Metrics of a split that a table shows; all of them are in the record.
_SHOWN = 6


def checkpoint_tables(records: Sequence[RunRecord], splits: Sequence[str]) -> str:
    """Return the checkpoints' metrics and sizes, a row a checkpoint and a table for each data set and split.

    Args:
        records: of the checkpoints.
        splits: those that were evaluated: "valid", "test".
    """
    groups: dict[tuple[object, ...], list[RunRecord]] = {}
    for record, number in zip(records, sorted_by_data(records)):
        fingerprint = record.data.fingerprint
        groups.setdefault((number, fingerprint.train, fingerprint.valid, fingerprint.test), []).append(record)
    titles = numbered([_title(own[0], splits) for own in groups.values()], " ({})")
    return "\n\n".join(f"{title}\n{_table(own, splits)}" for title, own in zip(titles, groups.values())) + "\n"


def _title(record: RunRecord, splits: Sequence[str]) -> str:
    among = dict.fromkeys(ranking(record.protocol, split) for split in splits)
    which = " and ".join(SPLITS[split] for split in splits)
    seed = record.seed if record.split_seed is None else record.split_seed
    return f"{record.dataset}, {which} split of seed {seed}, {', '.join(among)}"


def _table(records: list[RunRecord], splits: Sequence[str]) -> str:
    metrics = list(records[0].distilled.test)
    head = ["checkpoint", "model", *(f"{SPLITS[split]}\n{metric}" for split in splits for metric in metrics[:_SHOWN]),
            "parameters", "size"]  # fmt: skip
    body = [
        [name, _model(record), *_line(record.distilled, metrics[:_SHOWN], splits)]
        for name, record in zip(_names(records), records)
    ]
    table = tabulate(body, headers=head, disable_numparse=True, colalign=("left", "left", *["right"] * (len(head) - 2)))
    more = [f"{len(metrics) - _SHOWN} more metrics are in the records."] if len(metrics) > _SHOWN else []
    notes = [f"Note: {words}" for words in dict.fromkeys(words for record in records for words in record.warnings)]
    return "\n".join([table, *more, *notes])


def _names(records: list[RunRecord]) -> list[str]:
    """Return the names of the checkpoints' files, whole paths where two have one name."""
    paths = [Path(record.evaluated or "") for record in records]
    often = Counter(path.name for path in paths)
    return [path.name if often[path.name] == 1 else str(path) for path in paths]


def _model(record: RunRecord) -> str:
    return f"{record.model} ({', '.join(record.distillers)})" if record.distillers else record.model


def _line(entry: ModelEntry, metrics: Sequence[str], splits: Sequence[str]) -> list[str]:
    scores = {"valid": entry.valid, "test": entry.test}
    return [
        *(f"{scores[split].get(metric, float('nan')):.4f}" for split in splits for metric in metrics),
        "-" if entry.params is None else shown_size(entry.params, "").strip(),
        "-" if entry.bytes is None else shown_size(entry.bytes, "B"),
    ]
