"""What a frozen teacher knows, made once in chunks of users and kept on disk, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_derrd.backbones import Backbone
from recbole_derrd.data import History
from recbole_derrd.errors import DataError
from recbole_derrd.files import building_folder
from recbole_derrd.randomness import kept_random_state

#: Raised whenever the content of the stored arrays changes.
FORMAT = 1
#: Scores that fit one chunk where ``knowledge_batch_size`` is 0 (64 MB of float32).
_CHUNK_SCORES = 1 << 24


class Knowledge:
    """A teacher's vectors, top-N lists and scores, for distillers of any student.

    Lists and vectors are ``.npy`` files under ``folder``, opened memory-mapped, written once and atomically. No
    users x items array is made on any path: the lists are built ``chunk`` users at a time.

    Args:
        folder: where the arrays are kept; named after the teacher's content key.
        load_teacher: gives the frozen teacher; called only for what is not on disk yet.
        history: training items of each user; they never enter a list.
        teacher_hints: hint layers that the teacher's vectors can be read from, default first.
        chunk: users scored at once; 0 sizes it to the catalogue.
        show_progress: show a bar while lists are built.
    """

    def __init__(
        self,
        folder: Path,
        load_teacher: Callable[[], Backbone],
        history: History,
        *,
        teacher_hints: tuple[str, ...] = (),
        chunk: int = 0,
        show_progress: bool = False,
    ) -> None:
        """Open the knowledge; nothing is computed yet."""
        self.folder = Path(folder)
        self.history = history
        self.teacher_hints = teacher_hints
        self.seconds = 0.0
        self._load_teacher = load_teacher
        self._teacher: Backbone | None = None
        self._chunk = chunk or max(1, _CHUNK_SCORES // history.n_items)
        self._show_progress = show_progress

    @property
    def n_users(self) -> int:
        """Number of users, padding id 0 included."""
        return self.history.n_users

    @property
    def n_items(self) -> int:
        """Number of items, padding id 0 included."""
        return self.history.n_items

    @property
    def teacher(self) -> Backbone:
        """The frozen teacher, loaded on first use."""
        if self._teacher is None:
            # Building a RecBole model seeds every random state anew; a run that finds its lists builds none.
            with kept_random_state():
                self._teacher = self._load_teacher()
        return self._teacher

    def forget_teacher(self) -> None:
        """Free the teacher's memory; it is loaded again if it is needed again."""
        self._teacher = None

    def vectors(self, side: str, hint: str | None = None) -> np.ndarray[Any, Any]:
        """Return the vectors of all users or items at a hint layer [n, d], float32, memory-mapped.

        Args:
            side: "user" or "item".
            hint: the teacher's hint layer; its first if None.

        Raises:
            OptionError: the teacher has no vectors, or no such layer.
        """
        return self._array(f"{side}-vectors-{hint or 'default'}", lambda: self._compute_vectors(side, hint))

    def top_items(self, count: int) -> np.ndarray[Any, Any]:
        """Return each user's ``count`` best items that the user has no training interaction with, best first.

        Valid and test items stay in. Rows of users with fewer unobserved items end in zeros; row 0 is padding.

        Returns:
            [n_users, count] int32, memory-mapped.
        """
        count = min(count, self.n_items - 1)
        lists = self._array(f"top-items-{count}", lambda: self._compute_top_items(count))
        if lists.shape != (self.n_users, count) or lists.dtype != np.int32:
            raise DataError(
                f"The teacher's lists in '{self.folder}' are damaged. Remove that folder; they are made anew."
            )
        return lists

    @torch.no_grad()
    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the teacher's logits [n, K] of items [n, K] for users [n], computed in chunks of users."""
        backbone = self.teacher
        parts = []
        rows = max(1, _CHUNK_SCORES // (16 * max(1, items.shape[1])))
        with backbone.shared():
            for start in range(0, len(users), rows):
                chosen = slice(start, start + rows)
                scores = backbone.score(users[chosen].to(backbone.device), items[chosen].to(backbone.device))
                parts.append(scores.float().cpu())
        return torch.cat(parts)

    def _array(self, name: str, compute: Callable[[], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        entry = self.folder / f"{name}-v{FORMAT}"
        if not (entry / "array.npy").is_file():
            started = time.perf_counter()
            # Computed before the folder is begun: an error of the teacher's is no error of writing.
            with kept_random_state():
                array = compute()
            with building_folder(entry) as folder:
                np.save(folder / "array.npy", array)
                about = {
                    "shape": array.shape,
                    "dtype": str(array.dtype),
                    "seconds": time.perf_counter() - started,
                }
                (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
            self.seconds += time.perf_counter() - started
        try:
            # Copy-on-write: torch wants writable memory, the file stays as it is.
            return np.load(entry / "array.npy", mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"The teacher's knowledge in '{entry}' is damaged. Remove that folder; it is made anew."
            ) from error

    @torch.no_grad()
    def _compute_vectors(self, side: str, hint: str | None) -> np.ndarray[Any, Any]:
        backbone = self.teacher
        with backbone.shared():
            read = backbone.user_vectors if side == "user" else backbone.item_vectors
            vectors = read(None, hint).float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise DataError("The teacher's vectors hold values that are not finite numbers; train the teacher anew.")
        return np.ascontiguousarray(vectors)

    @torch.no_grad()
    def _compute_top_items(self, count: int) -> np.ndarray[Any, Any]:
        backbone, history = self.teacher, self.history
        lists = np.zeros((self.n_users, count), dtype=np.int32)
        starts = range(1, self.n_users, self._chunk)
        with backbone.shared():
            for start in tqdm(starts, desc="Teacher's lists", ncols=100, disable=not self._show_progress):
                stop = min(start + self._chunk, self.n_users)
                users = torch.arange(start, stop, device=backbone.device)
                scores = backbone.score_all(users).float()
                if torch.isnan(scores).any():
                    raise DataError("The teacher's scores hold NaN; train the teacher anew with a lower learning_rate.")
                low, high = history.indptr[start], history.indptr[stop]
                row = np.repeat(np.arange(stop - start), history.lengths[start:stop])
                seen = (
                    torch.from_numpy(row).to(scores.device),
                    torch.from_numpy(history.items[low:high]).to(scores.device),
                )
                # -inf may be a teacher's own score, so what must not enter is marked apart.
                scores = scores.clamp(min=torch.finfo(scores.dtype).min)
                scores[seen] = -torch.inf
                scores[:, 0] = -torch.inf
                best = scores.topk(count, dim=1)
                items = best.indices.masked_fill(best.values == -torch.inf, 0)
                lists[start:stop] = items.to(torch.int32).cpu().numpy()
        return lists


def knowledge_folder(cache: Path, teacher_key: str, fingerprint: str) -> Path:
    """Return the folder of a teacher's knowledge."""
    key = hashlib.sha256(f"{teacher_key}|{fingerprint}".encode()).hexdigest()[:16]
    return cache / f"knowledge-{key}"
