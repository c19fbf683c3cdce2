"""Each item's best users, and the scores of listed items: against brute force, on disk, with what can go wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_knowledge import N_ITEMS, N_USERS, TableTeacher, history_of, never, open_knowledge, some_history, table
from torch import Tensor, nn

import recbole_derrd.teacher.array_builder as array_builder
import recbole_derrd.teacher.users as users_module
from recbole_derrd.adapters import EmbeddingAdapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import DataError
from recbole_derrd.teacher import BuildSettings, GivenTeacher, Knowledge
from recbole_derrd.teacher.ranking_arrays import TopUsers
from recbole_derrd.teacher.source import LazyTeacher
from recbole_derrd.teacher.users import swapped


class VectorTeacher(EmbeddingAdapter):
    """A teacher of two tables of embeddings."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(SimpleNamespace(n_users=N_USERS, n_items=N_ITEMS, device="cpu"))
        generator = torch.Generator().manual_seed(seed)
        self.users, self.items = (torch.randn(n, 3, generator=generator) for n in (N_USERS, N_ITEMS))

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        return self.users if users is None else self.users[users]

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return self.items if items is None else self.items[items]


def lists_by_sort(scores: Tensor, history: History, count: int) -> list[list[int]]:
    """Return each item's list of users by a full sort in Python."""
    rankings = [[0] * count]
    for item in range(1, N_ITEMS):
        seen = [set(history.items[history.indptr[u] : history.indptr[u + 1]].tolist()) for u in range(N_USERS)]
        strangers = [user for user in range(1, N_USERS) if item not in seen[user]]
        best = sorted(strangers, key=lambda user: -float(scores[user, item]))[:count]
        rankings.append(best + [0] * (count - len(best)))
    return rankings


class TestTopUsers:
    """Knowledge.top_users."""

    @pytest.mark.parametrize("kept", [1 << 23, 20, 1])
    @pytest.mark.parametrize("chunk", [0, 1, 5, 100])
    @pytest.mark.parametrize("count", [1, 4, N_USERS - 1])
    def test_scores_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, chunk: int, kept: int
    ) -> None:
        """The running best of each item over users that pass by, in one pass or in several."""
        monkeypatch.setattr(users_module, "_KEPT", kept)
        scores = table()
        rankings = open_knowledge(tmp_path, TableTeacher(scores.clone()), chunk=chunk).top_users(count)
        assert rankings.dtype == np.int32 and rankings.shape == (N_ITEMS, count)
        assert rankings.tolist() == lists_by_sort(scores, some_history(), count)

    @pytest.mark.parametrize("chunk", [0, 1, 5, 100])
    @pytest.mark.parametrize("count", [1, 4, N_USERS - 1])
    def test_vectors(self, tmp_path: Path, count: int, chunk: int) -> None:
        """Items in chunks against all users; the padding user's vector, which would win, is in no list."""
        teacher = VectorTeacher()
        teacher.users[0] = torch.nan
        rankings = open_knowledge(tmp_path, teacher, chunk=chunk).top_users(count)
        assert rankings.tolist() == lists_by_sort(teacher.users @ teacher.items.T, some_history(), count)

    def test_more_than_there_are(self, tmp_path: Path) -> None:
        assert open_knowledge(tmp_path, VectorTeacher()).top_users(500).shape == (N_ITEMS, N_USERS - 1)

    @pytest.mark.parametrize("embeddings", [True, False])
    def test_short_rows_end_in_zeros(self, tmp_path: Path, embeddings: bool) -> None:
        """Item 4 is known to all but users 2 and 9."""
        rows = [[], *([4] if user not in (2, 9) else [5] for user in range(1, N_USERS))]
        teacher: Any = VectorTeacher() if embeddings else TableTeacher(table())
        rankings = open_knowledge(tmp_path, teacher, history=history_of(rows)).top_users(6)
        assert sorted(rankings[4, :2].tolist()) == [2, 9] and rankings[4, 2:].tolist() == [0] * 4
        assert (rankings[1] > 0).all() and not rankings[0].any()

    @pytest.mark.parametrize(("low", "ranked"), [(-torch.inf, False), (torch.finfo(torch.float32).min, True)])
    def test_who_has_minus_infinity_is_not_ranked(self, tmp_path: Path, low: float, ranked: bool) -> None:
        """An ensemble gives it to all who do not list the item: any order of theirs would be made up."""
        scores = table()
        scores[4:, 3] = low
        rankings = open_knowledge(
            tmp_path, TableTeacher(scores), history=history_of([[]] * N_USERS), chunk=3
        ).top_users(N_USERS - 1)
        assert set(rankings[3, :3].tolist()) == {1, 2, 3}
        assert sorted(rankings[3, 3:].tolist()) == (list(range(4, N_USERS)) if ranked else [0] * (N_USERS - 4))

    @pytest.mark.parametrize("embeddings", [True, False])
    def test_nan_is_refused_and_nothing_kept(self, tmp_path: Path, embeddings: bool) -> None:
        if embeddings:
            teacher: Any = VectorTeacher()
            teacher.users[7, 1] = torch.nan
        else:
            scores = table()
            scores[7, 11] = torch.nan
            teacher = TableTeacher(scores)
        with pytest.raises(DataError, match="NaN"):
            open_knowledge(tmp_path, teacher).top_users(4)
        assert not list(tmp_path.glob("top-users*"))

    def test_second_knowledge_needs_no_teacher(self, tmp_path: Path) -> None:
        first = open_knowledge(tmp_path, VectorTeacher()).top_users(4)
        assert np.array_equal(open_knowledge(tmp_path, never).top_users(4), first)

    def test_damaged_array_is_made_anew(self, tmp_path: Path) -> None:
        rankings = open_knowledge(tmp_path, VectorTeacher()).top_users(4).tolist()
        (file,) = tmp_path.glob("top-users-4-*/array.npy")
        np.save(file, np.zeros((3, 2), dtype=np.int32))
        assert open_knowledge(tmp_path, VectorTeacher()).top_users(4).tolist() == rankings

    @pytest.mark.parametrize("embeddings", [True, False])
    def test_shared_out_over_processes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embeddings: bool) -> None:
        """Each process writes its own items' rows of one file; together they are the rankings of one process."""

        def teacher() -> Any:
            return VectorTeacher() if embeddings else TableTeacher(table())

        whole = open_knowledge(tmp_path / "one", teacher()).top_users(4)
        path = tmp_path / "array.npy"
        for rank in range(3):
            monkeypatch.setattr(array_builder, "shard_range", lambda n, rank=rank: (rank * n // 3, (rank + 1) * n // 3))
            monkeypatch.setattr(array_builder, "is_main_process", lambda rank=rank: rank == 0)
            TopUsers(some_history(), 4, BuildSettings()).write(path, LazyTeacher(GivenTeacher(teacher)))
        assert np.array_equal(np.load(path), whole)

    def test_no_gradient_graph_is_built(self, tmp_path: Path) -> None:
        teacher = VectorTeacher()
        teacher.users = nn.Parameter(teacher.users)
        assert open_knowledge(tmp_path, teacher).top_users(4).shape == (N_ITEMS, 4)


class TestTopScores:
    """Knowledge.top_scores."""

    @pytest.mark.parametrize("count", [1, 6, 500])
    def test_scores_of_the_lists(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        monkeypatch.setattr(array_builder, "CHUNK_NUMBERS", 300)
        scores = table()
        knowledge = open_knowledge(tmp_path, TableTeacher(scores.clone()))
        rankings, found = knowledge.top_items(count), knowledge.top_scores(count)
        assert found.dtype == np.float32 and found.shape == rankings.shape
        for user in range(N_USERS):
            expected = [float(scores[user, item]) if item else 0.0 for item in rankings[user].tolist()]
            assert found[user].tolist() == expected

    def test_second_knowledge_needs_no_teacher(self, tmp_path: Path) -> None:
        first = open_knowledge(tmp_path, VectorTeacher()).top_scores(4)
        assert np.array_equal(open_knowledge(tmp_path, never).top_scores(4), first)

    def test_infinite_scores_are_refused(self, tmp_path: Path) -> None:
        scores = table()
        scores[3, 5] = torch.inf
        with pytest.raises(DataError, match="NaN or inf"):
            open_knowledge(tmp_path, TableTeacher(scores), history=history_of([[]] * N_USERS)).top_scores(4)

    def test_damaged_array_is_made_anew(self, tmp_path: Path) -> None:
        scores = open_knowledge(tmp_path, VectorTeacher()).top_scores(4).tolist()
        (file,) = tmp_path.glob("top-scores-4-*/array.npy")
        np.save(file, np.zeros((3, 2), dtype=np.float32))
        assert open_knowledge(tmp_path, VectorTeacher()).top_scores(4).tolist() == scores


def test_swapped_history() -> None:
    history = some_history()
    by_item = swapped(history)
    assert (by_item.n_users, by_item.n_items) == (N_ITEMS, N_USERS)
    for item in range(N_ITEMS):
        own = by_item.items[by_item.indptr[item] : by_item.indptr[item + 1]].tolist()
        assert own == [
            user for user in range(N_USERS)
            if item in history.items[history.indptr[user] : history.indptr[user + 1]].tolist()
        ]  # fmt: skip
    back = swapped(by_item)
    assert np.array_equal(back.items, history.items) and np.array_equal(back.indptr, history.indptr)


def test_knowledge_is_exported() -> None:
    """What IR-RRD and listwise distillation ask of it."""
    assert callable(Knowledge.top_users) and callable(Knowledge.top_scores)
