"""The teacher's knowledge: against brute force, on disk, and with what can go wrong on disk."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import recbole_derrd.teacher.array_builder as array_builder
import recbole_derrd.teacher.exact as exact_module
from recbole_derrd.adapters import Adapter
from recbole_derrd.data.history import History
from recbole_derrd.errors import DataError, DistillError, OptionError
from recbole_derrd.teacher import BuildSettings, GivenTeacher, StoredKnowledge, knowledge_folder
from recbole_derrd.teacher.array_file import ArrayFile
from recbole_derrd.teacher.exact import ExactSearch, best_unseen
from recbole_derrd.teacher.ranking_arrays import fill_rankings

N_USERS, N_ITEMS = 14, 23


class TableTeacher(Adapter):
    """A teacher whose scores and embeddings are tables; it notes for which users it was asked."""

    hints = ("first", "second")

    def __init__(self, scores: Tensor) -> None:
        super().__init__(SimpleNamespace(n_users=len(scores), n_items=scores.shape[1], device="cpu"))
        self.table = scores
        self.asked: list[list[int]] = []
        self.scored: list[tuple[int, ...]] = []

    def _embeddings(self, count: int, start: float, hint: str | None) -> Tensor:
        sign = -1.0 if self.layer(hint) == "second" else 1.0
        return (sign * (torch.arange(3.0 * count) + start)).view(count, 3)

    def user_embeddings(self, users: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return 0, 1, 2 ... for all users."""
        assert users is None
        return self._embeddings(self.n_users, 0.0, hint)

    def item_embeddings(self, items: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return 1000, 1001 ... for all items."""
        assert items is None
        return self._embeddings(self.n_items, 1000.0, hint)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Read the table."""
        self.scored.append(tuple(items.shape))
        return self.table[users].gather(1, items)

    def score_all(self, users: Tensor) -> Tensor:
        """Read the table and note the users."""
        self.asked.append(users.tolist())
        return self.table[users]


def table(seed: int = 0) -> Tensor:
    """Return scores without ties; the padding item and some training items would win if nothing hid them."""
    scores = torch.randperm(N_USERS * N_ITEMS, generator=torch.Generator().manual_seed(seed)).view(N_USERS, N_ITEMS)
    scores = scores.float() - 100
    scores[:, 0] = 1e6
    return scores


def history_of(rows: Sequence[Sequence[int]]) -> History:
    """Return the history of users 0, 1, 2 ... with these training items."""
    lengths = [len(row) for row in rows]
    items = [item for row in rows for item in sorted(row)]
    return History(np.concatenate([[0], np.cumsum(lengths)]), np.array(items, dtype=np.int64), N_ITEMS)


def some_history(seed: int = 0, most: int = 12) -> History:
    """Return between 0 and ``most`` training items a user; user 0 is padding."""
    random = np.random.default_rng(seed)
    rows = [random.permutation(N_ITEMS - 1)[: random.integers(0, most + 1)] + 1 for _ in range(N_USERS - 1)]
    return history_of([[], *(row.tolist() for row in rows)])


def brute_force(scores: Tensor, history: History, count: int) -> list[list[int]]:
    """Return each user's list by a full sort in Python."""
    rankings = [[0] * count]
    for user in range(1, len(scores)):
        seen = set(history.items[history.indptr[user] : history.indptr[user + 1]].tolist())
        row = scores[user].tolist()
        best = sorted((item for item in range(1, N_ITEMS) if item not in seen), key=lambda item: -row[item])[:count]
        rankings.append(best + [0] * (count - len(best)))
    return rankings


def never() -> Adapter:
    """Stand for a teacher that must not be loaded."""
    raise AssertionError("The teacher was loaded though everything is on disk.")


def open_knowledge(
    folder: Path,
    teacher: Adapter | Callable[[], Adapter],
    *,
    history: History | None = None,
    earlier: tuple[Callable[[], Adapter], ...] = (),
    **settings: Any,
) -> StoredKnowledge:
    """Open knowledge of this teacher over some history."""
    load = (lambda: teacher) if isinstance(teacher, Adapter) else teacher
    source = GivenTeacher(load, earlier=earlier)
    return StoredKnowledge(folder, source, some_history() if history is None else history, BuildSettings(**settings))


class TestTopItems:
    """Knowledge.top_items."""

    @pytest.mark.parametrize("chunk", [0, 1, 2, 5, 13, 14, 100])
    @pytest.mark.parametrize("count", [1, 6, N_ITEMS - 1])
    def test_equals_a_full_sort(self, tmp_path: Path, chunk: int, count: int) -> None:
        """Training items hidden in the wrong row of a chunk would leak into the rankings of some users only."""
        scores = table()
        rankings = open_knowledge(tmp_path, TableTeacher(scores.clone()), chunk=chunk).top_items(count)
        assert rankings.dtype == np.int32 and rankings.shape == (N_USERS, count)
        assert rankings.tolist() == brute_force(scores, some_history(), count)

    def test_more_than_the_catalogue(self, tmp_path: Path) -> None:
        """A top-500 list of 22 items has 22 columns, not 500 and no error."""
        assert open_knowledge(tmp_path, TableTeacher(table())).top_items(500).shape == (N_USERS, N_ITEMS - 1)

    def test_short_rows_end_in_zeros(self, tmp_path: Path) -> None:
        """A user who knows all but two items must not be given training items to fill the list."""
        rows: list[list[int]] = [[] for _ in range(N_USERS)]
        rows[3] = [item for item in range(1, N_ITEMS) if item not in (4, 17)]
        rows[5] = list(range(1, N_ITEMS))
        scores = table()
        rankings = open_knowledge(tmp_path, TableTeacher(scores.clone()), history=history_of(rows)).top_items(6)
        assert sorted(rankings[3, :2].tolist()) == [4, 17] and rankings[3, 2:].tolist() == [0] * 4
        assert rankings[5].tolist() == [0] * 6
        assert (rankings[1] > 0).all()

    @pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min])
    def test_teacher_s_own_minus_infinity(self, tmp_path: Path, low: float) -> None:
        """Items that the teacher itself scores -inf stay unobserved items; training items still stay out."""
        scores = torch.full((N_USERS, N_ITEMS), low)
        scores[:, 8] = 1.0
        history = some_history()
        rankings = open_knowledge(tmp_path, TableTeacher(scores), history=history).top_items(N_ITEMS - 1)
        for user in range(1, N_USERS):
            seen = set(history.items[history.indptr[user] : history.indptr[user + 1]].tolist())
            listed = [item for item in rankings[user].tolist() if item]
            assert set(listed) == set(range(1, N_ITEMS)) - seen and len(listed) == len(set(listed))
            assert rankings[user, : len(listed)].all()
            if 8 not in seen:
                assert listed[0] == 8

    def test_half_precision_scores(self, tmp_path: Path) -> None:
        """A teacher that scores in bfloat16 is sorted in float32 as well."""
        scores = table().bfloat16()
        rankings = open_knowledge(tmp_path, TableTeacher(scores)).top_items(1)
        best = [scores[user, rankings[user, 0]].item() for user in range(1, N_USERS)]
        expected = brute_force(scores.float(), some_history(), 1)
        assert best == [scores[user, expected[user][0]].item() for user in range(1, N_USERS)]

    def test_nan_is_refused_and_nothing_kept(self, tmp_path: Path) -> None:
        """topk sorts NaN first: a diverged teacher would hand out its NaN items as the best."""
        scores = table()
        scores[9, 4] = torch.nan
        knowledge = open_knowledge(tmp_path, TableTeacher(scores), chunk=3)
        with pytest.raises(DataError, match="NaN"):
            knowledge.top_items(5)
        assert list(tmp_path.rglob("*.npy")) == []

    @pytest.mark.parametrize("where", ["padding", "seen", "best", "worst"])
    @pytest.mark.parametrize("items", [N_ITEMS, 9_001])
    def test_nan_anywhere_is_refused(self, where: str, items: int) -> None:
        """Hidden entries are overwritten, and a search in blocks does not look at every entry."""
        scores = torch.arange(2.0 * items).view(2, items)
        place = {"padding": 0, "seen": 7, "best": items - 1, "worst": 1}[where]
        scores[1, place] = torch.nan
        hidden = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 7])
        with pytest.raises(DataError, match="NaN"):
            best_unseen(scores, hidden, 3)

    @pytest.mark.parametrize("count", [3, N_ITEMS - 1])
    def test_the_teacher_s_own_memory_is_left_as_it_is(self, tmp_path: Path, count: int) -> None:
        """A teacher may hand out its own table, or one row for everyone."""
        own = table()
        for answer, chunk in ((own[1:], 0), (own[5].expand(N_USERS - 1, -1), 0), (own[5:6], 1)):
            teacher = TableTeacher(own)
            teacher.score_all = lambda users, answer=answer: answer  # type: ignore[method-assign]
            rankings = open_knowledge(tmp_path / str(len(list(tmp_path.iterdir()))), teacher, chunk=chunk).top_items(
                count
            )
            shown = torch.cat([own[:1], answer.expand(N_USERS - 1, -1)])
            assert rankings.tolist() == brute_force(shown, some_history(), count)
        assert torch.equal(own, table())

    def test_ranges_of_users_one_after_another(self, tmp_path: Path) -> None:
        """Several processes fill ranges of one file, in any order."""
        knowledge = open_knowledge(tmp_path, TableTeacher(table()), chunk=3)
        rankings = ArrayFile.create(tmp_path / "rankings.npy", (N_USERS, 6), np.dtype(np.int32))
        for start, stop in ((8, N_USERS), (1, 2), (2, 8)):
            other = ArrayFile(rankings.path)
            fill_rankings(other, ExactSearch(knowledge.teacher, knowledge.history, 6, 3), start, stop)
        assert np.load(rankings.path).tolist() == brute_force(table(), some_history(), 6)

    @pytest.mark.parametrize("chunk", [1, 4, 13])
    def test_never_more_users_than_a_chunk(self, tmp_path: Path, chunk: int) -> None:
        """A users x items table does not fit in memory on real data; each user is scored once, padding never."""
        teacher = TableTeacher(table())
        open_knowledge(tmp_path, teacher, chunk=chunk).top_items(5)
        assert max(map(len, teacher.asked)) <= chunk
        assert [user for users in teacher.asked for user in users] == list(range(1, N_USERS))

    def test_chunk_follows_the_catalogue(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Chunk 0 keeps users x items of one call within a fixed number of scores, and takes some users at least."""
        monkeypatch.setattr(exact_module, "_FEWEST_USERS", 2)
        for scores, users in ((4 * N_ITEMS + 1, 4), (1, 2)):
            monkeypatch.setattr(exact_module, "_CPU_SCORES", scores)
            teacher = TableTeacher(table())
            open_knowledge(tmp_path / str(scores), teacher).top_items(5)
            assert max(map(len, teacher.asked)) == users

    def test_no_gradient_graph_is_built(self, tmp_path: Path) -> None:
        """A teacher in training mode of autograd would keep every chunk's graph, and numpy would refuse it."""
        knowledge = open_knowledge(tmp_path, TableTeacher(table().requires_grad_()))
        assert knowledge.top_items(3).shape == (N_USERS, 3)


class TestVectorsAndScores:
    """Knowledge.embeddings and Knowledge.scores."""

    def test_vectors_by_side_and_hint(self, tmp_path: Path) -> None:
        """Arrays named without side or layer would return whichever was made first."""
        knowledge = open_knowledge(tmp_path, TableTeacher(table()))
        users, items = knowledge.embeddings("user"), knowledge.embeddings("item")
        assert users.dtype == np.float32
        assert np.array_equal(users, np.arange(3 * N_USERS).reshape(-1, 3))
        assert np.array_equal(items, np.arange(3 * N_ITEMS).reshape(-1, 3) + 1000)
        assert np.array_equal(knowledge.embeddings("user", "first"), users)
        assert np.array_equal(knowledge.embeddings("user", "second"), -users)
        assert np.array_equal(knowledge.embeddings("item", "second"), -items)

    def test_unknown_hint_leaves_nothing(self, tmp_path: Path) -> None:
        knowledge = open_knowledge(tmp_path, TableTeacher(table()))
        with pytest.raises(OptionError, match="third"):
            knowledge.embeddings("user", "third")
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == []

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_vectors_must_be_finite(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
        """Imitating NaN turns the student into NaN at the first step."""
        teacher = TableTeacher(table())
        monkeypatch.setattr(teacher, "item_embeddings", lambda items, hint: torch.tensor([[1.0], [bad]]))
        with pytest.raises(DataError, match="not finite"):
            open_knowledge(tmp_path, teacher).embeddings("item")

    def test_writing_to_an_array_leaves_the_file(self, tmp_path: Path) -> None:
        """Torch may write in place; the shared file must stay as it is."""
        knowledge = open_knowledge(tmp_path, TableTeacher(table()))
        torch.from_numpy(knowledge.embeddings("user")).zero_()
        assert knowledge.embeddings("user").any()

    def test_scores_of_chosen_items_in_chunks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A chunk joined in the wrong order would give users each other's scores."""
        monkeypatch.setattr(array_builder, "CHUNK_NUMBERS", 16 * 4 * 3)
        teacher = TableTeacher(table())
        users = torch.tensor([5, 1, 13, 2, 9, 5, 7])
        items = torch.randint(0, N_ITEMS, (7, 4), generator=torch.Generator().manual_seed(0))
        scores = open_knowledge(tmp_path, teacher).scores(users, items)
        assert torch.equal(scores, table()[users].gather(1, items)) and not scores.requires_grad
        assert teacher.scored == [(3, 4), (3, 4), (1, 4)]


class TestOnDisk:
    """What is kept, what is found again, and what is broken."""

    def test_second_knowledge_needs_no_teacher(self, tmp_path: Path) -> None:
        """Loading and scoring the teacher anew for every student is what the folder is there to save."""
        first = open_knowledge(tmp_path, TableTeacher(table()))
        rankings, embeddings = first.top_items(7), first.embeddings("item", "second")
        again = open_knowledge(tmp_path, never)
        assert np.array_equal(again.top_items(7), rankings)
        assert np.array_equal(again.embeddings("item", "second"), embeddings)
        assert first.total_seconds() > 0 and again.total_seconds() == 0
        with pytest.raises(AssertionError):
            again.top_items(8)

    def test_teacher_is_loaded_once_and_late(self, tmp_path: Path) -> None:
        loaded = []

        def load() -> Adapter:
            loaded.append(1)
            return TableTeacher(table())

        knowledge = open_knowledge(tmp_path, load)
        assert loaded == []
        knowledge.top_items(3)
        knowledge.embeddings("user")
        assert len(loaded) == 1
        knowledge.forget_teacher()
        knowledge.embeddings("item")
        assert len(loaded) == 2

    def test_leftover_of_a_killed_run_is_ignored(self, tmp_path: Path) -> None:
        """A half-written array must not be taken for a whole one."""
        rankings = open_knowledge(tmp_path / "whole", TableTeacher(table())).top_items(4)
        (entry,) = (path for path in (tmp_path / "whole").iterdir() if path.is_dir())
        leftover = tmp_path / "half" / f".{entry.name}.partial-123-abcd"
        leftover.mkdir(parents=True)
        (leftover / "array.npy").write_bytes((entry / "array.npy").read_bytes()[:100])
        again = open_knowledge(tmp_path / "half", TableTeacher(table()))
        assert np.array_equal(again.top_items(4), rankings)

    def test_failure_leaves_no_entry_and_the_next_try_works(self, tmp_path: Path) -> None:
        """An interrupt in the middle of the rankings must not leave an entry that a later run believes."""
        teacher = TableTeacher(table())

        class Interrupted(TableTeacher):
            """Fails in the second chunk."""

            def score_all(self, users: Tensor) -> Tensor:
                """Raise in the second chunk."""
                if 5 in users:
                    raise KeyboardInterrupt
                return super().score_all(users)

        with pytest.raises(KeyboardInterrupt):
            open_knowledge(tmp_path, Interrupted(table()), chunk=3).top_items(4)
        assert [path for path in tmp_path.rglob("*") if path.suffix != ".lock"] == []
        assert open_knowledge(tmp_path, teacher).top_items(4).tolist() == brute_force(table(), some_history(), 4)

    def test_missing_teacher_is_no_full_disk(self, tmp_path: Path) -> None:
        """A teacher's file that is gone must not be reported as 'Cannot write' a folder that is fine."""

        def load() -> Adapter:
            raise FileNotFoundError(2, "No such file or directory", "teacher.pth")

        with pytest.raises(Exception, match=r"teacher\.pth") as caught:
            open_knowledge(tmp_path, load).top_items(4)
        assert "Cannot write" not in str(caught.value)

    def test_a_teacher_s_error_is_no_error_of_writing(self, tmp_path: Path) -> None:
        def load() -> Adapter:
            raise PermissionError(errno.EACCES, "Permission denied", "teacher.pth")

        with pytest.raises(PermissionError, match=r"teacher\.pth"):
            open_knowledge(tmp_path, load).top_items(4)

    def test_a_full_disk_is_a_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A memory map on a full disk would end the process by a signal."""

        def full(self: ArrayFile, start: int, rows: np.ndarray[Any, Any]) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(ArrayFile, "write", full)
        with pytest.raises(DistillError, match="Cannot write"):
            open_knowledge(tmp_path, TableTeacher(table())).top_items(4)
        assert list(tmp_path.rglob("*.npy")) == []

    def test_rows_must_fit_their_file(self, tmp_path: Path) -> None:
        """A row too many would be appended and make the file unreadable."""
        rankings = ArrayFile.create(tmp_path / "rankings.npy", (5, 2), np.dtype(np.int32))
        for start, rows in ((4, np.ones((2, 2), np.int32)), (0, np.ones((1, 3), np.int32)), (0, np.ones((1, 2)))):
            with pytest.raises(ValueError, match="does not fit"):
                rankings.write(start, rows)
        rankings.write(3, np.array([[1, 2], [3, 4]], dtype=np.int32))
        assert np.load(rankings.path).tolist() == [[0, 0]] * 3 + [[1, 2], [3, 4]]

    @pytest.mark.slow
    def test_two_processes_at_once(self, tmp_path: Path) -> None:
        """Of two runs that start together one builds the entry; the other waits and takes it, without the teacher."""
        barrier = threading.Barrier(2, timeout=600)
        found: dict[int, list[list[int]]] = {}
        errors: list[BaseException] = []
        loaded: list[int] = []

        def load() -> Adapter:
            loaded.append(1)
            time.sleep(0.5)  # the other one comes meanwhile
            return TableTeacher(table())

        def build(number: int) -> None:
            try:
                barrier.wait()
                found[number] = open_knowledge(tmp_path, load).top_items(9).tolist()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=build, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
        assert errors == []
        assert found[0] == found[1] == brute_force(table(), some_history(), 9)
        assert loaded == [1]
        assert len([path for path in tmp_path.iterdir() if path.suffix != ".lock"]) == 1  # no partial folder is left

    def test_removing_the_folder_makes_it_anew(self, tmp_path: Path) -> None:
        """What the message for a damaged array promises."""
        rankings = open_knowledge(tmp_path, TableTeacher(table())).top_items(4).tolist()
        (array,) = tmp_path.rglob("array.npy")
        for path in sorted(array.parent.iterdir()):
            path.unlink()
        array.parent.rmdir()
        assert open_knowledge(tmp_path, TableTeacher(table())).top_items(4).tolist() == rankings

    def test_folder_depends_on_teacher_and_data(self, tmp_path: Path) -> None:
        """One teacher on two splits has two sets of rankings; mixing them up would leak test items."""
        folders = {knowledge_folder(tmp_path, teacher, data) for teacher in ("a", "b") for data in ("x", "y")}
        assert len(folders) == 4 and all(folder.parent == tmp_path for folder in folders)
        assert knowledge_folder(tmp_path, "a", "x") in folders
