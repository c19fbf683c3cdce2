"""A teacher's earlier snapshots: which epochs, and that training again gives the very same lists."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, UnreadableError
from recbole_derrd.experiment.teachers import knowledge_of
from recbole_derrd.model_cache import replay as replay
from recbole_derrd.model_cache.train_or_find import SNAPSHOTS
from recbole_derrd.teacher import Teacher
from recbole_derrd.training import snapshots as versions_module
from recbole_derrd.training.checkpoint import write_stock_checkpoint
from recbole_derrd.training.snapshots import MOST, Snapshots, kept_epochs, snapshot_epochs

Settings = Callable[..., dict[str, Any]]


@given(st.integers(1, 3000))
def test_few_epochs_are_kept_and_each_longer_training_keeps_some_of_them(ran: int) -> None:
    kept = kept_epochs(ran)
    assert 1 <= len(kept) <= MOST and kept[-1] <= ran
    assert ran < 2 * MOST or len(kept) >= MOST // 2
    # What is kept later was kept at every time before, or it would be gone.
    assert all(epoch in kept_epochs(now) for epoch in kept for now in range(epoch, ran + 1, max(1, ran // 7)))


@given(st.integers(1, 1500), st.integers(0, 400), st.integers(1, 9))
def test_versions_stand_at_equal_shares_of_the_way(best: int, after: int, snapshots: int) -> None:
    ran = best + after
    epochs = snapshot_epochs(best, ran, snapshots)
    assert len(epochs) <= snapshots - 1 and epochs == sorted(set(epochs))
    assert all(1 <= epoch < best for epoch in epochs)
    if best > 1:
        for part in range(1, snapshots):
            # Epochs are whole numbers from 1 to best - 1.
            assert min(abs(epoch - best * part / snapshots) for epoch in epochs) <= max(1, best / 8)
    if best >= ran / 2 and snapshots <= 8:
        assert all(epoch in kept_epochs(ran) for epoch in epochs), "nothing needs to be trained again"


def test_the_published_shares() -> None:
    assert snapshot_epochs(best=12, ran=15, snapshots=4) == [3, 6, 9]
    assert snapshot_epochs(best=100, ran=130, snapshots=4) == [24, 48, 72]  # every eighth is kept; 72 is nearer than 80
    assert snapshot_epochs(best=1, ran=9, snapshots=4) == []
    # Of 54 epochs every fourth is kept, of which none is on the way to the third.
    assert snapshot_epochs(best=3, ran=54, snapshots=4) == [1, 2]
    assert snapshot_epochs(best=8, ran=109, snapshots=4) == [2, 4, 6]


def trajectory(settings: dict[str, Any], snapshots: int = 4) -> tuple[Teacher, np.ndarray[Any, Any]]:
    config = DistillConfig("BPR", "tiny", config_dict={**settings, "distillers": ["hetcomp"], **SMALL})
    data = prepare_data(config)
    teacher = Teacher.of(config, data, snapshots=snapshots)
    return teacher, np.array(knowledge_of(config, teacher, data).trajectories(6)[0])


SMALL = {"hetcomp_k": 6, "hetcomp_top_n": 6, "hetcomp_discrepancy_k": 6}


@pytest.mark.parametrize("model", ["BPR", "MultiVAE"])
def test_a_teacher_without_a_trajectory_is_trained_again_for_what_is_missing(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    settings = tiny_settings(model, epochs=9, stopping_step=20, learning_rate=0.01)
    settings.update(teacher_model=model, embedding_size=8)
    replayed: list[list[int]] = []
    stock = replay._replay

    def watched(folder: Path, config: Any, epochs: list[int]) -> None:
        replayed.append(epochs)
        stock(folder, config, epochs)

    monkeypatch.setattr(replay, "_replay", watched)
    teacher, kept = trajectory(settings)
    assert not replayed and len(kept) > 1 and (kept[0] != kept[-1]).any()
    entry = teacher.trained.checkpoint.parent
    assert not (entry / SNAPSHOTS).exists(), "lists are kept, not weights"

    for folder in (tmp_path / "saved" / "cache").glob("knowledge-*"):
        shutil.rmtree(folder)
    known = teacher.trained.checkpoint.read_bytes()
    again, made = trajectory(settings)
    assert again.trained.found and len(replayed) == 1 and len(replayed[0]) == len(kept) - 1
    assert np.array_equal(made, kept)
    assert teacher.trained.checkpoint.read_bytes() == known and not (entry / SNAPSHOTS).exists()
    _, found = trajectory(settings)
    assert len(replayed) == 1 and np.array_equal(found, kept)


def test_a_run_that_wants_no_versions_leaves_none_of_a_killed_one(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings("BPR", epochs=9, stopping_step=20, learning_rate=0.01, checkpoint_step=1, resume=True)
    stock = Snapshots.keep

    def killed(self: Snapshots, epoch: int, state: dict[str, Any]) -> None:
        stock(self, epoch, state)
        if epoch == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Snapshots, "keep", killed)
        trajectory(settings)
    assert len(list((tmp_path / "saved" / "cache").rglob("epoch-*.pth"))) == 5
    config = DistillConfig("BPR", "tiny", config_dict={**settings, "distillers": ["hetcomp"], **SMALL})
    Teacher.of(config, prepare_data(config), snapshots=1)
    assert not list((tmp_path / "saved" / "cache").rglob("epoch-*.pth"))


def test_training_again_goes_on_wherever_it_was_killed(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the removal of its last two files, of which the one without the other cannot be resumed."""
    settings = tiny_settings("BPR", epochs=9, stopping_step=20, learning_rate=0.01, checkpoint_step=1, resume=True)
    _, kept = trajectory(settings)
    for folder in (tmp_path / "saved" / "cache").glob("knowledge-*"):
        shutil.rmtree(folder)
    stock = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        stock(path, missing_ok=missing_ok)
        if path.name.startswith("model.") and "snapshots.training" in str(path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", killed)
        trajectory(settings)
    assert list((tmp_path / "saved" / "cache").rglob("snapshots.training"))
    assert np.array_equal(trajectory(settings)[1], kept)


def test_versions_that_lie_between_kept_epochs_are_trained_again(
    tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings("BPR", epochs=9, stopping_step=20, learning_rate=0.01)
    _, near = trajectory({**settings, "checkpoint_dir": f"{settings['checkpoint_dir']}-near"})
    monkeypatch.setattr(versions_module, "MOST", 1)
    teacher, exact = trajectory(settings)
    assert len(near) > 2 and np.array_equal(exact, near)
    assert not (teacher.trained.checkpoint.parent / SNAPSHOTS).exists()


def test_a_teacher_that_was_best_at_once_says_that_it_has_one_version(
    tiny_settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "best_epoch", lambda _: 1)
    caplog.set_level("INFO")
    _, lists = trajectory(tiny_settings("BPR", epochs=9, stopping_step=20, learning_rate=0.01, state="INFO"))
    assert len(lists) == 1 and "was best after 1 of its epochs and has 1 snapshot, not 4" in caplog.text


@pytest.mark.parametrize(
    ("model", "own"), [("ItemKNN", {"k": 5}), ("NCEPLRec", {})], ids=["in one step", "in RecBole's epochs"]
)
def test_a_closed_form_has_one_version(tiny_settings: Settings, model: str, own: dict[str, Any]) -> None:
    teacher, lists = trajectory({**tiny_settings("BPR", epochs=3), "teacher_model": model, "teacher": own})
    assert len(lists) == 1 and not (teacher.trained.checkpoint.parent / SNAPSHOTS).exists()


@pytest.mark.parametrize("damage", ["cut", "exchanged"])
def test_kept_weights_that_are_damaged_are_trained_again(
    tiny_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    settings = tiny_settings("BPR", epochs=9, stopping_step=20, learning_rate=0.01)
    _, wanted = trajectory({**settings, "checkpoint_dir": f"{settings['checkpoint_dir']}-whole"})
    config = DistillConfig("BPR", "tiny", config_dict={**settings, "distillers": ["hetcomp"], **SMALL})
    Teacher.of(config, prepare_data(config), snapshots=4)
    first, *_, last = sorted((tmp_path / "saved" / "cache").rglob("epoch-*.pth"))
    first.write_bytes(first.read_bytes()[:-500] if damage == "cut" else last.read_bytes())
    _, found = trajectory(settings)
    assert np.array_equal(found, wanted)
    assert str(first) in caplog.text and "trained once more" in caplog.text


def test_kept_weights_that_the_system_does_not_give_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = Snapshots(tmp_path)
    write_stock_checkpoint(snapshots.path(1), {"state_dict": {}, "epoch": 0})

    def refuse(*_: Any, **__: Any) -> Any:
        raise UnreadableError("'epoch-1.pth' cannot be read: Permission denied.")

    monkeypatch.setattr(versions_module, "read_checkpoint", refuse)
    with pytest.raises(UnreadableError, match="Permission denied"):
        snapshots.whole([1])


@pytest.mark.parametrize("epoch", ["x", -3, 10**18, [1], 1.5])
def test_an_epoch_that_no_training_has_is_a_sentence(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: Any
) -> None:
    file = tmp_path / "model.pth"
    write_stock_checkpoint(file, {"state_dict": {}, "epoch": epoch})
    with pytest.raises(CheckpointError, match=r"model\.pth' is damaged"):
        replay._best_epoch(SimpleNamespace(checkpoint=file, epochs=[0.1] * 9))  # type: ignore[arg-type]


def test_only_some_epochs(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, only=[2, 5])
    assert [epoch for epoch in range(1, 9) if snapshots.wants(epoch)] == [2, 5]
    for epoch in (1, 2, 5):
        write_stock_checkpoint(snapshots.path(epoch), {"state_dict": {}, "epoch": epoch - 1})
    assert snapshots.whole([2, 5]) and not snapshots.whole([2, 3])
    snapshots.reduce([5])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-5.pth"]
