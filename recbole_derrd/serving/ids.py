"""The ids of an export's users and items: the data set's own, any text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_derrd.errors import DataError, shown
from recbole_derrd.runtime.stored_arrays import DamagedFileError

_SHOWN = 3


class Ids:
    """The ids of one side, and the row of each.

    Args:
        ids: in the order of the rows.
        side: "user" or "item".
        place: where they are looked for, in words.
    """

    def __init__(self, ids: Sequence[str], side: str, place: str = "in this export") -> None:
        """Number them."""
        self.ids, self._side, self._place = ids, side, place
        self._rows = {token: row for row, token in enumerate(ids)}
        if len(self._rows) < len(ids):
            raise DamagedFileError(f"the {side} ids hold one id twice")

    def rows(self, wanted: Iterable[Any]) -> list[int]:
        """Return the rows of ids.

        Raises:
            DataError: which of them there are not.
        """
        wanted = list(wanted)
        missing = [one for one in wanted if not isinstance(one, str) or one not in self._rows]
        if missing:
            raise DataError(self._unknown(missing, len(wanted)))
        return [self._rows[one] for one in wanted]

    def _unknown(self, missing: list[Any], count: int) -> str:
        named = ", ".join(shown(one) for one in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
        if len(missing) == 1 and count == 1:
            text = f"There is no {self._side} {named} {self._place}."
        else:
            text = f"{len(missing):,} of the {count:,} {self._side}s are not {self._place}: {named}{more}."
        as_text = [one for one in missing if not isinstance(one, str) and str(one) in self._rows]
        return f"{text} Ids are texts: write {str(as_text[0])!r}." if as_text else text


def write_ids(path: Path, ids: Iterable[str]) -> None:
    """Write one id a line, as JSON texts in ASCII: an id may hold any character, a line's end as well."""
    with open(path, "w", encoding="ascii", newline="\n") as file:
        file.writelines(json.dumps(token) + "\n" for token in ids)


def read_ids(path: Path, count: int, side: str) -> Ids:
    """Read what :func:`write_ids` wrote.

    Raises:
        DamagedFileError: these are not so many distinct ids.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        # At once: a call a line takes five times as long.
        found = json.loads("[" + ",".join(lines) + "]")
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"'{path.name}' is no list of ids") from error
    if len(found) != count or len(lines) != count or not all(isinstance(token, str) for token in found):
        raise DamagedFileError(f"'{path.name}' does not hold {count:,} ids")
    return Ids(found, side)
