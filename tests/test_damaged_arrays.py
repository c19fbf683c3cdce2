"""Whatever happens to a teacher's arrays on disk, a run finds them as they were written or makes them anew."""

from __future__ import annotations

import json
import os
import random
import shutil
import zlib
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_knowledge import N_ITEMS, N_USERS, TableTeacher, never, open_knowledge, some_history, table

from recbole_derrd.adapters import Adapter
from recbole_derrd.errors import CheckpointError, DistillError
from recbole_derrd.runtime.stored_arrays import DamagedFileError, read_array, sealed, unsealed
from recbole_derrd.teacher import StoredKnowledge
from recbole_derrd.teacher.array_checks import fault_of_embeddings, fault_of_rankings, fault_of_ranks, fault_of_scores


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files need not reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


#: Each array that a distiller may ask for.
QUESTIONS: dict[str, Callable[[StoredKnowledge], Any]] = {
    "embeddings": lambda knowledge: knowledge.embeddings("item", "second"),
    "neighbours": lambda knowledge: knowledge.neighbours("item", 4, 2),
    "top items": lambda knowledge: knowledge.top_items(6),
    "top users": lambda knowledge: knowledge.top_users(5),
    "top scores": lambda knowledge: knowledge.top_scores(6),
    "trajectories": lambda knowledge: knowledge.trajectories(5)[0],
    "observed ranks": lambda knowledge: knowledge.observed_ranks()[0],
}


def asked(folder: Path, teacher: Any = None) -> dict[str, np.ndarray[Any, Any]]:
    """Ask everything, as one process of a run does; copies, so that files may change afterwards."""
    teacher = TableTeacher(table()) if teacher is None else teacher
    knowledge = open_knowledge(folder, teacher, earlier=(lambda: TableTeacher(table(1)),), snapshots=2)
    return {name: np.array(question(knowledge)) for name, question in QUESTIONS.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    folder = tmp_path_factory.mktemp("whole") / "knowledge"
    return folder, asked(folder)


def same(one: dict[str, np.ndarray[Any, Any]], other: dict[str, np.ndarray[Any, Any]]) -> bool:
    return all(one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one)


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def lengthen(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() + bytes(draw.randrange(1, 99)))


def exchange(path: Path, draw: random.Random) -> None:
    """Give the file the content of another array's, or of nothing."""
    others = [other for other in path.parent.parent.glob(f"*/{path.name}") if other.parent != path.parent]
    shutil.copyfile(draw.choice(others), path)


def exchange_folders(path: Path, draw: random.Random) -> None:
    """Give the entry the files of another, description and all."""
    others = [other for other in path.parent.parent.iterdir() if other.is_dir() and other != path.parent]
    shutil.copytree(draw.choice(others), path.parent, dirs_exist_ok=True)


def other_values(path: Path, draw: random.Random) -> None:
    """Write an array of the same kind that numpy reads without complaint."""
    if path.suffix != ".npy":
        return
    array = np.load(path)
    changed = draw.choice([array[::-1], array[:, ::-1], np.zeros_like(array), array + 1, array.T, array.astype(float)])
    np.save(path, changed)


def remove(path: Path, draw: random.Random) -> None:
    path.unlink()


def huge(path: Path, draw: random.Random) -> None:
    """Claim a shape that no memory holds."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<i4", "fortran_order": False, "shape": (1 << draw.randrange(20, 62), 1 << 20)}
        )
        file.write(bytes(64))


DAMAGES = [flip] * 10 + [cut, lengthen, exchange, exchange_folders, other_values, other_values, remove, huge]


@pytest.mark.slow
def test_a_few_hundred_damages_change_no_number(whole: Any, tmp_path: Path) -> None:
    """Every run gives the identical result: a harmless damage is none, any other is made good."""
    folder, wanted = whole
    draw = random.Random(4)
    loaded: list[int] = []

    def load() -> Adapter:
        loaded.append(1)
        return TableTeacher(table())

    for case in range(45):
        copy = tmp_path / f"{case}" / folder.name
        shutil.copytree(folder, copy)
        story = [f"case {case}"]
        entries = sorted(path for path in copy.iterdir() if path.is_dir())
        for entry in entries:
            damage, name = draw.choice(DAMAGES), draw.choice(["array.npy", "array.npy", "about.json"])
            damage(entry / name, draw)
            story.append(f"{damage.__name__} of {entry.name}/{name}")
        loaded.clear()
        assert same(asked(copy, load), wanted), story
        assert loaded, story
        # What was made anew is sound.
        assert same(asked(copy, never), wanted), story
        assert not [left for left in copy.iterdir() if ".partial-" in left.name], story
        shutil.rmtree(copy)


def reseal(entry: Path) -> None:
    """Describe an array anew, as a defect of a writer would."""
    about = unsealed(entry / "about.json")
    about["checksum"] = zlib.crc32((entry / "array.npy").read_bytes())
    (entry / "about.json").write_text(sealed(about))


@pytest.mark.parametrize(
    "name", ["top-items", "top-users", "trajectory", "neighbours", "embeddings-second", "scores", "ranks"]
)
def test_values_are_checked_beside_the_checksum(
    whole: Any, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, wanted = whole
    copy = tmp_path / "knowledge"
    shutil.copytree(folder, copy)
    (entry,) = (path for path in copy.iterdir() if name in path.name and path.is_dir())
    array = np.load(entry / "array.npy")
    array[1, 0] = np.nan if array.dtype.kind == "f" else 1 << 20
    np.save(entry / "array.npy", array)
    reseal(entry)
    assert same(asked(copy), wanted)
    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert str(entry) in said and f"row 1 holds {array[1, 0]}" in said and "built again" in said


def test_a_damage_is_named_once_and_made_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = open_knowledge(tmp_path / "here", TableTeacher(table())).top_items(4).tolist()
    (array,) = tmp_path.rglob("array.npy")
    array.write_bytes(array.read_bytes()[:-4])
    knowledge = open_knowledge(tmp_path / "here", TableTeacher(table()))
    assert knowledge.top_items(4).tolist() == lists == knowledge.top_items(4).tolist()
    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert str(array.parent) in said and "bytes" in said


def test_a_teacher_that_is_gone_is_still_a_sentence(tmp_path: Path) -> None:
    def gone() -> Adapter:
        raise CheckpointError("There is no checkpoint file 'teacher.pth'. Check the path.")

    open_knowledge(tmp_path / "here", TableTeacher(table())).top_items(4)
    (array,) = tmp_path.rglob("array.npy")
    flip(array, random.Random(0))
    damaged = array.read_bytes()
    with pytest.raises(DistillError, match=r"teacher\.pth"):
        open_knowledge(tmp_path / "here", gone).top_items(4)
    assert array.read_bytes() == damaged


def test_a_link_in_place_of_an_entry_is_replaced_and_what_it_leads_to_is_left(tmp_path: Path) -> None:
    lists = open_knowledge(tmp_path / "here", TableTeacher(table())).top_items(4).tolist()
    (array,) = tmp_path.rglob("array.npy")
    shutil.move(array.parent, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "array.npy").write_bytes(b"another's")
    array.parent.symlink_to(tmp_path / "elsewhere")
    assert open_knowledge(tmp_path / "here", TableTeacher(table())).top_items(4).tolist() == lists
    assert (tmp_path / "elsewhere" / "array.npy").read_bytes() == b"another's" and not array.parent.is_symlink()


def test_the_recall_of_a_search_comes_from_a_sound_description(tmp_path: Path) -> None:
    knowledge = open_knowledge(tmp_path / "here", TableTeacher(table()), search="faiss")
    lists = open_knowledge(tmp_path / "exact", TableTeacher(table())).top_items(4)
    (array,) = tmp_path.rglob("array.npy")
    entry = tmp_path / "here" / "top-items-4-faiss-v2"
    shutil.copytree(array.parent, entry)
    about = unsealed(entry / "about.json")
    (entry / "about.json").write_text(sealed({**about, "cache_entry": f"here/{entry.name}", "recall": 0.75}))
    assert np.array_equal(knowledge.top_items(4), lists) and knowledge.search_recall == 0.75


# -- the checks


def lists_of(count: int, width: int, entities: int, seed: int) -> np.ndarray[Any, Any]:
    random_ = np.random.default_rng(seed)
    rows = np.zeros((count, width), np.int32)
    for row in rows[1:]:
        length = random_.integers(0, min(width, entities - 1) + 1)
        row[:length] = random_.permutation(entities - 1)[:length] + 1
    return rows


@given(st.integers(2, 8), st.integers(1, 6), st.integers(2, 9), st.integers(0, 99), st.data())
@settings(max_examples=60)
def test_sound_lists_pass_and_one_wrong_id_does_not(
    count: int, width: int, entities: int, seed: int, data: st.DataObject
) -> None:
    rows = lists_of(count, width, entities, seed)
    assert fault_of_rankings(rows, 0, count, entities) is None
    assert fault_of_rankings(rows[1:], 1, count, entities) is None
    row, column = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, width - 1))
    value = data.draw(st.one_of(st.integers(-(2**31), -1), st.integers(entities, 2**31 - 1)))
    rows[row, column] = value
    assert f"row {row} holds {value}" in str(fault_of_rankings(rows, 0, count, entities))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0, 0], [2, 2]], "row 1 holds 2 twice"),
        ([[0, 0], [0, 2]], "row 1 goes on behind its end"),
        ([[1, 0], [2, 1]], "padding row"),
        ([[0, 0], [1, 2], [0, 0], [1, 2], [2, 1], [1, 3]], "padding row"),
    ],
)
def test_lists_that_no_search_writes(rows: list[list[int]], words: str) -> None:
    assert words in str(fault_of_rankings(np.array(rows, np.int32), 0, 2 if len(rows) == 2 else 4, 4))


def test_other_values() -> None:
    neighbours = np.array([[0, 0], [2, 1]], np.int32)
    assert fault_of_rankings(neighbours, 0, 2, 4) is None
    assert "its own" in str(fault_of_rankings(neighbours, 0, 2, 4, own=True))
    assert fault_of_scores(np.array([[-np.inf, 1]], np.float32), 0) is None
    for bad in (np.nan, np.inf):
        assert "row 7" in str(fault_of_scores(np.array([[0, bad]], np.float32), 7))
        assert "row 7" in str(fault_of_embeddings(np.array([[0, bad]], np.float32), 7))
    assert fault_of_embeddings(np.array([[-np.inf]], np.float32), 0)
    assert fault_of_ranks(np.array([[1], [3]]), 0, 3) is None
    assert fault_of_ranks(np.array([[0]]), 0, 3) and fault_of_ranks(np.array([[4]]), 0, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"{}",
        b"[]",
        b'{"seal": 0}',
        b'{"seal": "x"}',
        b"\xff\xfe",
        b"1" * 2_000_000,
        b'{"seal": NaN}',
    ],
    ids=lambda content: content[:8].hex(),
)
def test_what_is_no_description_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "about.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"about\.json"):
        unsealed(tmp_path / "about.json")


def test_a_description_keeps_plain_values(tmp_path: Path) -> None:
    content = {"recall": 0.1 + 0.2, "shape": [3, 4], "name": "é", "none": None}
    (tmp_path / "about.json").write_text(sealed(content))
    assert unsealed(tmp_path / "about.json") == content
    text = json.loads((tmp_path / "about.json").read_text())
    (tmp_path / "about.json").write_text(json.dumps({**text, "recall": 0.3}))
    with pytest.raises(DamagedFileError):
        unsealed(tmp_path / "about.json")


@pytest.mark.parametrize("what", ["object", "huge", "nested", "negative", "pipe", "folder", "text", "structured"])
def test_only_arrays_of_numbers_are_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "array.npy"
    if what == "object":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif what == "huge":
        huge(path, random.Random(1))
    elif what == "nested":
        text = b"-" * 5000 + b"1\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    elif what == "negative":
        text = b"{'descr': '<i4', 'fortran_order': False, 'shape': (-1, -1), }\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(4))
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        np.save(path, np.array(["a"]) if what == "text" else np.zeros(2, [("a", "i4")]))
    with pytest.raises(DamagedFileError):
        read_array(path)


def test_arrays_of_numbers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    for array in (
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.ones((3, 2))),
        np.float32(3),
        np.zeros((0, 4), bool),
    ):
        np.save(path, array)
        assert np.array_equal(read_array(path), array)


def test_the_tiny_world_is_not_too_tiny() -> None:
    assert N_USERS > 5 and N_ITEMS > 6 and some_history().lengths.max() > 3 and torch.is_tensor(table())
