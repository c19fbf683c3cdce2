"""Which columns of a data set's files the settings load, and which they need: by load_col, eval_args and filters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from recbole_derrd.data.file_checks.head import Column, listed
from recbole_derrd.errors import DataError

INTERACTIONS = "inter"


@dataclasses.dataclass(frozen=True)
class DataFile:
    """A file that RecBole reads.

    Attributes:
        path: where it is.
        source: RecBole's name of its kind, the key in load_col: inter, user, item or a suffix of its own.
        columns: what its first line names.
        loaded: which of these RecBole reads.
    """

    path: Path
    source: str
    columns: tuple[Column, ...]
    loaded: tuple[Column, ...]

    def column(self, name: str) -> Column | None:
        """Return a column that is read, by name."""
        return next((column for column in self.loaded if column.name == name), None)


@dataclasses.dataclass(frozen=True)
class Need:
    """A column of the .inter files that a setting needs.

    Attributes:
        name: its name.
        setting: the setting, as a subject of "needs".
        remedy: what else to do where the files have no such column.
        complete: whether a missing value would count as some other value.
    """

    name: str
    setting: str
    remedy: str
    complete: bool = True


def load_setting(config: Any, source: str) -> list[str] | None:
    """Return which columns load_col names for a kind of files; None for all, an empty list for none of it.

    Raises:
        DataError: load_col is no dict of lists.
    """
    load = config["load_col"]
    if load is None:
        return None
    if not isinstance(load, dict):
        raise DataError(
            f"load_col must say for each kind of file what is read, e.g. {{inter: [user_id, item_id]}}, not {load!r}."
        )
    names = load.get(source, [])
    if names is None or names == "*":
        return None if names == "*" else []
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"load_col must list the columns of {source}, e.g. {{{source}: [user_id, item_id]}}, not {names!r}."
        )
    return list(names)


def loaded_columns(config: Any, source: str, columns: list[Column]) -> list[Column]:
    """Return which columns of a file RecBole reads."""
    named = load_setting(config, source)
    unload = config["unload_col"]
    left_out = (unload.get(source) or ()) if isinstance(unload, dict) else ()
    return [column for column in columns if (named is None or column.name in named) and column.name not in left_out]


def needs_of(config: Any) -> list[Need]:
    """Return what the settings need of the .inter files, beside users and items."""
    found, time = [], config["TIME_FIELD"]
    arguments = config["eval_args"]
    split = arguments.get("split")
    # RecBole neither orders nor filters data that come in parts.
    whole = config["benchmark_filename"] is None
    another = "name the right one (--TIME_FIELD=...), or order at random (eval_args: {order: RO})"
    if whole and isinstance(split, dict) and "TS" in split:
        found.append(Need(time, "eval_args with split: TS", another.replace("order at random", "split otherwise")))
    elif whole and arguments.get("order") == "TO":
        found.append(Need(time, "eval_args with order: TO", another))
    for name in _keys(config["threshold"]):
        found.append(Need(name, "threshold", "name another column in threshold"))
    for name in _keys(config["val_interval"]) if whole else ():
        # Rows without a value are in no interval, so they are left out.
        found.append(Need(name, "val_interval", "name another column in val_interval", complete=False))
    return found


def _keys(setting: Any) -> list[str]:
    return [str(key) for key in setting] if isinstance(setting, dict) else []


def fault_of_columns(config: Any, file: DataFile) -> str | None:
    """Say which column that RecBole needs of a file is missing, left out, named twice or of the wrong type."""
    names = [column.name for column in file.columns]
    for column in file.loaded:
        if [one.name for one in file.loaded].count(column.name) > 1:
            return f"names the column '{column.name}' twice. Rename one of them, or leave it out of the file."
    for key in id_keys(file.source):
        name = config[key]
        if name not in names:
            return f"has no column '{name}', only {listed(names)}. Name the right one: --{key}=..."
        loaded = file.column(name)
        if loaded is None:
            return f"has the column '{name}', and load_col or unload_col leaves it out. {_load_it(file, name)}"
        if loaded.type != "token":
            return (
                f"gives '{name}' the type '{loaded.type}', and RecBole takes ids of the type token only. Write "
                f"{name}:token in its first line."
            )
    return None


def id_keys(source: str) -> tuple[str, ...]:
    """Return the settings that name the columns of ids in a file of this kind."""
    keys = {INTERACTIONS: ("USER_ID_FIELD", "ITEM_ID_FIELD"), "user": ("USER_ID_FIELD",), "item": ("ITEM_ID_FIELD",)}
    return keys.get(source, ())


def fault_of_need(need: Need, files: list[DataFile]) -> str | None:
    """Say where a column that a setting needs is missing, left out or no number, with the file's name."""
    positions = [file for file in files if file.source == INTERACTIONS]
    if need.setting == "val_interval":
        # It filters features of users and items as well.
        if any(file.column(need.name) for file in files):
            return None
        positions = [file for file in files if need.name in [column.name for column in file.columns]] or positions
    for file in positions:
        names = [column.name for column in file.columns]
        if need.name not in names:
            return (
                f"'{file.path}' has no column '{need.name}', which {need.setting} needs, only {listed(names)}. Add it "
                f"to the file, or {need.remedy}."
            )
        loaded = file.column(need.name)
        if loaded is None:
            return (
                f"'{file.path}' has the column '{need.name}', which {need.setting} needs, and it is not loaded. "
                f"{_load_it(file, need.name)}"
            )
        if loaded.type != "float" and need.setting != "val_interval":
            return (
                f"'{file.path}' gives '{need.name}' the type '{loaded.type}', and {need.setting} needs numbers: of a "
                f"token RecBole would compare the order of first appearance. Write {need.name}:float in its first line."
            )
    return None


def _load_it(file: DataFile, name: str) -> str:
    names = [column.name for column in file.loaded]
    every = listed([column.name for column in file.columns])
    words = f"{file.source}: [{', '.join([*names, name])}]"
    if file.source != INTERACTIONS:
        return f"Write {words} in load_col, beside inter; its columns are {every}."
    return f"Set load_col: {{{words}}}, of its columns {every}."


def not_there(config: Any, file: DataFile) -> list[str]:
    """Return which columns load_col names that a file does not have."""
    named, names = load_setting(config, file.source), [column.name for column in file.columns]
    return [name for name in named or () if name not in names]
