"""The record of a run: one declared tree, written as JSON and read back from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from recbole_derrd.report.declaration import Declared, known, many, may_miss, needed
from recbole_derrd.runtime.json_files import (
    Check,
    anything,
    both,
    either,
    fields,
    flag,
    mapping,
    nullable,
    number,
    row,
    sequence,
    text,
    whole,
)

#: Raised whenever a field changes its name or its meaning.
SCHEMA = 2

_TEXT = text()
_SEED = whole(-(2**64), 2**64)
_COUNT = whole(high=2**53)
_COST = number(low=0, high=1e15)
_SCORE = number(undefined=True)
_BY_METRIC = mapping(_SCORE)


def _rises(curve: list[list[float]]) -> str | None:
    epochs = [epoch for epoch, _ in curve]
    return None if all(one < other for one, other in zip(epochs, epochs[1:])) else " does not rise in its epochs"


def _is_square(utilisation: dict[str, Any]) -> str | None:
    matrix, groups = utilisation["mean_utilisation"], utilisation["activity"]
    if len(matrix) != len(groups) or len({len(line) for line in matrix}) != 1:
        return ".mean_utilisation has lines of several lengths, or not one for each group of .activity"
    return None


def _settings(value: Any) -> str | None:
    # Those of an ensemble hold those of its members.
    return fields({}, {"members": sequence(_settings)})(value)


@dataclasses.dataclass(frozen=True)
class Latency(Declared):
    """How long a top-10 list over the whole catalogue takes."""

    p50_ms: float | None = known(number(low=0, high=1e9))
    p99_ms: float | None = known(_COST)
    users_per_second: float | None = known(_COST)
    device: str | None = known(_TEXT)
    threads: int | None = known(_COUNT)


@dataclasses.dataclass(frozen=True)
class ModelEntry(Declared):
    """What a record says of one model."""

    model: str = needed(_TEXT)
    test: dict[str, float] = needed(mapping(_SCORE, least=1))
    valid: dict[str, float] = known(_BY_METRIC, default={})
    key: str | None = known(_TEXT)
    params: float | None = known(_COST)
    bytes: float | None = known(_COST)
    bytes_per_item: float | None = known(_COST)
    latency: Latency | None = known(Latency)
    #: Training it took so long; so many epochs.
    seconds: float | None = known(_COST)
    epochs: int | None = known(_COUNT)
    #: (epoch, score) of each validation.
    valid_scores: list[list[float]] = known(both(sequence(row(whole(high=10**9), _SCORE)), _rises), default=[])
    #: What its methods have logged over the epochs, by method.
    progress: dict[str, Any] = known(mapping(anything), default={})
    #: Whether it lay in the cache.
    found: bool | None = known(flag)
    #: Of a model that the user brought: whether its split was taken on trust, and what shows that it is this run's.
    trusted: bool | None = known(flag)
    split_check: dict[str, Any] | None = known(mapping(anything))
    settings: dict[str, Any] = known(_settings, default={})


@dataclasses.dataclass(frozen=True)
class StoredEntry(ModelEntry):
    """The student in few bits."""

    bits: int = needed(whole(high=64), default=0)
    users: bool = needed(flag, default=False)
    bytes_per_user: float | None = known(_COST)
    file: str | None = known(_TEXT)
    gap_recovered: dict[str, float | None] | None = known(mapping(nullable(_SCORE)))


@dataclasses.dataclass(frozen=True)
class Fingerprint(Declared):
    """Hashes of the ids and of each part of the split."""

    ids: str = needed(_TEXT)
    test: str = needed(_TEXT)
    train: str | None = known(_TEXT)
    valid: str | None = known(_TEXT)


@dataclasses.dataclass(frozen=True)
class DataEntry(Declared):
    """Which data a run was of: sizes, hashes, and what the files held."""

    fingerprint: Fingerprint = needed(Fingerprint)
    users: int | None = known(_COUNT)
    items: int | None = known(_COUNT)
    training_interactions: int | None = known(_COUNT)
    interactions: str | None = known(_TEXT)
    #: The same, but by the data's own ids, whatever the order of its files: equal for all folds of one data set.
    content: str | None = known(_TEXT)
    files: dict[str, str] = known(mapping(_TEXT), default={})
    named_files: dict[str, str] = known(mapping(_TEXT), default={})


@dataclasses.dataclass(frozen=True)
class BenchmarkEntry(Declared):
    """Which experiment of which benchmark a run was."""

    name: str | None = known(_TEXT)
    experiment: str | None = known(_TEXT)
    #: Among the experiments; what is of no benchmark comes first.
    position: int = may_miss(whole(-1, 10**9), default=-1)
    #: A hash of the settings; the second is without the seed.
    key: str | None = known(_TEXT)
    settings: str | None = known(_TEXT)
    vary: str | None = known(_TEXT)
    #: Whether the report tests it against the best of the others.
    proposed: bool | None = known(flag)
    #: The split in files that it was run on, if the benchmark has several, and all of them.
    fold: str | None = known(_TEXT)
    folds: list[str] = known(sequence(_TEXT), default=[])


@dataclasses.dataclass(frozen=True)
class Compression(Declared):
    """How a teacher was compressed."""

    method: str | None = known(_TEXT)
    size: int | None = known(_COUNT)
    bits: int | None = known(whole(high=64))
    #: learned, random or none; records from before there was a choice have a flag, whose True is random.
    rotation: bool | str | None = known(either(flag, _TEXT))
    levels: str | None = known(_TEXT)
    codebooks: str | None = known(_TEXT)
    svd: bool | None = known(flag)
    seed: int | None = known(_SEED)
    bytes_per_item: float | None = known(_COST)
    codebook_bytes: float | None = known(_COST)
    bytes_per_user: float | None = known(_COST)
    seconds: float | None = known(_COST)


@dataclasses.dataclass(frozen=True)
class ExpertUtilisation(Declared):
    """How often each expert is chosen, by groups of users (or items) from little to much activity."""

    activity: list[list[float]] = needed(sequence(row(_COST, _COST), least=1, most=1000))
    mean_utilisation: list[list[float]] = needed(
        sequence(sequence(number(low=0), least=1, most=1000), least=1, most=1000)
    )
    side: str = known(_TEXT, default="user")

    beside: ClassVar[Check | None] = _is_square


@dataclasses.dataclass(frozen=True)
class Cost(Declared):
    """What the run as a whole took; what each model took is in its entry."""

    total_seconds: float | None = known(_COST)
    knowledge_seconds: float | None = known(_COST)
    #: Of the student that the run has made.
    epoch_seconds: list[float] = known(sequence(_COST), default=[])
    peak_rss_bytes: int | None = known(_COUNT)


@dataclasses.dataclass(frozen=True)
class Checkpoints(Declared):
    """Where the weights are."""

    student: str | None = known(_TEXT)
    training: str | None = known(_TEXT)
    teacher: str | None = known(_TEXT)
    teachers: list[str] = known(sequence(_TEXT), default=[])


@dataclasses.dataclass(frozen=True, order=True)
class Source:
    """Where a record was read: a file, or a line of one."""

    path: Path
    line: int | None = None

    def __str__(self) -> str:
        return f"'{self.path}'" if self.line is None else f"in line {self.line} of '{self.path}'"


@dataclasses.dataclass(frozen=True)
class RunRecord(Declared):
    """Everything that the tables, tests and plots of a run are made from."""

    model: str = needed(_TEXT)
    dataset: str = needed(_TEXT)
    seed: int = needed(_SEED)
    #: RecBole's eval_args.
    protocol: dict[str, Any] = needed(fields({"mode": either(_TEXT, fields({"valid": _TEXT, "test": _TEXT}))}))
    valid_metric: str = needed(_TEXT)
    data: DataEntry = needed(DataEntry)
    #: The student that the run has made, whatever by: a plain one, or a compressed teacher, as well.
    distilled: ModelEntry = needed(ModelEntry)
    distillers: list[str] = known(sequence(_TEXT), default=[])
    split_seed: int | None = known(_SEED)
    valid_metric_bigger: bool | None = known(flag)
    benchmark: BenchmarkEntry | None = known(BenchmarkEntry)
    #: A hash of what held-out items are ranked among, where it lies, and whether the settings name it.
    candidates: str | None = known(_TEXT)
    candidates_file: str | None = known(_TEXT)
    candidates_given: bool | None = known(flag)
    #: Of several teachers: what they are together.
    teacher: ModelEntry | None = known(ModelEntry)
    teachers: list[ModelEntry] = many(ModelEntry, most=1000)
    #: The refined teacher, which has taught in its place.
    refined: ModelEntry | None = known(ModelEntry)
    student: ModelEntry | None = known(ModelEntry)
    stored: StoredEntry | None = known(StoredEntry)
    compression: Compression | None = known(Compression)
    gap_recovered: dict[str, float | None] | None = known(mapping(nullable(_SCORE)))
    gap_error: dict[str, float] | None = known(_BY_METRIC)
    #: What the methods say of themselves at the end, by method; a report looks at ``expert_utilisation``.
    diagnostics: dict[str, dict[str, Any]] = known(
        mapping(fields({}, {"expert_utilisation": ExpertUtilisation.check()})), default={}
    )
    search_recall: float | None = known(number())
    cost: Cost | None = known(Cost)
    checkpoints: Checkpoints | None = known(Checkpoints)
    #: The file of a checkpoint that was evaluated without a training, if the record is of one.
    evaluated: str | None = known(_TEXT)
    options: dict[str, Any] = known(mapping(anything), default={})
    warnings: list[str] = known(sequence(_TEXT), default=[])
    command: str | None = known(text(10**6))
    fast: list[str] = known(sequence(_TEXT), default=[])
    versions: dict[str, str] = known(mapping(_TEXT), default={})
    git_commit: str | None = known(_TEXT)
    #: Where it was read.
    source: Source | None = dataclasses.field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON."""
        return {"schema": SCHEMA, **super().to_json()}

    @classmethod
    def from_json(cls, content: Any) -> RunRecord:
        """Check and read a record.

        Raises:
            ValueError: what is wrong with it, in words that follow "the record ...".
        """
        schema = content.get("schema") if isinstance(content, dict) else None
        if type(schema) is int and 0 < schema < SCHEMA:
            raise ValueError(
                f"was written by an earlier version (schema {schema}; this one reads {SCHEMA}): make it again with its "
                "command"
            )
        fault = fields({"schema": whole(SCHEMA, SCHEMA)})(content) or cls.check()(content)
        if fault is not None:
            raise ValueError(f"is damaged ({fault.lstrip('. ')})")
        return cls.read(content)

    def expert_utilisations(self) -> dict[str, ExpertUtilisation]:
        """Return how often each expert was chosen, of each method that has experts."""
        found = {method: entry.get("expert_utilisation") for method, entry in self.diagnostics.items()}
        return {method: ExpertUtilisation.read(one) for method, one in found.items() if one}


def mode_of(protocol: Mapping[str, Any], split: str) -> str:
    """Return RecBole's word for what the items of a split are ranked among."""
    mode = protocol["mode"]
    return str(mode.get(split) if isinstance(mode, Mapping) else mode)
