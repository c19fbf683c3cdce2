"""What a path holds that is given for a teacher: an export, or embeddings or rankings with ids; all of it checked.

A folder with a card is what ``recbole-derrd export`` writes. Without one it holds ``users.parquet`` (columns
``user_id`` and ``embedding``) and ``items.parquet``, or one file alone:

===============  =====================================================================================================
``.npz``         arrays ``user_ids``, ``item_ids``, ``user_embeddings``, ``item_embeddings``; or the columns of rankings
``.parquet``     rankings: columns ``user_id``, ``item_id``, ``rank`` (from 1), and ``score`` if there is any
``.csv``         rankings: the same columns
===============  =====================================================================================================

No code in a file is run: arrays are read without pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from recbole_derrd.data.atomic_files import content_digest
from recbole_derrd.errors import DataError
from recbole_derrd.runtime.stored_arrays import DamagedFileError
from recbole_derrd.serving.ids import read_ids
from recbole_derrd.serving.layout import CARD, TOP, TOP_PARQUET, damaged, ids_file, read_card
from recbole_derrd.serving.vectors import open_vectors
from recbole_derrd.teacher.exported.columns import read_archive, read_csv, read_parquet
from recbole_derrd.teacher.exported.rankings import Rankings, rankings_of

Array = np.ndarray[Any, Any]
SIDES = ("user", "item")
_PARQUET = tuple(f"{side}s.parquet" for side in SIDES)
#: What a file that is none of these should be.
_KINDS = (
    "Give a folder that 'recbole-derrd export' has written, a folder with users.parquet and items.parquet, or a file "
    ".npz, .parquet or .csv (docs/teachers.md)."
)


@dataclasses.dataclass(frozen=True)
class Exported:
    """A teacher's answers as its files hold them; row r of an array belongs to id r.

    Attributes:
        path: the folder or file.
        ids: the ids of users and items, by side.
        embeddings: of users and items [n, d], float32, by side, whose inner product is the score; None for rankings.
        rankings: of the users; None for embeddings.
        all_items: whether ``ids`` names every item that the teacher knows; rankings alone name those they hold.
        digest: hash of what the files hold.
        card: what an export's card says.
    """

    path: Path
    ids: dict[str, list[str]]
    embeddings: dict[str, Array] | None
    rankings: Rankings | None
    all_items: bool
    digest: str
    card: dict[str, Any] | None = None

    @property
    def has_scores(self) -> bool:
        """Whether it scores what it ranks."""
        return self.rankings is None or self.rankings.scores is not None


def read_exported(path: str | Path) -> Exported:
    """Read a teacher's files.

    Raises:
        DataError: there are none, or they cannot be a teacher.
        OptionError: Parquet, and pyarrow is not installed.
    """
    place = Path(path)
    if place.is_dir() and (place / CARD).exists():
        return _export(place)
    try:
        return _plain(place)
    except DamagedFileError as error:
        raise DataError(f"The teacher '{place}' cannot be used: {error}.") from error
    except OSError as error:
        raise DataError(f"The teacher '{place}' cannot be read: {error.strerror or error}.") from error


def _plain(place: Path) -> Exported:
    if not place.exists():
        raise DamagedFileError("there is no such file or folder")
    if not place.is_dir():
        return _file(place)
    if all((place / name).is_file() for name in _PARQUET):
        columns = {side: read_parquet(place / f"{side}s.parquet") for side in SIDES}
        ids = {side: _column(columns[side], f"{side}_id", f"{side}s.parquet") for side in SIDES}
        tables = {side: _column(columns[side], "embedding", f"{side}s.parquet") for side in SIDES}
        return _of_embeddings(place, [place / name for name in _PARQUET], ids, tables)
    raise DamagedFileError(f"the folder holds neither {CARD} nor both of {' and '.join(_PARQUET)}. {_KINDS[:-1]}")


def _file(file: Path) -> Exported:
    readers = {".npz": read_archive, ".parquet": read_parquet, ".csv": read_csv}
    kind = file.suffix.lower()
    if kind not in readers:
        raise DamagedFileError(f"it is no .npz, .parquet or .csv file. {_KINDS[:-1]}")
    if not file.is_file():
        raise DamagedFileError("it is no regular file")
    columns = readers[kind](file)
    if kind == ".npz" and "user_ids" in columns:
        ids = {side: _column(columns, f"{side}_ids", file.name) for side in SIDES}
        tables = {side: _column(columns, f"{side}_embeddings", file.name) for side in SIDES}
        return _of_embeddings(file, [file], ids, tables)
    return _of_rankings(file, [file], columns)


def _column(columns: dict[str, Array], name: str, file: str) -> Array:
    if name not in columns:
        raise DamagedFileError(f"'{file}' has no '{name}', but {', '.join(sorted(columns)) or 'nothing'}")
    return columns[name]


def _of_embeddings(place: Path, files: list[Path], ids: dict[str, Array], tables: dict[str, Array]) -> Exported:
    names = {side: texts(ids[side], f"{side} ids") for side in SIDES}
    embeddings = {side: _embeddings(tables[side], names[side], side) for side in SIDES}
    _refuse_other_widths(embeddings)
    return Exported(place, names, embeddings, None, True, _digest(files))


def _refuse_other_widths(embeddings: dict[str, Array]) -> None:
    users, items = (embeddings[side].shape[1] for side in SIDES)
    if users != items:
        raise DamagedFileError(f"users have {users} dimensions and items {items}, so that they have no inner product")


def texts(ids: Array, what: str) -> list[str]:
    """Return ids, texts or whole numbers, as texts.

    Raises:
        DamagedFileError: they are something else, or one comes twice.
    """
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "Uiu":
        raise DamagedFileError(f"the {what} are {ids.dtype} {ids.shape}, not a list of texts or whole numbers")
    found: list[str] = ids.astype(str).tolist()
    if len(set(found)) < len(found):
        seen: set[str] = set()
        twice = next(one for one in found if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise DamagedFileError(f"the {what} hold {twice!r} twice")
    return found


def _embeddings(table: Array, ids: list[str], side: str) -> Array:
    if table.ndim != 2 or table.dtype.kind not in "fiu" or len(table) != len(ids) or not table.shape[1]:
        raise DamagedFileError(
            f"the embeddings of the {side}s are {table.dtype} {table.shape}, not {len(ids):,} rows of numbers"
        )
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(table, np.float32)
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise DamagedFileError(f"the embedding of the {side} {ids[int(np.argmin(finite))]!r} is no finite number")
    return found


def _of_rankings(
    place: Path, files: list[Path], columns: dict[str, Array], ids: dict[str, list[str]] | None = None
) -> Exported:
    given = {name: _column(columns, name, files[-1].name) for name in ("user_id", "item_id", "rank")}
    names, rankings = rankings_of(given["user_id"], given["item_id"], given["rank"], columns.get("score"), ids)
    return Exported(place, names, None, rankings, ids is not None, _digest(files))


def _export(folder: Path) -> Exported:
    """Read what ``recbole-derrd export`` has written; every file is compared with its checksum."""
    card = read_card(folder)
    counts = {"user": card["users"], "item": card["items"]}
    files = [folder / CARD, *(folder / ids_file(side) for side in SIDES)]
    try:
        ids = {side: list(read_ids(folder / ids_file(side), counts[side], side).ids) for side in SIDES}
        embedding = card.get("embedding")
        if embedding is not None:
            tables, read = _tables(folder, embedding, counts, ids)
            found = Exported(folder, ids, tables, None, True, _digest(files + read))
        else:
            file = next((folder / name for name in (TOP, TOP_PARQUET) if name in card["files"]), None)
            if file is None:
                raise DamagedFileError("it holds neither embeddings nor rankings")
            columns = read_csv(file) if file.suffix == ".csv" else read_parquet(file)
            found = _of_rankings(folder, [*files, file], columns, ids)
    except FileNotFoundError as error:
        raise damaged(folder, f"'{Path(error.filename).name}' is missing") from error
    except DamagedFileError as error:
        raise damaged(folder, error) from error
    return dataclasses.replace(found, card=card)


def _tables(
    folder: Path, embedding: dict[str, Any], counts: dict[str, int], ids: dict[str, list[str]]
) -> tuple[dict[str, Array], list[Path]]:
    """Return both sides' embeddings of an export, and the files that hold them."""
    if embedding["format"] == "parquet":
        files = [folder / name for name in _PARQUET]
        tables = {}
        for side, file in zip(SIDES, files):
            columns = read_parquet(file)
            if texts(_column(columns, f"{side}_id", file.name), f"{side} ids") != ids[side]:
                raise DamagedFileError(f"'{file.name}' has its rows in another order than '{ids_file(side)}'")
            tables[side] = _column(columns, "embedding", file.name)
    else:
        vectors = {side: open_vectors(folder, side, embedding, counts[side]) for side in SIDES}
        tables = {side: np.array(vectors[side].rows(slice(None))) for side in SIDES}
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (".npy", ".safetensors")]
        files = [path for path in files if path.name.startswith(("users.", "items."))]
    found = {side: _embeddings(tables[side], ids[side], side) for side in SIDES}
    _refuse_other_widths(found)
    return found, files


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.suffix}:{content_digest(file)}|".encode())
    return digest.hexdigest()
