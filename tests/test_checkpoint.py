"""Checkpoints: hostile, broken and foreign files are refused in a sentence, stock ones read without running code."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch

from recbole_derrd.errors import CheckpointError
from recbole_derrd.recbole_compat import Inert, read_archive
from recbole_derrd.training.checkpoint import read_checkpoint, read_plain, write_plain

Settings = Callable[..., dict[str, Any]]


class Hostile:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def touch(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize("place", ["config", "state_dict", "other_parameter", "optimizer", "top"])
def test_a_hostile_checkpoint_does_not_run(tmp_path: Path, place: str) -> None:
    import os

    ran, file = tmp_path / "ran", tmp_path / "hostile.pth"
    for function, argument in ((os.system, f"touch {ran}"), (eval, f"open({str(ran)!r}, 'w')"), (touch, str(ran))):
        bomb = Hostile(function, argument)
        content: Any = {"state_dict": {"a": torch.ones(1)}, "config": {}}
        content = bomb if place == "top" else {**content, place: {"a": bomb}}
        torch.save(content, file)
        with pytest.raises(CheckpointError, match="could run code"):
            read_checkpoint(file)
        assert not ran.exists()


def test_names_within_allowed_modules_reach_nothing_else(tmp_path: Path) -> None:
    """A dotted name would walk from an allowed module to what it imports."""
    for module, name in (("torch", "os.system"), ("recbole.utils", "os.system"), ("torch", "load"), ("numpy", "load")):
        file = tmp_path / "hostile.pth"
        payload = b"\x80\x04" + b"\x8c" + bytes([len(module)]) + module.encode()
        payload += b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x/data.pkl", payload)
            archive.writestr("x/version", "3\n")
            archive.writestr("x/byteorder", "little")
        assert type(read_archive(file)) is Inert


def test_recboles_own_classes_come_as_inert_stand_ins(tmp_path: Path) -> None:
    """Even a name of RecBole's is never imported from a file: it could be one that acts when it is called."""
    from recbole.utils import ensure_dir

    made, file = tmp_path / "made", tmp_path / "a.pth"
    torch.save({"state_dict": {}, "config": {}, "extra": Hostile(ensure_dir, str(made))}, file)
    read_checkpoint(file)
    assert not made.exists()


def test_torchscript_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "script.pth"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(file))
    with pytest.raises(CheckpointError, match="not a RecBole checkpoint"):
        read_checkpoint(file)


def test_files_that_are_no_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        read_checkpoint(tmp_path)
    file = tmp_path / "a.pth"
    for content in (b"", b"hello", pickle.dumps({"state_dict": {}})):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a RecBole checkpoint"):
            read_checkpoint(file)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        read_checkpoint(file)


def test_every_truncation_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.pth", tmp_path / "part.pth"
    torch.save({"state_dict": {"a": torch.arange(1000)}, "config": {"model": "BPR"}}, whole)
    content = whole.read_bytes()
    for length in range(0, len(content), 97):
        part.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(part)


def test_flipped_bytes_never_escape_as_anything_but_our_error(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.pth", tmp_path / "part.pth"
    torch.save({"state_dict": {"a": torch.arange(20)}, "config": {"model": "BPR"}}, whole)
    content = bytearray(whole.read_bytes())
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        part.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            read_checkpoint(part)


def test_plain_files_round_trip_and_refuse_code(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    write_plain(file, {"tensor": torch.arange(3), "nested": {"a": [1, 2.5, "x", None]}})
    content = read_plain(file)
    assert content["tensor"].tolist() == [0, 1, 2] and content["nested"] == {"a": [1, 2.5, "x", None]}
    torch.save({"a": Hostile(touch, str(tmp_path / "ran"))}, file)
    with pytest.raises(CheckpointError):
        read_plain(file)
    assert not (tmp_path / "ran").exists()


def test_plain_files_hold_plain_values_alone(tmp_path: Path) -> None:
    """What a stock checkpoint may hold, a training checkpoint must not: it would be put back into the run."""
    from recbole.utils import ModelType

    file = tmp_path / "a.pth"
    torch.save({"counters": {"kind": ModelType.GENERAL}, "state_dict": {}}, file)
    read_checkpoint(file)
    with pytest.raises(CheckpointError, match="no training checkpoint"):
        read_plain(file)
