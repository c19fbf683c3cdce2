"""The approximate search against the exact one, on embeddings in clusters."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from torch import nn

import recbole_derrd.teacher.search as search_module
from recbole_derrd.adapters import FactorAdapter, RowAdapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.teacher import BuildSettings, GivenTeacher, StoredKnowledge
from recbole_derrd.teacher.exact import ExactSearch
from recbole_derrd.teacher.search import ApproximateSearch, check_search

N_USERS, N_ITEMS, SIZE, COUNT = 300, 3000, 16, 20


class Factors(nn.Module):
    """Two tables; users and items lie around the same centres."""

    device = "cpu"

    def __init__(self, seed: int = 0, spread: float = 0.5) -> None:
        super().__init__()
        self.n_users, self.n_items = N_USERS, N_ITEMS
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(30, SIZE, generator=generator)

        def table(rows: int) -> nn.Embedding:
            own = centres[torch.randint(0, 30, (rows,), generator=generator)]
            return nn.Embedding.from_pretrained(own + spread * torch.randn(rows, SIZE, generator=generator))

        self.user_embedding, self.item_embedding = table(N_USERS), table(N_ITEMS)


def some_history(longest: int = 40) -> History:
    """Return between 0 and ``longest`` items a user, and none for padding."""
    random = np.random.default_rng(0)
    rows = [np.empty(0, np.int64)]
    for _ in range(N_USERS - 1):
        rows.append(np.sort(random.permutation(N_ITEMS - 1)[: random.integers(0, longest + 1)] + 1))
    return History(np.concatenate([[0], np.cumsum([len(row) for row in rows])]), np.concatenate(rows), N_ITEMS)


def open_knowledge(
    folder: Path,
    search: str,
    history: History | None = None,
    load: Callable[[], Any] = lambda: FactorAdapter(Factors()),
) -> StoredKnowledge:
    """Open the knowledge of the clustered teacher, or of another."""
    return StoredKnowledge(folder, GivenTeacher(load), history or some_history(), BuildSettings(search=search))


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the wanted rankings that was found."""
    hits = [len(set(one) & set(other) - {0}) for one, other in zip(found.tolist(), wanted.tolist())]
    return sum(hits) / int((wanted > 0).sum())


def test_a_teacher_without_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"dot product of two embeddings.*EASE.*exact"):
        check_search("faiss", RowAdapter, "EASE")
    check_search("exact", RowAdapter, "EASE")


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(OptionError, match=r"pip install 'recbole_derrd\[ann\]'"):
        open_knowledge(tmp_path, "faiss").top_items(COUNT)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


class TestWithFaiss:
    """What needs the package."""

    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        pytest.importorskip("faiss")

    def test_finds_what_the_exact_search_finds(self, tmp_path: Path) -> None:
        """Rows must be full, free of training items and padding, and in the teacher's order."""
        history = some_history()
        approximate = open_knowledge(tmp_path, "faiss").top_items(COUNT)
        exact = open_knowledge(tmp_path, "exact").top_items(COUNT)
        assert approximate.shape == exact.shape and approximate.dtype == np.int32
        assert recall(approximate, exact) >= search_module.LOW_RECALL
        assert not approximate[0].any() and (approximate[1:] > 0).all()
        model = Factors()
        for user in range(1, N_USERS):
            row = approximate[user]
            assert len(set(row.tolist())) == COUNT
            assert not set(row.tolist()) & set(history.items[history.indptr[user] : history.indptr[user + 1]].tolist())
            scores = model.item_embedding.weight[torch.from_numpy(row).long()] @ model.user_embedding.weight[user]
            assert (scores.diff() <= 1e-5).all()

    def test_recall_is_measured_kept_and_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        knowledge = open_knowledge(tmp_path, "faiss")
        assert knowledge.search_recall is None
        with caplog.at_level(logging.INFO):
            found = knowledge.top_items(COUNT)
        assert f"recall@{COUNT}" in caplog.text and "That is low" not in caplog.text
        told = knowledge.search_recall
        exact = open_knowledge(tmp_path, "exact")
        assert told is not None and abs(told - recall(found, exact.top_items(COUNT))) < 0.02
        assert exact.search_recall is None
        again = open_knowledge(tmp_path, "faiss", load=lambda: pytest.fail("loaded"))
        again.top_items(COUNT)
        assert again.search_recall == told
        (about,) = tmp_path.glob("*-faiss-*/about.json")
        assert json.loads(about.read_text())["recall"] == told

    def test_low_recall_warns(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Too few cells were once searched: whoever distils from such rankings must hear of it."""
        monkeypatch.setattr(search_module, "WANTED_RECALL", 0.0)
        monkeypatch.setattr(search_module, "_FEWEST_CELLS", 1)
        knowledge = open_knowledge(tmp_path, "faiss", load=lambda: FactorAdapter(Factors(spread=5.0)))
        with caplog.at_level(logging.WARNING):
            knowledge.top_items(COUNT)
        assert knowledge.search_recall is not None and knowledge.search_recall < search_module.LOW_RECALL
        assert "That is low: use knowledge_search: exact." in caplog.text

    def test_long_histories_get_full_rows(self, tmp_path: Path) -> None:
        """Users who know most of the catalogue, or more of it than is asked of the index, are searched exactly."""
        rows = [np.empty(0, np.int64)] * N_USERS
        model = Factors()
        order = (model.user_embedding.weight @ model.item_embedding.weight.T)[:, 1:].argsort(dim=1, descending=True) + 1
        rows[5] = np.arange(1, N_ITEMS)[: N_ITEMS - 11]
        rows[6] = np.sort(order[6, :2000].numpy())
        rows[7] = np.sort(order[7, :250].numpy())
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        history = History(indptr, np.concatenate(rows), N_ITEMS)
        found = open_knowledge(tmp_path, "faiss", history=history).top_items(COUNT)
        exact = open_knowledge(tmp_path, "exact", history=history).top_items(COUNT)
        assert np.array_equal(found[5:7], exact[5:7]) and (found[5] > 0).sum() == 10
        assert (found[7] > 0).all()

    @pytest.mark.parametrize("side", ["user", "item"])
    def test_nan_is_refused(self, tmp_path: Path, side: str) -> None:
        model = Factors()
        getattr(model, f"{side}_embedding").weight[200, 3] = torch.nan
        knowledge = open_knowledge(tmp_path, "faiss", load=lambda: FactorAdapter(model))
        with pytest.raises(DataError, match="NaN"):
            knowledge.top_items(COUNT)
        assert list(tmp_path.rglob("*.npy")) == []

    def test_all_cells_are_the_exact_search(self) -> None:
        exact = ExactSearch(FactorAdapter(Factors()), some_history(), COUNT)
        search = ApproximateSearch(exact)
        search._index.nprobe = search._index.nlist
        assert torch.equal(search.rankings(3, 200), exact.rankings(3, 200))

    def test_the_same_lists_whatever_the_range(self) -> None:
        """Several processes build ranges of their own."""
        search = ApproximateSearch(ExactSearch(FactorAdapter(Factors()), some_history(), COUNT))
        parts = torch.cat([search.rankings(1, 7), search.rankings(7, 140), search.rankings(140, N_USERS)])
        assert torch.equal(parts, search.rankings(1, N_USERS))
