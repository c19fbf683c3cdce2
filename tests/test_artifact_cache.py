"""An artifact is built once and is whole or absent: killed builds, several runs and processes, damage, limits."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from recbole_derrd.errors import DistillError, UnreadableError
from recbole_derrd.runtime import artifact_cache
from recbole_derrd.runtime.artifact_cache import ArtifactCache, Resumable
from recbole_derrd.runtime.files import working_name
from recbole_derrd.runtime.stored_arrays import DamagedFileError

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="a build is killed in a forked child")


def read(folder: Path) -> str | None:
    """Read a text of two files; None where one is missing."""
    if not (folder / "second").exists():
        return None
    text = (folder / "first").read_text() + (folder / "second").read_text()
    if "x" in text:
        raise DamagedFileError("it holds an x")
    return text


def build(folder: Path) -> str:
    """Write both files."""
    (folder / "first").write_text("a")
    (folder / "second").write_text("b")
    return "ab"


def never(folder: Path) -> str:
    raise AssertionError("It was built although it is there.")


def get(cache: ArtifactCache, build: Callable[[Path], str] = build, **more: Any) -> str:
    return cache.get_or_build("key", build, read, doing="builds this", **more)


def killed(action: Callable[[], Any]) -> None:
    """Do this in a forked child, which must end by SIGKILL."""
    process = os.fork()
    if not process:
        try:
            action()
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def test_it_is_built_once_and_read_from_then_on(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    assert cache.get("key", read) is None and not (tmp_path / "cache").exists(), "a look writes nothing"
    assert get(cache) == "ab" == get(cache, never) == cache.get("key", read)
    assert get(ArtifactCache(tmp_path / "cache"), never) == "ab"
    assert names(tmp_path / "cache") == ["key"] and names(cache.path("key")) == ["first", "second"]


def test_an_error_of_the_build_passes_and_publishes_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> str:
        build(folder)
        raise PermissionError(errno.EACCES, "Permission denied", "elsewhere")

    with pytest.raises(PermissionError, match="elsewhere"):
        get(ArtifactCache(tmp_path), fail)
    assert names(tmp_path) == []


@FORK
@pytest.mark.parametrize("moment", ["between its files", "before it is flushed", "before it has its name"])
def test_a_killed_build_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(folder: Path) -> str:
        (folder / "first").write_text("half")
        kill()
        return ""

    with monkeypatch.context() as patched:
        if moment != "between its files":
            patched.setattr(os, "fsync" if "flushed" in moment else "replace", kill)
        killed(lambda: get(ArtifactCache(tmp_path), half if moment == "between its files" else build))
    cache = ArtifactCache(tmp_path)
    assert cache.get("key", read) is None and len(names(tmp_path)) == 1
    assert get(cache) == "ab" and names(tmp_path) == ["key"], "what the killed build left is removed"


RESUMABLE = Resumable("marker")


@FORK
def test_a_resumable_build_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    def first_half(folder: Path) -> str:
        (folder / "marker").write_text("after the first")
        (folder / "first").write_text("from the first try, ")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    def second_half(folder: Path) -> str:
        assert (folder / "marker").read_text() == "after the first"
        (folder / "second").write_text("from the second")
        return str(read(folder))

    cache = ArtifactCache(tmp_path)
    killed(lambda: get(cache, first_half, resumable=RESUMABLE))
    assert cache.get("key", read) is None
    assert get(cache, second_half, resumable=RESUMABLE) == "from the first try, from the second"
    assert names(tmp_path) == ["key"] and names(cache.path("key")) == ["first", "second"]


@FORK
def test_a_resumable_build_begins_anew_where_it_is_told_to(tmp_path: Path) -> None:
    def half(folder: Path) -> str:
        assert not os.listdir(folder)
        (folder / "marker").touch()
        (folder / "first").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    def whole(folder: Path) -> str:
        assert not os.listdir(folder)
        return build(folder)

    cache = ArtifactCache(tmp_path)
    killed(lambda: get(cache, half, resumable=RESUMABLE))
    assert get(cache, whole, resumable=Resumable("marker", anew=True)) == "ab"


@FORK
@pytest.mark.parametrize("anew", [False, True])
def test_a_resumable_build_that_was_complete_is_published_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    cache = ArtifactCache(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        killed(lambda: get(cache, resumable=RESUMABLE))
    assert names(tmp_path) == [working_name(cache.path("key")).name]
    assert get(cache, never, resumable=Resumable("marker", anew)) == "ab" and names(tmp_path) == ["key"]


def test_a_damaged_artifact_is_named_once_and_replaced_when_the_new_one_is_complete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ArtifactCache(tmp_path)
    get(cache)
    (cache.path("key") / "first").write_text("x")

    def fail(folder: Path) -> str:
        raise ValueError("no teacher")

    with pytest.raises(ValueError, match="no teacher"):
        get(cache, fail)
    assert (cache.path("key") / "first").read_text() == "x", "a failed build leaves what was there"
    assert get(cache) == "ab" == get(cache, never)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"'{cache.path('key')}' is damaged: it holds an x. It counts as missing and is built again."


@pytest.mark.parametrize("resumable", [None, RESUMABLE])
@pytest.mark.parametrize("what", ["incomplete folder", "file", "link", "dangling link"])
def test_whatever_lies_in_its_place_is_replaced(tmp_path: Path, what: str, resumable: Resumable | None) -> None:
    cache, other = ArtifactCache(tmp_path / "cache"), tmp_path / "other"
    cache.folder.mkdir()
    other.mkdir()
    (other / "first").write_text("somebody else's")
    path = cache.path("key")
    if what == "incomplete folder":
        path.mkdir()
        (path / "first").write_text("c")
    elif what == "file":
        path.write_text("a file")
    else:
        path.symlink_to(other if what == "link" else tmp_path / "nowhere")
    assert get(cache, resumable=resumable) == "ab" == get(cache, never) and not path.is_symlink()
    assert os.listdir(other) == ["first"] and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOMEM, "memory is not enough"),
        (errno.EACCES, "cannot be read: Permission denied. Make it readable"),
        (errno.EIO, "cannot be read: Input/output error"),
    ],
)
def test_a_limit_of_the_machine_is_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, words: str, wrapped: bool
) -> None:
    def refused(folder: Path) -> str | None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            if wrapped:
                raise DamagedFileError("it cannot be read") from error
            raise

    cache = ArtifactCache(tmp_path)
    get(cache)
    for look in (
        lambda: cache.get("key", refused),
        lambda: cache.get_or_build("key", never, refused, doing="x"),
        lambda: cache.get_or_build("key", never, refused, doing="x", resumable=RESUMABLE),
    ):
        with pytest.raises(DistillError, match=words) as caught:
            look()
        assert number in (errno.EMFILE, errno.ENOMEM) or isinstance(caught.value, UnreadableError)
    assert get(cache, never) == "ab" and not caplog.records


def test_an_artifact_that_another_run_replaces_meanwhile_is_absent(tmp_path: Path) -> None:
    def gone(folder: Path) -> str | None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "first")

    cache = ArtifactCache(tmp_path)
    get(cache)
    assert cache.get("key", gone) is None


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DistillError, match="Cannot write"):
        get(ArtifactCache(tmp_path / "file"))


@pytest.mark.parametrize("resumable", [None, RESUMABLE])
def test_of_two_threads_one_builds_and_the_other_reads(tmp_path: Path, resumable: Resumable | None) -> None:
    barrier, built, found = threading.Barrier(2, timeout=600), [], []

    def slow(folder: Path) -> str:
        built.append(1)
        time.sleep(0.3)
        return build(folder)

    def ask() -> None:
        barrier.wait()
        found.append(get(ArtifactCache(tmp_path), slow, resumable=resumable))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert found == ["ab", "ab"] and built == [1] and names(tmp_path) == ["key"]


def _ask(folder: Path, number: int) -> None:
    def slow(place: Path) -> str:
        with open(folder / "built", "a", encoding="ascii") as file:
            file.write("x")
        time.sleep(0.05)
        return build(place)

    for key in range(6):
        assert ArtifactCache(folder / "cache").get_or_build(str(key), slow, read, doing="builds this") == "ab"


@FORK
def test_of_several_processes_one_builds_each_and_the_others_read(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_ask, args=(tmp_path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "built").read_text() == "x" * 6 and names(tmp_path / "cache") == list("012345")


@FORK
def test_the_lock_of_a_killed_run_goes_to_the_one_that_waits(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def forever(folder: Path) -> str:
        (folder / "first").write_text("half")
        begun.touch()
        time.sleep(600)
        return ""

    process = os.fork()
    if not process:
        get(ArtifactCache(tmp_path / "cache"), forever)
        os._exit(0)
    while not begun.exists():
        time.sleep(0.01)
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(get(ArtifactCache(tmp_path / "cache"))))
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive() and not found
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    waiting.join(600)
    assert found == ["ab"] and names(tmp_path / "cache") == ["key"]


def test_without_locks_the_folder_that_is_complete_first_stays(tmp_path: Path) -> None:
    """Both hold the same, and a run may have mapped the first one already."""
    cache = ArtifactCache(tmp_path)

    def slow(folder: Path) -> str:
        with artifact_cache.building_folder(cache.path("key")) as fast:
            build(fast)
            (fast / "who").write_text("fast")
        return build(folder)

    assert get(cache, slow) == "ab"
    assert (cache.path("key") / "who").read_text() == "fast" and names(tmp_path) == ["key"]


def borrow(cache: ArtifactCache, build: Callable[[Path], str] = build) -> Any:
    return cache.borrow("key", build, read, doing="builds this", resumable=RESUMABLE)


def test_what_is_borrowed_is_removed_when_the_block_succeeds_and_kept_when_it_fails(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    with pytest.raises(ValueError, match="half way"), borrow(cache) as text:
        assert text == "ab" and read(cache.path("key")) == "ab"
        raise ValueError("half way")
    with borrow(cache, never) as text:
        assert text == "ab"
    assert names(tmp_path) == []


def test_other_runs_wait_while_an_artifact_is_borrowed(tmp_path: Path) -> None:
    cache, order = ArtifactCache(tmp_path), []

    def second() -> None:
        with borrow(cache):
            order.append("second")

    with borrow(cache):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.3)
        order.append("first")
    other.join(600)
    assert order == ["first", "second"] and names(tmp_path) == []
