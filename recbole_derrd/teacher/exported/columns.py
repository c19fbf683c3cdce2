"""Columns of a Parquet, CSV or npz file as numpy arrays: numbers, texts, and embeddings as rows."""

from __future__ import annotations

import csv
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from recbole_derrd.errors import OptionError
from recbole_derrd.runtime.stored_arrays import DamagedFileError

Array = np.ndarray[Any, Any]


def read_archive(file: Path) -> dict[str, Array]:
    """Read an ``.npz`` file; objects, which would be code, are refused.

    Raises:
        DamagedFileError: it is none, or holds something else.
    """
    try:
        found = np.load(file, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise DamagedFileError(f"'{file.name}' is one numpy array, and no .npz file")
        with found:
            arrays = {name: found[name] for name in found.files}
    except (ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFileError(f"'{file.name}' is damaged, or no .npz file of plain arrays ({error})") from error
    # A member that is no array comes as bytes.
    odd = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if odd is not None:
        raise DamagedFileError(f"'{file.name}' holds '{odd}', which is no array")
    return arrays


def read_csv(file: Path) -> dict[str, Array]:
    """Read the columns of rankings from a CSV file whose first row names them; ids stay as they are written.

    Raises:
        DamagedFileError: a column is missing, or a row holds something else.
    """
    names = {"user_id": str, "item_id": str, "rank": int, "score": float}
    with open(file, encoding="utf-8-sig", errors="surrogatepass", newline="") as text:
        try:
            rows = csv.reader(text, strict=True)
            head = next(rows, [])
            kept = {name: head.index(name) for name in names if name in head}
            if not {"user_id", "item_id", "rank"} <= kept.keys() or len(set(head)) < len(head):
                raise DamagedFileError(
                    f"the first row of '{file.name}' names the columns {', '.join(head)[:200]}; "
                    "rankings need user_id, item_id and rank, each once"
                )
            values: dict[str, list[Any]] = {name: [] for name in kept}
            for row in rows:
                if len(row) != len(head):
                    raise DamagedFileError(
                        f"row {rows.line_num} of '{file.name}' has {len(row)} columns, not {len(head)}"
                    )
                for name, place in kept.items():
                    values[name].append(names[name](row[place]))
        except (csv.Error, UnicodeError) as error:
            raise DamagedFileError(f"'{file.name}' is no CSV text in UTF-8 ({error})") from error
        except ValueError as error:
            raise DamagedFileError(f"row {rows.line_num} of '{file.name}' is none of a ranking ({error})") from error
    try:
        return {name: _array(values[name], names[name]) for name in kept}
    except OverflowError as error:
        raise DamagedFileError(f"'{file.name}' holds a rank that is none") from error


def _array(values: list[Any], kind: type) -> Array:
    return np.array(values, dtype={int: np.int64, float: np.float64}.get(kind, str))


def read_parquet(file: Path) -> dict[str, Array]:
    """Read every column of numbers or texts of a Parquet file; one of lists of equal length becomes rows.

    Raises:
        DamagedFileError: it is no Parquet file, or a value is missing.
        OptionError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise OptionError(
            f"'{file}' is Parquet, which needs the package pyarrow ({error}): pip install 'recbole_derrd[export]'."
        ) from error
    try:
        table = pq.read_table(file)
        return {name: _of_arrow(pa, table.column(name), name, file) for name in table.column_names}
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DamagedFileError(f"'{file.name}' is damaged, or no Parquet file ({reason})") from error


def _of_arrow(pa: Any, column: Any, name: str, file: Path) -> Array:
    if column.null_count:
        raise DamagedFileError(f"the column '{name}' of '{file.name}' lacks {column.null_count:,} values")
    kind, whole = column.type, column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        flat = whole.flatten()
        size, left = divmod(len(flat), len(whole)) if len(whole) else (0, 0)
        lengths = {kind.list_size} if pa.types.is_fixed_size_list(kind) else set(whole.value_lengths().to_pylist())
        if left or lengths != {size} or flat.null_count:
            raise DamagedFileError(f"the lists in the column '{name}' of '{file.name}' are not of one length")
        numbers: Array = flat.to_numpy(zero_copy_only=False).reshape(len(whole), size)
        return numbers
    if pa.types.is_dictionary(kind):
        whole = whole.dictionary_decode()
        kind = whole.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(whole.to_pylist(), dtype=str)
    found: Array = whole.to_numpy(zero_copy_only=False)
    return found
