"""What a frozen teacher knows, made once in chunks of users and kept on disk, memory-mapped."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import DataError
from recbole_derrd.runtime.artifact_cache import ArtifactCache
from recbole_derrd.runtime.files import write_errors_named
from recbole_derrd.runtime.processes import barrier, is_main_process
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.teacher.array_checks import (
    ARRAY,
    Expected,
    describe,
    fault_of_embeddings,
    fault_of_rankings,
    fault_of_ranks,
    fault_of_scores,
    verified,
)
from recbole_derrd.teacher.rank_weighting import RankWeighting
from recbole_derrd.teacher.writing import (
    listed_scores,
    write_embeddings,
    write_neighbours,
    write_observed_ranks,
    write_snapshots,
    write_top_items,
    write_top_scores,
    write_top_users,
)

#: Raised whenever the content of the stored arrays changes.
FORMAT = 1


@contextlib.contextmanager
def _none_earlier(count: int) -> Iterator[Sequence[Callable[[], Adapter]]]:
    yield ()


class Knowledge:
    """A teacher's embeddings, top-N rankings and scores, for distillers of any student.

    Rankings and embeddings are ``.npy`` files under ``folder``, opened memory-mapped, written once and atomically. No
    users x items array is made on any path: the rankings are built ``chunk`` users at a time and written as they come,
    so that memory does not grow with the number of users. An array is checked when it is first opened; one that is
    damaged is made anew.

    Args:
        folder: where the arrays are kept; named after the teacher's content key.
        load_teacher: gives the frozen teacher; called only for what is not on disk yet.
        history: training items of each user; they never enter a list.
        teacher_hints: hint layers that the teacher's embeddings can be read from, default first.
        chunk: users scored at once; 0 sizes it to the catalogue.
        show_progress: show a bar while rankings are built.
        search: "exact", or "faiss" for approximate rankings of teachers with embeddings (see ``search.py``).
        importance: what a rank in a list counts, for methods that add up ranks.
        snapshots: a context that gives what loads each earlier snapshot of the teacher, oldest first; the snapshots
            need not outlive it. A teacher without any has one snapshot, itself.
        snapshot_count: how many snapshots are wanted, the final one included.
        forget: frees what the teacher was loaded from; called when the teacher is freed.

    Attributes:
        search_recall: share of the exact rankings that an approximate search has found; None for the exact search.
    """

    def __init__(
        self,
        folder: Path,
        load_teacher: Callable[[], Adapter],
        history: History,
        *,
        teacher_hints: tuple[str, ...] = (),
        chunk: int = 0,
        show_progress: bool = False,
        search: str = "exact",
        importance: RankWeighting | None = None,
        snapshots: Callable[[int], contextlib.AbstractContextManager[Sequence[Callable[[], Adapter]]]] = _none_earlier,
        snapshot_count: int = 1,
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
        self.importance = importance or RankWeighting()
        self._versions = snapshots
        self._snapshot_count = snapshot_count
        self._forget = forget
        self._teacher: Adapter | None = None
        self._how: dict[str, Any] = {"chunk": chunk, "progress": show_progress}
        #: What is said beside each array that this process has checked.
        self._about: dict[str, dict[str, Any]] = {}

    @property
    def n_users(self) -> int:
        """Number of users, padding id 0 included."""
        return self.history.n_users

    @property
    def n_items(self) -> int:
        """Number of items, padding id 0 included."""
        return self.history.n_items

    @property
    def teacher(self) -> Adapter:
        """The frozen teacher, loaded on first use."""
        if self._teacher is None:
            # Building a RecBole model seeds every random state anew; a run that finds its rankings builds none.
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

    def embeddings(self, side: str, hint: str | None = None) -> np.ndarray[Any, Any]:
        """Return the embeddings of all users or items at a hint layer [n, d], float32, memory-mapped.

        Args:
            side: "user" or "item".
            hint: the teacher's hint layer; its first if None.

        Raises:
            OptionError: the teacher has no embeddings, or no such layer.
        """
        hint = hint or next(iter(self.teacher_hints), None)
        return self._array(
            f"{side}-embeddings-{hint or 'default'}",
            lambda path: write_embeddings(path, self.teacher, side, hint),
            Expected(np.float32, self._entities(side), None, fault_of_embeddings),
        )

    def _entities(self, side: str) -> int:
        return self.n_users if side == "user" else self.n_items

    def neighbours(self, side: str, count: int, components: int, hint: str | None = None) -> np.ndarray[Any, Any]:
        """Return each user's or item's ``count`` nearest others, nearest first, by the teacher's embeddings.

        Args:
            side: "user" or "item".
            count: below the number of users or items.
            components: principal components of the embeddings that distances are taken in.
            hint: the teacher's hint layer; its first if None.

        Returns:
            [n, count] int32, memory-mapped; row 0 is padding.
        """
        hint = hint or next(iter(self.teacher_hints), None)
        embeddings = self.embeddings(side, hint)
        width = min(components, embeddings.shape[1])
        shown = f"Nearest {side}s" if self._how["progress"] else ""
        return self._array(
            f"{side}-neighbours-{hint or 'default'}-{count}-{width}",
            lambda path: write_neighbours(path, embeddings, count, width, self.teacher.device, progress=shown),
            _rankings(len(embeddings), count, len(embeddings), own=True),
        )

    def score_embeddings(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return embeddings of all users and of all items whose dot products are scores: for teachers that score so."""
        return self.embeddings("user"), self.embeddings("item")

    def top_items(self, count: int) -> np.ndarray[Any, Any]:
        """Return each user's ``count`` best items that the user has no training interaction with, best first.

        Valid and test items stay in. Rows of users with fewer unobserved items end in zeros; row 0 is padding.

        Returns:
            [n_users, count] int32, memory-mapped.
        """
        count = min(count, self.n_items - 1)
        name = f"top-items-{count}" + ("" if self.search == "exact" else f"-{self.search}")
        rankings = self._array(
            name,
            lambda path: write_top_items(
                path, self.teacher, self.history, count, approximate=self.search == "faiss", **self._how
            ),
            _rankings(self.n_users, count, self.n_items),
        )
        self.search_recall = self._about[name].get("recall")
        return rankings

    def top_users(self, count: int) -> np.ndarray[Any, Any]:
        """Return each item's ``count`` best users that have no training interaction with it, best first.

        Always exact, whatever ``search`` is. Rows of items with fewer such users end in zeros, and so do those of
        items that fewer users have in an ensemble's rankings; row 0 is padding.

        Returns:
            [n_items, count] int32, memory-mapped.
        """
        count = min(count, self.n_users - 1)
        return self._array(
            f"top-users-{count}",
            lambda path: write_top_users(path, self.teacher, self.history, count, **self._how),
            _rankings(self.n_items, count, self.n_users),
        )

    def top_scores(self, count: int) -> np.ndarray[Any, Any]:
        """Return the teacher's logits of each user's ``count`` best items, where :meth:`top_items` has them.

        Places of short rows hold 0.

        Returns:
            [n_users, count] float32, memory-mapped.
        """
        rankings = self.top_items(count)
        name = f"top-scores-{rankings.shape[1]}" + ("" if self.search == "exact" else f"-{self.search}")
        expected = Expected(np.float32, len(rankings), rankings.shape[1], fault_of_scores)
        return self._array(name, lambda path: write_top_scores(path, self.teacher, rankings), expected)

    def trajectories(self, count: int) -> list[np.ndarray[Any, Any]]:
        """Return how each teacher came to its rankings: one array a teacher, of :meth:`top_items` for each snapshot.

        Snapshots are those that the teacher passed through in its training, the final one last; a teacher that is not
        trained by epochs has that one alone.

        Returns:
            [snapshots, n_users, count] int32 for each teacher, memory-mapped.
        """
        count = min(count, self.n_items - 1)
        name = f"trajectory-{self._snapshot_count}-{count}"
        expected = _rankings(self.n_users, count, self.n_items, repeated=True)
        rankings = self._array(name, lambda path: self._write_trajectory(path, count), expected)
        return [rankings.reshape(-1, self.n_users, count)]

    def _write_trajectory(self, path: Path, count: int) -> dict[str, Any]:
        with self._versions(self._snapshot_count) as earlier:
            snapshots = [*earlier, lambda: self.teacher]
            return write_snapshots(path, snapshots, self.history, count, **self._how)

    def observed_ranks(self) -> list[np.ndarray[Any, Any]]:
        """Return where each teacher ranks each training interaction among those of its user, from 1.

        Returns:
            [interactions] int32 for each teacher, in the order of ``history.items``, memory-mapped.
        """
        fault = functools.partial(fault_of_ranks, most=int(self.history.lengths.max()))
        ranks = self._array(
            "observed-ranks",
            lambda path: write_observed_ranks(path, self.teacher, self.history),
            Expected(np.int32, len(self.history.items), 1, fault),
        )
        return [ranks[:, 0]]

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the teacher's logits [n, K] of items [n, K] for users [n], computed in chunks of users."""
        return listed_scores(self.teacher, users, items)

    def _array(self, name: str, build: Callable[[Path], dict[str, Any]], expected: Expected) -> np.ndarray[Any, Any]:
        """Open an array; where it is missing or damaged, ``build`` writes it to a path and describes it."""
        key = f"{name}-v{FORMAT}"
        entry = self.folder / key
        if name not in self._about:
            cache = ArtifactCache(self.folder)
            self._about[name] = cache.get_or_build(
                key,
                lambda folder: self._build(folder, entry, build),
                lambda folder: verified(folder, entry, expected),
                doing="builds arrays of this teacher's knowledge",
            )
        try:
            # Copy-on-write: torch wants writable memory, the file stays as it is.
            return np.load(entry / ARRAY, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"The teacher's knowledge in '{entry}' cannot be opened any more: {error}. Start the run again: "
                "what is missing is made anew."
            ) from error

    def _build(self, folder: Path, entry: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        with kept_random_state():
            # Loaded first: an error of the teacher's is no error of writing.
            _ = self.teacher
            with write_errors_named(entry):
                about = build(folder / ARRAY)
                # The checksum is of what all processes have written.
                barrier()
                about["seconds"] = time.perf_counter() - started
                if is_main_process():
                    describe(folder, entry, about)
        self.seconds += time.perf_counter() - started
        return about


def _rankings(rows: int, width: int, entities: int, *, own: bool = False, repeated: bool = False) -> Expected:
    """Return what rankings of ids must be; ``own`` where a row must not hold its own number."""
    fault = functools.partial(fault_of_rankings, count=rows, entities=entities, own=own)
    return Expected(np.int32, rows, width, fault, repeated)


def knowledge_folder(cache: Path, teacher_key: str, fingerprint: str) -> Path:
    """Return the folder of a teacher's knowledge."""
    key = hashlib.sha256(f"{teacher_key}|{fingerprint}".encode()).hexdigest()[:16]
    return cache / f"knowledge-{key}"
