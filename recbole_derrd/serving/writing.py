"""Writing an export's files: arrays, ids, seen items, and the card with the checksums of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_derrd.runtime.stored_arrays import checksum, sealed
from recbole_derrd.serving.arrays import write_safetensors
from recbole_derrd.serving.ids import write_ids
from recbole_derrd.serving.layout import CARD, FORMAT, SEEN, ids_file


def write_identities(folder: Path, users: Sequence[str], items: Sequence[str]) -> None:
    """Write the ids of both sides, in the order of the rows."""
    write_ids(folder / ids_file("user"), users)
    write_ids(folder / ids_file("item"), items)


def write_seen(folder: Path, indptr: np.ndarray[Any, Any], items: np.ndarray[Any, Any]) -> None:
    """Write each user's seen items, as rows of items: ``items[indptr[r]:indptr[r + 1]]``."""
    np.save(folder / SEEN[0], indptr.astype(np.int64))
    np.save(folder / SEEN[1], items.astype(np.int32))


def write_vectors(folder: Path, side: str, arrays: Mapping[str, np.ndarray[Any, Any]], kind: str) -> None:
    """Write one side's vectors.

    Args:
        folder: the export.
        side: "user" or "item".
        arrays: ``embeddings`` (float32), or ``codes`` (uint8) and ``scales`` or ``codebooks`` (float16).
        kind: "npy" or "safetensors".
    """
    if kind == "safetensors":
        write_safetensors(folder / f"{side}s.safetensors", arrays)
        return
    for name, array in arrays.items():
        middle = "" if name == "embeddings" else f".{name}"
        np.save(folder / f"{side}s{middle}.npy", array)


def write_card(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the card of a folder whose other files are written.

    Args:
        folder: the export.
        about: what the card says beside the format and the files: model, users, items, embedding, and more.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "crc32": checksum(path)}
        for path in sorted(folder.iterdir())
        if path.name != CARD
    }
    (folder / CARD).write_text(sealed({"format": FORMAT, **about, "files": files}), encoding="ascii")
