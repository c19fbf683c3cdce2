"""A teacher that knows some users and items alone: the others have no part in any term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_derrd.data.co_occurrence import co_occurrence_graph
from recbole_derrd.distillers import Need, StepBatch
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.teacher import GivenTeacher, StoredKnowledge
from recbole_derrd.testing.world import TinyAdapter, TinyModel, history_of, some_rows, step

USERS, ITEMS = 13, 41
NEW_USERS, NEW_ITEMS = [2, 5, 12], [3, 7, 20, 33, 40]
TAUGHT = [name for name in METHODS if Need.TRAJECTORY not in method_class(name).needs]


def known_of(count: int, without: list[int]) -> np.ndarray[Any, Any]:
    known = np.ones(count, dtype=bool)
    known[[0, *without]] = False
    return known


class PartialAdapter(TinyAdapter):
    """A teacher that scores nothing else, and has zeros for embeddings of it."""

    trainable = False
    ranks_all = False

    def _hidden(self, scores: Tensor, users: Tensor, items: Tensor) -> Tensor:
        known = [torch.from_numpy(known_of(USERS, NEW_USERS)), torch.from_numpy(known_of(ITEMS, NEW_ITEMS))]
        return scores.masked_fill(~(known[0][users] & known[1][items]), -torch.inf)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        return self._hidden(super().score(users, items), users.unsqueeze(1), items)

    def score_users(self, items: Tensor, users: Tensor) -> Tensor:
        return self._hidden(super().score_users(items, users), users, items.unsqueeze(1))

    def score_all(self, users: Tensor) -> Tensor:
        return self._hidden(super().score_all(users), users.unsqueeze(1), torch.arange(ITEMS))


def made(name: str, folder: Path, **options: Any) -> Any:
    model = TinyModel(USERS, ITEMS, 6, seed=2)
    with torch.no_grad():
        model.users.weight[NEW_USERS] = 0
        model.items.weight[NEW_ITEMS] = 0
    known = {"user": known_of(USERS, NEW_USERS), "item": known_of(ITEMS, NEW_ITEMS)}
    source = GivenTeacher(lambda: PartialAdapter(model), TinyAdapter.hints, known=known)
    knowledge = StoredKnowledge(folder, source, history_of(some_rows(USERS - 1, ITEMS, 10), ITEMS))
    kind = method_class(name)
    student = TinyAdapter(TinyModel(USERS, ITEMS, 4, seed=1))
    built = kind(kind.options_class(**{**kind.test_settings, **options}), knowledge, student, 5)
    built.begin_epoch(0)
    return built


BATCH = step(users=[1, 2, 3, 5, 9], positives=[2, 7, 9, 20], negatives=[5, 7, 33], rows=8)
MODES = [
    *((name, {}) for name in TAUGHT),
    ("rrd", {"ranking": "full"}),
    ("listwise", {"top_n": 6}),
    ("listwise", {"items": "teacher", "k": 5}),
    ("listwise", {"items": "student", "k": 5}),
    ("listwise", {"observed": True}),
    ("cd", {"guide": "teacher"}),
    ("cd", {"guide": "teacher", "top_n": 12}),
    ("cpd", {"feature": "cosine"}),
    ("rce_kd", {"k": 12, "l": 20, "m": 30}),
]


@pytest.mark.parametrize(("name", "options"), MODES, ids=lambda one: str(one))
def test_a_term_is_that_of_what_the_teacher_knows(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    whole, part = made(name, tmp_path, **options), made(name, tmp_path, **options)
    without = StepBatch(*(torch.tensor(ids) for ids in ([1, 3, 9], [2, 9], [5])), 8)  # type: ignore[arg-type]
    loss = whole.term(BATCH)
    assert torch.isfinite(loss) and loss.item() == part(without).item() != 0
    if name == "freqd":
        # Its filter mixes each embedding with those of others, of new ones too.
        return
    loss.backward()
    users, items = whole.student.model.users.weight.grad, whole.student.model.items.weight.grad
    assert users is not None and (users[[1, 3, 9]] != 0).any(dim=1).all() and not users[NEW_USERS].any()
    assert items is not None and items.any() and not items[NEW_ITEMS].any()


@pytest.mark.parametrize("name", TAUGHT)
def test_a_batch_of_new_ones_alone_has_no_term(name: str, tmp_path: Path) -> None:
    built = made(name, tmp_path)
    loss = built.term(step(users=[2, 5], positives=[7], negatives=[40], rows=4))
    assert loss.item() == 0 and not loss.requires_grad


@pytest.mark.parametrize("name", [name for name in TAUGHT if Need.EMBEDDINGS in method_class(name).needs])
def test_known_items_of_new_users_still_teach(name: str, tmp_path: Path) -> None:
    assert made(name, tmp_path).term(step(users=[2, 5], positives=[7, 9, 11], negatives=[40], rows=4)).item() > 0


def test_rankings_hold_nothing_that_is_new(tmp_path: Path) -> None:
    knowledge = made("rrd", tmp_path).knowledge
    items, users = knowledge.top_items(ITEMS - 1), knowledge.top_users(USERS - 1)
    assert not np.isin(items, NEW_ITEMS).any() and not items[NEW_USERS].any()
    assert not np.isin(users, NEW_USERS).any() and not users[NEW_ITEMS].any()
    for user in (1, 3, 4):
        seen = set(
            knowledge.history.items[knowledge.history.indptr[user] : knowledge.history.indptr[user + 1]].tolist()
        )
        assert set(items[user].tolist()) - {0} == set(range(1, ITEMS)) - seen - set(NEW_ITEMS)


def test_neighbours_are_of_those_that_are_known(tmp_path: Path) -> None:
    knowledge = made("nkd", tmp_path).knowledge
    for side, new, count in (("user", NEW_USERS, USERS), ("item", NEW_ITEMS, ITEMS)):
        found = knowledge.neighbours(side, 3, 4)
        assert not found[[0, *new]].any() and not np.isin(found, new).any()
        held = np.delete(np.arange(count), [0, *new])
        assert (found[held] > 0).all() and (found[held] != held[:, None]).all()


def test_the_graph_of_interactions_has_no_edge_to_what_is_new(tmp_path: Path) -> None:
    """And those to others are the same as with a teacher that knows all."""
    built = made("freqd", tmp_path)
    history = built.knowledge.history
    for side, new in (("user", NEW_USERS), ("item", NEW_ITEMS)):
        whole = co_occurrence_graph(history, side, built.options.neighbours)
        ids = torch.arange(len(whole.indptr) - 1)
        found = built.graphs[side].edges(ids)
        rows = np.repeat(ids.numpy(), np.diff(whole.indptr))
        kept = ~np.isin(whole.neighbours, new)
        assert kept.any() and not kept.all()
        assert found.counts.tolist() == np.bincount(rows[kept], minlength=len(ids)).tolist()
        assert found.others.tolist() == whole.neighbours[kept].tolist()
        assert found.weights.tolist() == whole.weights[kept].tolist()


def test_neighbours_are_the_nearest_by_a_plain_sort(tmp_path: Path) -> None:
    knowledge = made("nkd", tmp_path).knowledge
    table, held = knowledge.embeddings("item"), np.flatnonzero(known_of(ITEMS, NEW_ITEMS))
    found = knowledge.neighbours("item", 3, table.shape[1])
    for item in held:
        others = sorted(set(held.tolist()) - {int(item)}, key=lambda one: np.linalg.norm(table[one] - table[item]))
        assert found[item].tolist() == others[:3]
