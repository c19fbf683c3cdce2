"""Stored tables in one ``.npz`` file: what a server loads instead of a checkpoint, as large as its tables."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.compression.packing import packed_size
from recbole_derrd.compression.recipe import Tables
from recbole_derrd.compression.tables import PlainTable, ProductTable, QuantizedTable, Table
from recbole_derrd.errors import CheckpointError
from recbole_derrd.files import replacing_file

#: Raised whenever the arrays of a file change their meaning.
FORMAT = 1


def save_tables(tables: Tables, path: Path) -> None:
    """Write both tables, row by RecBole's internal id; whole or not at all."""
    arrays = {"format": np.array([FORMAT])}
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
        # numpy would open an .npy file as well, as something else.
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file '{path}'. Check the path.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"'{path}' is damaged, or no file of stored vectors.") from error
    known = arrays.pop("format", np.array([0])).tolist()
    if known != [FORMAT]:
        raise CheckpointError(f"'{path}' holds no stored vectors of format {FORMAT}. Store the student anew.")
    try:
        return Tables(_table(arrays, "user"), _table(arrays, "item"))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged: a table is not whole. Store the student anew.") from error


def _table(arrays: dict[str, np.ndarray], side: str) -> Table:
    def array(name: str) -> Tensor:
        return torch.from_numpy(arrays[f"{side}_{name}"])

    if f"{side}_vectors" in arrays:
        return PlainTable(array("vectors"))
    if f"{side}_codes" in arrays:
        return ProductTable(array("codes"), array("centres"))
    bits, size = (int(number) for number in arrays[f"{side}_shape"])
    packed, scales, unit = array("packed"), array("scales"), array("unit")
    if packed.shape != (len(scales), packed_size(size, bits)) or len(unit) != 1:
        raise ValueError("the codes are not those of so many scales and dimensions")
    return QuantizedTable(packed, scales, unit, bits, size)
