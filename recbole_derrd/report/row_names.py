"""What rows and tables are called: no two alike, and in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recbole_derrd.config.options.run import RunOptions
from recbole_derrd.report.escaping import shortened
from recbole_derrd.report.same_data import identities, stated
from recbole_derrd.report.schema import StoredEntry, mode_of

if TYPE_CHECKING:
    from recbole_derrd.report.rows import Group, Row

#: Splits that a report may be of, as they are called in it.
SPLITS = {"test": "test", "valid": "validation"}

#: Characters of a setting that a row's name shows.
_VALUE = 200

#: Records leave some options of a run out where they are the defaults.
_USUAL = RunOptions.defaults()


def ranking(protocol: Mapping[str, Any], split: str) -> str:
    """Say in words what the items of a split are ranked among."""
    name = mode_of(protocol, split)
    if name == "full":
        return "full ranking"
    if name.startswith("fixed"):
        return f"ranked among {name[5:]} fixed candidates"
    if name.startswith(("uni", "pop")):
        return f"ranked among {name[3:]} sampled candidates, drawn anew at each evaluation ({name})"
    return f"evaluation mode {name}"


def stored_as(stored: StoredEntry) -> str:
    """Say in words how a student is stored, e.g. "in 4 bits"."""
    return _in_bits(stored.bits, users=stored.users)


def _in_bits(bits: int, *, users: bool) -> str:
    return f"in {bits} bits{'' if users else ' (items)'}"


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


def name_rows(group: Group) -> None:
    """Give every row of a group a name of its own: where several have one, with the settings in which they differ."""
    for row in group.rows.values():
        if row.stored_of is not None:
            # By now its student has the name that it keeps.
            stored = _in_bits(row.settings["bits"], users=row.settings["users"])
            row.label = f"{group.rows[row.stored_of].label} {stored}"
    by_label: dict[str, list[Row]] = {}
    for row in group.rows.values():
        by_label.setdefault(row.label, []).append(row)
    for rows in by_label.values():
        if len(rows) > 1:
            _say_what_differs(rows)
    for row, label in zip(group.rows.values(), numbered([row.label for row in group.rows.values()], " #{}")):
        row.label = label


def _say_what_differs(rows: list[Row]) -> None:
    keys = sorted({key for row in rows for key in row.settings})
    differing = [key for key in keys if len({repr(row.settings.get(key)) for row in rows}) > 1]
    usual = {key: _most_common(row.settings.get(key) for row in rows) for key in differing}
    models = {row.model for row in rows}
    for row in rows:
        # Few differences are said of every row, many where a row is not as most are.
        shown = [key for key in differing if len(differing) <= 3 or repr(row.settings.get(key)) != usual[key]]
        values = {key: shortened(str(row.settings.get(key, _USUAL.get(key))), _VALUE) for key in shown}
        parts = [row.model] * (len(models) > 1) + [f"{key}={value}" for key, value in values.items()]
        row.label += f" ({', '.join(parts)})" if parts else ""


def _most_common(values: Iterable[Any]) -> str:
    return Counter(map(repr, values)).most_common(1)[0][0]


def name_groups(groups: Iterable[Group]) -> None:
    """Where several groups have one title, add what differs: of the protocol, of the data's sizes, or whose it is."""
    by_title: dict[str, list[Group]] = {}
    for group in groups:
        by_title.setdefault(group.title, []).append(group)
    for same in by_title.values():
        facts = [{**stated(group.records[0]), "chosen by": group.chosen_by} for group in same]
        differing = [key for key in facts[0] if len({repr(one[key]) for one in facts}) > 1]
        shown = ["".join(f", {key.replace('_', ' ')} {_plainly(one[key])}" for key in differing) for one in facts]
        own = [identities(group.records[0]) for group in same]
        for place, (group, words) in enumerate(zip(same, shown)):
            alike = [other for other, others in enumerate(shown) if others == words]
            if len(alike) > 1:
                kinds = [kind for kind in own[place] if len({repr(own[other][kind]) for other in alike}) > 1]
                words += "".join(f", its own {kind}" for kind in kinds) + f" ({alike.index(place) + 1})"
            group.beside = words


def _plainly(value: Any) -> str:
    """Write a setting without the signs of Python or YAML, e.g. "RS 0.8 0.1 0.1"."""
    return " ".join(re.findall(r"[\w.+-]+", str(value)))
