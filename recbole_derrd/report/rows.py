"""From records to the rows of tables: which runs are one row, and which rows may stand in one table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from recbole_derrd.config.options.run import RunOptions
from recbole_derrd.report.escaping import shortened
from recbole_derrd.report.same_data import identities, sorted_by_data, stated

#: One seed on one split: values are paired by it.
Pair = tuple[int, str]

#: Splits that a report may be of, as they are called in it.
SPLITS = {"test": "test", "valid": "validation"}

#: Settings that are no part of what a row is.
_NOT_OF_A_ROW = frozenset(
    """
    seed model dataset show_progress state log_wandb wandb_project gpu_id use_gpu nproc world_size device teacher
    benchmark loss_decimal_place
    """.split()
)

#: Characters of a setting that a row's name shows.
_VALUE = 200

#: Records leave some options of a run out where they are the defaults.
_USUAL = RunOptions.defaults()


@dataclasses.dataclass
class Row:
    """One line of a table: one model or method, over its seeds."""

    key: str
    label: str
    role: str
    model: str
    settings: dict[str, Any]
    ours: bool = False
    distilled: bool = False
    student: str | None = None
    teacher: str | None = None
    #: Of a student that is stored in few bits as well: the key of its own row.
    stored_of: str | None = None
    entries: dict[Pair, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def distinct(self, among: Collection[Pair] | None = None) -> list[dict[str, Any]]:
        """Return one entry for each trained model, of these pairs or of all: a teacher of many runs is one."""
        found: dict[Any, dict[str, Any]] = {}
        for pair, entry in sorted(self.entries.items()):
            if among is not None and pair not in among:
                continue
            # Under another key, as keys of another version are, a model is known by its scores to the last digit.
            known = any(_looks_like(entry, other) for other in found.values()) and entry.get("key")
            if not known:
                found.setdefault(entry.get("key") or pair, entry)
        return list(found.values())

    def values(self, metric: str, among: Collection[Pair] | None = None) -> list[float]:
        """Return the metric of each distinct model, of these pairs or of all; a metric may be undefined (NaN)."""
        return [entry["scores"][metric] for entry in self.distinct(among) if _is_known(entry, metric)]

    def mean(self, metric: str, among: Collection[Pair] | None = None) -> float | None:
        """Return the mean of a metric over the distinct models, of these pairs or of all."""
        values = self.values(metric, among)
        return statistics.fmean(values) if values else None

    def number(self, name: str) -> float | None:
        """Return the mean of another number of the entries ("params", "bytes", "seconds", ...)."""
        values = [entry[name] for entry in self.distinct() if entry.get(name) is not None]
        return statistics.fmean(values) if values else None

    def paired(self, other: Row, metric: str, among: Collection[Pair] | None = None) -> tuple[list[float], list[float]]:
        """Return the values of both rows on the seeds and splits that both have (of these, if any), in one order."""
        pairs = [
            pair
            for pair in sorted(self.entries.keys() & other.entries.keys())
            if (among is None or pair in among)
            and _is_known(self.entries[pair], metric)
            and _is_known(other.entries[pair], metric)
        ]
        return (
            [self.entries[pair]["scores"][metric] for pair in pairs],
            [other.entries[pair]["scores"][metric] for pair in pairs],
        )


def _is_known(entry: Mapping[str, Any], metric: str) -> bool:
    return math.isfinite(entry["scores"].get(metric, math.nan))


def curve_of(entry: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return (epoch, score) of each validation of a model whose score is a number."""
    return [(epoch, score) for epoch, score in entry.get("valid_scores") or [] if math.isfinite(score)]


def _looks_like(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two entries may be one model: the same scores, and not of two seeds that happen to score alike."""
    seeds = [(one.get("settings") or {}).get("seed") for one in (entry, other)]
    return bool(entry["scores"] == other["scores"] and seeds[0] == seeds[1])


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
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def title(self) -> str:
        """What stands over the table: data set, protocol, seeds and splits."""
        seeds = sorted({record["seed"] for record in self.records})
        splits = {record["data"]["fingerprint"]["test"] for record in self.records}
        over = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
        if len(seeds) > 1 or len(splits) > 1:
            over += " on one split" if len(splits) == 1 else f" on {len(splits)} splits"
        among = ranking(self.protocol["mode"], self.split)
        return f"{self.dataset}, {SPLITS[self.split]} split, {among}, {over}{self.beside}"

    def ordered(self) -> list[Row]:
        """Return the rows: teachers, undistilled models, methods; each in the order of the records."""
        order = {"teacher": 0, "plain": 1, "method": 2}
        return sorted(self.rows.values(), key=lambda row: order[row.role])


def ranking(mode: Any, split: str) -> str:
    """Say in words what the items of a split are ranked among."""
    name = str(mode.get(split) if isinstance(mode, Mapping) else mode)
    if name == "full":
        return "full ranking"
    if name.startswith("fixed"):
        return f"ranked among {name[5:]} fixed candidates"
    if name.startswith(("uni", "pop")):
        return f"ranked among {name[3:]} sampled candidates, drawn anew at each evaluation ({name})"
    return f"evaluation mode {name}"


def stored_as(entry: Mapping[str, Any]) -> str:
    """Say in words how a student is stored, e.g. "in 4 bits"."""
    return f"in {entry['bits']} bits{'' if entry['users'] else ' (items)'}"


def _hash(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def _settings(entry: Mapping[str, Any]) -> dict[str, Any]:
    files = entry.get("named_files") or {}
    settings: dict[str, Any] = {
        # A file that holds something else is another setting.
        key: f"{value} ({files[value]})" if isinstance(value, str) and value in files else value
        for key, value in (entry.get("settings") or {}).items()
        if key not in _NOT_OF_A_ROW
    }
    if settings.get("members"):  # of an ensemble
        members = [{"model": one.get("model"), **_settings({"settings": one})} for one in settings["members"]]
        settings["members"] = members
    return settings


def groups_of(records: Iterable[dict[str, Any]], split: str = "test", metric: str | None = None) -> list[Group]:
    """Sort records into groups, their models and methods into rows; what several records have in common is one row.

    Args:
        records: the records.
        split: "test", or "valid" while settings are still being chosen.
        metric: what gaps, tests and plots are of, where the records have it; their own valid_metric if None.
    """
    ordered = sorted(records, key=_position)
    groups: dict[int, Group] = {}
    for record, number in zip(ordered, sorted_by_data(ordered)):
        metrics = list(record["distilled"]["test"])
        headline = metric if metric is not None and metric in metrics else record["valid_metric"]
        group = groups.setdefault(
            number, Group(record["dataset"], record["protocol"], metrics, headline, record["valid_metric"], split)
        )
        group.records.append(record)
        _add(group, record)
    for group in groups.values():
        for row in group.rows.values():
            if row.stored_of is not None:
                # By now its student has the name that it keeps.
                row.label = f"{group.rows[row.stored_of].label} {stored_as(row.settings)}"
        _tell_apart(group)
    _tell_titles_apart(groups.values())
    return list(groups.values())


def _tell_titles_apart(groups: Iterable[Group]) -> None:
    """Where several groups have one title, add what differs: of the protocol, of the data's sizes, or whose it is."""
    by_title: dict[str, list[Group]] = {}
    for group in groups:
        by_title.setdefault(group.title, []).append(group)
    for same in by_title.values():
        facts = [{**stated(group.records[0]), "chosen by": group.chosen_by} for group in same]
        differing = [key for key in facts[0] if len({repr(one[key]) for one in facts}) > 1]
        said = ["".join(f", {key.replace('_', ' ')} {_plainly(one[key])}" for key in differing) for one in facts]
        own = [identities(group.records[0]) for group in same]
        for place, (group, words) in enumerate(zip(same, said)):
            alike = [other for other, others in enumerate(said) if others == words]
            if len(alike) > 1:
                kinds = [kind for kind in own[place] if len({repr(own[other][kind]) for other in alike}) > 1]
                words += "".join(f", its own {kind}" for kind in kinds) + f" ({alike.index(place) + 1})"
            group.beside = words


def numbered(names: Sequence[str], form: str) -> list[str]:
    """Return the names, each but the first of those alike with a number, so that no two are the same.

    Args:
        names: the names.
        form: what is added, with {} for the number.
    """
    taken, seen = set(names), set[str]()
    last: dict[str, int] = {}
    found = []
    for name in names:
        free, count = name, last.get(name, 1)
        if name in seen:
            while free in seen or free in taken:
                count += 1
                free = name + form.format(count)
            last[name] = count
        seen.add(free)
        found.append(free)
    return found


def _plainly(value: Any) -> str:
    """Write a setting without the signs of Python or YAML, e.g. "RS 0.8 0.1 0.1"."""
    return " ".join(re.findall(r"[\w.+-]+", str(value)))


def _position(record: dict[str, Any]) -> int:
    """Return a cell's place in its benchmark; other runs come first, in the order they are given."""
    return int((record.get("benchmark") or {}).get("place", -1))


def _with_files(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose models each know what the files held that its settings name."""
    files = {"named_files": record["data"].get("named_files")}
    models = {
        role: {**record[role], **files} for role in ("teacher", "student", "distilled", "stored") if record.get(role)
    }
    return {**record, **models, "teachers": [{**one, **files} for one in record.get("teachers") or []]}


def _add(group: Group, record: dict[str, Any]) -> None:
    record = _with_files(record)
    pair = (int(record["seed"]), str(record["data"]["fingerprint"]["test"]))
    teacher = student = None
    if record.get("teacher"):
        entry, several = record["teacher"], record.get("teachers") or []
        alike: dict[str, int] = {}
        for one in several:
            # Teachers that differ by their seed alone are several all the same.
            same = _hash("teacher", one["model"], _settings(one))
            alike[same] = alike.get(same, 0) + 1
            key = same if alike[same] == 1 else _hash(same, alike[same])
            costs = _with_costs(one, group.split, one.get("latency"), one.get("seconds"))
            row = _row(group, _free(group, key, pair, costs), f"Teacher {one['model']}", "teacher", one)
            row.entries[pair] = costs
        name = "Ensemble of all teachers" if several else "Teacher"
        costs = _entry(record, "teacher", group.split)
        key = _free(group, _hash("teacher", entry["model"], _settings(entry)), pair, costs)
        teacher = _row(group, key, name, "teacher", entry)
        teacher.entries[pair] = costs
    if record.get("student"):
        entry, costs = record["student"], _entry(record, "student", group.split)
        key = _free(group, _hash("plain", entry["model"], _settings(entry)), pair, costs)
        student = _row(group, key, "Student alone", "plain", entry)
        # A plain cell of a benchmark is the same model; its entry has been measured in a run of its own and stays.
        student.entries.setdefault(pair, costs)
    entry, cell = record["distilled"], record.get("benchmark") or {}
    distillers = list(record.get("distillers") or [])
    own = [record.get("options"), distillers, teacher.key if teacher else None]
    settings, costs = _settings(entry), _entry(record, "distilled", group.split)
    if distillers or record.get("compression"):
        identity = _hash("method", entry["model"], settings, own, cell.get("cell"), cell.get("settings"))
        label = cell.get("cell") or " + ".join(["-".join(distillers).upper()] * bool(distillers) or ["Compressed"])
        known = {**_of_the_teacher(teacher), **settings, **(record.get("options") or {})}
        row = _row(group, _free(group, identity, pair, costs), str(label), "method", entry, known)
        row.distilled = bool(distillers)
    else:
        row = _row(group, _free(group, _hash("plain", entry["model"], settings), pair, costs), "", "plain", entry)
        row.label = str(cell.get("cell") or row.label or entry["model"])
    row.ours = row.ours or bool(cell.get("ours"))
    row.student = student.key if student else None
    row.teacher = teacher.key if teacher else None
    row.entries[pair] = costs
    if record.get("stored"):
        _add_stored(group, record, row, pair)


def _add_stored(group: Group, record: dict[str, Any], student: Row, pair: Pair) -> None:
    """Add the row of a student that is stored in few bits as well."""
    entry = record["stored"]
    settings = {**student.settings, "bits": entry["bits"], "users": entry["users"]}
    key = _hash("stored", student.key, entry["bits"], entry["users"])
    row = _row(group, key, "", "method", entry, settings)
    row.stored_of = student.key
    row.ours, row.distilled, row.student, row.teacher = (
        student.ours,
        student.distilled,
        student.student,
        student.teacher,
    )
    # It is trained as its student is; that takes the time, not the quantising.
    trained = student.entries[pair]["train_seconds"]
    seconds = None if trained is None else trained + (entry.get("seconds") or 0.0)
    row.entries[pair] = _with_costs(entry, group.split, entry.get("latency"), seconds)


def _free(group: Group, key: str, pair: Pair, entry: Mapping[str, Any]) -> str:
    """Return the key of the row that an entry belongs to: another one where this holds other scores of that pair."""
    free, count = key, 1
    while free in group.rows and group.rows[free].entries.get(pair, entry)["scores"] != entry["scores"]:
        count += 1
        free = _hash(key, count)
    return free


def _of_the_teacher(teacher: Row | None) -> dict[str, Any]:
    """Return what tells a row's teacher from others, as settings of the row."""
    if teacher is None:
        return {}
    return {"teacher": teacher.model, **{f"teacher's {key}": value for key, value in teacher.settings.items()}}


def _row(
    group: Group, key: str, label: str, role: str, entry: Mapping[str, Any], settings: dict[str, Any] | None = None
) -> Row:
    shown = _settings(entry) if settings is None else settings
    return group.rows.setdefault(key, Row(key, label, role, str(entry["model"]), shown))


def _entry(record: dict[str, Any], role: str, split: str) -> dict[str, Any]:
    entry = record[role]
    seconds = entry.get("seconds", (record.get("seconds") or {}).get(role))
    costs = _with_costs(entry, split, (record.get("latency") or {}).get(role), seconds)
    own = role == "distilled"
    # It is known of the test split alone.
    error = record.get("gap_error") if own and split == "test" else None
    return {**costs, "expert_choice": record.get("expert_choice") if own else None, "gap_error": error}


def _with_costs(
    entry: Mapping[str, Any], split: str, latency: Mapping[str, Any] | None, seconds: float | None
) -> dict[str, Any]:
    costs = {"latency_ms": (latency or {}).get("p50_ms"), "train_seconds": seconds, "expert_choice": None}
    return {**entry, "scores": entry.get(split) or {}, **costs}


def _most_common(values: Iterable[Any]) -> str:
    return Counter(map(repr, values)).most_common(1)[0][0]


def _tell_apart(group: Group) -> None:
    """Where several rows have one name, add the model and the settings in which they differ."""
    by_label: dict[str, list[Row]] = {}
    for row in group.rows.values():
        by_label.setdefault(row.label, []).append(row)
    for rows in by_label.values():
        if len(rows) == 1:
            continue
        keys = sorted({key for row in rows for key in row.settings})
        differing = [key for key in keys if len({repr(row.settings.get(key)) for row in rows}) > 1]
        for row in rows:
            parts = [row.model] if len({other.model for other in rows}) > 1 else []
            usual = {key: _most_common(row.settings.get(key) for row in rows) for key in differing}
            # Few differences are said of every row, many where a row is not as most are.
            said = [key for key in differing if len(differing) <= 3 or repr(row.settings.get(key)) != usual[key]]
            parts += [f"{key}={shortened(str(row.settings.get(key, _USUAL.get(key))), _VALUE)}" for key in said]
            row.label += f" ({', '.join(parts)})" if parts else ""
    for row, label in zip(group.rows.values(), numbered([row.label for row in group.rows.values()], " #{}")):
        row.label = label
