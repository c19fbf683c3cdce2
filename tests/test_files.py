"""A file is the old one or the new one, whatever happens in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recbole_derrd.errors import DistillError
from recbole_derrd.files import building_folder, replacing_file


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
