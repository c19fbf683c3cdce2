"""What a logit costs by sizes alone, which automatic shares are found from, for models that are no dot product."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from recbole_derrd.adapters import adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.model_cache.building import build_model

Settings = Callable[..., dict[str, Any]]


def model_of(tiny_settings: Settings, name: str, **settings: Any) -> Any:
    config = DistillConfig(name, "tiny", config_dict=tiny_settings(name, **settings))
    return build_model(config, prepare_data(config))


def test_an_attention_over_a_history_is_counted(tiny_settings: Settings) -> None:
    model = model_of(tiny_settings, "NAIS", embedding_size=6, weight_size=5)
    assert adapter_of(model).logit_work() == model.history_item_matrix.shape[1] * 6 * (1 + 5)


def test_a_networks_row_is_shared_out_over_its_items(tiny_settings: Settings) -> None:
    model = model_of(tiny_settings, "MultiVAE", latent_dimension=8, mlp_hidden_size=[12])
    numbers = sum(one.numel() for one in model.parameters())
    assert adapter_of(model).logit_work() == numbers // model.n_items > 2 * 12


@pytest.mark.parametrize(("name", "least", "most"), [("EASE", 1000, 10_000), ("ItemKNN", 1, 1), ("Pop", 1, 1)])
def test_a_dense_matrix_of_similarities_costs_what_a_table_of_scores_does_not(
    tiny_settings: Settings, name: str, least: int, most: int
) -> None:
    settings = {"k": 5} if name == "ItemKNN" else {}
    assert least <= adapter_of(model_of(tiny_settings, name, **settings)).logit_work() <= most
