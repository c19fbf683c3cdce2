"""A file is the old one or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from recbole_derrd.errors import DistillError
from recbole_derrd.runtime.files import (
    building_folder,
    remove_path,
    replacing_file,
    working_folder,
    working_name,
)
from recbole_derrd.runtime.locks import locked


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ValueError, match="half way"), replacing_file(target) as partial:
        partial.write_text("half")
        raise ValueError("half way")
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(DistillError, match="No space left"), replacing_file(target):
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"


def test_a_folder_where_a_file_should_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DistillError, match="Cannot write"), replacing_file(tmp_path / "file" / "below"):
        pass


def test_a_file_does_not_take_a_pipes_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DistillError, match="it is a device or a pipe"), replacing_file(pipe):
        pass
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "entry"
    with pytest.raises(ValueError, match="x"), building_folder(target) as folder:
        (folder / "half").write_text("half")
        raise ValueError("x")
    assert os.listdir(tmp_path) == []
    with building_folder(target) as folder:
        (folder / "whole").write_text("whole")
        assert not target.exists()
    assert os.listdir(tmp_path) == ["entry"]


def test_the_second_of_two_builders_keeps_the_first_ones_folder(tmp_path: Path) -> None:
    target = tmp_path / "entry"
    with building_folder(target) as slow:
        (slow / "who").write_text("slow")
        with building_folder(target) as fast:
            (fast / "who").write_text("fast")
    assert (target / "who").read_text() == "fast" and os.listdir(tmp_path) == ["entry"]


def test_a_working_folder_outlives_an_error_and_becomes_the_target(tmp_path: Path) -> None:
    target = tmp_path / "entry"
    with pytest.raises(ValueError, match="x"), working_folder(target, anew=True, marker="far") as folder:
        (folder / "part").write_text("part")
        (folder / "far").write_text("half")
        raise ValueError("x")
    assert os.listdir(tmp_path) == [working_name(target).name]
    with working_folder(target, anew=False, marker="far") as folder:
        assert (folder / "part").read_text() == "part" and (folder / "far").exists()
    assert os.listdir(tmp_path) == ["entry"] and os.listdir(target) == ["part"]
    with working_folder(target, anew=True, marker="far") as folder:
        assert not os.listdir(folder)
        (folder / "new").write_text("new")
    assert os.listdir(target) == ["new"], "an entry that is built again was unusable"


def test_a_working_folder_is_emptied_from_its_marker_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed half way through must not leave a marker that speaks of files which are gone."""
    working = working_name(tmp_path / "entry")
    working.mkdir()
    (working / "far").write_text("far")
    monkeypatch.setattr("recbole_derrd.runtime.files.shutil.rmtree", lambda _: pytest.fail("the marker is left"))
    with pytest.raises(pytest.fail.Exception), working_folder(tmp_path / "entry", anew=True, marker="far"):
        pass
    assert os.listdir(working) == []


def test_a_lock_removes_what_the_dead_have_left_and_says_that_it_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target, other = tmp_path / "entry", tmp_path / ".entrybeside.partial-1-ab"
    (tmp_path / ".entry.partial-1-ab").mkdir()
    (tmp_path / ".also.partial-1-ab").write_text("half")
    other.write_text("of another target")
    inside, leave, order = threading.Event(), threading.Event(), []

    def hold() -> None:
        with locked(target, "trains this", tmp_path / "also") as waited:
            order.append(("first", waited))
            inside.set()
            leave.wait(600)

    first = threading.Thread(target=hold)
    first.start()
    assert inside.wait(600) and sorted(os.listdir(tmp_path)) == [".entry.lock", other.name]
    with caplog.at_level(logging.WARNING):
        # The first leaves once the second has said that it waits.
        told = logging.Handler()
        told.emit = lambda record: leave.set()  # type: ignore[method-assign]
        logging.getLogger().addHandler(told)
        try:
            with locked(target, "trains this") as waited:
                order.append(("second", waited))
        finally:
            logging.getLogger().removeHandler(told)
    first.join()
    assert order == [("first", False), ("second", True)]
    assert [record.getMessage() for record in caplog.records if record.name == "root"] == [
        f"Another run trains this ({target}). Waiting until it ends."
    ]


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no open file")
def test_a_tidy_lock_leaves_no_file_and_is_one_runs_at_a_time_all_the_same(tmp_path: Path) -> None:
    inside, most, ends = [], [], []

    def build() -> None:
        for _ in range(5):
            with locked(tmp_path / "export", "exports", tidy=True):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()
        ends.append(1)

    runs = [threading.Thread(target=build) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(100)
    assert len(ends) == 3 and max(most) == 1 and len(most) == 15
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "export", "exports"):
        pass
    assert os.listdir(tmp_path) == [".export.lock"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_lock_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("recbole_derrd.runtime.locks.FileLock.acquire", refuse)
    with pytest.raises(DistillError, match="Cannot write"), locked(tmp_path / "entry", "trains this"):
        pass


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".entry.partial-1-ab").write_text("maybe of a run that lives")
    monkeypatch.setattr("recbole_derrd.runtime.locks.FileLock.acquire", refuse)
    with caplog.at_level(logging.WARNING), locked(tmp_path / "entry", "trains this") as waited:
        assert not waited
    assert "no locks" in caplog.text and os.listdir(tmp_path) == [".entry.partial-1-ab"]


def test_what_fails_elsewhere_while_a_folder_is_worked_in_is_not_said_of_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="other disk"), working_folder(tmp_path / "entry", anew=True, marker="m"):
        raise OSError(errno.ENOSPC, "other disk")


@pytest.mark.parametrize("what", ["link", "dangling link", "folder", "pipe", "content"])
def test_a_lock_file_that_no_run_has_left_is_refused(tmp_path: Path, what: str) -> None:
    """Locking empties the file: through a link that would be somebody else's."""
    lock, other = tmp_path / ".target.lock", tmp_path / "other"
    other.write_text("somebody else's")
    if what == "link":
        lock.symlink_to(other)
    elif what == "dangling link":
        lock.symlink_to(tmp_path / "nowhere")
    elif what == "folder":
        lock.mkdir()
    elif what == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_text("content")
    with (
        pytest.raises(DistillError, match=r"\.target\.lock' should be an empty lock file"),
        locked(tmp_path / "target", "x"),
    ):
        pass
    assert other.read_text() == "somebody else's" and not (tmp_path / "nowhere").exists()
    assert what != "content" or lock.read_text() == "content"


def test_an_empty_lock_file_of_an_earlier_run_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".target.lock").write_text("")
    with locked(tmp_path / "target", "x") as waited:
        assert not waited


def test_what_filelock_writes_without_locks_of_the_system_is_a_lock(tmp_path: Path) -> None:
    (tmp_path / ".target.lock").write_text(f"{os.getpid()}\na-machine\n")
    with locked(tmp_path / "target", "makes this") as waited:
        assert not waited


def test_what_is_unusable_is_removed_and_what_a_link_leads_to_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("x")
    (tmp_path / "link").symlink_to(folder)
    for name in ("link", "nowhere"):
        remove_path(tmp_path / name)
    assert (folder / "file").is_file() and not (tmp_path / "link").is_symlink()
    remove_path(folder / "file")
    remove_path(folder)
    assert not folder.exists()
