"""RecBole's atomic file of interactions, made from a user's own table."""

from __future__ import annotations

import csv
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_derrd.data.file_checks.missing import Array
from recbole_derrd.data.source_table import Interactions, Source, read_interactions
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.runtime.files import replacing_file

#: The columns of the atomic file, by what a user calls each: RecBole's own names.
FIELDS = {"user": "user_id:token", "item": "item_id:token", "rating": "rating:float", "time": "timestamp:float"}


@dataclass
class Converted:
    """What was written.

    Attributes:
        file: the atomic file.
        first: its first row.
        rows: how many it has.
        users: how many users it has.
        items: how many items it has.
        duplicates: rows whose user and item an earlier row has too.
        dropped: whether these are left out.
        missing: rows without a value, by column.
        left_out: how many rows without a value were left out.
    """

    file: Path
    first: list[str]
    rows: int
    users: int
    items: int
    duplicates: int
    dropped: bool
    missing: dict[str, int]
    left_out: int


def convert(
    source: Source, out: Path, *, drop_missing: bool = False, drop_duplicates: bool = False, force: bool = False
) -> Converted:
    """Write ``NAME.inter`` into the folder ``out``, whose name is that of the data set, whole or not at all.

    Args:
        source: the table.
        out: the folder of the data set.
        drop_missing: leave out rows without a value instead of refusing the table.
        drop_duplicates: of rows with the same user and item keep the first.
        force: replace a file that is there.

    Raises:
        DataError: what is wrong with the table, and in which line.
        OptionError: a column, the separator, the encoding or ``out`` cannot be that.
    """
    target = _target(out, force)
    found = read_interactions(source, drop_missing=drop_missing)
    if not found.pairs:
        raise DataError(f"'{source.file}' has no row to write.")
    pairs = np.asarray(found.pairs, dtype=np.int64).reshape(-1, 2)
    firsts = np.unique(pairs[:, 0] * len(found.items) + pairs[:, 1], return_index=True)[1]
    kept = np.sort(firsts) if drop_duplicates else np.arange(len(pairs))
    first = _write(target, found, pairs, kept, [key for key in FIELDS if key in source.columns])
    return Converted(
        file=target,
        first=first,
        rows=len(kept),
        users=len(found.users),
        items=len(found.items),
        duplicates=len(pairs) - len(firsts),
        dropped=drop_duplicates,
        missing={key: len(lines) for key, lines in found.missing.items()},
        left_out=found.left_out,
    )


def _target(out: Path, force: bool) -> Path:
    name = out.name
    if not name or name == "..":
        raise OptionError(f"--out must end with the name of the data set, e.g. dataset/shop, but is '{out}'.")
    if name.endswith(".inter"):
        raise OptionError(f"--out is the folder of the data set, which the file is named after: --out={out.parent}.")
    if name == "ml-100k":
        raise OptionError("RecBole reads its own data where a data set is called ml-100k. Choose another name.")
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out is the folder of the data set, and '{out}' is a file.")
    target = out / f"{name}.inter"
    if target.exists() and not force:
        raise OptionError(f"'{target}' is there already. Choose another --out, or replace it by --force.")
    return target


def summary(converted: Converted, source: Source) -> str:
    """Return in words what was written, and the command to run next."""
    columns = ", ".join(FIELDS[key] for key in FIELDS if key in source.columns)
    lines = [
        f"{converted.file}: {_counted(converted.rows, 'row')}, {_counted(converted.users, 'user')}, "
        f"{_counted(converted.items, 'item')} ({columns})"
    ]
    if any(name.isdigit() for name in source.columns.values()):
        lines.append(f"Columns are given by number, so the first row is data: {' '.join(converted.first)}")
    if converted.duplicates:
        kept = "dropped" if converted.dropped else "kept (--drop-duplicates keeps the first alone)"
        lines.append(f"{_counted(converted.duplicates, 'row')} with a user and item of an earlier one: {kept}")
    if converted.left_out:
        parts = ", ".join(f"{count:,} without '{source.columns[key]}'" for key, count in converted.missing.items())
        lines.append(f"{_counted(converted.left_out, 'row')} left out: {parts}")
    folder = converted.file.parent
    settings = ["--model=BPR", f"--dataset={folder.name}"]
    if folder.parent != Path("dataset"):
        settings.append(f"--data_path={folder.parent}")
    settings += ["--distillers=[rrd]", "--embedding_size=16", "--teacher={embedding_size: 128}"]
    lines.append(f"Next: recbole-derrd {' '.join(map(shlex.quote, settings))}")
    return "\n".join(lines) + "\n"


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _write(target: Path, found: Interactions, pairs: Array, kept: Array, keys: list[str]) -> list[str]:
    """Write the rows; return the first."""
    columns = {key: [values[row] for row in kept.tolist()] for key, values in found.values.items()}
    for place, (key, ids) in enumerate({"user": list(found.users), "item": list(found.items)}.items()):
        columns[key] = [ids[number] for number in pairs[kept, place].tolist()]
    with replacing_file(target) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        # RecBole reads quotes as in CSV: an id with one is written in quotes.
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([FIELDS[key] for key in keys])
        writer.writerows(zip(*(columns[key] for key in keys)))
    return [columns[key][0] for key in keys]
