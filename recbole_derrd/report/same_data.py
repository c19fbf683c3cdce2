"""Which records are of the same data, evaluated alike: only those may stand in one table or be averaged as seeds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from recbole_derrd.report.schema import RunRecord

#: What is known of a record's data, by name: two records disagree where both know one thing and it differs.
Facts = dict[str, str]


def stated(record: RunRecord) -> dict[str, Any]:
    """Return what may be said of a record's data and protocol in a title."""
    protocol, data = record.protocol, record.data
    return {
        **{key: protocol.get(key) for key in ("split", "order", "group_by")},
        "users": data.users,
        "items": data.items,
        "training_interactions": data.training_interactions,
        "repeatable": _repeatable(record),
    }


def fold_of(record: RunRecord) -> str | None:
    """Return the fold that a run was on; None if its benchmark has none."""
    return record.benchmark.fold if record.benchmark else None


def identities(record: RunRecord) -> dict[str, Any]:
    """Return what tells data of the same sizes apart, by what it is called in a title."""
    fingerprint = record.data.fingerprint
    return {
        "metrics": list(record.distilled.test),
        "users or items": fingerprint.ids,
        "interactions": record.data.interactions if fold_of(record) is None else record.data.content,
        "split": [fingerprint.train, fingerprint.valid, fingerprint.test] if _is_given(record) else None,
        "candidates": record.candidates,
    }


def sorted_by_data(records: Sequence[RunRecord]) -> list[int]:
    """Return for each record the number of the group that it belongs to.

    Where a record leaves something out, it belongs to the group that it does not disagree with; to none
    but its like where there are several.
    """
    known = [(_common(record), _facts(record)) for record in records]
    groups: dict[str, list[_Group]] = {}
    numbers = [0] * len(records)
    count = 0
    # Those that say most come first.
    for place in sorted(range(len(records)), key=lambda place: -len(known[place][1])):
        common, facts = known[place]
        among = groups.setdefault(common, [])
        fitting = [group for group in among if _agree(group.facts, facts)]
        if len(fitting) > 1:
            fitting = [group for group in fitting if group.unsure][:1]
        if not fitting:
            fitting = [_Group(count, {}, unsure=any(_agree(group.facts, facts) for group in among))]
            among += fitting
            count += 1
        fitting[0].facts = {**facts, **fitting[0].facts}
        numbers[place] = fitting[0].number
    return numbers


@dataclasses.dataclass
class _Group:
    number: int
    facts: Facts
    #: Whether its records could belong to another group as well.
    unsure: bool


def _common(record: RunRecord) -> str:
    """Return what all records of a group share, as one text."""
    of_data = {**stated(record), "ids": record.data.fingerprint.ids, "given": _is_given(record)}
    if fold_of(record) is not None:
        # Folds are of the same interactions, which may be in another order and otherwise split.
        del of_data["ids"], of_data["training_interactions"]
        assert record.benchmark is not None
        of_data.update(content=record.data.content, folds=sorted(record.benchmark.folds))
    return json.dumps(
        [record.dataset, record.protocol, list(record.distilled.test), record.valid_metric, *of_data.items()],
        sort_keys=True,
    )


def _repeatable(record: RunRecord) -> bool:
    # Whether items of the history are ranked as well.
    return bool(record.distilled.settings.get("repeatable"))


def _is_given(record: RunRecord) -> bool:
    """Whether the split is the same for all seeds: held, in order of time, or in files of its own."""
    return bool(
        record.split_seed is not None
        or record.protocol.get("order") == "TO"
        or record.distilled.settings.get("benchmark_filename")
    )


def _facts(record: RunRecord) -> Facts:
    fingerprint, candidates, whole = record.data.fingerprint, record.candidates, record.data.interactions
    parts = {"train": fingerprint.train, "valid": fingerprint.valid, "test": fingerprint.test}
    fold = fold_of(record)
    if fold is not None:
        parts["candidates"] = candidates
        return _known((f"{part} of the fold {fold}", value) for part, value in parts.items())
    if _is_given(record):
        # Of one split, candidates are the same as well.
        return _known({**parts, "interactions": whole, "candidates": candidates}.items())
    facts = {"interactions": whole, f"candidates for {record.seed} on {parts['test']}": candidates}
    # Records without a hash of all interactions say this of every compressed teacher.
    unsure = record.compression and whole is None
    if candidates is not None and not unsure:
        facts["candidates"] = candidates if record.candidates_given else "each seed's own"
    # Without a hash of all interactions: the same seed has the same split of the same data.
    facts.update({f"{part} of seed {record.seed}": value for part, value in parts.items()})
    facts["file"] = record.data.files.get(f"{record.dataset}.inter")
    return _known(facts.items())


def _known(facts: Iterable[tuple[str, Any]]) -> Facts:
    return {name: value for name, value in facts if value is not None}


def _agree(one: Facts, other: Facts) -> bool:
    # Where both know all interactions, neither file nor split has more to say of data that are split anew.
    whole = "interactions" in one and "interactions" in other
    names = [name for name in one.keys() & other.keys() if not (whole and (name == "file" or " of seed " in name))]
    return all(one[name] == other[name] for name in names)
