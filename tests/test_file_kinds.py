"""What is given for a checkpoint and is none is named for what it is."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_derrd.errors import CheckpointError
from recbole_derrd.recbole_compat.file_kinds import fault_of_checkpoint_path
from recbole_derrd.training.checkpoint import read_checkpoint


def write(kind: str, file: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    if kind == "npz":
        np.savez(open(file, "wb"), a=np.ones(3))  # noqa: SIM115
    elif kind == "npy":
        np.save(open(file, "wb"), np.ones(3))  # noqa: SIM115
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind != "missing":
        content = {
            "empty": b"", "text": "Ein Text, mit Umlauten: \u00e4\n".encode() * 40, "gzip": gzip.compress(b"x"),
            "safetensors": len(header).to_bytes(8, "little") + header + b"\0\0\0\0", "parquet": b"PAR1\x15\x04",
            "pickle": b"\x80\x04N.",
        }  # fmt: skip
        file.write_bytes(content[kind])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "There is no checkpoint file"), ("folder", "it is a folder"), ("pipe", "a pipe or a device"),
        ("empty", "is empty"), ("text", "a text file"), ("npz", "an .npz file of arrays"), ("npy", "one numpy array"),
        ("safetensors", "safetensors file"), ("parquet", "a Parquet table"), ("gzip", "a gzip file"),
        ("pickle", "not a RecBole checkpoint"),
    ],
)  # fmt: skip
def test_it_is_named(tmp_path: Path, kind: str, said: str) -> None:
    file = tmp_path / "given.pth"
    write(kind, file)
    with pytest.raises(CheckpointError, match=said) as error:
        read_checkpoint(file)
    assert str(file) in str(error.value) and (".pth" in str(error.value).replace(str(file), "") or kind == "missing")


def test_a_folder_offers_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "BPR.pth").write_bytes(b"x")
    assert f"e.g. '{tmp_path / 'BPR.pth'}'" in str(fault_of_checkpoint_path(tmp_path))


def test_a_checkpoint_has_no_fault(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "some.pth")
    assert fault_of_checkpoint_path(tmp_path / "some.pth") is None
