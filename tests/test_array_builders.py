"""Each kind of array: its name holds what it depends on, and what its builder writes passes its own checks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from test_knowledge import N_ITEMS, N_USERS, TableTeacher, history_of, open_knowledge, some_history, table

from recbole_derrd.adapters import Adapter
from recbole_derrd.errors import OptionError
from recbole_derrd.runtime.stored_arrays import DamagedFileError
from recbole_derrd.teacher import BuildSettings, GivenTeacher, NoTeacher, StoredKnowledge
from recbole_derrd.teacher.array_builder import ArrayBuilder
from recbole_derrd.teacher.array_checks import verified, write_description
from recbole_derrd.teacher.embedding_arrays import Embeddings, Neighbours
from recbole_derrd.teacher.ranking_arrays import TopItems, TopUsers, Trajectory
from recbole_derrd.teacher.score_arrays import ObservedRanks, TopScores
from recbole_derrd.teacher.source import LazyTeacher

EXACT, FAISS = BuildSettings(), BuildSettings(search="faiss")
SNAPSHOTS = BuildSettings(snapshots=3)
POINTS = np.random.default_rng(0).normal(size=(N_ITEMS, 3)).astype(np.float32)
RANKINGS = np.tile(np.arange(5, dtype=np.int32), (N_USERS, 1))
BUILDERS: list[ArrayBuilder] = [
    Embeddings("user", "first", N_USERS), Embeddings("item", "first", N_ITEMS), Embeddings("item", "second", N_ITEMS),
    Neighbours("item", "first", 4, 2, POINTS, EXACT), Neighbours("item", "first", 4, 3, POINTS, EXACT),
    Neighbours("item", "first", 3, 2, POINTS, EXACT), Neighbours("item", "second", 4, 2, POINTS, EXACT),
    TopItems(some_history(), 6, EXACT), TopItems(some_history(), 5, EXACT), TopItems(some_history(), 6, FAISS),
    TopUsers(some_history(), 5, EXACT), TopUsers(some_history(), 4, EXACT),
    Trajectory(some_history(), 6, EXACT), Trajectory(some_history(), 5, EXACT),
    Trajectory(some_history(), 6, SNAPSHOTS),
    TopScores(RANKINGS, EXACT), TopScores(RANKINGS, FAISS), TopScores(RANKINGS[:, :4], EXACT),
    ObservedRanks(some_history()),
]  # fmt: skip


def lazy(*earlier: Callable[[], Adapter]) -> LazyTeacher:
    return LazyTeacher(GivenTeacher(lambda: TableTeacher(table()), TableTeacher.hints, earlier))


def test_no_two_arrays_of_a_teacher_share_a_name() -> None:
    names = [builder.name for builder in BUILDERS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.name)
def test_what_a_builder_writes_passes_its_own_checks_and_no_others(tmp_path: Path, builder: ArrayBuilder) -> None:
    if "faiss" in builder.name and isinstance(builder, TopItems):
        pytest.skip("needs a teacher of embeddings, see test_search.py")
    about = builder.write(tmp_path / "array.npy", lazy(lambda: TableTeacher(table(1))))
    write_description(tmp_path, f"here/{builder.name}", about)
    found = verified(tmp_path, f"here/{builder.name}", builder.expected)
    assert found == {**about, "shape": list(about["shape"])}
    assert about["shape"] == np.load(tmp_path / "array.npy").shape
    with pytest.raises(DamagedFileError, match="it is that of"):
        verified(tmp_path, f"elsewhere/{builder.name}", builder.expected)
    taller = dataclasses.replace(builder.expected, rows=builder.expected.rows + 1)
    with pytest.raises(DamagedFileError, match="it holds"):
        verified(tmp_path, f"here/{builder.name}", taller)


def test_a_trajectory_has_one_snapshot_in_memory_at_a_time(tmp_path: Path) -> None:
    order: list[int] = []

    def load(number: int) -> Callable[[], Adapter]:
        return lambda: (order.append(number), TableTeacher(table(number)))[1]

    teacher = LazyTeacher(GivenTeacher(load(9), earlier=(load(1), load(2))))
    builder = Trajectory(some_history(), 6, SNAPSHOTS)
    assert builder.write(tmp_path / "array.npy", teacher)["snapshots"] == 3 and order == [1, 2, 9]
    rankings = np.load(tmp_path / "array.npy").reshape(3, N_USERS, 6)
    for number, found in zip(order, rankings):
        alone = open_knowledge(tmp_path / str(number), TableTeacher(table(number))).top_items(6)
        assert np.array_equal(found, alone)


def test_a_teacher_is_loaded_when_it_is_used_and_its_source_forgets_too() -> None:
    events: list[str] = []

    @dataclasses.dataclass(frozen=True)
    class Source(GivenTeacher):
        def forget(self) -> None:
            events.append("forgot")

    def load() -> Adapter:
        events.append("loaded")
        torch.manual_seed(1)
        return TableTeacher(table())

    teacher = LazyTeacher(Source(load))
    assert not teacher.loaded and not events
    state = torch.get_rng_state()
    assert teacher.adapter is teacher.adapter and teacher.loaded and events == ["loaded"]
    assert torch.equal(torch.get_rng_state(), state), "loading seeds, and the student's own random stream must go on"
    teacher.forget()
    assert not teacher.loaded and events == ["loaded", "forgot"]


def test_a_run_without_distillers_has_no_teacher_to_ask(tmp_path: Path) -> None:
    knowledge = StoredKnowledge(tmp_path, NoTeacher(), history_of([[], [1]]))
    assert knowledge.n_users == 2 and knowledge.teacher_hints == ()
    questions: list[Callable[[], Any]] = [lambda: knowledge.teacher, lambda: knowledge.top_items(2)]
    for question in questions:
        with pytest.raises(OptionError, match="Add distillers"):
            question()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
