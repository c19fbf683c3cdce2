"""A model is found again where the files that its settings name hold what they held, wherever they lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

import pytest

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.fingerprint import Fingerprint
from recbole_derrd.errors import OptionError
from recbole_derrd.model_cache.keys import cache_key
from recbole_derrd.model_cache.named_files import named_files, with_contents

Settings = Callable[..., dict[str, Any]]
SPLIT = Fingerprint("i", "t", "v", "s")


@pytest.mark.parametrize("nest", [lambda file: file, lambda file: ["a", file], lambda file: {"a": {"b": (file,)}}])
@pytest.mark.parametrize(
    ("model", "name"),
    [("NeuMF", "mf_pretrain_path"), ("NAIS", "pretrain_path"), ("RaCT", "pre_model_path"), ("BPR", "my_table")],
)
def test_the_key_follows_what_a_named_file_holds(
    tiny_settings: Settings, tmp_path: Path, model: str, name: str, nest: Callable[[Any], Any]
) -> None:
    def key(file: Path) -> str:
        return cache_key(
            DistillConfig(model, "tiny", config_dict=tiny_settings(model, **{name: nest(str(file))})), SPLIT
        )

    file, other = tmp_path / "one.npz", tmp_path / "moved.npz"
    missing = key(file)
    file.write_bytes(b"old")
    old = key(file)
    file.write_bytes(b"new content")
    new = key(file)
    assert len({missing, old, new}) == 3
    other.write_bytes(b"new content")
    assert key(other) == new, "a file that is moved is the same"


def test_settings_that_name_no_file_have_the_keys_that_they_had(tiny_settings: Settings) -> None:
    for value in ("text", ["a", 3, None], {"a": ("b", 1.5)}, 7, "x" * 10_000, "a\0b", "", "."):
        assert with_contents("key", value) is value or with_contents("key", value) == value


def test_names_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.npy").write_bytes(b"1")
    assert named_files({"own": "table.npy"}) == {}
    monkeypatch.chdir(tmp_path)
    assert list(named_files({"own": "table.npy", "dataset": "table.npy"})) == ["table.npy"]
    assert named_files({"own": Path("table.npy")}) == named_files({"own": {"deep": ["table.npy"]}})


def test_a_folder_is_what_its_files_hold(tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    (folder / "deep").mkdir(parents=True)
    keys = [with_contents("own", str(folder))]
    for name, content in (("a", "1"), ("deep/b", "2"), ("deep/b", "33"), ("c", "1")):
        (folder / name).write_text(content)
        keys.append(with_contents("own", str(folder)))
    (folder / "a").rename(folder / "d")
    keys.append(with_contents("own", str(folder)))
    assert len(set(keys)) == len(keys)
    # Where the run itself writes is no input.
    assert with_contents("checkpoint_dir", str(folder)) == str(folder)


def test_what_lies_behind_a_link_counts_too(tmp_path: Path) -> None:
    folder, other = tmp_path / "embeddings", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "a").write_text("1")
    (folder / "linked").symlink_to(other)
    (other / "round").symlink_to(folder)
    first = with_contents("own", str(folder))
    (other / "a").write_text("2")
    assert with_contents("own", str(folder)) != first


def test_words_are_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test").mkdir()
    monkeypatch.chdir(tmp_path)
    assert named_files({"benchmark_filename": ["train", "test"], "eval_args": {"group_by": "test"}}) == {}


def test_a_file_in_the_datas_own_folder_counts(tiny_settings: Settings, tiny_data: Path) -> None:
    """As LDiffRec finds its item_emb.npy."""

    def key() -> str:
        return cache_key(DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", my_table="own.npz")), SPLIT)

    file = tiny_data / "tiny" / "own.npz"
    keys = [key()]
    for content in (b"old", b"newer"):
        file.write_bytes(content)
        keys.append(key())
    file.unlink()
    assert len(set(keys)) == 3


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert named_files({"own": str(tmp_path / "pipe")}) == {}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "table.npy"
    file.write_bytes(b"1")

    def denied(_: Any) -> str:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("recbole_derrd.model_cache.named_files.file_digest", denied)
    with pytest.raises(OptionError, match=r"table.npy', which the setting 'own' names: Permission denied"):
        with_contents("own", str(file))


def test_a_home_folder_and_a_missing_ending_are_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy and torch add endings themselves; a path counts as one only with a folder in it, as words are no files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.npy").write_bytes(b"1")
    assert list(named_files({"own": "~/table.npy"})) == ["~/table.npy"]
    without = named_files({"own": str(tmp_path / "table")})
    assert len(without) == 1 and named_files({"own": "table"}) == {} and named_files({"own": f"{tmp_path}/"})
    (tmp_path / "table.npy").write_bytes(b"2")
    assert named_files({"own": str(tmp_path / "table")}) != without
    assert named_files({"own": str(tmp_path / "nothing")}) == named_files({"own": str(tmp_path / "[table")}) == {}
