"""From records to rows: which runs are one row, and which rows may stand in one table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from recbole_derrd.report.row_names import name_groups, name_rows
from recbole_derrd.report.rows import Entry, Group, Pair, Row
from recbole_derrd.report.same_data import fold_of, sorted_by_data
from recbole_derrd.report.schema import BenchmarkEntry, ModelEntry, RunRecord

#: Settings that are no part of what a row is.
_NOT_OF_A_ROW = frozenset(
    """
    seed model dataset show_progress state log_wandb wandb_project gpu_id use_gpu nproc world_size device teacher
    benchmark loss_decimal_place verbose
    """.split()
)


def groups_of(records: Iterable[RunRecord], split: str = "test", metric: str | None = None) -> list[Group]:
    """Sort records into groups, their models and methods into rows; what several records have in common is one row.

    Args:
        records: the records.
        split: "test", or "valid" while settings are still being chosen.
        metric: what gaps, tests and plots are of, where the records have it; their own valid_metric if None.
    """
    # Runs of no benchmark come first, in the order they are given.
    ordered = sorted(records, key=lambda record: record.benchmark.position if record.benchmark else -1)
    groups: dict[int, Group] = {}
    for record, number in zip(ordered, sorted_by_data(ordered)):
        metrics = list(record.distilled.test)
        headline = metric if metric is not None and metric in metrics else record.valid_metric
        group = groups.setdefault(
            number, Group(record.dataset, record.protocol, metrics, headline, record.valid_metric, split)
        )
        group.records.append(record)
        _Adding(group, record).add()
    for group in groups.values():
        name_rows(group)
    name_groups(groups.values())
    return list(groups.values())


class _Adding:
    """Adds the models of one record to a group."""

    def __init__(self, group: Group, record: RunRecord) -> None:
        self.group = group
        self.record = record
        fold = fold_of(record)
        self.pair: Pair = (record.seed, record.data.fingerprint.test if fold is None else fold)
        # Which files a fold lies in is no setting of a row, which is over all folds.
        self.unnamed = frozenset() if fold is None else frozenset({"benchmark_filename"})

    def add(self) -> None:
        if self.record.evaluated is not None:
            self._evaluated()
            return
        teacher, student = self._teacher(), self._student()
        self._refined()
        row = self._distilled(teacher)
        row.student = student.key if student else None
        row.teacher = teacher.key if teacher else None
        self._stored(row)

    def _teacher(self) -> Row | None:
        """Add each of several teachers, then what they are together, or the only one."""
        if self.record.teacher is None:
            return None
        alike: dict[str, int] = {}
        for one in self.record.teachers:
            # Teachers that differ by their seed alone are several all the same.
            same = _hash("teacher", one.model, self._settings(one))
            alike[same] = alike.get(same, 0) + 1
            key = same if alike[same] == 1 else _hash(same, alike[same])
            self._put(one, self._row(one, key, f"Teacher {one.model}", "teacher"))
        one = self.record.teacher
        label = "Ensemble of all teachers" if self.record.teachers else "Teacher"
        row = self._row(one, _hash("teacher", one.model, self._settings(one)), label, "teacher")
        self._put(one, row)
        return row

    def _refined(self) -> None:
        """Add the refined teacher; gaps are those to the teacher itself."""
        one = self.record.refined
        if one is not None:
            self._put(
                one, self._row(one, _hash("refined", one.model, self._settings(one)), "Refined teacher", "teacher")
            )

    def _student(self) -> Row | None:
        one = self.record.student
        if one is None:
            return None
        row = self._row(one, _hash("plain", one.model, self._settings(one)), "Student alone", "plain")
        # A plain experiment of a benchmark is the same model; its entry was measured in a run of its own and stays.
        row.entries.setdefault(self.pair, self._entry(one))
        return row

    def _distilled(self, teacher: Row | None) -> Row:
        record, one = self.record, self.record.distilled
        benchmark = record.benchmark or BenchmarkEntry()
        settings = self._settings(one)
        if record.distillers or record.compression:
            own = [record.options, record.distillers, teacher.key if teacher else None]
            key = _hash("method", one.model, settings, own, benchmark.experiment, benchmark.settings)
            label = benchmark.experiment or "-".join(record.distillers).upper() or "Compressed"
            row = self._row(one, key, label, "method", {**_of_the_teacher(teacher), **settings, **record.options})
            row.distilled = bool(record.distillers)
        else:
            row = self._row(one, _hash("plain", one.model, settings), "", "plain")
            row.label = benchmark.experiment or row.label or one.model
        row.proposed = row.proposed or bool(benchmark.proposed)
        # The gap's error is known of the test split alone.
        error = record.gap_error or {} if self.group.split == "test" else {}
        utilisations = record.expert_utilisations()
        row.entries[self.pair] = Entry(one, self._scores(one), one.seconds, utilisations, error)
        return row

    def _evaluated(self) -> None:
        """Add a checkpoint that was evaluated: what its file does not say cannot tell whether a run's row is of it."""
        record, one = self.record, self.record.distilled
        distillers = record.distillers
        name = "-".join(distillers).upper() or one.model
        key = _hash("checkpoint", one.model, self._settings(one), distillers)
        self._put(one, self._row(one, key, f"{name}, checkpoint", "method" if distillers else "plain"))

    def _stored(self, student: Row) -> None:
        """Add the row of a student that is stored in few bits as well."""
        one = self.record.stored
        if one is None:
            return
        settings = {**student.settings, "bits": one.bits, "users": one.users}
        key = _hash("stored", student.key, one.bits, one.users)
        row = self.group.rows.setdefault(key, Row(key, "", "method", one.model, settings))
        row.stored_of = student.key
        row.proposed, row.distilled = student.proposed, student.distilled
        row.student, row.teacher = student.student, student.teacher
        # It is trained as its student is; that takes the time, not the quantising.
        trained = student.entries[self.pair].train_seconds
        seconds = None if trained is None else trained + (one.seconds or 0.0)
        row.entries[self.pair] = Entry(one, self._scores(one), seconds)

    def _row(self, one: ModelEntry, key: str, label: str, role: str, settings: dict[str, Any] | None = None) -> Row:
        """Return the row that a model belongs to: another one where this holds other scores of that seed and split."""
        free, count = key, 1
        while self._holds_another(free, one):
            count += 1
            free = _hash(key, count)
        shown = self._settings(one) if settings is None else settings
        return self.group.rows.setdefault(free, Row(free, label, role, one.model, shown))

    def _holds_another(self, key: str, one: ModelEntry) -> bool:
        row = self.group.rows.get(key)
        entry = row.entries.get(self.pair) if row else None
        return entry is not None and entry.scores != self._scores(one)

    def _put(self, one: ModelEntry, row: Row) -> None:
        row.entries[self.pair] = self._entry(one)

    def _entry(self, one: ModelEntry) -> Entry:
        return Entry(one, self._scores(one), one.seconds)

    def _scores(self, one: ModelEntry) -> dict[str, float]:
        return one.valid if self.group.split == "valid" else one.test

    def _settings(self, one: ModelEntry) -> dict[str, Any]:
        return _settings(one.settings, self.record.data.named_files, self.unnamed)


def _settings(given: Mapping[str, Any], files: Mapping[str, str], unnamed: frozenset[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        # A file that holds something else is another setting.
        key: f"{value} ({files[value]})" if isinstance(value, str) and value in files else value
        for key, value in given.items()
        if key not in _NOT_OF_A_ROW and key not in unnamed
    }
    if settings.get("members"):  # of an ensemble
        settings["members"] = [
            {"model": one.get("model"), **_settings(one, {}, unnamed)} for one in settings["members"]
        ]
    return settings


def _hash(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def _of_the_teacher(teacher: Row | None) -> dict[str, Any]:
    """Return what tells a row's teacher from others, as settings of the row."""
    if teacher is None:
        return {}
    return {"teacher": teacher.model, **{f"teacher's {key}": value for key, value in teacher.settings.items()}}
