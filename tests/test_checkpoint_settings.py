"""What a brought teacher's file may say of its model: hyper-parameters of the right kind and size, and no path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stock import ring_rows, settings_on, stock_checkpoint, write_rows

from recbole_derrd.config.distill_config import DistillConfig, model_settings
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, DistillError
from recbole_derrd.recbole_compat.models import general_models
from recbole_derrd.teacher import Teacher
from recbole_derrd.teacher.checkpoint_settings import checkpoint_settings, loads_a_file


def content(settings: dict[str, Any], *shapes: tuple[int, ...]) -> dict[str, Any]:
    weights = {str(index): torch.zeros(shape) for index, shape in enumerate(shapes)}
    return {"config": settings, "state_dict": weights, "other_parameter": {}}


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def short(value: Any) -> str:
    """Name a parameter; some are too large to be their own names."""
    return value if isinstance(value, str) and len(value) < 30 else type(value).__name__


@pytest.mark.parametrize("model", sorted(general_models()))
def test_recboles_own_settings_are_taken(model: str) -> None:
    defaults = model_settings(model)
    assert checkpoint_settings(model, content(dict(defaults)), "x.pth", {}) == {
        key: value for key, value in defaults.items() if key != "n_cate" and (value is not None or loads_a_file(key))
    }


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("NeuMF", {"use_pretrain": False, "mf_pretrain_path": None, "mlp_pretrain_path": None}),
        ("NAIS", {"pretrain_path": None}),
        ("ConvNCF", {"train_method": "no_pretrain", "pre_model_path": ""}),
        ("RaCT", {"train_stage": "actor_pretrain", "pre_model_path": ""}),
    ],
)
def test_no_setting_makes_recbole_load_another_file(model: str, keys: dict[str, Any]) -> None:
    """Neither the file's nor the run's own, which may be the student's: the weights are in the checkpoint."""
    other = {key: "other.pth" if key.endswith("path") else True for key in keys}
    for given_by in (content(other), content({})):
        found = checkpoint_settings(model, given_by, "x.pth", other)
        assert {key: found[key] for key in keys} == keys


def test_nothing_but_the_models_own_settings_is_taken() -> None:
    foreign = {"data_path": "/", "checkpoint_dir": "/", "dataset_save_path": "x", "device": "cuda:7", "gpu_id": "7",
               "log_wandb": True, "seed": 3, "n_layers": 3, "embedding_size": 8}  # fmt: skip
    assert checkpoint_settings("BPR", content(foreign), "x.pth", {}) == {"embedding_size": 8}
    assert "n_cate" not in checkpoint_settings("LDiffRec", content({"n_cate": 2}), "x.pth", {}), "it unpickles a file"


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ("BPR", "embedding_size", 10**12),
        ("BPR", "embedding_size", -(10**12)),
        ("BPR", "embedding_size", 10**6000),
        ("BPR", "embedding_size", float("inf")),
        ("BPR", "embedding_size", "64"),
        ("BPR", "embedding_size", True),
        ("BPR", "embedding_size", {"a": 1}),
        ("BPR", "embedding_size", torch.ones(3)),
        ("LightGCN", "n_layers", 10**9),
        ("LightGCN", "reg_weight", float("nan")),
        ("NeuMF", "mlp_hidden_size", 64),
        ("NeuMF", "mlp_hidden_size", [10**12]),
        ("NeuMF", "mlp_hidden_size", [64] * 10_000),
        ("NeuMF", "mlp_hidden_size", [[64]]),
        ("NeuMF", "mf_train", "yes"),
        ("SGL", "type", "x" * 10**7),
        ("SGL", "type", "../../x"),
        ("DiffRec", "steps", 10**9),
    ],
    ids=short,
)
def test_what_a_model_cannot_have_ends_in_a_short_sentence(model: str, key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"its setting {key} is") as error:
        checkpoint_settings(model, content({key: value}), "x.pth", {})
    assert len(str(error.value)) < 600
    # What the user says of it stands, and is not read from the file.
    assert checkpoint_settings(model, content({key: value}), "x.pth", {key: 7})[key] == 7


def test_a_list_of_any_depth_ends_in_a_sentence() -> None:
    with pytest.raises(CheckpointError, match="mlp_hidden_size"):
        checkpoint_settings("NeuMF", content({"mlp_hidden_size": deep(100_000)}), "x.pth", {})


def test_weights_confirm_a_large_size() -> None:
    for model, key, value, shape in (
        ("BPR", "embedding_size", 4096, (61, 4096)),
        ("GCMC", "gcn_output_dim", 3000, (1500, 9)),
    ):
        assert checkpoint_settings(model, content({key: value}, shape), "x.pth", {})[key] == value
        with pytest.raises(CheckpointError):
            checkpoint_settings(model, content({key: value}, (7, 7)), "x.pth", {})


def test_numbers_of_numpy_and_tuples_are_python_ones() -> None:
    given_by = {
        "mlp_hidden_size": (np.int64(32), 16),
        "mf_embedding_size": np.int64(8),
        "dropout_prob": np.float64(0.5),
    }
    found = checkpoint_settings("NeuMF", content(given_by), "x.pth", {})
    assert found["mlp_hidden_size"] == [32, 16] and type(found["mlp_hidden_size"][0]) is int
    assert type(found["mf_embedding_size"]) is int and type(found["dropout_prob"]) is float


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["BPR", "NeuMF", "LDiffRec", "SGL", "RaCT", "NAIS"]), st.data())
def test_whatever_a_file_holds_is_taken_whole_or_refused(model: str, data: st.DataObject) -> None:
    defaults = model_settings(model)
    settings = data.draw(st.dictionaries(st.sampled_from(sorted(defaults)), anything, max_size=3))
    try:
        found = checkpoint_settings(model, content(settings), "x.pth", {})
    except CheckpointError:
        return
    for key, value in found.items():
        if loads_a_file(key):
            assert value == defaults[key]
        elif isinstance(defaults[key], (bool, str, list)):
            assert isinstance(value, type(defaults[key]))
        else:
            assert isinstance(value, (int, float)) and abs(value) <= 1e9


# -- on real files


@pytest.fixture(scope="module")
def neumf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Folder of the data, a stock NeuMF that was pretrained, and its file's content."""
    home = tmp_path_factory.mktemp("neumf")
    write_rows(ring_rows(), home / "data" / "ring" / "ring.inter")
    small = {"mf_embedding_size": 8, "mlp_embedding_size": 8, "mlp_hidden_size": [12, 6], "epochs": 1}
    stock_checkpoint("NeuMF", settings_on(home / "data", home, **small), home / "neumf.pth")
    return home / "data", home, torch.load(home / "neumf.pth", weights_only=False)


def brought(data: Path, home: Path, file: Path, **more: Any) -> Teacher:
    more = {"teacher_checkpoint": str(file), "embedding_size": 4, "latency_users": 0, **more}
    config = DistillConfig("BPR", "ring", config_dict=settings_on(data, home, **more))
    return Teacher.of(config, prepare_data(config))


def saved(home: Path, content: dict[str, Any], **settings: Any) -> Path:
    changed = dict(content["config"].final_config_dict, **settings)
    torch.save({**content, "config": changed}, home / "changed.pth")
    return home / "changed.pth"


def test_a_file_that_asks_for_others_loads_none(neumf: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    data, home, content = neumf
    trap = tmp_path / "trap.pth"
    trap.write_bytes(b"not opened")
    paths = {"mf_pretrain_path": str(trap), "mlp_pretrain_path": str(trap), "checkpoint_dir": str(tmp_path / "theirs")}
    paths.update(data_path="/nowhere", dataset_save_path=str(trap), device="cuda:7", gpu_id="7", log_wandb=True)
    teacher = brought(data, tmp_path, saved(home, content, use_pretrain=True, **paths))
    assert teacher.config["use_pretrain"] is False and teacher.config["mf_pretrain_path"] is None
    assert teacher.trained.params == sum(weights.numel() for weights in content["state_dict"].values())
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"mf_embedding_size": 10**12},
        {"mlp_hidden_size": deep(150)},
        {"eval_args": {"split": deep(150), "order": "RO", "group_by": "user", "mode": "full"}},
        {"threshold": "x" * 10**7},
        {"threshold": np.zeros(3)},
        {"dataset": deep(150)},
        {"model": "x" * 10**6},
        {"model": deep(150)},
        {"valid_metric": "x" * 10**6},
        {"topk": [10**6]},
        {"seed": -1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_file_with_odd_settings_ends_in_a_short_sentence(
    neumf: tuple[Path, Path, dict[str, Any]], tmp_path: Path, settings: dict[str, Any]
) -> None:
    data, home, content = neumf
    with pytest.raises(DistillError) as error:
        brought(data, tmp_path, saved(home, content, **settings))
    assert len(str(error.value)) < 1500


def test_a_class_of_the_users_own_has_settings_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("depth", "names", "gain", "file", "epochs", "state", "sizes", "on")
    reads = "".join(f"        config[{key!r}]\n" for key in keys)
    (tmp_path / "deep_models.py").write_text(
        "from recbole.model.general_recommender import BPR\n\n\nclass Deep(BPR):\n"
        f"    def __init__(self, config, dataset):\n        super().__init__(config, dataset)\n{reads}"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {"depth": 3, "names": ["a", "b"], "gain": 0.5, "sizes": (4, np.int64(5)), "on": True}
    others = {"file": "/etc/x", "epochs": 9, "state": "INFO", "unread": 7, "embedding_size": 8}
    found = checkpoint_settings("deep_models.Deep", content({**own, **others}), "x.pth", {})
    assert found == {**own, "sizes": [4, 5], "embedding_size": 8}
    assert checkpoint_settings("deep_models.Deep", content(own), "x.pth", {"depth": 7})["depth"] == 7
    with pytest.raises(CheckpointError, match="its setting depth is 9999999, which is more than 1000"):
        checkpoint_settings("deep_models.Deep", content({"depth": 9_999_999}), "x.pth", {})
