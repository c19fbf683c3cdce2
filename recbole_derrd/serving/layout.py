"""An export on disk: the names of its files, and its card, which says what they hold.

======================  ================================================================================================
``card.json``           what the export is: model, data, metrics, sizes, and the CRC-32 of every other file
``README.md``           the same for people
``user_ids.jsonl``      one id a line, a JSON text; line r belongs to row r of every table of users. No row is padding.
``item_ids.jsonl``      the same for items
``seen.indptr.npy``     int64 [users + 1]: user r has seen ``seen.items[indptr[r]:indptr[r + 1]]`` in training
``seen.items.npy``      int32: rows of items, ascending for each user
``users.npy``           float32 [users, d], of an export in float32, or in few bits for the items alone
``items.npy``           float32 [items, d]; score(u, i) = ⟨users[u], items[i]⟩
``items.codes.npy``     uint8 [items, ⌈d · bits / 8⌉], of an export in few bits (:mod:`recbole_derrd.serving.codes`)
``items.scales.npy``    float16 [items]; the same two for users
``items.codes.npy``     uint8 [items, codebooks], of a student in codebooks: its users are as above
``items.codebooks.npy``  float16 [codebooks, codewords, d]; items[r] = Σ_l codebooks[l, codes[r, l]]
``items.safetensors``   of ``--format=safetensors``: the arrays ``embeddings``, or ``codes`` and ``scales`` or
                        ``codebooks``, in one file
``items.parquet``       of ``--format=parquet``: columns ``item_id`` and ``embedding``
``items.faiss``         of ``--index=faiss``: an IndexFlatIP; ``items.usearch`` of ``--index=usearch``; label r is row r
``top.csv``             of ``--top``: ``user_id, rank, item_id, score``; all that a model without embeddings has;
                        ``top.parquet`` of ``--format=parquet``
======================  ================================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_derrd.errors import DataError
from recbole_derrd.runtime.json_files import anything, fields, flag, mapping, nullable, number, text, whole
from recbole_derrd.runtime.stored_arrays import DamagedFileError, checksum, unsealed

#: Raised whenever a file changes its meaning.
FORMAT = 1
CARD, README, TOP, TOP_PARQUET = "card.json", "README.md", "top.csv", "top.parquet"
SEEN = ("seen.indptr.npy", "seen.items.npy")
#: How vectors are written, and which of them numpy alone reads.
FORMATS, READABLE = ("npy", "safetensors", "parquet"), ("npy", "safetensors")
#: Bits of a dimension; 32 is float32.
BITS = (32, 8, 4, 3, 2, 1)

_AGAIN = "Export the model again."
_CARD = fields(
    {
        "format": whole(),
        "model": text(),
        "users": whole(low=1),
        "items": whole(low=1),
        "files": mapping(fields({"bytes": whole(), "crc32": whole(high=2**32)}), least=2),
    },
    {
        "embedding": fields(
            {
                "size": whole(low=1, high=1 << 20),
                "bits": whole(low=1, high=32),
                "format": text(),
                "units": nullable(mapping(number())),
            },
            # Where the users' vectors have other bits than the items', and where the items are sums of codewords.
            {"user_bits": whole(low=1, high=32), "item_codebooks": whole(low=1, high=256)},
        ),
        "seen": flag,
        "score": anything,
    },
)


def ids_file(side: str) -> str:
    """Return the name of the file of a side's ids: "user" or "item"."""
    return f"{side}_ids.jsonl"


def read_card(folder: Path, *, check: bool = True) -> dict[str, Any]:
    """Read an export's card, and compare its files with it.

    Args:
        folder: the export.
        check: whether to read every file to its end for its checksum; else sizes alone are compared.

    Raises:
        DataError: there is no export, it is of another version, or it is damaged.
    """
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is none"
        raise DataError(f"'{folder}' is no folder of an export: {what}. Make one by 'recbole-derrd export'.")
    if not (folder / CARD).exists():
        raise DataError(f"'{folder}' is no export: it has no {CARD}. Make one by 'recbole-derrd export'.")
    try:
        card = unsealed(folder / CARD)
        known = card.get("format")
        if known != FORMAT:
            raise DataError(f"The export '{folder}' is of format {known!r}, not {FORMAT}. {_AGAIN}")
        fault = _CARD(card)
        if fault is not None:
            raise DamagedFileError(f"'{CARD}' holds a wrong value: {fault.lstrip('.')}")
        for name, wanted in card["files"].items():
            _compare(folder / name, wanted, check=check)
    except DamagedFileError as error:
        raise damaged(folder, error) from error
    return card


def damaged(folder: Path, reason: object) -> DataError:
    """Return the error that an export is not what was written."""
    return DataError(f"The export '{folder}' is damaged: {reason}. {_AGAIN}")


def _compare(file: Path, wanted: dict[str, int], *, check: bool) -> None:
    if not file.is_file():
        raise DamagedFileError(f"'{file.name}' is missing")
    size = file.stat().st_size
    if size != wanted["bytes"]:
        raise DamagedFileError(f"'{file.name}' has {size:,} bytes and had {wanted['bytes']:,}")
    if check and checksum(file) != wanted["crc32"]:
        raise DamagedFileError(f"'{file.name}' is not what was written (checksum)")
