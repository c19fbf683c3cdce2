"""Killed at any moment and started again, a run ends like one that was never killed; a bad disk harms no good file.

Each run is a forked child of this process, so that nothing is imported anew. CRASH_KILLS=200 tries that many moments
of each kind in place of a few, CRASH_KILLS=all every file operation of a run.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import recbole
import torch

from recbole_derrd.errors import DistillError
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.teacher import StoredKnowledge
from recbole_derrd.training.checkpoint import read_checkpoint, read_plain
from recbole_derrd.training.trainer import TrainerMixin

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="a run is a forked child")]
KILLS = os.environ.get("CRASH_KILLS", "")
# What ends a run in a sentence; any other error is a traceback for the user.
SENTENCE, TRACEBACK = 2, 1
#: Those not waited for yet.
CHILDREN: list[int] = []


def settings(data: Path, home: Path, **more: Any) -> dict[str, Any]:
    """A student that draws from every source of random numbers, and that stops early."""
    return {
        "data_path": str(data), "checkpoint_dir": str(home / "saved"), "record_dir": str(home / "records"),
        "epochs": 12, "stopping_step": 3, "learning_rate": 0.006, "checkpoint_step": 1, "train_batch_size": 128,
        "mf_embedding_size": 8, "mlp_embedding_size": 8, "mlp_hidden_size": [12, 6], "dropout_prob": 0.2,
        "teacher_model": "BPR", "teacher": {"embedding_size": 16, "epochs": 8}, "latency_users": 0,
        "distillers": ["de", "rrd"], "de_num_experts": 3, "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8,
        "eval_batch_size": 4000, "metrics": ["NDCG", "Recall"], "topk": [5], "valid_metric": "NDCG@5",
        "show_progress": False, "state": "WARNING", **more,
    }  # fmt: skip


# -- runs as children


def start(action: Callable[[], object], output: Path) -> int:
    """Fork a child that does this and is gone; what it says is appended to ``output``."""
    process = os.fork()
    if process:
        CHILDREN.append(process)
        return process
    status = TRACEBACK
    try:
        # pytest's handlers would keep what the run logs from the file.
        getLogger().handlers = []
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = open(descriptor, "a", buffering=1, closefd=False)  # noqa: SIM115
        action()
        status = 0
    except DistillError as error:
        status = SENTENCE
        os.write(2, f"SENTENCE {error}\n".encode())
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def ended(process: int) -> int:
    """Wait for a child; its exit status, or minus the signal that killed it."""
    status = os.waitpid(process, 0)[1]
    CHILDREN.remove(process)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def done(action: Callable[[], object], output: Path) -> int:
    """Start a child and wait for it."""
    return ended(start(action, output))


@dataclasses.dataclass
class Moments:
    """Notes every call that can leave something half done, and ends the process in the chosen one.

    Args:
        under: only files below this folder count.
        chosen: number of the call, or None.
        when: "before" it, "after" it, or "half" way through what it writes.
        error: raise this in place of the call instead of ending the process.
        only: count the calls of this name alone.
    """

    under: Path
    chosen: int | None = None
    when: str = "before"
    error: OSError | None = None
    only: str = ""
    names: list[str] = dataclasses.field(default_factory=list)
    epochs: int = 0

    def watch(self) -> None:
        """Put the watch around the calls; for good, so only in a child."""
        for owner, name, about_files in (
            (os, "replace", True), (os, "fsync", False), (os, "mkdir", True), (os, "unlink", True), (os, "rmdir", True),
            (torch, "save", False), (TrainerMixin, "_train_epoch", False), (StoredKnowledge, "top_items", False),
        ):  # fmt: skip
            setattr(owner, name, self._watched(name, getattr(owner, name), about_files))

    def _watched(self, name: str, call: Callable[..., Any], about_files: bool) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if name == "_train_epoch":
                self.epochs += 1
            if about_files and not kwargs.get("dir_fd") and not str(args[0]).startswith(str(self.under)):
                return call(*args, **kwargs)
            if self.only and name != self.only:
                return call(*args, **kwargs)
            here = len(self.names) == self.chosen
            self.names.append(name)
            if here and self.error is not None:
                raise self.error
            if here and self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                result = call(*args, **kwargs)
                if here and self.when == "half":
                    args[1].flush()
                    os.truncate(args[1].file.name, os.path.getsize(args[1].file.name) // 2)
                return result
            finally:  # a call that fails has its moment too
                if here:
                    os.kill(os.getpid(), signal.SIGKILL)

        return watched


# -- what a run leaves


def content_of(path: Path) -> Any:
    """Read a file that a run has left."""
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path))
    if path.name.endswith(".training.pth"):
        content = read_plain(path)
        del content["epoch_seconds"]
        return content
    content = read_checkpoint(path)
    return {key: content[key] for key in ("state_dict", "optimizer", "epoch", "cur_step", "best_valid_score", "derrd")}


def good_files(home: Path) -> dict[str, Any]:
    """Every file under its final name; one that cannot be read fails the test."""
    files = [path for path in (home / "saved").rglob("*") if path.suffix in (".pth", ".npy")]
    return {
        str(path.relative_to(home)): content_of(path)
        for path in sorted(files)
        if ".partial-" not in str(path.relative_to(home))
    }


def outcome(home: Path) -> dict[str, Any]:
    """Everything that must not depend on whether the run was killed."""
    record = json.loads(max((home / "records").glob("*.json")).read_text(encoding="utf-8"))
    roles = ("teacher", "student", "distilled")
    assert len(record["cost"]["epoch_seconds"]) == record["distilled"]["epochs"]
    assert all(record[role]["seconds"] > 0 for role in roles)
    return {
        "metrics": {role: {split: record[role][split] for split in ("valid", "test")} for role in roles},
        "epochs": {role: record[role]["epochs"] for role in roles},
        "files": good_files(home),
    }


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two outcomes differ, to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = [f"{place}/{key} is in one only" for key in one.keys() ^ other.keys()]
        for key in one.keys() & other.keys():
            found += differences(one[key], other[key], f"{place}/{key}")
        return found
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [found for index, pair in enumerate(zip(one, other)) for found in differences(*pair, f"{place}/{index}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    return [] if type(one) is type(other) and one == other else [f"{place}: {one!r} and {other!r}"]


def leftovers(home: Path) -> list[str]:
    """What a finished run must not leave lying about."""
    return [
        str(path.relative_to(home))
        for path in (home / "saved").rglob("*")
        if ".partial-" in path.name or path.name.endswith(".training")
    ]


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that was never killed."""

    home: Path
    outcome: dict[str, Any]
    moments: list[str]
    seconds: float


@pytest.fixture(scope="module")
def run(tiny_data: Path) -> Callable[..., Callable[[], Any]]:
    """Return what makes a run on the tiny data: ``run(home)()``."""
    return lambda home, **more: (
        lambda: run_recbole_derrd("NeuMF", "tiny", config_dict=settings(tiny_data, home, **more))
    )


@pytest.fixture(scope="module")
def whole(run: Callable[..., Callable[[], Any]], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    home = tmp_path_factory.mktemp("whole")
    # In this process, so that no child has to import anything; and twice makes sure that twice is the same.
    run(home / "first")()

    def watched() -> None:
        moments = Moments(home)
        moments.watch()
        run(home)()
        (home / "moments").write_text(json.dumps(moments.names))

    started = time.perf_counter()
    assert done(watched, home / "output") == 0, (home / "output").read_text()
    seconds = time.perf_counter() - started
    result = outcome(home)
    assert not differences(result, outcome(home / "first")), "two runs without any kill must be the same"
    (best,) = [
        content["epoch"] for name, content in result["files"].items() if "-de-rrd-" in name and "state_dict" in content
    ]
    assert 1 < best < result["epochs"]["distilled"] - 1 < 11, "its best epoch must lie within, and it must stop early"
    shutil.rmtree(home / "first")
    assert not leftovers(home)
    return Whole(home, outcome(home), json.loads((home / "moments").read_text()), seconds)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """File of what the children say; those that a failed test leaves are ended."""
    yield tmp_path / "output"
    for process in list(CHILDREN):
        os.kill(process, signal.SIGKILL)
        ended(process)


def assert_resumes(whole: Whole, run: Callable[..., Callable[[], Any]], home: Path, output: Path, story: Any) -> None:
    """Go on from what lies in ``home``: the end must be that of the run which was never killed."""
    assert done(run(home, resume=True), output) == 0, (story, output.read_text())
    assert not differences(outcome(home), whole.outcome), story
    assert not leftovers(home), story


def killed_at(
    run: Callable[..., Callable[[], Any]], home: Path, chosen: int, when: str, output: Path, **more: Any
) -> int:
    """Run until the chosen moment; how the child ended."""

    def watched() -> None:
        home.mkdir(exist_ok=True)
        Moments(home, chosen, when).watch()
        run(home, **more)()

    return done(watched, output)


# -- killed


def chosen_moments(names: list[str], count: int, seed: int) -> list[tuple[int, str]]:
    """Spread over the whole run, at a random place within each stretch, so that no phase is left out."""
    every = [
        (index, when)
        for index, name in enumerate(names)
        for when in ("before", "half", "after")
        if when != "half" or name == "save"
    ]
    if KILLS == "all":
        return every
    count = min(int(KILLS or count), len(every))
    draw = random.Random(seed)
    edges = [len(every) * step // count for step in range(count + 1)]
    return [every[draw.randrange(low, high)] for low, high in zip(edges, edges[1:])]


def try_moments(whole: Whole, run: Any, tmp_path: Path, output: Path, count: int, seed: int) -> None:
    for chosen, when in chosen_moments(whole.moments, count, seed):
        home = tmp_path / f"{chosen}-{when}"
        story = f"killed {when} call {chosen}, {whole.moments[chosen]}"
        assert killed_at(run, home, chosen, when, output) == -signal.SIGKILL, (story, output.read_text())
        good_files(home)
        assert_resumes(whole, run, home, output, story)
        shutil.rmtree(home)


def test_killed_around_a_file_operation(whole: Whole, run: Any, tmp_path: Path, output: Path) -> None:
    kinds = {"replace", "fsync", "mkdir", "unlink", "save", "_train_epoch", "top_items"}
    assert kinds <= set(whole.moments) and len(whole.moments) > 200
    try_moments(whole, run, tmp_path, output, 5, seed=1)


def test_killed_around_more_file_operations(whole: Whole, run: Any, tmp_path: Path, output: Path) -> None:
    try_moments(whole, run, tmp_path, output, 10, seed=2)


def try_random_kills(whole: Whole, run: Any, tmp_path: Path, output: Path, histories: int, seed: int) -> None:
    draw = random.Random(seed)
    for history in range(histories):
        home, story = tmp_path / f"random-{history}", []
        for kill in range(4):
            process = start(run(home, resume=kill > 0), output)
            story.append(draw.uniform(0.02, 0.9 * whole.seconds))
            time.sleep(story[-1])
            os.kill(process, signal.SIGKILL)
            assert ended(process) in (0, -signal.SIGKILL), (story, output.read_text())
            good_files(home)
        assert_resumes(whole, run, home, output, story)


def test_killed_at_random_moments_again_and_again(whole: Whole, run: Any, tmp_path: Path, output: Path) -> None:
    try_random_kills(whole, run, tmp_path, output, int(KILLS) // 4 + 1 if KILLS.isdigit() else 2, seed=3)


def test_killed_at_more_random_moments(whole: Whole, run: Any, tmp_path: Path, output: Path) -> None:
    try_random_kills(whole, run, tmp_path, output, 4, seed=4)


def test_a_teacher_goes_on_where_it_was_killed(whole: Whole, run: Any, tmp_path: Path, output: Path) -> None:
    """Not from its first epoch: that would end the same and cost the hours."""
    epochs = [index for index, name in enumerate(whole.moments) if name == "_train_epoch"]
    assert killed_at(run, tmp_path, epochs[6], "before", output) == -signal.SIGKILL

    def counted() -> None:
        moments = Moments(tmp_path)
        moments.watch()
        run(tmp_path, resume=True)()
        (tmp_path / "epochs").write_text(str(moments.epochs))

    assert done(counted, output) == 0, output.read_text()
    assert int((tmp_path / "epochs").read_text()) == sum(whole.outcome["epochs"].values()) - 6
    assert not differences(outcome(tmp_path), whole.outcome)


@pytest.mark.parametrize("role", ["teacher", "distilled"])
def test_a_run_begun_anew_is_not_resumed_from_an_earlier_end(
    whole: Whole, run: Any, tmp_path: Path, output: Path, role: str
) -> None:
    """The first epochs' weights under the training checkpoint of a run that had ended would be a false best."""
    earlier = tmp_path / "earlier"
    if role == "distilled":
        shutil.copytree(whole.home, earlier)
    else:
        epochs = [index for index, name in enumerate(whole.moments) if name == "_train_epoch"]
        assert killed_at(run, earlier, epochs[7], "before", output) == -signal.SIGKILL
    for name, chosen in (("unlink", 0), ("save", 0), ("replace", 0), ("replace", 1)):
        home = tmp_path / f"anew-{name}-{chosen}"
        shutil.copytree(earlier, home)

        def killed(home: Path = home, name: str = name, chosen: int = chosen) -> None:
            Moments(home, chosen, "after", only=name).watch()
            run(home)()

        assert done(killed, output) == -signal.SIGKILL, output.read_text()
        assert_resumes(whole, run, home, output, (name, chosen))


# -- a bad disk


def said(output: Path) -> str:
    """The last sentence that a child ended with."""
    lines = [line for line in output.read_text().splitlines() if line.startswith("SENTENCE ")]
    return lines[-1] if lines else ""


def test_a_disk_that_is_full_at_any_call_is_a_sentence(whole: Whole, run: Any, tmp_path: Path, output: Path) -> None:
    calls = [index for index, name in enumerate(whole.moments) if name in ("replace", "fsync", "save")]
    draw = random.Random(5)
    for chosen in draw.sample(calls, 4):
        home = tmp_path / str(chosen)

        def full(chosen: int = chosen, home: Path = home) -> None:
            home.mkdir()
            Moments(home, chosen, error=OSError(errno.ENOSPC, "No space left on device")).watch()
            run(home)()

        story = (chosen, whole.moments[chosen])
        assert done(full, output) == SENTENCE, (story, output.read_text())
        assert "Cannot write" in said(output) and "No space left" in said(output), story
        good_files(home)
        assert_resumes(whole, run, home, output, story)


@pytest.mark.parametrize(
    ("there", "size"), [("nothing", 10_000), ("nothing", 50_000), ("models", 600), ("cache", 10_000), ("cache", 50_000)]
)
def test_a_disk_that_takes_half_a_file_is_a_sentence(
    whole: Whole, run: Any, tmp_path: Path, output: Path, there: str, size: int
) -> None:
    """A true write that fails half way, in torch's and in numpy's own code: no file may grow beyond the size."""
    resource = pytest.importorskip("resource")
    if there != "nothing":
        shutil.copytree(whole.home / "saved" / "cache", tmp_path / "saved" / "cache")
    if there == "models":
        for folder in (tmp_path / "saved" / "cache").glob("knowledge-*"):
            shutil.rmtree(folder)

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        run(tmp_path)()

    assert done(small, output) == SENTENCE, output.read_text()
    assert "Cannot write" in said(output), output.read_text()
    good_files(tmp_path)
    assert_resumes(whole, run, tmp_path, output, size)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter; the tests' own folders are their user's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_somebody(action: Callable[[], object], folder: Path) -> Callable[[], object]:
    """Do this without the rights of root, whom a read-only folder does not stop."""

    def acting() -> None:
        os.chdir(folder)
        if os.geteuid() == 0:
            os.seteuid(65534)
        action()

    return acting


def test_a_read_only_cache_is_a_sentence_and_one_with_everything_is_enough(
    whole: Whole, tiny_data: Path, open_folder: Path, output: Path
) -> None:
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 0o001 for folder in Path(recbole.__file__).parents):
        pytest.skip("run by root in an environment that nobody else may read")
    cwd, data, home = open_folder / "cwd", open_folder / "data", open_folder / "home"
    shutil.copytree(tiny_data, data)
    data.chmod(0o755)
    shutil.copytree(whole.home / "saved" / "cache", open_folder / "cache")
    for folder in (cwd, home):
        folder.mkdir()
        folder.chmod(0o777)
    for folder in (open_folder / "cache", *(open_folder / "cache").rglob("*")):
        folder.chmod(folder.stat().st_mode & 0o555)
    output.touch()
    output.chmod(0o666)

    def reading(**more: Any) -> Callable[[], object]:
        own = settings(data, home, cache_dir=str(open_folder / "cache"), **more)
        return as_somebody(lambda: run_recbole_derrd("NeuMF", "tiny", config_dict=own), cwd)

    try:
        assert done(reading(), output) == 0, output.read_text()
        assert done(reading(teacher={"embedding_size": 4}), output) == SENTENCE, output.read_text()
        assert "Cannot write" in said(output) and "cache" in said(output)
        cwd.chmod(0o555)
        shutil.rmtree(cwd / "log")
        assert done(reading(), output) == SENTENCE, output.read_text()
        assert "Cannot write the log" in said(output)
        cwd.chmod(0o777)
        home.chmod(0o555)
        (home / "saved").chmod(0o555)
        assert done(reading(), output) == SENTENCE, output.read_text()
        assert "Cannot write" in said(output) and "saved" in said(output)
    finally:
        for folder in (open_folder / "cache", *(open_folder / "cache").rglob("*"), home, *home.glob("saved")):
            folder.chmod(folder.stat().st_mode | 0o700)
    good_files(home)


def truncated(path: Path) -> bytes:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path.read_bytes()


@pytest.mark.parametrize("role", ["teacher", "distilled"])
def test_a_truncated_training_checkpoint_is_a_sentence(
    whole: Whole, run: Any, tmp_path: Path, output: Path, role: str
) -> None:
    epochs = [index for index, name in enumerate(whole.moments) if name == "_train_epoch"]
    assert killed_at(run, tmp_path, epochs[6 if role == "teacher" else -2], "before", output) == -signal.SIGKILL
    (file,) = (tmp_path / "saved").rglob("*.training.pth")
    assert file.parent.name.endswith(".training") == (role == "teacher")
    half = truncated(file)
    assert done(run(tmp_path, resume=True), output) == SENTENCE, output.read_text()
    assert str(file) in said(output) and "Remove it" in said(output) and file.read_bytes() == half
    file.unlink()
    assert_resumes(whole, run, tmp_path, output, role)


def test_nothing_gets_its_name_before_it_is_on_the_disk(whole: Whole, run: Any, tmp_path: Path, output: Path) -> None:
    """A power cut loses what was not flushed: then the name would stand for an empty file."""

    def watched() -> None:
        flushed: dict[int, int] = {}
        fsync, replace, names = os.fsync, os.replace, []

        def noted(descriptor: int) -> None:
            flushed[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_mtime_ns
            fsync(descriptor)

        def checked(source: Any, target: Any) -> None:
            replace(source, target)
            for path in (Path(target), *Path(target).rglob("*")):
                assert flushed.get(path.stat().st_ino) == path.stat().st_mtime_ns, f"{path} was not flushed"
            names.append(Path(target).name)
            flushed.pop(Path(target).parent.stat().st_ino, None)
            unflushed.append(Path(target).parent)

        unflushed: list[Path] = []
        os.fsync, os.replace = noted, checked
        run(tmp_path)()
        assert len(names) > 30
        for folder in unflushed:
            if folder.exists():
                assert folder.stat().st_ino in flushed, f"the names in {folder} were not flushed"

    assert done(watched, output) == 0, output.read_text()
    assert not differences(outcome(tmp_path), whole.outcome)


# -- two at once


def wait_for(there: Callable[[], object]) -> None:
    """Wait until this is so."""
    until = time.monotonic() + 600
    while not there():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.005)


def counting(action: Callable[[], object], home: Path, file: Path) -> Callable[[], object]:
    """Also note how many epochs were trained."""

    def counted() -> None:
        moments = Moments(home)
        moments.watch()
        action()
        file.write_text(str(moments.epochs))

    return counted


@pytest.mark.parametrize("role", ["teacher", "student", "distilled"])
@pytest.mark.parametrize("fate", ["goes on", "is killed"])
def test_the_second_of_two_runs_waits_and_finds(
    whole: Whole, run: Any, tmp_path: Path, output: Path, role: str, fate: str
) -> None:
    """The first is stopped in the middle of a training, and then goes on or is killed."""
    home, cache = tmp_path / "home", tmp_path / "home" / "saved" / "cache"
    working = {"teacher": "BPR-*.training", "student": "NeuMF-*.training", "distilled": "../*.training.pth"}[role]
    first = start(counting(run(home), home, tmp_path / "first"), tmp_path / "first.output")
    wait_for(lambda: list(cache.glob(working)))
    os.kill(first, signal.SIGSTOP)
    second = start(counting(run(home, resume=fate == "is killed"), home, tmp_path / "second"), output)
    wait_for(lambda: output.exists() and "Waiting until it ends" in output.read_text())
    assert f"trains this {role if role != 'distilled' else 'very student'}" in output.read_text()
    os.kill(first, signal.SIGCONT if fate == "goes on" else signal.SIGKILL)
    assert ended(first) == (0 if fate == "goes on" else -signal.SIGKILL), (tmp_path / "first.output").read_text()
    assert ended(second) == 0, output.read_text()
    assert not differences(outcome(home), whole.outcome)
    assert not leftovers(home)
    if fate == "goes on":
        trained = sum(int((tmp_path / name).read_text()) for name in ("first", "second"))
        assert trained == sum(whole.outcome["epochs"].values()), "each model is trained by one of the two"


def test_runs_of_other_students_share_a_teacher(whole: Whole, run: Any, tmp_path: Path, output: Path) -> None:
    """Started together, as a sweep over seeds of the distillers does."""
    home = tmp_path / "home"
    children = [
        start(counting(run(home, distill_seed=seed), home, tmp_path / str(seed)), output) for seed in (2020, 1, 2)
    ]
    assert [ended(child) for child in children] == [0, 0, 0], output.read_text()
    found = good_files(home)
    expected = {name: content for name, content in whole.outcome["files"].items() if "/cache/" in name}
    assert len([name for name in found if "/cache/" in name]) == len(expected)
    assert not differences({name: found[name] for name in expected}, expected)
    assert not leftovers(home)
