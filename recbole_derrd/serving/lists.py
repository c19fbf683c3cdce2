"""Rankings of many users as CSV: ``user_id,rank,item_id,score``."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from recbole_derrd.errors import DataError
from recbole_derrd.runtime.files import replacing_file
from recbole_derrd.serving.recommender import Recommender

COLUMNS = ("user_id", "rank", "item_id", "score")


def write_csv(file: IO[str], rows: Iterable[tuple[str, int, str, float]]) -> int:
    """Write rows of (user, rank, item, score) under their names; return how many."""
    writer, written = csv.writer(file, lineterminator="\n"), 0
    writer.writerow(COLUMNS)
    for user, rank, item, score in rows:
        # Nine digits are all that float32 has.
        writer.writerow((user, rank, item, f"{score:.9g}"))
        written += 1
    return written


def named_users(given: str, every: Sequence[str]) -> list[str]:
    """Return the users that a text names: "all", the file of that name with one id a line, or ids with commas.

    Args:
        given: the text.
        every: all users that there are.

    Raises:
        DataError: it names none.
    """
    if given == "all":
        return list(every)
    # Unlike pathlib's, it takes a text that is too long for a name.
    if not os.path.isfile(given):
        users = [one for one in given.split(",") if one]
        source = "--users"
    else:
        try:
            lines = Path(given).read_text(encoding="utf-8-sig").split("\n")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise DataError(f"The users in '{given}' cannot be read: {reason}.") from error
        users, source = [line.rstrip("\r") for line in lines if line.rstrip("\r")], f"'{given}'"
    if not users:
        raise DataError(f"{source} names no user. Give a file with one id a line, ids with commas, or all.")
    return users


def lists_of(model: Recommender, users: list[str], k: int, *, keep_seen: bool) -> Iterator[tuple[str, int, str, float]]:
    """Return the rows of the users' rankings.

    Raises:
        DataError: which users there are not; before anything is scored.
    """
    found = model.recommend_many(users, k, exclude_seen=not keep_seen)
    return ((user, rank, *one) for user, ranking in found for rank, one in enumerate(ranking, start=1))


def write_lists(rows: Iterable[tuple[str, int, str, float]], out: Path | IO[str]) -> int:
    """Write rankings, to a file whole or not at all; return how many rows.

    Raises:
        DistillError: the file cannot be written.
    """
    if not isinstance(out, Path):
        return write_csv(out, rows)
    with (
        replacing_file(out) as partial,
        open(partial, "w", encoding="utf-8", errors="surrogatepass", newline="") as file,
    ):
        return write_csv(file, rows)
