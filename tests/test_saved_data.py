"""What RecBole leaves beside the data and finds again: saved data sets and loaders, downloads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest

import recbole_derrd.data.prepare as data_module
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import DataError

Settings = Callable[..., dict[str, Any]]
OTHER = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": "user", "mode": "full"}


def prepared(tiny_settings: Settings, **more: Any) -> Data:
    return prepare_data(DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **more)))


def saved_in(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "saved").glob("*-Dataset.pth")
    return file


def test_a_saved_data_set_is_split_as_this_run_says(tiny_settings: Settings, tmp_path: Path) -> None:
    """RecBole compares most settings of one that it is given, but not eval_args."""
    wanted = prepared(tiny_settings, eval_args=OTHER).fingerprint
    before = prepared(tiny_settings, save_dataset=True).fingerprint
    named = {"dataset_save_path": str(saved_in(tmp_path))}
    assert prepared(tiny_settings, **named).fingerprint == before
    assert prepared(tiny_settings, eval_args=OTHER, **named).fingerprint == wanted != before


@pytest.mark.parametrize("what", ["save_dataset", "save_dataloaders"])
def test_what_an_earlier_run_saved_is_not_read_unasked(
    tiny_settings: Settings, tiny_data: Path, tmp_path: Path, what: str
) -> None:
    """RecBole reads by default what lies in checkpoint_dir, though the data or the settings may have changed since."""
    shutil.copytree(tiny_data, tmp_path / "data")
    here = {"data_path": str(tmp_path / "data")}
    before = prepared(tiny_settings, **here, **{what: True}).fingerprint
    assert list((tmp_path / "saved").glob("*.pth"))
    assert (
        prepared(tiny_settings, split_seed=7, **here).fingerprint
        == prepared(tiny_settings, split_seed=7, checkpoint_dir=str(tmp_path / "other"), **here).fingerprint
    )
    assert prepared(tiny_settings, split_seed=7, **here).fingerprint != before
    file = tmp_path / "data" / "tiny" / "tiny.inter"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-40]))
    assert prepared(tiny_settings, **here).fingerprint != before


def test_a_data_set_saved_before_its_files_changed_is_refused(
    tiny_settings: Settings, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    here = {"data_path": str(tmp_path / "data")}
    prepared(tiny_settings, save_dataset=True, **here)
    named = {**here, "dataset_save_path": str(saved_in(tmp_path))}
    prepared(tiny_settings, **named)
    os.utime(tmp_path / "data" / "tiny" / "tiny.inter", (2e9, 2e9))
    with pytest.raises(DataError, match=r"is older than .*tiny\.inter.*take out dataset_save_path"):
        prepared(tiny_settings, **named)


def test_a_damaged_data_set_is_a_sentence(tiny_settings: Settings, tmp_path: Path) -> None:
    prepared(tiny_settings, save_dataset=True)
    file = saved_in(tmp_path)
    for size in (0, file.stat().st_size // 2):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(DataError, match="cannot be used"):
            prepared(tiny_settings, dataset_save_path=str(file))
        file.unlink()
        prepared(tiny_settings, save_dataset=True)


def test_saving_the_loaders_changes_no_batch(tiny_settings: Settings) -> None:
    """RecBole takes the generators away from loaders that it saves."""

    def items(**more: Any) -> list[int]:
        return [item for batch in prepared(tiny_settings, **more).train for item in batch["item_id"].tolist()]

    plain = items()
    assert items(save_dataloaders=True) == plain
    assert items() == plain, "beside saved ones"


def test_a_download_that_nobody_waits_for_is_tried_no_second_time(
    tiny_settings: Settings, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RecBole waits for other processes after it has downloaded, and there are none."""
    created, calls = data_module.create_dataset, []

    def download(config: Any) -> Any:
        calls.append(Path(config["data_path"]).is_dir())
        if len(calls) == 3:
            raise ValueError("something else")
        if not calls[-1]:
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "tiny").symlink_to(tiny_data / "tiny")
            raise ValueError("Default process group has not been initialized")
        return created(config)

    monkeypatch.setattr(data_module, "create_dataset", download)
    assert prepared(tiny_settings, data_path=str(tmp_path / "new")).history.n_users == 31
    assert calls == [False, True]
    with pytest.raises(DataError):
        prepared(tiny_settings, data_path=str(tmp_path / "new"))
    assert calls == [False, True, True], "another fault is no download"
