"""From a teacher's embeddings to stored tables: dimensions, rotation, codes, in this order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter, EmbeddingAdapter
from recbole_derrd.compression.additive import local_search_codes, residual_codes
from recbole_derrd.compression.codebook_table import CodebookTable, Coder
from recbole_derrd.compression.product import faiss_or_refuse, product_codes, product_rotation
from recbole_derrd.compression.tables import LloydMaxTable, PlainTable, QuantizedTable, Table
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.ops.residual import CODEWORDS
from recbole_derrd.ops.rotation import learned_rotation, random_rotation
from recbole_derrd.ops.svd import score_factors
from recbole_derrd.teacher.exact import DIVERGED
from recbole_derrd.training.fitting import fits_unit, fitting_codes, fitting_steps


@dataclasses.dataclass(frozen=True)
class Tables:
    """What is stored of a teacher: score(u, i) = ⟨users row u, items row i⟩."""

    users: Table
    items: Table


def check_recipe(options: CompressOptions, teacher: type[Adapter], name: str, size: int | None = None) -> None:
    """Refuse what cannot end well, before anything is trained.

    Args:
        options: what to do.
        teacher: the teacher's adapter.
        name: the teacher's model.
        size: dimensions of its embeddings, where they are known.

    Raises:
        OptionError: what to do.
    """
    if options.method == "none":
        raise OptionError("Nothing is compressed: set compress_method to svd, quantized or product.")
    if not issubclass(teacher, EmbeddingAdapter):
        raise OptionError(
            f"Only a teacher whose score is the dot product of two embeddings can be compressed, and {name}'s is not. "
            "Use a teacher_model such as BPR or LightGCN."
        )
    if options.method == "product":
        faiss_or_refuse()
    if size is not None:
        _check_sizes(options, size)


def _check_sizes(options: CompressOptions, size: int) -> None:
    if options.size is not None and options.size > size:
        raise OptionError(
            f"compress_size = {options.size} is more than the teacher's {size} dimensions. Lower it, or take it out to "
            "keep the teacher's own embeddings."
        )
    kept = size if options.size is None else options.size
    if options.bytes is not None and options.bytes > kept:
        raise OptionError(
            f"compress_bytes = {options.bytes} is more than one byte a dimension ({kept}). Lower it, or use "
            "compress_method: quantized."
        )


def check_rank(options: CompressOptions, users: int, items: int) -> None:
    """Refuse more dimensions than the scores of so many users and items have, once the data are there.

    Raises:
        OptionError: what to do.
    """
    if options.size is not None and options.size > min(users, items):
        raise OptionError(
            f"compress_size = {options.size} is more than the scores of {users:,} users and {items:,} items have "
            f"dimensions. Give {min(users, items)} at most, or take it out to keep the teacher's own embeddings."
        )


@torch.no_grad()
def compress(teacher: EmbeddingAdapter, options: CompressOptions, seed: int) -> Tables:
    """Compress a frozen teacher.

    Args:
        teacher: the teacher.
        options: what to do.
        seed: seed of the rotation and of k-means.

    Raises:
        OptionError: more dimensions or bytes are asked for than the teacher, or its scores, have dimensions.
        DataError: the teacher's embeddings hold NaN.
    """
    with teacher.shared():
        users, items = _plain(teacher.user_embeddings()), _plain(teacher.item_embeddings())
    _check_sizes(options, items.shape[1])
    check_rank(options, len(users) - 1, len(items) - 1)
    if options.size is not None:
        users, items = score_factors(users, items, options.size)
        # A row of zeros comes out of it as rounding errors.
        users[0], items[0] = 0, 0
    users, items = _turned(users, items, options, seed)
    return Tables(_stored(users, options, seed) if options.users else PlainTable(users), _stored(items, options, seed))


@torch.no_grad()
def trained_tables(student: EmbeddingAdapter, steps: Mapping[str, Mapping[str, Any]]) -> Tables:
    """Return the tables of a student that was trained in few bits or in codebooks: its own codes, exactly.

    Args:
        student: the student.
        steps: bits and steps, or codes and codebooks, of its tables by their modules' names, as its checkpoint holds
            them.

    Raises:
        DataError: they do not fit its tables.
    """
    sides: list[Table] = []
    for side in ("user", "item"):
        (name,) = student.tables[side]
        rows, known = _plain(student.embeddings(side)), steps.get(name)
        if known is None:
            sides.append(PlainTable(rows))
            continue
        if side == "item" and "codebooks" in known:
            sides.append(_trained_codebooks(rows, known, name))
            continue
        bits, own = known.get("bits"), fitting_steps(known, len(rows))
        if own is None or type(bits) is not int or not 1 <= bits <= 8:
            raise DataError(f"The steps of '{name}' in the checkpoint do not fit its table. Train the student again.")
        stored, unit = own.float().cpu(), known.get("unit")
        if unit is not None and not fits_unit(unit, stored):
            raise DataError(f"The unit of '{name}' in the checkpoint does not fit its steps. Train the student again.")
        sides.append(QuantizedTable.with_steps(rows, stored, bits, None if unit is None else unit.float().cpu()))
    return Tables(*sides)


def _trained_codebooks(rows: Tensor, entry: Mapping[str, Any], name: str) -> CodebookTable:
    """Return a table of the codes and codebooks that a student's rows [n, d] were trained in."""
    given = entry["codebooks"]
    count = len(given) if isinstance(given, Tensor) and given.dim() else 0
    found = fitting_codes(entry, len(rows), (count, min(CODEWORDS, len(rows) - 1), rows.shape[1])) if count else None
    if found is not None:
        table = CodebookTable(found[0].cpu().unsqueeze(2), found[1].cpu())
        # Another device may have added them up in another way.
        most = 1e-6 * count * float(table.codebooks.abs().max())
        if torch.allclose(table.rows()[1:], rows[1:], rtol=1e-5, atol=most):
            return table
    raise DataError(f"The codes of '{name}' in the checkpoint do not fit its table. Train the student again.")


def _turned(users: Tensor, items: Tensor, options: CompressOptions, seed: int) -> tuple[Tensor, Tensor]:
    """Turn both sides by one rotation, which leaves every score as it is."""
    if options.turned == "none":
        return users, items
    if options.turned == "random":
        rotation = random_rotation(items.shape[1], seed)
    elif options.method == "product":
        # The search is for parts of one size.
        parts = _parts(options)
        missing = -items.shape[1] % parts
        users, items = (torch.nn.functional.pad(rows, (0, missing)) for rows in (users, items))
        rotation = product_rotation(items[1:], parts, seed)
    else:
        rotation = learned_rotation(items, options.bits, seed)
    return users @ rotation, items @ rotation


def storing_recipe(bits: int, *, users: bool) -> CompressOptions:
    """Return how a finished model is stored in few bits.

    With one bit a learned rotation is worth its seconds; with more it gains nothing sure (docs/compression.md).
    """
    rotation = "learned" if bits == 1 else "random"
    return CompressOptions(method="quantized", bits=bits, users=users, rotation=rotation)


def _parts(options: CompressOptions) -> int:
    """Return the parts that codebooks cut a vector into."""
    given = options.bytes or 1
    return {"rq": 1, "lsq": 1, "prq": given // options.part_bytes}.get(options.codebooks, given)


def _plain(embeddings: Tensor) -> Tensor:
    embeddings = embeddings.detach().float().cpu().clone()
    if not bool(embeddings.isfinite().all()):
        raise DataError(DIVERGED)
    # The padding row holds whatever the model began with; it must not shape the factors.
    embeddings[0] = 0
    return embeddings


def _stored(embeddings: Tensor, options: CompressOptions, seed: int) -> Table:
    if options.levels == "lloyd_max":
        return LloydMaxTable.of(embeddings, options.bits)
    if options.method == "quantized":
        return QuantizedTable.of(embeddings, options.bits)
    if options.method == "product":
        return CodebookTable.of(embeddings, _coder(options, seed))
    return PlainTable(embeddings)


def _coder(options: CompressOptions, seed: int) -> Coder:
    """Return what makes codes and codebooks of rows."""
    parts, given = _parts(options), options.bytes or 1
    if options.codebooks == "lsq":
        return lambda rows: local_search_codes(rows, given, seed)
    if options.codebooks in ("rq", "prq"):
        return lambda rows: residual_codes(rows, parts, given // parts, seed)
    return lambda rows: product_codes(rows, parts, seed)
