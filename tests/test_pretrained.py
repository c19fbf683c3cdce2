"""Models that start from a file of the user's: its weights are taken, read as data; a wrong file is a sentence."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import NAIS
from recbole_compat.same import same

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, DataError, OptionError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.recbole_compat.models import model_class, name_of
from recbole_derrd.student.model import distilled
from recbole_derrd.training.checkpoint import read_checkpoint, write_stock_checkpoint


class OwnNAIS(NAIS):  # type: ignore[misc]
    """A model of the user's own that starts as NAIS does."""


def built(name: str, settings: dict[str, Any], kind: Any = None) -> Any:
    config = DistillConfig(name, "tiny", config_dict=settings)
    return build_model(config, prepare_data(config), kind)


def saved(model: Any, path: Path) -> str:
    """Keep weights that no fresh model has."""
    weights = {name: torch.full_like(value, 0.25) for name, value in model.state_dict().items()}
    write_stock_checkpoint(path, {"state_dict": weights, "config": {"model": type(model).__name__}})
    return str(path)


# The model that starts, the one that it starts from, the settings of each, and the weights that it takes.
STARTS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], list[str], list[str]]] = {
    "NeuMF": (
        "NeuMF", {"use_pretrain": True}, "NeuMF", {"mlp_train": False}, ["mf_pretrain_path"],
        ["user_mf_embedding.weight", "item_mlp_embedding.weight", "mlp_layers.mlp_layers.1.weight"],
    ),
    "NAIS": ("NAIS", {}, "FISM", {}, ["pretrain_path"], ["item_src_embedding.weight", "item_dst_embedding.weight"]),
    "ConvNCF": (
        "ConvNCF", {"train_method": "after_pretrain"}, "BPR", {}, ["pre_model_path"],
        ["user_embedding.weight", "item_embedding.weight"],
    ),
    "RaCT": (
        "RaCT", {"train_stage": "finetune"}, "RaCT", {}, ["pre_model_path"],
        ["encoder.0.weight", "decoder.0.bias", "critic_net.1.weight"],
    ),
    "RaCT's critic": (
        "RaCT", {"train_stage": "critic_pretrain"}, "RaCT", {}, ["pre_model_path"], ["encoder.0.weight"],
    ),
}  # fmt: skip


def start(case: str, tiny_settings: Any, tmp_path: Path) -> tuple[str, dict[str, Any], list[str], list[str]]:
    """Write the files that a model starts from; return its name, its settings, their keys and the weights it takes."""
    name, more, first, of_first, keys, weights = STARTS[case]
    settings = tiny_settings(name, **more)
    if name == "NeuMF":
        other = built(first, {**tiny_settings(first), "mf_train": False})
        settings["mlp_pretrain_path"] = saved(other, tmp_path / "mlp.pth")
    settings[keys[0]] = saved(built(first, {**tiny_settings(first), **of_first}), tmp_path / "first.pth")
    return name, settings, keys, weights


@pytest.mark.parametrize("case", STARTS)
def test_starts_from_the_given_weights(
    case: str, tiny_settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, settings, (key,), weights = start(case, tiny_settings, tmp_path)
    caplog.set_level(logging.INFO)
    config = DistillConfig(name, "tiny", config_dict=settings)
    for kind in (None, distilled(model_class(name))):
        model = build_model(config, prepare_data(config), kind)
        state = model.state_dict()
        assert weights and all((state[one] == 0.25).all() for one in weights)
        assert getattr(model, key) == settings[key] == config[key]
    named = [record.getMessage() for record in caplog.records if "pretrain" in record.getMessage()]
    assert all(settings[key] in line for line in named)
    assert named or name in ("NeuMF", "ConvNCF")


@pytest.mark.parametrize("case", STARTS)
def test_wrong_files_are_named(case: str, tiny_settings: Any, tmp_path: Path) -> None:
    name, settings, (key,), _ = start(case, tiny_settings, tmp_path)
    with pytest.raises(CheckpointError, match=f"{key}: There is no checkpoint file 'nowhere.pth'"):
        built(name, {**settings, key: "nowhere.pth"})
    torch.save({"state_dict": {"a": "b"}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=f"{key}: '.*' holds no weights"):
        built(name, {**settings, key: str(tmp_path / "other.pth")})
    names = read_checkpoint(settings[key])["state_dict"]
    for weights in ({"a": torch.ones(1)}, {one: torch.ones(3, 3) for one in names}):
        torch.save({"state_dict": weights}, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=rf"{name} cannot start from .*{key} = '.*other.pth'"):
            built(name, {**settings, key: str(tmp_path / "other.pth")})
    if name != "NAIS":
        with pytest.raises(OptionError, match=f"{key} names no file"):
            built(name, {**settings, key: ""})


def test_a_file_that_asks_for_code_is_refused(tiny_settings: Any, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    name, settings, (key,), _ = start("RaCT", tiny_settings, tmp_path)
    torch.save({"state_dict": Hostile()}, settings[key])
    with pytest.raises(CheckpointError, match="could run code"):
        built(name, settings)
    assert not (tmp_path / "ran").exists()


def test_a_model_of_ones_own_starts_so_too(tiny_settings: Any, tmp_path: Path) -> None:
    _, settings, (key,), weights = start("NAIS", tiny_settings, tmp_path)
    model = built(name_of(OwnNAIS), settings)
    assert all((model.state_dict()[one] == 0.25).all() for one in weights) and getattr(model, key) == settings[key]


def test_without_a_file_nothing_is_read(tiny_settings: Any) -> None:
    """A path that is not used is not looked at, as in RecBole, and the weights are the stock model's."""
    settings = tiny_settings("RaCT", pre_model_path="nowhere.pth")
    stock = model_class("RaCT").__mro__[2]
    assert stock.__module__.startswith("recbole.model.")
    assert same(dict(built("RaCT", settings).state_dict()), dict(built("RaCT", settings, stock).state_dict()))


def test_ldiffrecs_vectors_are_numbers_alone(tiny_settings: Any, tiny_data: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "data" / "tiny").mkdir(parents=True)
    (tmp_path / "data" / "tiny" / "tiny.inter").write_bytes((tiny_data / "tiny" / "tiny.inter").read_bytes())
    settings = tiny_settings("LDiffRec", n_cate=2, in_dims=[12], out_dims=[], data_path=str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"needs the items' embeddings in '.*item_emb\.npy'"):
        built("LDiffRec", settings)
    np.save(tmp_path / "data" / "tiny" / "item_emb.npy", np.array([Hostile()]), allow_pickle=True)
    with pytest.raises(DataError, match="no plain table of numbers"):
        built("LDiffRec", settings)
    assert not (tmp_path / "ran").exists()
