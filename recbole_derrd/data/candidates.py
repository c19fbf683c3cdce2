"""The papers' evaluation: each held-out item among the same few unobserved items, drawn once and for every model alike.

RecBole's ``uniN`` draws anew at every evaluation, with replacement, and may draw one held-out item against another.
``fixedN`` draws N items a user, uniformly without replacement, from those that the user has in no split. Validation and
test share them, and so do teacher, students and every later run with the same seed; they can be kept in a file.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.data.loaders import CatalogueSizedLoader, taking_over
from recbole_derrd.errors import DataError, DistillError
from recbole_derrd.ops.sampling import exclusion_keys, sample_outside
from recbole_derrd.runtime.files import replacing_file
from recbole_derrd.runtime.locks import clearing_folder
from recbole_derrd.runtime.processes import broadcast, is_main_process
from recbole_derrd.runtime.stored_arrays import DamagedFileError, checksum, read_array, sealed, unsealed

#: Users whose candidates are drawn at once; bounds the memory of drawing.
_DRAWN_AT_ONCE = 8192


def draw_candidates(users: Tensor, items: Tensor, n_users: int, n_items: int, count: int, seed: int) -> Tensor:
    """Draw each user's candidates.

    Args:
        users: user of each interaction of any split [m].
        items: item of each [m].
        n_users: number of users, padding included.
        n_items: number of items, padding included.
        count: candidates of each user.
        seed: seed of the draw.

    Returns:
        [n_users, count] int32, distinct in each row; the padding user's row is 0.

    Raises:
        DataError: some user has too few unobserved items.
    """
    generator = torch.Generator().manual_seed(seed)
    order = users.argsort()
    users, items = users[order], items[order]
    candidates = torch.zeros(n_users, count, dtype=torch.int32)
    for start in range(1, n_users, _DRAWN_AT_ONCE):
        stop = min(start + _DRAWN_AT_ONCE, n_users)
        low, high = torch.searchsorted(users, torch.tensor([start, stop]))
        keys, offsets = exclusion_keys(users[low:high] - start, items[low:high], stop - start, n_items)
        unobserved = int((n_items - 1 - offsets.diff()).min())
        if unobserved < count:
            fewer = (
                f"Lower the number in eval_args, e.g. mode: fixed{unobserved}"
                if unobserved
                else "Leave such users out (user_inter_num_interval)"
            )
            raise DataError(
                f"One user has only {unobserved} unobserved items, so {count} candidates cannot be drawn. {fewer}, or "
                "rank the whole catalogue (mode: full)."
            )
        candidates[start:stop] = sample_outside(keys, offsets, n_items, count, generator).to(torch.int32)
    return candidates


def kept_candidates(file: Path, *drawing: Any, own: bool = True) -> Tensor:
    """Return the candidates of a file; where there is none, draw them (see :func:`draw_candidates`) and keep them.

    Args:
        file: the file.
        drawing: what :func:`draw_candidates` takes.
        own: whether the user has named the file. Another is this plugin's, named after what it was drawn from: it is
            checked against its checksum, and drawn anew where it is damaged.

    Raises:
        DataError: the user's file is damaged or of other data.
    """
    users, items, n_users, n_items, count, _ = drawing
    if broadcast(not file.exists()):
        return _drawn(file, drawing, own)
    try:
        stored = read_array(file)
        if not own:
            _refuse_other_content(file)
        return _checked(stored, users, items, n_users, n_items, count)
    except DamagedFileError as error:
        if not own:
            if is_main_process():
                getLogger().warning(f"The candidates in '{file}' are damaged: {error}. They are drawn anew.")
            return _drawn(file, drawing, own)
        raise DataError(
            f"The candidates in '{file}' cannot be used: {error}. If a run has drawn them there, remove the file and "
            "they are drawn anew; if not, correct candidates_file."
        ) from error


def _description(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _refuse_other_content(file: Path) -> None:
    if unsealed(_description(file)).get("checksum") != checksum(file):
        raise DamagedFileError("its content is not what was written (checksum)")


def _drawn(file: Path, drawing: tuple[Any, ...], own: bool) -> Tensor:
    candidates = draw_candidates(*drawing)
    if is_main_process():
        try:
            _keep(file, candidates, own)
        except DistillError as error:
            if own:
                raise
            # A checkpoint may lie where nobody may write, and its candidates are drawn alike each time.
            getLogger().warning(f"The candidates are drawn for this run alone: {error}")
    return candidates


def _keep(file: Path, candidates: Tensor, own: bool) -> None:
    alone = contextlib.nullcontext() if own else clearing_folder(file.parent, ".npy*", "candidates")
    with alone, replacing_file(file) as partial:
        with open(partial, "wb") as content:
            np.save(content, candidates.numpy())
        if not own:
            # First: another run must not find candidates without it.
            with replacing_file(_description(file)) as description:
                description.write_text(sealed({"checksum": checksum(partial)}), encoding="ascii")


def _checked(
    stored: np.ndarray[Any, Any], users: Tensor, items: Tensor, n_users: int, n_items: int, count: int
) -> Tensor:
    """Return candidates as int32, if each user has so many distinct items that are in no split of theirs.

    Raises:
        DamagedFileError: which row and value are wrong.
    """
    if stored.dtype.kind not in "iu":
        raise DamagedFileError(f"it holds {stored.dtype}, and items are whole numbers (RecBole's internal ids)")
    if stored.shape != (n_users, count):
        held = f"{stored.shape[1]} a user for {len(stored) - 1} users" if stored.ndim == 2 else f"shape {stored.shape}"
        raise DamagedFileError(
            f"it holds {held}, this run needs {count} for {n_users - 1}, and a row 0 for the padding user"
        )
    own = stored[1:]
    if own.size and not 1 <= own.min() <= own.max() < n_items:
        row, column = np.argwhere((own < 1) | (own >= n_items))[0]
        raise DamagedFileError(f"row {row + 1} holds {own[row, column]}, and items go from 1 to {n_items - 1}")
    pairs = np.sort(users.numpy().astype(np.int64) * n_items + items.numpy())
    for start in range(1, n_users, _DRAWN_AT_ONCE):
        stop = min(start + _DRAWN_AT_ONCE, n_users)
        low, high = np.searchsorted(pairs, [start * n_items, stop * n_items])
        _refuse_repeated_or_known(stored[start:stop], start, pairs[low:high], n_items)
    # What was drawn here is int32 already, and is not copied.
    candidates = torch.from_numpy(np.require(stored, np.int32, ["C_CONTIGUOUS", "WRITEABLE"]))
    candidates[0] = 0
    return candidates


def _refuse_repeated_or_known(
    rows: np.ndarray[Any, Any], start: int, pairs: np.ndarray[Any, Any], n_items: int
) -> None:
    """Refuse an item that is twice in a user's row, or among what users have interacted with.

    Args:
        rows: candidates of users ``start``, ``start + 1`` ... [n, N].
        start: the first user.
        pairs: user * n_items + item of each of these users' interactions.
        n_items: number of items, padding included.
    """
    ordered = np.sort(rows.astype(np.int64), axis=1)
    twice = ordered[:, 1:] == ordered[:, :-1]
    if twice.any():
        row, column = np.argwhere(twice)[0]
        raise DamagedFileError(f"row {start + row} holds {ordered[row, column]} twice")
    # Users ascend and so do the items of each, so the keys are in order as a whole.
    keys = (ordered + np.arange(start, start + len(rows))[:, None] * n_items).ravel()
    known = keys[np.minimum(np.searchsorted(keys, pairs), len(keys) - 1)] == pairs
    if known.any():
        row, item = divmod(int(pairs[known][0]), n_items)
        raise DamagedFileError(
            f"row {row} holds {item}, one of the items that users have interacted with: the file is of other data"
        )


def candidates_digest(candidates: Tensor) -> str:
    """Return a hash of the candidates, for keys and records."""
    return hashlib.sha256(np.ascontiguousarray(candidates.numpy()).data).hexdigest()[:16]


class CandidateLoader(CatalogueSizedLoader):
    """Each user's held-out items and candidates, in a random order that is the same each time.

    The order is random because a model with equal scores, all zero for one, must not profit from where its held-out
    item stands.
    """

    candidates: Tensor

    def __iter__(self) -> Iterator[Any]:
        """Yield (users, items [n, W], rows and columns of the held-out items); 0 fills the shorter rows."""
        _, _, starts, positives = self._rankings()
        for start, stop, users in self._blocks():
            lengths = starts[start + 1 : stop + 1] - starts[start:stop]
            held_out = torch.zeros(stop - start, int(lengths.max()), dtype=torch.int64)
            held_out[torch.arange(held_out.shape[1]) < lengths.unsqueeze(1)] = positives[starts[start] : starts[stop]]
            items = torch.cat([held_out, self.candidates[users[self.uid_field]].long()], dim=1)
            generator = torch.Generator().manual_seed(start)
            order = torch.rand(items.shape, generator=generator).argsort(dim=1)
            items = items.gather(1, order)
            rows, columns = ((order < held_out.shape[1]) & (items > 0)).nonzero(as_tuple=True)
            yield users, items, rows, columns


def among_candidates(loader: CatalogueSizedLoader, candidates: Tensor) -> CandidateLoader:
    """Return a full-ranking loader's users with their candidates."""
    taken: CandidateLoader = taking_over(CandidateLoader, loader)
    taken.candidates = candidates
    return taken
