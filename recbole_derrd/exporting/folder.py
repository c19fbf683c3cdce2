"""One export, from a checkpoint to a folder that is whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_derrd.errors import OptionError
from recbole_derrd.experiment.log import deprecations_hidden
from recbole_derrd.exporting.card import about, readme
from recbole_derrd.exporting.checkpoint import Trained, load_trained
from recbole_derrd.exporting.index import write_index
from recbole_derrd.exporting.parquet import write_rankings, write_table
from recbole_derrd.exporting.recommend import ranking_rows
from recbole_derrd.exporting.request import Request
from recbole_derrd.exporting.scores import Embeddings, embeddings_of
from recbole_derrd.runtime.files import building_folder, write_errors_named
from recbole_derrd.runtime.locks import locked
from recbole_derrd.serving.layout import README, TOP, TOP_PARQUET
from recbole_derrd.serving.lists import write_csv
from recbole_derrd.serving.writing import write_card, write_identities, write_seen, write_vectors


def export(request: Request) -> dict[str, Any]:
    """Write an export; return its card.

    Raises:
        DistillError: something the user can mend; nothing has been written.
    """
    request.check()
    with deprecations_hidden():
        trained = load_trained(request)
    embeddings = embeddings_of(trained.adapter, request.wanted_bits, trained.config["seed"], trained.table_entries)
    if embeddings is None:
        _check_without_embeddings(request, trained.adapter.name)
    with locked(request.out, "exports to this folder", tidy=True):
        request.check_place()
        with building_folder(request.out, replace=request.force) as folder, write_errors_named(request.out):
            return write_export(folder, request, trained, embeddings)


def _check_without_embeddings(request: Request, name: str) -> None:
    words = f"The score of {name} is no inner product of two embeddings, so it has none to export"
    if request.bits not in (None, 32):
        raise OptionError(
            f"{words} in {request.bits} bits. Take out --bits, and export its users' rankings: --top=100."
        )
    if request.index is not None:
        raise OptionError(f"{words} for an index. Take out --index, and export its users' rankings: --top=100.")
    if request.top == 0:
        raise OptionError(f"{words}. Export its users' rankings: --top=100.")


def write_export(folder: Path, request: Request, trained: Trained, embeddings: Embeddings | None) -> dict[str, Any]:
    """Write every file of an export into a folder; return its card."""
    users, items = trained.tokens
    history = trained.data.history
    write_identities(folder, users, items)
    # The padding user has seen nothing, and item r is number r + 1.
    write_seen(folder, history.indptr[1:], history.items - 1)
    if embeddings is not None:
        _write_embeddings(folder, request, embeddings, {"user": users, "item": items})
        if request.index is not None:
            write_index(folder, request.index, embeddings.arrays["item"]["embeddings"])
    rows = _write_rankings(folder, request, trained, embeddings) if request.top else None
    card = about(request, trained, embeddings, rows)
    (folder / README).write_text(readme(card), encoding="utf-8")
    write_card(folder, card)
    return card


def _write_embeddings(folder: Path, request: Request, embeddings: Embeddings, ids: dict[str, list[str]]) -> None:
    for side, arrays in embeddings.arrays.items():
        if request.kind == "parquet":
            write_table(folder / f"{side}s.parquet", side, ids[side], arrays["embeddings"])
        else:
            write_vectors(folder, side, arrays, request.kind)


def _write_rankings(folder: Path, request: Request, trained: Trained, embeddings: Embeddings | None) -> int:
    """Write the users' rankings; return how many rows there are."""
    every = ranking_rows(trained, embeddings, request.top, keep_seen=request.keep_seen)
    if request.kind == "parquet":
        return write_rankings(folder / TOP_PARQUET, every)
    with open(folder / TOP, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        return write_csv(file, every)
