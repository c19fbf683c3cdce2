"""Rows of tables, and the groups of rows that may stand in one table."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection
from typing import Any

from recbole_derrd.report.same_data import fold_of
from recbole_derrd.report.schema import ExpertUtilisation, ModelEntry, RunRecord
from recbole_derrd.report.titles import SPLITS, ranking

#: One seed on one split, by the hash of its test part or the name of its fold: values are paired by it.
Pair = tuple[int, str]


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one record says of a row's model, on the split that the report is of."""

    model: ModelEntry
    scores: dict[str, float]
    train_seconds: float | None
    #: Of what the run itself has made: how its experts are chosen, and the gap's standard error over users.
    expert_utilisations: dict[str, ExpertUtilisation] = dataclasses.field(default_factory=dict)
    gap_error: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def latency_ms(self) -> float | None:
        """The median time of one user's list."""
        return self.model.latency.p50_ms if self.model.latency else None

    def number(self, name: str) -> float | None:
        """Return a number of the entry: "latency_ms", "train_seconds", or one of its model ("params", "bytes", ...)."""
        found: float | None = getattr(self if name in ("latency_ms", "train_seconds") else self.model, name)
        return found

    def knows(self, metric: str) -> bool:
        """Return whether the model has this metric, and it is defined."""
        return math.isfinite(self.scores.get(metric, math.nan))

    def curve(self) -> list[tuple[int, float]]:
        """Return (epoch, score) of each validation whose score is a number."""
        return [(int(epoch), score) for epoch, score in self.model.valid_scores if math.isfinite(score)]

    def looks_like(self, other: Entry) -> bool:
        """Return whether two may be one model: the same scores, and not of two seeds that happen to score alike."""
        return self.scores == other.scores and self.model.settings.get("seed") == other.model.settings.get("seed")


@dataclasses.dataclass
class Row:
    """One line of a table: one model or method, over its seeds."""

    key: str
    label: str
    role: str
    model: str
    settings: dict[str, Any]
    proposed: bool = False
    distilled: bool = False
    student: str | None = None
    teacher: str | None = None
    #: Of a student that is stored in few bits as well: the key of its own row.
    stored_of: str | None = None
    entries: dict[Pair, Entry] = dataclasses.field(default_factory=dict)

    def distinct(self, among: Collection[Pair] | None = None) -> list[Entry]:
        """Return one entry for each trained model, of these pairs or of all: a teacher of many runs is one."""
        found: dict[Any, Entry] = {}
        splits: dict[str, list[Entry]] = {}
        for pair, entry in sorted(self.entries.items(), key=lambda item: item[0]):
            if among is not None and pair not in among:
                continue
            # Under another key, as keys of another version are, a model is known by its scores to the last digit.
            if entry.model.key and any(entry.looks_like(other) for other in splits.get(pair[1], ())):
                continue
            found.setdefault(entry.model.key or pair, entry)
            splits.setdefault(pair[1], []).append(entry)
        return list(found.values())

    def values(self, metric: str, among: Collection[Pair] | None = None) -> list[float]:
        """Return the metric of each distinct model, of these pairs or of all; a metric may be undefined (NaN)."""
        return [entry.scores[metric] for entry in self.distinct(among) if entry.knows(metric)]

    def mean(self, metric: str, among: Collection[Pair] | None = None) -> float | None:
        """Return the mean of a metric over the distinct models, of these pairs or of all."""
        values = self.values(metric, among)
        return statistics.fmean(values) if values else None

    def number(self, name: str) -> float | None:
        """Return the mean of another number of the entries, by the name that :meth:`Entry.number` knows."""
        values = [value for entry in self.distinct() if (value := entry.number(name)) is not None]
        return statistics.fmean(values) if values else None

    def paired(self, other: Row, metric: str, among: Collection[Pair] | None = None) -> tuple[list[float], list[float]]:
        """Return the values of both rows on the seeds and splits that both have (of these, if any), in one order."""
        pairs = [
            pair
            for pair in sorted(self.entries.keys() & other.entries.keys())
            if (among is None or pair in among)
            and self.entries[pair].knows(metric)
            and other.entries[pair].knows(metric)
        ]
        return (
            [self.entries[pair].scores[metric] for pair in pairs],
            [other.entries[pair].scores[metric] for pair in pairs],
        )


@dataclasses.dataclass
class Group:
    """Rows that may be compared: one data set, one protocol, the same metrics, and the same split where it is fixed."""

    dataset: str
    protocol: dict[str, Any]
    metrics: list[str]
    #: What gaps, tests and plots are of.
    headline: str
    #: What its trainings were stopped by, on the validation split.
    chosen_by: str
    split: str = "test"
    #: What tells it from other groups that would have the same title.
    beside: str = ""
    rows: dict[str, Row] = dataclasses.field(default_factory=dict)
    records: list[RunRecord] = dataclasses.field(default_factory=list)

    @property
    def title(self) -> str:
        """What stands over the table: data set, protocol, seeds and splits or folds."""
        seeds = sorted({record.seed for record in self.records})
        splits = {record.data.fingerprint.test for record in self.records}
        over = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
        if self.folds:
            over += f" on {_shown_folds(self.folds, self.planned_folds)}"
        elif len(seeds) > 1 or len(splits) > 1:
            over += " on one split" if len(splits) == 1 else f" on {len(splits)} splits"
        among = ranking(self.protocol, self.split)
        return f"{self.dataset}, {SPLITS[self.split]} split, {among}, {over}{self.beside}"

    @property
    def folds(self) -> list[str]:
        """The folds that its runs were on, in the benchmark's order; none if its benchmark has none."""
        found = {fold_of(record) for record in self.records}
        return [fold for fold in self.planned_folds if fold in found]

    @property
    def planned_folds(self) -> list[str]:
        """All folds of its benchmark."""
        return next((one.benchmark.folds for one in self.records if one.benchmark and one.benchmark.folds), [])

    def ordered(self) -> list[Row]:
        """Return the rows: teachers, undistilled models, methods; each in the order of the records."""
        order = {"teacher": 0, "plain": 1, "method": 2}
        return sorted(self.rows.values(), key=lambda row: order[row.role])


def _shown_folds(folds: list[str], planned: list[str]) -> str:
    if len(folds) == len(planned):
        return f"{len(folds)} folds" if len(folds) > 1 else f"the fold {folds[0]}"
    return f"{len(folds)} of {len(planned)} folds ({', '.join(folds)})"
