"""Looking models up by name, and the graphs that are built without the scipy method that newer versions lack."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recbole.model.general_recommender as general
import scipy.sparse as sp
import torch

from recbole_derrd.adapters import ADAPTERS
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.recbole_compat import models
from recbole_derrd.recbole_compat.models import general_models, missing_package, model_class

BUILDS = ["GCMC", "LightGCN", "NCL", "NGCF", "SpectralCF"]


def stock_class(name: str) -> type[Any]:
    found: type[Any] = getattr(importlib.import_module(general_models()[name]), name)
    return found


def test_every_general_recommender_is_found_and_has_an_adapter() -> None:
    files = {file.stem for file in Path(general.__file__).parent.glob("*.py")} - {"__init__"}
    assert {module.rpartition(".")[2] for module in general_models().values()} == files
    assert set(general_models()) == set(ADAPTERS)


@pytest.mark.parametrize("name", sorted(general_models()))
def test_class_keeps_its_recbole_name(name: str) -> None:
    assert model_class(name).__name__ == name
    assert issubclass(model_class(name), stock_class(name))
    assert model_class(name) is model_class(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LigthGCN", "RecBole has no general recommender 'LigthGCN'. Did you mean 'LightGCN'?"),
        ("bpr", "RecBole has no general recommender 'bpr'. Did you mean 'BPR'?"),
        ("neumf", "Did you mean 'NeuMF'?"),
        ("Quetzalcoatl", "Known are: ADMMSLIM, AsymKNN, BPR,"),
        ("SASRec", "'SASRec' is not a general recommender: it needs more than users and items"),
        ("DeepFM", "'DeepFM' is not a general recommender"),
        ("KGAT", "'KGAT' is not a general recommender"),
        ("lightgbm", "'lightgbm' is not a general recommender"),
    ],
)
def test_wrong_names_are_answered_with_a_remedy(name: str, words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(words)):
        model_class(name)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tiny_settings: Any) -> None:
    monkeypatch.setattr(models, "_PACKAGES", {"NCL": ("faiss_that_nobody_has", "faiss-cpu"), "BPR": ("torch", "torch")})
    assert missing_package("BPR") is None
    assert missing_package("LightGCN") is None
    assert missing_package("NCL") == (
        "RecBole's NCL needs the package 'faiss_that_nobody_has' to be trained: pip install faiss-cpu."
    )
    config = DistillConfig("NCL", "tiny", config_dict=tiny_settings("NCL"))
    model = build_model(config, prepare_data(config))

    def without_faiss(*_: Any) -> None:
        raise ImportError("No module named 'faiss'")

    monkeypatch.setattr(stock_class("NCL"), "run_kmeans", without_faiss)
    with pytest.raises(OptionError, match=r"to be trained: pip install faiss-cpu\."):
        model.e_step()


def same_bits(ours: torch.Tensor, stock: torch.Tensor) -> None:
    ours, stock = ours.coalesce(), stock.coalesce()
    assert ours.shape == stock.shape
    assert ours.dtype == stock.dtype == torch.float32
    assert torch.equal(ours.indices(), stock.indices())
    # Bit patterns, since == would hide a sign of zero.
    assert torch.equal(ours.values().view(torch.int32), stock.values().view(torch.int32))


@pytest.mark.skipif(not hasattr(sp.dok_matrix, "_update"), reason="stock RecBole builds no graph with this scipy")
@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("kind", ["tiny", "sparse", "repeated"])
def test_graph_is_the_stock_one_to_the_bit(name: str, kind: str, tiny_settings: Any) -> None:
    if kind == "tiny":
        config = DistillConfig(name, "tiny", config_dict=tiny_settings(name))
        pairs = prepare_data(config).train._dataset.inter_matrix(form="coo").astype(np.float32)
    else:
        draw = np.random.default_rng(3)
        users, items = draw.integers(1, 300, 900), draw.integers(1, 200, 900)
        if kind == "sparse":
            users, items = np.unique(np.stack([users, items]), axis=1)
        pairs = sp.coo_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=(300, 200))
    graphs = []
    method = "get_laplacian_matrix" if name == "SpectralCF" else "get_norm_adj_mat"
    for kind_of_model in (model_class(name), stock_class(name)):
        model = kind_of_model.__new__(kind_of_model)
        torch.nn.Module.__init__(model)
        model.interaction_matrix, model.device = pairs, "cpu"
        model.n_users, model.n_items = pairs.shape
        graphs.append(getattr(model, method)())
    same_bits(*graphs)


@pytest.mark.skipif(not hasattr(sp.dok_matrix, "_update"), reason="stock RecBole builds no graph with this scipy")
@pytest.mark.parametrize("name", BUILDS)
def test_model_is_the_stock_one_to_the_bit(name: str, tiny_settings: Any) -> None:
    """Attributes, weights and one loss are the stock model's."""
    config = DistillConfig(name, "tiny", config_dict=tiny_settings(name))
    states, losses, attributes = [], [], []
    for kind in (model_class(name), stock_class(name)):
        data = prepare_data(config)
        model = build_model(config, data, kind)
        if name == "NCL":
            model.user_centroids = model.item_centroids = torch.ones(1, 8)
            model.user_2cluster, model.item_2cluster = (torch.zeros(n, dtype=torch.long) for n in (31, 41))
        batch = next(iter(data.train))
        loss = model.calculate_loss(batch)
        losses.append((sum(loss) if isinstance(loss, tuple) else loss).item())
        states.append(model.state_dict())
        attributes.append(set(vars(model)))
    assert losses[0] == losses[1]
    # Stock NCL keeps the graph's degrees and never reads them.
    assert attributes[1] - attributes[0] == ({"diag"} if name == "NCL" else set())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
