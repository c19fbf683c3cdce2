"""Checkpoints that do not fit the model: one sentence with the names and both shapes, and the model stays as it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole_compat.same import same

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.training.checkpoint import read_checkpoint, write_stock_checkpoint
from recbole_derrd.training.checkpointing import load_weights
from recbole_derrd.training.fitting import declared_names, refuse_other_weights

USERS, ITEMS, SIZE = 31, 41, 8


def built(name: str, tiny_settings: Any) -> Any:
    config = DistillConfig(name, "tiny", config_dict=tiny_settings(name))
    return build_model(config, prepare_data(config))


def checkpoint(model: Any, **others: Any) -> dict[str, Any]:
    return {"state_dict": model.state_dict(), "other_parameter": others}


def refusal(model: Any, content: dict[str, Any]) -> str:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = vars(model).copy()
    with pytest.raises(CheckpointError) as raised:
        load_weights(model, content, "file.pth")
    assert same(dict(model.state_dict()), before) and vars(model) == kept, (
        "nothing is set of a checkpoint that is refused"
    )
    return str(raised.value)


def test_names_and_both_shapes_are_in_one_sentence() -> None:
    own = {"a": torch.zeros(3, 2), "b": torch.zeros(2), "c": torch.zeros(1), "e": torch.zeros(1), "f": torch.zeros(1)}
    given = {"a": torch.zeros(4, 2), "b": torch.zeros(2, dtype=torch.long), "d": torch.zeros(1), "e": [0.0], 7: None}
    with pytest.raises(CheckpointError) as raised:
        refuse_other_weights(own, given, "BPR", "file.pth")
    assert str(raised.value) == (
        "The weights in 'file.pth' do not fit BPR with these settings and data: missing 'c', 'f'; unexpected 'd', 7; "
        "'a' is (4, 2) there and (3, 2) here, 'b' is of torch.int64 there and of torch.float32 here, 'e' is no table "
        "of numbers there. Use the settings and the data that it was trained with."
    )
    refuse_other_weights(own, own, "BPR", "file.pth")
    refuse_other_weights(own, {name: value.double() for name, value in own.items()}, "BPR", "file.pth")


def test_of_many_only_the_first_are_named() -> None:
    own = {str(n): torch.zeros(1) for n in range(9)}
    with pytest.raises(CheckpointError, match="missing '0', '1', '2' and 6 more\\. Use"):
        refuse_other_weights(own, {}, "BPR", "file.pth")


def test_weights_of_another_model_change_nothing(tiny_settings: Any) -> None:
    model = built("BPR", tiny_settings)
    grown = {"user_embedding.weight": torch.zeros(50, SIZE), "item_embedding.weight": torch.zeros(ITEMS, SIZE)}
    assert "'user_embedding.weight' is (50, 8) there and (31, 8) here" in refusal(model, {"state_dict": grown})
    sparse = {**model.state_dict(), "item_embedding.weight": torch.zeros(ITEMS, SIZE).to_sparse()}
    assert "no table of numbers" in refusal(model, {"state_dict": sparse})


TABLES = {"restore_user_e": torch.zeros(USERS, SIZE), "restore_item_e": torch.zeros(ITEMS, SIZE)}
OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a method": ("BPR", {"forward": "x"}, "sets 'forward', which is no value of BPR beside its weights"),
    "a method of another": ("LightGCN", {**TABLES, "full_sort_predict": None}, "sets 'full_sort_predict'"),
    "its class": ("LightGCN", {"__class__": "x"}, "sets '__class__'"),
    "its declaration": ("LightGCN", {"other_parameter_name": "x"}, "sets 'other_parameter_name'"),
    "more users": ("LightGCN", {**TABLES, "restore_user_e": torch.zeros(50, SIZE)}, "'restore_user_e' in"),
    "a text": ("LightGCN", {**TABLES, "restore_user_e": "x"}, "'restore_user_e' in"),
    "a sparse table": ("LightGCN", {**TABLES, "restore_user_e": torch.zeros(USERS, SIZE).to_sparse()}, "user_e' in"),
    "whole numbers": ("LightGCN", {**TABLES, "restore_item_e": torch.zeros(ITEMS, SIZE).long()}, "item_e' in"),
    "one side alone": ("LightGCN", {"restore_user_e": TABLES["restore_user_e"]}, "do not go together"),
    "sides of two sizes": ("LightGCN", {**TABLES, "restore_item_e": torch.zeros(ITEMS, 3)}, "do not go together"),
    "wider embeddings": ("DMF", {"i_embedding": torch.zeros(ITEMS, 3)}, "'i_embedding' in"),
    "fewer counts": ("Pop", {"item_cnt": torch.zeros(3, 1).long(), "max_cnt": torch.ones(1).long()}, "'item_cnt' in"),
    "no largest count": ("Pop", {"max_cnt": None}, "'max_cnt' in"),
    "fewer similarities": ("EASE", {"item_similarity": np.zeros((3, 3))}, "'item_similarity' in"),
    "a similarity that is a text": ("EASE", {"item_similarity": "x"}, "'item_similarity' in"),
    "a number for a matrix": ("EASE", {"interaction_matrix": 3}, "'interaction_matrix' in"),
    "a table for a matrix": ("ItemKNN", {"pred_mat": torch.zeros(USERS, ITEMS)}, "'pred_mat' in"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_values_beside_the_weights_are_checked(tmp_path: Path, tiny_settings: Any, case: str) -> None:
    name, others, words = OTHERS[case]
    model = built(name, tiny_settings)
    file = tmp_path / "a.pth"
    write_stock_checkpoint(file, checkpoint(model, **others))
    assert re.search(re.escape(words), refusal(model, read_checkpoint(file)))


@pytest.mark.parametrize("name", ["LightGCN", "DMF", "Pop", "EASE", "SLIMElastic", "ItemKNN", "BPR"])
def test_a_models_own_values_fit(tmp_path: Path, tiny_settings: Any, name: str) -> None:
    model = built(name, tiny_settings)
    if name == "LightGCN":
        model.restore_user_e, model.restore_item_e = model.forward()
    elif name == "DMF":
        model.i_embedding = model.get_item_embedding()
    elif name == "Pop":
        model.max_cnt = torch.ones(1, dtype=torch.long)
    file = tmp_path / "a.pth"
    write_stock_checkpoint(file, checkpoint(model, **model.other_parameter()))
    other = built(name, tiny_settings)
    load_weights(other, read_checkpoint(file), file)
    for key in declared_names(model):
        mine, loaded = getattr(model, key), getattr(other, key)
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, loaded)
        elif isinstance(mine, np.ndarray):
            assert np.array_equal(mine, loaded)


def test_a_model_of_ones_own_chooses_its_values(tiny_settings: Any) -> None:
    from recbole.model.general_recommender import BPR

    class Own(BPR):  # type: ignore[misc]
        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            self.other_parameter_name, self.w, self.seen = ["w"], None, 3

        def other_parameter(self) -> dict[str, Any]:
            return {**super().other_parameter(), "seen": self.seen}

    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR"))
    model = build_model(config, prepare_data(config), Own)
    load_weights(model, checkpoint(model, w=torch.ones(2), seen=5), "file.pth")
    assert model.w.tolist() == [1, 1] and model.seen == 5
    assert "sets 'forward'" in refusal(model, checkpoint(model, forward=1))
