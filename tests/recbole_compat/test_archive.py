"""The archive: damage is noticed wherever it matters, and only one reading of the file is possible."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch

from recbole_derrd.errors import CheckpointError
from recbole_derrd.recbole_compat import archive, read_archive
from recbole_derrd.recbole_compat.layout import read_layout
from recbole_derrd.training.checkpoint import read_checkpoint, read_plain, write_plain, write_stock_checkpoint

from .pickles import HEAD, checkpoint, many, pairs, sizes, storage, tensor, text, write_archive
from .same import same


def content() -> dict[str, Any]:
    """What a training leaves, in small."""
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    return {
        "config": {"model": "BPR", "seed": 2020, "metrics": ["NDCG"], "learning_rate": 0.001},
        "epoch": 3,
        "state_dict": model.state_dict(),
        "other_parameter": {"item_similarity": np.arange(6.0).reshape(2, 3)},
        "optimizer": optimizer.state_dict(),
        "best_valid_score": 0.1234,
    }


def stock(path: Path) -> Callable[[Path], Any]:
    write_stock_checkpoint(path, content())
    return read_checkpoint


def plain(path: Path) -> Callable[[Path], Any]:
    write_plain(path, {key: value for key, value in content().items() if key != "other_parameter"})
    return read_plain


@pytest.mark.parametrize("write", [stock, plain])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    file, damaged = tmp_path / "whole.pth", tmp_path / "damaged.pth"
    read = write(file)
    whole, expected, draw = file.read_bytes(), read(file), random.Random(5)
    refused = 0
    for place in draw.sample(range(8 * len(whole)), 500):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        damaged.write_bytes(flipped)
        try:
            found = read(damaged)
        except CheckpointError as error:
            assert re.search("damaged|not a RecBole checkpoint", str(error))
            refused += 1
        else:
            assert same(found, expected)
    assert refused > 150, "most of a file is content"


@pytest.mark.parametrize("write", [stock, plain])
def test_every_bit_of_every_record_counts(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    file, damaged, draw = tmp_path / "whole.pth", tmp_path / "damaged.pth", random.Random(6)
    read = write(file)
    whole = file.read_bytes()
    with open(file, "rb") as opened:
        records = read_layout(opened)
    assert {"data.pkl", "version", "data/0"} <= records.keys()
    for record in records.values():
        for place in draw.sample(range(8 * record.size), min(12, 8 * record.size)):
            flipped = bytearray(whole)
            flipped[record.start + place // 8] ^= 1 << place % 8
            damaged.write_bytes(flipped)
            with pytest.raises(CheckpointError, match="damaged"):
                read(damaged)


def test_a_large_record_is_checked_as_well(tmp_path: Path) -> None:
    """Large records are checked beside the reading of the next."""
    file = tmp_path / "large.pth"
    write_plain(file, {"a": torch.zeros(400_000), "b": torch.zeros(400_000)})
    assert read_plain(file)["b"].shape == (400_000,)
    whole = bytearray(file.read_bytes())
    for key in ("data/0", "data/1"):
        with open(file, "rb") as opened:
            place = read_layout(opened)[key].start + 1_000_000
        whole[place] ^= 1
        file.write_bytes(whole)
        with pytest.raises(CheckpointError, match="damaged"):
            read_plain(file)
        whole[place] ^= 1
        file.write_bytes(whole)
    read_plain(file)


def small(path: Path) -> bytearray:
    """Write a small checkpoint and return its bytes: two storages, one of them not referred to."""
    part = tensor(storage("FloatStorage", "0", 2), 0, sizes(2), sizes(1))
    return bytearray(write_archive(path, checkpoint(part), k0=b"\0" * 8, k1=b"spare").read_bytes())


def test_what_nobody_refers_to_is_checked_too(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    whole = small(file)
    read_checkpoint(file)
    whole[whole.index(b"spare")] ^= 1
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"damaged.*data/1"):
        read_checkpoint(file)


def zipped(*records: tuple[str, bytes], how: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    """An archive by Python's writer."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as written:
        for name, value in records:
            written.writestr(name, value)
        written.comment = comment
    return file.getvalue()


PICKLE = HEAD + pairs(text("state_dict"), pairs()) + b"."
GOOD = (("x/data.pkl", PICKLE), ("x/version", b"3\n"))


def second_directory(whole: bytes) -> bytes:
    """The zip64 locator points elsewhere: Python reads one directory, torch another."""
    end = whole.rindex(b"PK\x06\x07")
    return whole[: end + 8] + struct.pack("<Q", 4) + whole[end + 16 :]


def other_counts(whole: bytes) -> bytes:
    """The two ends of the directory say different numbers of records."""
    end = whole.rindex(b"PK\x05\x06")
    return whole[: end + 8] + b"\x01\0\x01\0" + whole[end + 12 :]


def torchs(tmp_path: Path) -> bytes:
    return write_archive(tmp_path / "torchs.pth", PICKLE).read_bytes()


ARCHIVES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "a second directory": (lambda path: second_directory(torchs(path)), "two directories"),
    "two numbers of records": (lambda path: other_counts(torchs(path)), "not whole|two directories"),
    "two archives in a row": (lambda path: torchs(path) + torchs(path), "damaged"),
    "an archive behind other bytes": (lambda path: b"#!/bin/sh\n" + torchs(path), "damaged|not a RecBole"),
    "bytes behind an archive": (lambda path: torchs(path) + b"\0", "damaged"),
    "a comment": (lambda path: zipped(*GOOD, comment=b"PK\x05\x06"), "damaged"),
    "compressed records": (lambda path: zipped(*GOOD, how=zipfile.ZIP_DEFLATED), "compressed"),
    "two records of one name": (lambda path: zipped(*GOOD, GOOD[0]), "one name"),
    "two names that differ in case": (lambda path: zipped(*GOOD, ("x/DATA.pkl", PICKLE)), "one name"),
    "two folders": (lambda path: zipped(*GOOD, ("y/data/0", b"")), "one folder"),
    "TorchScript's mark": (lambda path: zipped(*GOOD, ("x/constants.pkl", b"")), "not a RecBole checkpoint"),
    "TorchScript's mark in capitals": (lambda path: zipped(*GOOD, ("x/Constants.pkl", b"")), "not a RecBole"),
    "no pickle": (lambda path: zipped(GOOD[1], ("x/y/data.pkl", PICKLE)), "not a RecBole checkpoint"),
    "no version": (lambda path: zipped(GOOD[0]), "damaged"),
    "an unknown order of bytes": (lambda path: zipped(*GOOD, ("x/byteorder", b"middle")), "byte order"),
    "an empty archive": (lambda path: zipped(), "damaged"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", ARCHIVES)
def test_other_archives_are_refused(tmp_path: Path, case: str) -> None:
    make, words = ARCHIVES[case]
    file = tmp_path / "a.pth"
    file.write_bytes(make(tmp_path))
    with pytest.raises(CheckpointError, match=words):
        read_archive(file)


def test_an_archive_within_is_bytes_like_others(tmp_path: Path) -> None:
    inner = torchs(tmp_path)
    file = tmp_path / "a.pth"
    part = tensor(storage("ByteStorage", "0", len(inner)), 0, sizes(len(inner)), sizes(1))
    write_archive(file, checkpoint(part), k0=inner)
    assert bytes(read_checkpoint(file)["other_parameter"]["a"].numpy()) == inner


def local(name: str, value: bytes) -> bytes:
    """A record with its head."""
    sums = zlib.crc32(value), len(value), len(value), len(name), 0
    return struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, *sums) + name.encode() + value


def entry(name: str, value: bytes, start: int, wide: bool = False) -> bytes:
    """A line of the directory; with its numbers in a field of 64 bits."""
    size = 0xFFFFFFFF if wide else len(value)
    extra = struct.pack("<2H2Q", 1, 16, len(value), len(value)) if wide else b""
    rest = len(name), len(extra), 0, 0, 0, 0, start
    head = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, zlib.crc32(value), size, size, *rest)
    return head + name.encode() + extra


def assembled(records: bytes, *entries: bytes) -> bytes:
    """An archive of records and lines of its directory."""
    directory = b"".join(entries)
    ends = 0, 0, len(entries), len(entries), len(directory), len(records), 0
    return records + directory + struct.pack("<4s4H2IH", b"PK\x05\x06", *ends)


VERSION = b"3\n"


@pytest.mark.parametrize("wide", [False, True])
def test_sizes_may_have_64_bits(tmp_path: Path, wide: bool) -> None:
    """Torch writes them so for a record of 4 GiB."""
    file, first = tmp_path / "a.pth", local("x/data.pkl", PICKLE)
    lines = entry("x/data.pkl", PICKLE, 0, wide), entry("x/version", VERSION, len(first))
    whole = assembled(first + local("x/version", VERSION), *lines)
    file.write_bytes(whole)
    assert read_archive(file) == {"state_dict": {}}


def test_records_may_neither_overlap_nor_leave_gaps(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    inner = local("x/version", VERSION)
    outer = local("x/data/0", inner)
    first = local("x/data.pkl", PICKLE)
    within = len(first) + outer.index(inner)
    lines = entry("x/data.pkl", PICKLE, 0), entry("x/data/0", inner, len(first)), entry("x/version", VERSION, within)
    file.write_bytes(assembled(first + outer, *lines))
    with pytest.raises(CheckpointError, match="side by side"):
        read_archive(file)
    for gap in (b"12345", b"PK" * 50):
        lines = entry("x/data.pkl", PICKLE, 0), entry("x/version", VERSION, len(first + gap))
        file.write_bytes(assembled(first + gap + inner, *lines))
        with pytest.raises(CheckpointError, match="side by side"):
            read_archive(file)


def test_numbers_of_the_other_order_are_turned_round(tmp_path: Path) -> None:
    """What a machine of the other byte order wrote holds the same numbers."""
    records = {"k0": struct.pack(">2f", 1.5, -2), "k1": struct.pack(">2q", 7, -8), "k2": struct.pack(">4f", 1, 2, 3, 4)}
    parts = [("FloatStorage", 2), ("LongStorage", 2), ("ComplexFloatStorage", 2)]
    tensors = [tensor(storage(kind, str(n), size), 0, sizes(size), sizes(1)) for n, (kind, size) in enumerate(parts)]
    file = write_archive(tmp_path / "a.pth", HEAD + many(*tensors) + b".", order=b"big", **records)
    real, whole, both = read_archive(file)
    assert real.tolist() == [1.5, -2] and whole.tolist() == [7, -8] and both.tolist() == [1 + 2j, 3 + 4j]


def test_the_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been checked is what is read, whatever another process puts in its place meanwhile."""
    file = tmp_path / "a.pth"
    write_plain(file, {"a": torch.arange(3)})
    own = archive.read_layout

    def replaced(opened: Any) -> Any:
        found = own(opened)
        write_plain(file, {"a": torch.arange(4)})
        return found

    monkeypatch.setattr(archive, "read_layout", replaced)
    assert read_archive(file)["a"].tolist() == [0, 1, 2]
