"""Whether what a checkpoint holds fits a model, before any of it is set: its weights, and its values beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.errors import CheckpointError, shown
from recbole_derrd.evaluation.size import Stored

_SHOWN = 3
#: Says whether a model can work with a value.
Fits = Callable[[Any, Any], bool]


def refuse_other_weights(own: Mapping[str, Tensor], given: Mapping[Any, Any], model: str, source: str | Path) -> None:
    """Refuse weights of other names, shapes or kinds of numbers than the model's.

    Args:
        own: the model's weights by name.
        given: the checkpoint's.
        model: what the model is called.
        source: the checkpoint's file.

    Raises:
        CheckpointError: names what is missing or other, with both shapes.
    """
    parts = []
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    if missing:
        parts.append(f"missing {_first(map(shown, missing))}")
    if unexpected:
        parts.append(f"unexpected {_first(map(shown, unexpected))}")
    other = [_difference(name, tensor, given[name]) for name, tensor in own.items() if name in given]
    if any(other):
        parts.append(_first(filter(None, other)))
    if parts:
        raise CheckpointError(
            f"The weights in '{source}' do not fit {model} with these settings and data: {'; '.join(parts)}. Use the "
            "settings and the data that it was trained with."
        )


def _first(words: Any) -> str:
    words = list(words)
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")


def _difference(name: str, own: Tensor, given: Any) -> str:
    if not isinstance(given, Tensor) or given.layout != own.layout:
        return f"'{name}' is no table of numbers there"
    if given.shape != own.shape:
        return f"'{name}' is {tuple(given.shape)} there and {tuple(own.shape)} here"
    if (given.is_floating_point(), given.is_complex()) != (own.is_floating_point(), own.is_complex()):
        return f"'{name}' is of {given.dtype} there and of {own.dtype} here"
    return ""


def fitting_steps(given: Any, rows: int) -> Tensor | None:
    """Return the steps of a table in few bits that a checkpoint holds, or None where they do not fit its rows.

    Args:
        given: the checkpoint's entry of the table.
        rows: of the table.
    """
    steps = given.get("steps") if isinstance(given, Mapping) else None
    if not isinstance(steps, Tensor) or steps.shape != (rows,):
        return None
    return steps if bool((steps.isfinite() & (steps > 0)).all()) else None


def fits_unit(unit: Any, steps: Tensor) -> bool:
    """Return whether a checkpoint's entry is a unit [1] in which float16 holds these steps [n]."""
    if not isinstance(unit, Tensor) or unit.shape != (1,) or not unit.is_floating_point() or not float(unit) > 0:
        return False
    return bool((steps / unit.float().cpu()).half().isfinite().all())


def fitting_codes(given: Any, rows: int, codebooks: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """Return codes and codebooks of a table that a checkpoint holds, or None where they do not fit it.

    Args:
        given: the checkpoint's entry of the table.
        rows: of the table.
        codebooks: their shape: how many, of how many codewords, of how many dimensions.
    """
    codes, books = (given.get(key) if isinstance(given, Mapping) else None for key in ("codes", "codebooks"))
    if not isinstance(codes, Tensor) or not isinstance(books, Tensor) or tuple(books.shape) != codebooks:
        return None
    whole = codes.dtype == torch.uint8 and codes.shape == (rows, codebooks[0]) and books.dtype == torch.float16
    if not whole or int(codes.max()) >= codebooks[1] or not bool(books.isfinite().all()):
        return None
    return codes, books


def sizes_of_entries(entries: Any, weights: Mapping[str, Any], source: str | Path) -> dict[str, Stored]:
    """Return what the codes of each coded table of a checkpoint take, by the name of its weights.

    Args:
        entries: bits and steps, or codes and codebooks, of the checkpoint's tables by their modules' names.
        weights: the checkpoint's weights by name.
        source: the checkpoint's file.

    Raises:
        CheckpointError: an entry does not fit its table.
    """
    found = {}
    for table, entry in entries.items() if isinstance(entries, Mapping) else ():
        rows = weights.get(f"{table}.weight")
        size = _size_of_entry(entry, rows) if isinstance(rows, Tensor) and rows.dim() == 2 else None
        if size is None:
            raise CheckpointError(
                f"The steps or codes of '{table}' in '{source}' do not fit its table. Train the student again."
            )
        found[f"{table}.weight"] = size
    return found


def _size_of_entry(entry: Any, rows: Tensor) -> Stored | None:
    if not isinstance(entry, Mapping):
        return None
    if "codebooks" not in entry:
        bits = entry.get("bits")
        if fitting_steps(entry, len(rows)) is None or type(bits) is not int or not 1 <= bits <= 8:
            return None
        return Stored.in_bits(len(rows), rows.shape[1], bits)
    books = entry["codebooks"]
    shape = tuple(books.shape) if isinstance(books, Tensor) and books.dim() == 3 else (0, 0, 0)
    if shape[2] != rows.shape[1] or fitting_codes(entry, len(rows), shape) is None:
        return None
    return Stored.in_codebooks(len(rows), books)


def fitting_values(model: Any, given: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Return the values beside the weights that a model takes (RecBole's ``other_parameter``), on the model's device.

    Args:
        model: the model, which declares their names.
        given: the checkpoint's values by name.
        source: the checkpoint's file.

    Raises:
        CheckpointError: a name that the model does not declare, or a value that it cannot work with.
    """
    names, known = declared_names(model), _known(model)
    for name, value in given.items():
        if name not in names:
            raise CheckpointError(
                f"'{source}' sets {shown(name)}, which is no value of {type(model).__name__} beside its weights. It is "
                "a checkpoint of another model, or was tampered with; use another."
            )
        if name in known and not known[name](model, value):
            raise CheckpointError(
                f"The value '{name}' in '{source}' does not fit {type(model).__name__} with these settings and data. "
                "Use the settings and the data that it was trained with."
            )
    users, items = (given.get(name) if name in known else None for name in _PROPAGATED)
    # None, or tables.
    widths = [None if table is None else table.shape[1] for table in (users, items)]
    if widths[0] != widths[1]:
        raise CheckpointError(
            f"The values 'restore_user_e' and 'restore_item_e' in '{source}' do not go together. "
            "Use another checkpoint."
        )
    place = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return {name: value.to(place) if isinstance(value, Tensor) else value for name, value in given.items()}


def declared_names(model: Any) -> frozenset[str]:
    """Return the names of what a model keeps beside its weights."""
    names = set(getattr(model, "other_parameter_name", ()))
    if type(model).other_parameter.__module__ != "recbole.model.abstract_recommender":
        # A model of the user's own may choose them otherwise.
        names.update(model.other_parameter() or ())
    return frozenset(names)


def _table(rows: str) -> Fits:
    """Say whether a value is None or a table of so many rows, as models keep one until their weights change."""

    def fits(model: Any, value: Any) -> bool:
        if value is None:
            return True
        weight = next((one.dtype for one in model.parameters()), torch.float32)
        whole = isinstance(value, Tensor) and value.layout == torch.strided and value.dtype == weight
        return bool(whole and value.dim() == 2 and len(value) == getattr(model, rows))

    return fits


def _embedding(model: Any, value: Any) -> bool:
    return value is None or (_table("n_items")(model, value) and value.shape[1] == model.item_hidden_size_list[-1])


def _counts(model: Any, value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.shape == model.item_cnt.shape


def _largest(model: Any, value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.shape == model.item_cnt.shape[1:]


def _similarity(model: Any, value: Any) -> bool:
    own = model.item_similarity
    arrays = isinstance(value, np.ndarray) and isinstance(own, np.ndarray)
    return arrays and value.shape == own.shape and value.dtype.kind == own.dtype.kind


def _never(model: Any, value: Any) -> bool:
    """A sparse matrix is not read from a file but built anew, so that any other value is wrong."""
    return False


_PROPAGATED: dict[str, Fits] = {"restore_user_e": _table("n_users"), "restore_item_e": _table("n_items")}
_NEIGHBOURS: dict[str, Fits] = {"w": _never, "pred_mat": _never}
_ITEMS: dict[str, Fits] = {"interaction_matrix": _never, "item_similarity": _similarity}
# What RecBole's models declare.
_FITS: dict[str, dict[str, Fits]] = {
    **dict.fromkeys(("DGCF", "LightGCN", "NCL", "NGCF", "SGL", "SpectralCF"), _PROPAGATED),
    **dict.fromkeys(("AsymKNN", "ItemKNN"), _NEIGHBOURS),
    **dict.fromkeys(("EASE", "SLIMElastic"), _ITEMS),
    "DMF": {"i_embedding": _embedding},
    "Pop": {"item_cnt": _counts, "max_cnt": _largest},
}


def _known(model: Any) -> dict[str, Fits]:
    """Return what is known of the values of the RecBole model that a model is or is derived from."""
    found: dict[str, Fits] = {}
    for one in type(model).__mro__:
        if one.__module__.startswith("recbole.model."):
            found.update(_FITS.get(one.__name__, {}))
    return found
