"""What a model's rankings are made of: two tables of embeddings, or whole rows of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

import numpy as np
import torch

from recbole_derrd.adapters import Adapter, EmbeddingAdapter
from recbole_derrd.compression import Tables, compress, storing_recipe
from recbole_derrd.compression.codebook_table import CodebookTable
from recbole_derrd.compression.recipe import trained_tables
from recbole_derrd.compression.tables import QuantizedTable
from recbole_derrd.data.history import History
from recbole_derrd.errors import DataError
from recbole_derrd.serving.ranking import best
from recbole_derrd.serving.vectors import CodewordVectors, Vectors

#: Scores of a block of users (24 MB of float32), and its most users.
_SCORES, _USERS = 6 << 20, 256
_DIVERGED = "The model's scores hold NaN: its training diverged. Train it again with a lower learning_rate."


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Both sides' vectors, as they are stored; no row is padding."""

    arrays: dict[str, dict[str, np.ndarray[Any, Any]]]
    units: dict[str, float]
    size: int
    bits: int
    #: Bits of the users' vectors, where they have others than the items'.
    user_bits: int | None = None
    #: Codebooks whose codewords the items' vectors are sums of; 0 where they are not.
    item_codebooks: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each side."""
        return {side: len(next(iter(arrays.values()))) for side, arrays in self.arrays.items()}

    def vectors(self, side: str) -> Vectors:
        """Return a side's vectors as they are served."""
        if side == "item" and self.item_codebooks:
            return CodewordVectors(self.arrays[side], self.size, self.item_codebooks, self.counts[side])
        bits = self.user_bits or self.bits if side == "user" else self.bits
        return Vectors(self.arrays[side], self.size, bits, self.units.get(side, 1.0), self.counts[side])

    def bytes_a_row(self, side: str) -> int:
        """Return the bytes of one vector, its scale included; codebooks are shared by all."""
        own = (array.nbytes for name, array in self.arrays[side].items() if name != "codebooks")
        return sum(own) // self.counts[side]


@torch.no_grad()
def embeddings_of(
    adapter: Adapter, bits: int | None, seed: int, steps: Mapping[str, Mapping[str, Any]] | None = None
) -> Embeddings | None:
    """Return the embeddings of which a model's score is the inner product; None where it is made otherwise.

    Of graph models they are the propagated ones; weights and biases of a score are parts of the vectors.

    Args:
        adapter: the model.
        bits: bits a dimension; if none those that the model was trained in, which is float32 for most.
        seed: seed of the rotation of few bits.
        steps: of a model that was trained in few bits or in codebooks, what its checkpoint holds of its tables: its
            own codes are given.

    Raises:
        DataError: they hold what is no finite number.
    """
    if not isinstance(adapter, EmbeddingAdapter):
        return None
    trained = _item_bits(adapter, steps) if steps else 32
    # Asked for by name, float32 is that of both sides, whatever the users were trained in.
    if steps and (bits is None or bits == trained < 32):
        return of_tables(trained_tables(adapter, steps), trained)
    bits = bits or 32
    if bits != 32:
        return _in_few_bits(adapter, bits, seed)
    with adapter.shared():
        sides = {side: adapter.embeddings(side).detach().float().cpu()[1:].numpy() for side in ("user", "item")}
    if not all(np.isfinite(table).all() for table in sides.values()):
        raise DataError(_DIVERGED)
    arrays = {side: {"embeddings": np.ascontiguousarray(table, np.float32)} for side, table in sides.items()}
    return Embeddings(arrays, {}, int(sides["item"].shape[1]), bits)


def _item_bits(adapter: EmbeddingAdapter, steps: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the bits that a model's items were trained in; 0, which nobody asks for, of codebooks."""
    own = steps.get(adapter.tables["item"][0], {}) if adapter.tables else {}
    bits = 0 if "codebooks" in own else own.get("bits", 32)
    return bits if type(bits) is int else 32


def _in_few_bits(adapter: EmbeddingAdapter, bits: int, seed: int) -> Embeddings:
    return of_tables(compress(adapter, storing_recipe(bits, users=True), seed), bits)


def of_tables(tables: Tables, bits: int) -> Embeddings:
    """Return coded tables, of which the users' may be float32, as they are stored.

    Args:
        tables: the tables.
        bits: of the items; 0 of codebooks.
    """
    arrays, units = {}, {}
    for side, table in (("user", tables.users), ("item", tables.items)):
        if isinstance(table, QuantizedTable):
            arrays[side] = {"codes": table.packed[1:].numpy(), "scales": table.scales[1:].numpy()}
            units[side] = float(table.unit)
        elif isinstance(table, CodebookTable):
            # Of a trained student: one part, and float16.
            arrays[side] = {"codes": table.codes[1:].squeeze(2).numpy(), "codebooks": table.codebooks.numpy()}
        else:
            arrays[side] = {"embeddings": np.ascontiguousarray(table.rows()[1:].numpy(), np.float32)}
    user_bits = tables.users.bits if isinstance(tables.users, QuantizedTable) else 32
    bits, codebooks = bits or 32, len(arrays["item"].get("codebooks", ()))
    return Embeddings(arrays, units, tables.items.size, bits, None if user_bits == bits else user_bits, codebooks)


def scorer_of(adapter: Adapter, embeddings: Embeddings | None) -> Callable[[np.ndarray[Any, Any]], Any]:
    """Return what gives the scores [n, items] of users, both without padding; those of what is stored, if any is."""
    if embeddings is not None:
        users, items = embeddings.vectors("user"), embeddings.vectors("item")
        return lambda rows: items.products(users.rows(rows))

    @torch.no_grad()
    def of_model(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        scores = adapter.score_all(torch.from_numpy(rows + 1).to(adapter.device))
        found: np.ndarray[Any, Any] = scores.float().cpu().numpy()[:, 1:].copy()
        return found

    return of_model


def rankings(
    score: Callable[[np.ndarray[Any, Any]], Any],
    history: History,
    count: int,
    *,
    keep_seen: bool,
    users: Sequence[int] | None = None,
) -> Iterator[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Yield (user, items, scores) of each user, both without padding, best first; of equal scores the smaller id first.

    Args:
        score: gives the scores of users.
        history: what each user has seen, with padding.
        count: length of a ranking; fewer where there are no more items.
        keep_seen: leave seen items in.
        users: whose rankings, without padding; everybody's if None.

    Raises:
        DataError: a score is NaN.
    """
    step = max(1, min(_USERS, _SCORES // history.n_items))
    asked = np.arange(history.n_users - 1) if users is None else np.asarray(users, dtype=np.int64)
    for start in range(0, len(asked), step):
        rows = asked[start : start + step]
        scores = score(rows)
        if np.isnan(scores).any():
            raise DataError(_DIVERGED)
        # A model may score an item -inf, which below marks what is left out.
        ranked = np.maximum(scores, np.finfo(np.float32).min)
        for user, own, given in zip(rows.tolist(), ranked, scores):
            if not keep_seen:
                own[history.items[history.indptr[user + 1] : history.indptr[user + 2]] - 1] = -np.inf
            places = best(own, count)
            yield user, places, given[places]
