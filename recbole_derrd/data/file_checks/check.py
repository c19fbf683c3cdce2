"""Checks of a data set's files, before RecBole reads them and after it has failed on them."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_derrd.config.options.filters import check_column
from recbole_derrd.data.file_checks.fields import (
    INTERACTIONS,
    DataFile,
    Need,
    fault_of_columns,
    fault_of_need,
    id_keys,
    load_setting,
    loaded_columns,
    needs_of,
    not_there,
)
from recbole_derrd.data.file_checks.head import columns_of, fault_of_head
from recbole_derrd.data.file_checks.missing import Missing
from recbole_derrd.data.file_checks.rows import RowError, Rows, Table, first_text, read_rows, records
from recbole_derrd.data.file_checks.text import (
    TextError,
    check_encoding,
    fault_of_kind,
    fault_of_mark,
    mark_of,
    text_blocks,
)
from recbole_derrd.errors import DataError, OptionError


def check_files(config: Any, *, saved: bool = False) -> str:
    """Refuse data files that RecBole would misread or stumble over; return the encoding to read them by.

    A file is read once while it stays as it is.

    Args:
        config: RecBole's configuration.
        saved: whether a saved data set stands for files that are not there.

    Raises:
        DataError: what is wrong, in which file and line, and what to do.
        OptionError: there is no such encoding.
    """
    encoding = check_encoding(config["encoding"] or "utf-8")
    if not isinstance(config["field_separator"], str) or not config["field_separator"]:
        raise OptionError(
            f"field_separator must be what is between the columns, e.g. ',', but is {config['field_separator']!r}."
        )
    paths = _paths(config, saved)
    for path, _ in paths:
        _refuse(path, fault_of_kind(path) or fault_of_mark(path, encoding), config)
    given = config["encoding"] or "utf-8"
    if encoding == "utf-8" and any(mark_of(path) for path, _ in paths):
        given = encoding = "utf-8-sig"
    files = [_opened(path, source, encoding, config) for path, source in paths]
    _check_columns(config, files, encoding)
    for file in files:
        _check_rows(config, file, encoding)
    _log_ignored(config, files)
    return given


def explained(config: Any, error: BaseException) -> str | None:
    """Return why RecBole failed to read these files, where that is seen in them; None where it is not.

    Args:
        config: RecBole's configuration.
        error: what RecBole raised.
    """
    try:
        encoding = check_files(config)
        files = [_opened(path, source, encoding, config) for path, source in _paths(config, saved=True)]
        for file in files:
            found = _text_among_numbers(config, file, encoding)
            if found:
                return found
        if "feat is empty" in str(error):
            return _all_filtered(config, files, encoding)
    except (DataError, OptionError, OSError, UnicodeError, RowError):
        pass
    return None


# -- the files


def _paths(config: Any, saved: bool) -> list[tuple[Path, str]]:
    """Return the files that RecBole reads, with their kinds.

    Raises:
        DataError: one is missing, and its folder is there.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = config["benchmark_filename"] or [None]
    interactions = [folder / f"{name}{f'.{part}' if part is not None else ''}.inter" for part in parts]
    found = [(path, INTERACTIONS) for path in interactions]
    more = config["additional_feat_suffix"]
    suffixes = [suffix for suffix in more if isinstance(suffix, str)] if isinstance(more, (list, tuple)) else []
    for source in ("user", "item", *suffixes):
        path = folder / f"{name}.{source}"
        if load_setting(config, source) != [] and _is_there(path):
            found.append((path, source))
    if folder.is_dir() and not saved:
        for path in interactions:
            if not _is_there(path):
                raise DataError(f"The data set '{name}' cannot be read: {_absent(path)}")
    return [(path, source) for path, source in found if _is_there(path)]


def _is_there(path: Path) -> bool:
    """Say whether there is anything of this name, be it a link that leads nowhere."""
    return path.is_symlink() or path.exists()


def _absent(path: Path) -> str:
    others = sorted(one.name for one in path.parent.glob("*.inter"))
    has = f"its folder has {', '.join(others[:8])}" if others else "its folder has no .inter file"
    return f"there is no file '{path}', and {has}. Check dataset, data_path and benchmark_filename."


def _opened(path: Path, source: str, encoding: str, config: Any) -> DataFile:
    """Read a file's first line."""
    if path.stat().st_size == 0:
        _refuse(path, "is empty. Its first line names the columns, e.g. user_id:token<TAB>item_id:token.", config)
    head = ""
    try:
        head = next(text_blocks(path, encoding), b"\n").partition(b"\n")[0].decode()
    except TextError as error:
        _refuse(path, str(error), config)
    _refuse(path, fault_of_head(head, config["field_separator"], interactions=source == INTERACTIONS), config)
    columns = columns_of(head, config["field_separator"])
    return DataFile(path, source, tuple(columns), tuple(loaded_columns(config, source, columns)))


def _refuse(path: Path, fault: str | None, config: Any) -> None:
    if fault:
        raise DataError(f"The data set '{config['dataset']}' cannot be read: '{path}' {fault}")


# -- columns


def _check_columns(config: Any, files: list[DataFile], encoding: str) -> None:
    for file in files:
        _refuse(file.path, fault_of_columns(config, file), config)
        label = file.column(config["LABEL_FIELD"])
        if (
            label
            and label.type != "float"
            and file.source == INTERACTIONS
            and label.name not in (config["threshold"] or ())
        ):
            _refuse(
                file.path, f"gives the label '{label.name}' the type '{label.type}'. Write {label.name}:float.", config
            )
    for need in needs_of(config) if any(file.source == INTERACTIONS for file in files) else ():
        fault = fault_of_need(need, files)
        if fault:
            fault = _left_out(config, need, files, encoding) or fault
            raise DataError(f"The data set '{config['dataset']}' cannot be used: {fault}")
    # Here, as unused_col takes columns out of the data once they have been filtered by.
    filters = config["val_interval"] if config["benchmark_filename"] is None else None
    for name, wanted in (filters or {}).items():
        for column in filter(None, (file.column(name) for file in files)):
            check_column(name, wanted, numeric=column.type.startswith("float"))


def _left_out(config: Any, need: Need, files: list[DataFile], encoding: str) -> str | None:
    """Say which file that load_col leaves out has the column that val_interval needs."""
    if need.setting != "val_interval" or any(need.name == column.name for file in files for column in file.columns):
        return None
    for source in ("user", "item"):
        path = Path(config["data_path"]) / f"{config['dataset']}.{source}"
        if not path.is_file():
            continue
        with contextlib.suppress(DataError):
            if need.name in [column.name for column in _opened(path, source, encoding, config).columns]:
                ids = config[id_keys(source)[0]]
                return (
                    f"'{path}' has the column '{need.name}', which val_interval needs, and load_col reads nothing of "
                    f"it. Write {source}: [{ids}, {need.name}] in load_col, beside inter."
                )
    return None


def _log_ignored(config: Any, files: list[DataFile]) -> None:
    for file in files:
        names = not_there(config, file)
        if names:
            _log_once(f"load_col names {', '.join(names)}, and '{file.path}' has no such column: it is not loaded.")
    if config["benchmark_filename"] is None:
        return
    filters = [name for name in _filters(config) if name != "filter_inter_by_user_or_item"]
    if filters:
        _log_once(
            f"RecBole does not filter data that come in parts (benchmark_filename): {' and '.join(filters)} "
            f"{'changes' if len(filters) == 1 else 'change'} nothing."
        )


def _filters(config: Any) -> list[str]:
    """Return the filters that are set to anything but RecBole's default."""
    defaults = {"user_inter_num_interval": "[0,inf)", "item_inter_num_interval": "[0,inf)"}
    keys = ("val_interval", *defaults, "filter_inter_by_user_or_item", "rm_dup_inter")
    return [key for key in keys if config[key] and config[key] != defaults.get(key)]


@functools.lru_cache(maxsize=256)
def _log_once(message: str) -> None:
    getLogger().warning(message)


# -- rows


def _check_rows(config: Any, file: DataFile, encoding: str) -> None:
    rows = _rows_of(config, file, encoding)
    _refuse(file.path, rows.fault, config)
    if not rows.count:
        _refuse(file.path, "has no rows below its first line.", config)
    _check_ids(config, file, rows)
    _check_numbers(config, file, rows)


def _rows_of(config: Any, file: DataFile, encoding: str) -> Rows:
    names = [column.name for column in file.columns]
    tokens = tuple(sorted(names.index(name) for name in _ids(config, file)))
    numbers = tuple(sorted(names.index(need) for need in _numbers(config, file)))
    stat = file.path.stat()
    table = Table(str(file.path.resolve()), encoding, config["field_separator"], len(file.columns), tokens, numbers)
    try:
        return _rows(table, stat.st_size, stat.st_mtime_ns)
    except TextError as error:
        _refuse(file.path, str(error), config)
        raise


@functools.lru_cache(maxsize=64)
def _rows(table: Table, size: int, written: int) -> Rows:
    return read_rows(table)


def _ids(config: Any, file: DataFile) -> list[str]:
    return [config[key] for key in id_keys(file.source)]


def _numbers(config: Any, file: DataFile) -> list[str]:
    """Return the columns of numbers whose missing values make a difference."""
    if file.source != INTERACTIONS:
        return []
    wanted = {need.name for need in needs_of(config)} | {config["LABEL_FIELD"]}
    if config["rm_dup_inter"] and config["benchmark_filename"] is None:
        wanted.add(config["TIME_FIELD"])
    return sorted(column.name for column in file.loaded if column.name in wanted and column.type == "float")


def _found(rows: Rows, file: DataFile, name: str) -> Missing:
    return rows.missing[[column.name for column in file.columns].index(name)]


def _check_ids(config: Any, file: DataFile, rows: Rows) -> None:
    """RecBole leaves out rows without an id, with a warning; but in parts they become the padding id.

    Where users and items are missing it leaves out wrong rows.
    """
    missing = {name: _found(rows, file, name) for name in _ids(config, file)}
    lacking = {name: found for name, found in missing.items() if found.count}
    alone = file.source == INTERACTIONS and config["benchmark_filename"] is None and len(lacking) == 1
    for name, found in lacking.items():
        shown = (
            f"{_number(found.count)} without '{name}', the first in line {found.line}{_taken_for_nothing(found.value)}"
        )
        if not alone:
            _refuse(file.path, f"has {shown}. Take such rows out, or give them an id.", config)
        _log_once(f"'{file.path}' has {shown}. RecBole leaves such rows out.")


def _number(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"


def _taken_for_nothing(value: str) -> str:
    return f", where '{value}' is read as no value" if value else ""


def _check_numbers(config: Any, file: DataFile, rows: Rows) -> None:
    """RecBole fills what is missing with the column's mean, which is no time, rating or label of that row."""
    needs = {need.name: need for need in needs_of(config)}
    for name in _numbers(config, file):
        found = _found(rows, file, name)
        if not found.count:
            continue
        need = needs.get(name)
        setting = need.setting if need else "rm_dup_inter" if name == config["TIME_FIELD"] else "LABEL_FIELD"
        shown = (
            f"has {_number(found.count)} without a number in '{name}', the first in line {found.line} ('{found.value}')"
        )
        if need and not need.complete:
            _log_once(f"'{file.path}' {shown}. They are in no interval of {setting}, and are left out.")
            continue
        _refuse(
            file.path,
            f"{shown}, and {setting} needs it: RecBole would take the column's mean. Give these rows a number, or take "
            "them out.",
            config,
        )


# -- after RecBole has failed


def _table_of(config: Any, file: DataFile, encoding: str) -> Table:
    return Table(str(file.path), encoding, config["field_separator"], len(file.columns))


def _text_among_numbers(config: Any, file: DataFile, encoding: str) -> str | None:
    columns = {
        index: config["seq_separator"] if column.type == "float_seq" else None
        for index, column in enumerate(file.columns)
        if column in file.loaded and column.type.startswith("float")
    }
    found = first_text(_table_of(config, file, encoding), columns) if columns else None
    if found is None:
        return None
    line, index, value = found
    column = file.columns[index]
    return (
        f"'{file.path}' has '{value[:80]}' in line {line} as '{column.name}', which is no number, and its first line "
        f"says {column.name}:{column.type}. Correct it, or leave the column out of load_col."
    )


def _all_filtered(config: Any, files: list[DataFile], encoding: str) -> str | None:
    """Say which filters have left nothing, and what there was before."""
    users: Counter[str] = Counter()
    items: Counter[str] = Counter()
    for file in files:
        if file.source == INTERACTIONS:
            user, item = ([column.name for column in file.columns].index(name) for name in _ids(config, file))
            rows = records(_table_of(config, file, encoding))
            next(rows, None)
            for _, fields in rows:
                users[fields[user]] += 1
                items[fields[item]] += 1
    alone = all(file.source == INTERACTIONS for file in files)
    names = [name for name in _filters(config) if not (alone and name == "filter_inter_by_user_or_item")]
    if not users or not names:
        return None
    filters = ", ".join(f"{name} = {config[name]}" for name in names)
    return (
        f"the filters leave nothing of {sum(users.values())} rows of {len(users)} users (with at most "
        f"{max(users.values())} rows) and {len(items)} items (with at most {max(items.values())}): {filters}. "
        "Loosen them."
    )
