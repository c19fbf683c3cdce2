"""What rows and tables are called: no two alike, and in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from recbole_derrd.config.options.run import RunOptions
from recbole_derrd.report.escaping import shortened
from recbole_derrd.report.rows import Group, Row
from recbole_derrd.report.same_data import identities, stated
from recbole_derrd.report.titles import in_bits, numbered

#: Characters of a setting that a row's name shows.
_VALUE = 200

#: Records leave some options of a run out where they are the defaults.
_USUAL = RunOptions.defaults()


def name_rows(group: Group) -> None:
    """Give every row of a group a name of its own: where several have one, with the settings in which they differ."""
    for row in group.rows.values():
        if row.stored_of is not None:
            # By now its student has the name that it keeps.
            stored = in_bits(row.settings["bits"], users=row.settings["users"])
            row.label = f"{group.rows[row.stored_of].label} {stored}"
    by_label: dict[str, list[Row]] = {}
    for row in group.rows.values():
        by_label.setdefault(row.label, []).append(row)
    for rows in by_label.values():
        if len(rows) > 1:
            _add_differences(rows)
    for row, label in zip(group.rows.values(), numbered([row.label for row in group.rows.values()], " #{}")):
        row.label = label


def _add_differences(rows: list[Row]) -> None:
    keys = sorted({key for row in rows for key in row.settings})
    differing = [key for key in keys if len({repr(row.settings.get(key)) for row in rows}) > 1]
    usual = {key: _most_common(row.settings.get(key) for row in rows) for key in differing}
    models = {row.model for row in rows}
    for row in rows:
        # Every row shows a few differences; of many, those in which it is not as most rows are.
        shown = [key for key in differing if len(differing) <= 3 or repr(row.settings.get(key)) != usual[key]]
        # What a row does not state is RecBole's default there.
        shown = [key for key in shown if key in row.settings or key in _USUAL]
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
