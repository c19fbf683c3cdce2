"""The papers' evaluation: each held-out item among the same few unobserved items, drawn once and for every model alike.

RecBole's ``uniN`` draws anew at every evaluation, with replacement, and may draw one held-out item against another.
``fixedN`` draws N items a user, uniformly without replacement, from those that the user has in no split. Validation and
test share them, and so do teacher, students and every later run with the same seed; they can be kept in a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.batches import CatalogueSizedLoader, taking_over
from recbole_derrd.errors import DataError
from recbole_derrd.files import replacing_file
from recbole_derrd.processes import from_first, is_first
from recbole_derrd.sampling import exclusion_keys, sample_outside

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
            raise DataError(
                f"One user has only {unobserved} unobserved items, so {count} candidates cannot be drawn. Lower the "
                f"number in eval_args, e.g. mode: fixed{max(unobserved, 1)}, or rank the whole catalogue (mode: full)."
            )
        candidates[start:stop] = sample_outside(keys, offsets, n_items, count, generator).to(torch.int32)
    return candidates


def kept_candidates(file: Path, *drawing: Any) -> Tensor:
    """Return the candidates of a file; where there is none, draw them (see :func:`draw_candidates`) and keep them.

    Raises:
        DataError: the file is damaged or of other data.
    """
    users, items, n_users, n_items, count, _ = drawing
    if from_first(not file.is_file()):
        candidates = draw_candidates(*drawing)
        if is_first():
            with replacing_file(file) as partial, open(partial, "wb") as content:
                np.save(content, candidates.numpy())
        return candidates
    try:
        stored = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"There are no candidates to read in '{file}'. If a run has drawn them there, remove the file and they are "
            "drawn anew; if not, correct candidates_file."
        ) from error
    if stored.shape != (n_users, count) or stored.dtype != np.int32 or stored.max() >= n_items:
        raise DataError(
            f"The candidates in '{file}' are {stored.shape[-1]} a user for {len(stored) - 1} users, this run needs "
            f"{count} for {n_users - 1}. Give the file of these data and this mode, or none."
        )
    candidates = torch.from_numpy(stored)
    pairs = users * n_items + items
    listed = candidates[1:].long() + torch.arange(1, n_users).unsqueeze(1) * n_items
    if torch.isin(pairs, listed.reshape(-1)).any():
        raise DataError(
            f"The candidates in '{file}' hold items that users have interacted with: they are of other data."
        )
    return candidates


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
        _, _, starts, positives = self._lists()
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
