"""Stored tables in one ``.npz`` file: what a server loads instead of a checkpoint, as large as its tables."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.compression.packing import packed_size
from recbole_derrd.compression.recipe import Tables
from recbole_derrd.compression.tables import PlainTable, ProductTable, QuantizedTable, Table
from recbole_derrd.errors import CheckpointError
from recbole_derrd.runtime.files import replacing_file
from recbole_derrd.runtime.stored_arrays import DamagedFileError, member_array

#: Raised whenever the arrays of a file change their meaning.
FORMAT = 1


def save_tables(tables: Tables, path: Path) -> None:
    """Write both tables, row by RecBole's internal id; whole or not at all."""
    arrays: dict[str, Any] = {"format": np.array([FORMAT])}
    for side, table in (("user", tables.users), ("item", tables.items)):
        arrays.update({f"{side}_{name}": array.numpy() for name, array in table.arrays().items()})
        if isinstance(table, QuantizedTable):
            arrays[f"{side}_shape"] = np.array([table.bits, table.size])
    with replacing_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def load_tables(path: str | Path) -> Tables:
    """Read what :func:`save_tables` has written; no code is run from the file.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind.
    """
    try:
        arrays = _members(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file '{path}'. Check the path.") from error
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, DamagedFileError) as error:
        raise CheckpointError(f"'{path}' is damaged, or no file of stored embeddings.") from error
    known = arrays.pop("format", np.array([0])).tolist()
    if known != [FORMAT]:
        raise CheckpointError(f"'{path}' holds no stored embeddings of format {FORMAT}. Store the student anew.")
    try:
        tables = Tables(_table(arrays, "user"), _table(arrays, "item"))
        if tables.users.size != tables.items.size:
            raise DamagedFileError(f"users have {tables.users.size} dimensions and items {tables.items.size}")
        return tables
    except KeyError as error:
        raise CheckpointError(
            f"'{path}' is damaged: a table is not whole, {error} is missing. Store the student anew."
        ) from error
    except DamagedFileError as error:
        raise CheckpointError(f"'{path}' is damaged: a table is not whole, {error}. Store the student anew.") from error


def _members(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read every array of an archive; the archive's own checksums are compared while a member is read to its end."""
    if not Path(path).exists():
        raise FileNotFoundError(path)
    if not Path(path).is_file():
        raise DamagedFileError("it is no regular file")
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # Nothing else is written; and what is packed may be of any size.
            if member.compress_type != zipfile.ZIP_STORED or not member.filename.endswith(".npy"):
                raise DamagedFileError(f"it holds '{member.filename}'")
            name = member.filename[: -len(".npy")]
            if name in arrays or member.file_size > Path(path).stat().st_size:
                raise DamagedFileError(f"it holds '{name}' twice, or not whole")
            with archive.open(member) as content:
                arrays[name] = member_array(content, member.file_size)
    return arrays


def _table(arrays: dict[str, np.ndarray[Any, Any]], side: str) -> Table:
    def array(name: str, kind: type[np.generic], dimensions: int) -> Tensor:
        found = arrays[f"{side}_{name}"]
        if found.dtype != kind or found.ndim != dimensions or found.size == 0:
            raise DamagedFileError(f"{side}_{name} is {found.dtype} {found.shape}")
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise DamagedFileError(f"{side}_{name} holds what is no finite number")
        return torch.from_numpy(found)

    if f"{side}_embeddings" in arrays:
        return PlainTable(array("embeddings", np.float32, 2))
    if f"{side}_codes" in arrays:
        codes, centres = array("codes", np.uint8, 2), array("centres", np.float32, 2)
        if int(codes.max()) >= len(centres) or codes.shape[1] > centres.shape[1]:
            raise DamagedFileError(f"{side}_codes names centres that there are not")
        return ProductTable(codes, centres)
    shape = arrays[f"{side}_shape"]
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise DamagedFileError(f"{side}_shape is {shape.dtype} {shape.shape}")
    bits, size = shape.tolist()
    packed, scales, unit = array("packed", np.uint8, 2), array("scales", np.float16, 1), array("unit", np.float32, 1)
    if not (1 <= bits <= 8 and size >= 1):
        raise DamagedFileError(f"{size} dimensions of {bits} bits")
    if packed.shape != (len(scales), packed_size(size, bits)) or len(unit) != 1:
        raise DamagedFileError("the codes are not those of so many scales and dimensions")
    return QuantizedTable(packed, scales, unit, bits, size)
