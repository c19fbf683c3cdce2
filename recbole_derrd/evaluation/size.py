"""Numbers and bytes that a model needs to serve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from recbole_derrd.adapters import EmbeddingAdapter, adapter_class, adapter_of
from recbole_derrd.ops.packing import STEP_BYTES, packed_size


class Stored(NamedTuple):
    """What a part of a table takes where it is stored: numbers, bytes, and bytes of each of the table's rows."""

    numbers: int
    bytes: int
    row_bytes: int

    @classmethod
    def in_bits(cls, rows: int, size: int, bits: int) -> Stored:
        """Return what codes of so many bits a dimension take, each row's with its step."""
        row_bytes = packed_size(size, bits) + STEP_BYTES
        return cls(rows * size, rows * row_bytes, row_bytes)

    @classmethod
    def in_codebooks(cls, rows: int, codebooks: torch.Tensor) -> Stored:
        """Return what codes of a byte a codebook take, and the codebooks [levels, codewords, d] in float16."""
        codes, numbers = rows * len(codebooks), codebooks.numel()
        return cls(codes + numbers, codes + 2 * numbers, len(codebooks))


def _coded(model: Any, side: str | None = None) -> Mapping[str, Stored]:
    """Return what each parameter of a model's coded tables takes, of one side or all; empty in float32.

    A student knows it; of a plain model whoever loads it has noted what its checkpoint holds (``sizes_in_file``).
    """
    if hasattr(model, "stored_sizes"):
        known: Mapping[str, Stored] = model.stored_sizes() if side is None else model.stored_sizes(side)
        return known
    noted: Mapping[str, Stored] = getattr(model, "sizes_in_file", {})
    if side is None or not noted:
        return noted
    names = [f"{table}.weight" for table in adapter_class(type(model)).tables.get(side, ())]
    return {name: noted[name] for name in names if name in noted}


def _served(model: Any) -> dict[str, tuple[int, int, int]]:
    """Return (rows, numbers of a row, its bytes) of each side of a graph student in few bits; empty otherwise."""
    return model.served_rows() if hasattr(model, "served_rows") else {}


def _arrays(model: Any) -> Iterator[tuple[int, int]]:
    """Yield (numbers, bytes) of each array that the model serves with; distillers and caches are none of them."""
    served = _served(model)
    if served:
        # A graph student in few bits serves with what is propagated.
        yield from ((count * size, count * own) for count, size, own in served.values())
        return
    if adapter_class(type(model)).trainable:
        # Of coded tables the codes count, with the steps of their rows or their codebooks.
        coded = _coded(model)
        for name, parameter in model.named_parameters():
            if name.startswith("distillers."):
                continue
            if name in coded:
                yield coded[name].numbers, coded[name].bytes
            else:
                yield parameter.numel(), parameter.numel() * parameter.element_size()
        return
    # Models without gradients keep what they learnt among RecBole's other parameters.
    for value in model.other_parameter().values():
        if isinstance(value, torch.Tensor):
            yield value.numel(), value.numel() * value.element_size()
        elif isinstance(value, np.ndarray):
            yield value.size, value.nbytes
        elif sp.issparse(value):
            # A sparse matrix in rows: values, columns and row starts, four bytes each.
            yield value.nnz, 8 * value.nnz + 4 * (value.shape[0] + 1)


def parameter_count(model: Any) -> int:
    """Return how many numbers the model serves with."""
    return sum(count for count, _ in _arrays(model))


def model_bytes(model: Any) -> int:
    """Return how many bytes those numbers take."""
    return sum(size for _, size in _arrays(model))


@torch.no_grad()
def bytes_per_item(model: Any) -> float:
    """Return how many bytes must be kept for each item of the catalogue.

    A model that is a dot product of two embeddings serves with one vector an item, so that is what counts, without the
    codebooks that all items share; of any other model nothing can be left out, and all its bytes are shared out over
    the items.
    """
    adapter = adapter_of(model)
    if not isinstance(adapter, EmbeddingAdapter):
        return model_bytes(model) / (adapter.n_items - 1)
    coded = _coded(model, "item")
    if coded:
        return float(sum(one.row_bytes for one in coded.values()))
    served = _served(model)
    if served:
        return float(served["item"][2])
    was_training = model.training
    model.eval()
    with adapter.shared():
        vector = adapter.item_embeddings(torch.ones(1, dtype=torch.int64, device=adapter.device))
    model.train(was_training)
    return float(vector.numel() * vector.element_size())
