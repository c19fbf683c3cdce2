"""What a frozen teacher knows, made once in chunks of users and kept on disk, memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
from torch import Tensor

from recbole_derrd.backbones import Backbone
from recbole_derrd.data import History
from recbole_derrd.errors import DataError
from recbole_derrd.files import building_folder, locked
from recbole_derrd.processes import from_first, is_first
from recbole_derrd.randomness import kept_random_state
from recbole_derrd.teacher.importance import Importance
from recbole_derrd.teacher.writing import (
    listed_scores,
    write_neighbours,
    write_observed_ranks,
    write_top_items,
    write_top_scores,
    write_top_users,
    write_vectors,
    write_versions,
)

#: Raised whenever the content of the stored arrays changes.
FORMAT = 1


@contextlib.contextmanager
def _none_earlier(count: int) -> Iterator[Sequence[Callable[[], Backbone]]]:
    yield ()


class Knowledge:
    """A teacher's vectors, top-N lists and scores, for distillers of any student.

    Lists and vectors are ``.npy`` files under ``folder``, opened memory-mapped, written once and atomically. No
    users x items array is made on any path: the lists are built ``chunk`` users at a time and written as they come, so
    that memory does not grow with the number of users.

    Args:
        folder: where the arrays are kept; named after the teacher's content key.
        load_teacher: gives the frozen teacher; called only for what is not on disk yet.
        history: training items of each user; they never enter a list.
        teacher_hints: hint layers that the teacher's vectors can be read from, default first.
        chunk: users scored at once; 0 sizes it to the catalogue.
        show_progress: show a bar while lists are built.
        search: "exact", or "faiss" for approximate lists of teachers with vectors (see ``search.py``).
        importance: what a rank in a list counts, for methods that add up ranks.
        versions: a context that gives what loads each earlier version of the teacher, oldest first; the versions need
            not outlive it. A teacher without any has one version, itself.
        version_count: how many versions are wanted, the final one included.
        forget: frees what the teacher was loaded from; called when the teacher is freed.

    Attributes:
        search_recall: share of the exact lists that an approximate search has found; None for the exact search.
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
        search: str = "exact",
        importance: Importance | None = None,
        versions: Callable[[int], contextlib.AbstractContextManager[Sequence[Callable[[], Backbone]]]] = _none_earlier,
        version_count: int = 1,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the knowledge; nothing is computed yet."""
        self.folder = Path(folder)
        self.history = history
        self.teacher_hints = teacher_hints
        self.search = search
        self.search_recall: float | None = None
        self.seconds = 0.0
        self._load_teacher = load_teacher
        self.importance = importance or Importance()
        self._versions = versions
        self._version_count = version_count
        self._forget = forget
        self._teacher: Backbone | None = None
        self._how: dict[str, Any] = {"chunk": chunk, "progress": show_progress}

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

    def total_seconds(self) -> float:
        """Return how long what had to be made took in this process."""
        return self.seconds

    def forget_teacher(self) -> None:
        """Free the teacher's memory; it is loaded again if it is needed again."""
        self._teacher = None
        self._forget()

    def vectors(self, side: str, hint: str | None = None) -> np.ndarray[Any, Any]:
        """Return the vectors of all users or items at a hint layer [n, d], float32, memory-mapped.

        Args:
            side: "user" or "item".
            hint: the teacher's hint layer; its first if None.

        Raises:
            OptionError: the teacher has no vectors, or no such layer.
        """
        hint = hint or next(iter(self.teacher_hints), None)
        return self._array(
            f"{side}-vectors-{hint or 'default'}", lambda path: write_vectors(path, self.teacher, side, hint)
        )

    def neighbours(self, side: str, count: int, components: int, hint: str | None = None) -> np.ndarray[Any, Any]:
        """Return each user's or item's ``count`` nearest others, nearest first, by the teacher's vectors.

        Args:
            side: "user" or "item".
            count: below the number of users or items.
            components: principal components of the vectors that distances are taken in.
            hint: the teacher's hint layer; its first if None.

        Returns:
            [n, count] int32, memory-mapped; row 0 is padding.
        """
        hint = hint or next(iter(self.teacher_hints), None)
        vectors = self.vectors(side, hint)
        width = min(components, vectors.shape[1])
        shown = f"Nearest {side}s" if self._how["progress"] else ""
        found = self._array(
            f"{side}-neighbours-{hint or 'default'}-{count}-{width}",
            lambda path: write_neighbours(path, vectors, count, width, self.teacher.device, progress=shown),
        )
        if found.shape != (len(vectors), count) or found.dtype != np.int32:
            raise DataError(
                f"The teacher's neighbours in '{self.folder}' are damaged. Remove that folder; they are made anew."
            )
        return found

    def score_vectors(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return vectors of all users and of all items whose dot products are scores: for teachers that score so."""
        return self.vectors("user"), self.vectors("item")

    def top_items(self, count: int) -> np.ndarray[Any, Any]:
        """Return each user's ``count`` best items that the user has no training interaction with, best first.

        Valid and test items stay in. Rows of users with fewer unobserved items end in zeros; row 0 is padding.

        Returns:
            [n_users, count] int32, memory-mapped.
        """
        count = min(count, self.n_items - 1)
        name = f"top-items-{count}" + ("" if self.search == "exact" else f"-{self.search}")
        lists = self._array(
            name,
            lambda path: write_top_items(
                path, self.teacher, self.history, count, approximate=self.search == "faiss", **self._how
            ),
        )
        if lists.shape != (self.n_users, count) or lists.dtype != np.int32:
            raise DataError(
                f"The teacher's lists in '{self.folder}' are damaged. Remove that folder; they are made anew."
            )
        self.search_recall = self._recall(name)
        return lists

    def top_users(self, count: int) -> np.ndarray[Any, Any]:
        """Return each item's ``count`` best users that have no training interaction with it, best first.

        Always exact, whatever ``search`` is. Rows of items with fewer such users end in zeros, and so do those of
        items that fewer users have in an ensemble's lists; row 0 is padding.

        Returns:
            [n_items, count] int32, memory-mapped.
        """
        count = min(count, self.n_users - 1)
        lists = self._array(
            f"top-users-{count}",
            lambda path: write_top_users(path, self.teacher, self.history, count, **self._how),
        )
        if lists.shape != (self.n_items, count) or lists.dtype != np.int32:
            raise DataError(
                f"The teacher's lists in '{self.folder}' are damaged. Remove that folder; they are made anew."
            )
        return lists

    def top_scores(self, count: int) -> np.ndarray[Any, Any]:
        """Return the teacher's logits of each user's ``count`` best items, where :meth:`top_items` has them.

        Places of short rows hold 0.

        Returns:
            [n_users, count] float32, memory-mapped.
        """
        lists = self.top_items(count)
        name = f"top-scores-{lists.shape[1]}" + ("" if self.search == "exact" else f"-{self.search}")
        scores = self._array(name, lambda path: write_top_scores(path, self.teacher, lists))
        if scores.shape != lists.shape or scores.dtype != np.float32:
            raise DataError(
                f"The teacher's scores in '{self.folder}' are damaged. Remove that folder; they are made anew."
            )
        return scores

    def trajectories(self, count: int) -> list[np.ndarray[Any, Any]]:
        """Return how each teacher came to its lists: one array a teacher, of :meth:`top_items` for each version.

        Versions are those that the teacher passed through in its training, the final one last; a teacher that is not
        trained by epochs has that one alone.

        Returns:
            [versions, n_users, count] int32 for each teacher, memory-mapped.
        """
        count = min(count, self.n_items - 1)
        name = f"trajectory-{self._version_count}-{count}"
        lists = self._array(name, lambda path: self._write_trajectory(path, count))
        if len(lists) % self.n_users or lists.shape[1] != count or lists.dtype != np.int32:
            raise DataError(
                f"The teacher's lists in '{self.folder}' are damaged. Remove that folder; they are made anew."
            )
        return [lists.reshape(-1, self.n_users, count)]

    def _write_trajectory(self, path: Path, count: int) -> dict[str, Any]:
        with self._versions(self._version_count) as earlier:
            versions = [*earlier, lambda: self.teacher]
            return write_versions(path, versions, self.history, count, **self._how)

    def observed_ranks(self) -> list[np.ndarray[Any, Any]]:
        """Return where each teacher ranks each training interaction among those of its user, from 1.

        Returns:
            [interactions] int32 for each teacher, in the order of ``history.items``, memory-mapped.
        """
        ranks = self._array("observed-ranks", lambda path: write_observed_ranks(path, self.teacher, self.history))
        if ranks.shape != (len(self.history.items), 1) or ranks.dtype != np.int32:
            raise DataError(
                f"The teacher's ranks in '{self.folder}' are damaged. Remove that folder; they are made anew."
            )
        return [ranks[:, 0]]

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the teacher's logits [n, K] of items [n, K] for users [n], computed in chunks of users."""
        return listed_scores(self.teacher, users, items)

    def _recall(self, name: str) -> float | None:
        try:
            about = json.loads((self.folder / f"{name}-v{FORMAT}" / "about.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # lists are whole without it
        recall = about.get("recall")
        return None if recall is None else float(recall)

    def _array(self, name: str, build: Callable[[Path], dict[str, Any]]) -> np.ndarray[Any, Any]:
        """Open an array; ``build`` writes it to a path where it is missing, and returns what is to be said of it."""
        entry = self.folder / f"{name}-v{FORMAT}"
        if not self._made(entry):
            started = time.perf_counter()
            with locked(entry, "asks this teacher for what it knows"), kept_random_state():
                if not self._made(entry):
                    self._build(entry, build)
            self.seconds += time.perf_counter() - started
        try:
            # Copy-on-write: torch wants writable memory, the file stays as it is.
            return np.load(entry / "array.npy", mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"The teacher's knowledge in '{entry}' is damaged. Remove that folder; it is made anew."
            ) from error

    @staticmethod
    def _made(entry: Path) -> bool:
        made: bool = from_first((entry / "array.npy").is_file())
        return made

    def _build(self, entry: Path, build: Callable[[Path], dict[str, Any]]) -> None:
        started = time.perf_counter()
        # Loaded before the folder is begun: an error of the teacher's is no error of writing.
        _ = self.teacher
        with building_folder(entry) as folder:
            about = build(folder / "array.npy")
            about["seconds"] = time.perf_counter() - started
            if is_first():
                (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def knowledge_folder(cache: Path, teacher_key: str, fingerprint: str) -> Path:
    """Return the folder of a teacher's knowledge."""
    key = hashlib.sha256(f"{teacher_key}|{fingerprint}".encode()).hexdigest()[:16]
    return cache / f"knowledge-{key}"
