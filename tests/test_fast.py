"""The quicker ways (option ``fast``) against stock RecBole: to the bit, or within the rounding that each states."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.model.general_recommender import BPR, NeuMF
from recbole.trainer import Trainer

from recbole_derrd.adapters import NeuMFAdapter, adapter_class
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.loaders import CatalogueSizedLoader, PairSampler, WholeBatchLoader
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.model_cache.keys import cache_key
from recbole_derrd.ops.propagation import layer_mean, propagate, to_csr
from recbole_derrd.student.model import distilled
from recbole_derrd.training.optimizer import RowAdam, RowAdamW, give_rows, quick_adam
from recbole_derrd.training.trainer import trainer_for

Settings = Callable[..., dict[str, Any]]
# A model that learns from a column of its own.
RATED = {"inter_matrix_type": "rating", "load_col": {"inter": ["user_id", "item_id", "rating"]}}


def config_of(tiny_settings: Settings, model: str, **more: Any) -> DistillConfig:
    return DistillConfig(model, "tiny", config_dict=tiny_settings(model, **more))


def trained(tiny_settings: Settings, model: str, fast: Any, **more: Any) -> tuple[Any, Any]:
    config = config_of(tiny_settings, model, fast=fast, epochs=3, **more)
    data = prepare_data(config)
    trainer = trainer_for(config, build_model(config, data))
    trainer.fit(data.train, data.valid, saved=False)
    return trainer, trainer.evaluate(data.test, load_best_model=False)


# -- batches: to the bit


@pytest.mark.parametrize(
    ("model", "sampling"),
    [
        ("BPR", {}),
        ("BPR", {"distribution": "popularity", "sample_num": 1, "alpha": 0.5}),
        ("BPR", {"distribution": "uniform", "sample_num": 3}),
        ("BPR", {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 3}),
        ("NeuMF", {}),
        ("NeuMF", {"distribution": "uniform", "sample_num": 2}),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_those_of_stock(
    tiny_settings: Settings, model: str, sampling: dict[str, Any], shuffle: bool
) -> None:
    given_sampling = {"train_neg_sample_args": {"alpha": 1.0, "dynamic": False, "candidate_num": 0, **sampling}}
    more = {**(given_sampling if sampling else {}), "shuffle": shuffle, "load_col": None}
    epochs = []
    for fast in ("none", ["batches"]):
        config = config_of(tiny_settings, model, fast=fast, **more)
        loader = prepare_data(config).train
        if sampling.get("dynamic"):
            loader.get_model(build_model(config, prepare_data(config)))
        assert isinstance(loader, WholeBatchLoader) == (fast != "none")
        np.random.seed(3)
        epochs.append([list(loader) for _ in range(3)])
        assert len(loader) == len(epochs[-1][0])
        assert isinstance(loader._sampler, PairSampler) == (fast != "none")
    for stock, quick in zip(*epochs):
        assert len(stock) == len(quick)
        for one, other in zip(stock, quick):
            assert set(other.columns) <= set(one.columns) and "rating" not in other.columns
            for column in other.columns:
                assert torch.equal(one[column], other[column]) and one[column].dtype == other[column].dtype


def test_other_loaders_stay_stock(tiny_settings: Settings) -> None:
    config = config_of(tiny_settings, "MultiVAE", train_neg_sample_args=None)
    assert not isinstance(prepare_data(config).train, WholeBatchLoader)
    negatives = {"eval_args": {"mode": "uni5", "split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user"}}
    assert not isinstance(prepare_data(config_of(tiny_settings, "BPR", **negatives)).valid, CatalogueSizedLoader)


# -- ranking: RecBole's metrics


@pytest.mark.parametrize("model", ["BPR", "Pop", "ItemKNN", "MultiVAE"])
def test_full_ranking_gives_stock_metrics(tiny_settings: Settings, model: str) -> None:
    """Pop and ItemKNN are full of ties, which must fall as they do in stock."""
    metrics = ["NDCG", "Recall", "MRR", "Hit", "Precision", "MAP"]
    more: dict[str, Any] = {"metrics": metrics, "topk": [1, 5, 39], "eval_batch_size": 40}
    if model == "MultiVAE":
        more["train_neg_sample_args"] = None
    results = []
    for fast in ("none", ["ranking"]):
        results.append(trained(tiny_settings, model, fast, **more)[1])
    assert results[0] == results[1] and len(results[0]) == 18


def test_other_metrics_are_collected_as_in_stock(tiny_settings: Settings) -> None:
    more = {"metrics": ["NDCG", "GAUC", "ItemCoverage", "GiniIndex", "AveragePopularity"]}
    _, stock = trained(tiny_settings, "BPR", "none", **more)
    _, quick = trained(tiny_settings, "BPR", ["ranking"], **more)
    assert stock == quick and {"gauc", "itemcoverage@5"} <= stock.keys()


def test_a_batch_of_ranking_is_sized_to_the_catalogue(tiny_settings: Settings) -> None:
    config = config_of(tiny_settings, "BPR", eval_batch_size=40)
    assert len(prepare_data(config).valid) == 1
    stock = config_of(tiny_settings, "BPR", eval_batch_size=40, fast="none")
    assert len(prepare_data(stock).valid) == 30


# -- a plain model is RecBole's, to the bit


@pytest.mark.parametrize("model", ["BPR", "NeuMF", "LightGCN"])
def test_a_plain_model_is_stock_to_the_bit(tiny_settings: Settings, model: str) -> None:
    quick, result = trained(tiny_settings, model, "auto")
    config = config_of(tiny_settings, model, fast="none", epochs=3)
    data = prepare_data(config)
    stock = Trainer(config, build_model(config, data))
    stock.fit(data.train, data.valid, saved=False)
    for name, value in stock.model.state_dict().items():
        assert torch.equal(quick.model.state_dict()[name], value), name
    assert stock.evaluate(data.test, load_best_model=False) == result


# -- adam, rows, graph: within rounding


@pytest.mark.slow
@pytest.mark.parametrize("parts", [["adam"], ["adam", "rows"], ["graph"], "all"])
@pytest.mark.parametrize(
    ("model", "more"),
    [("BPR", {}), ("BPR", {"weight_decay": 0.01, "learner": "adamw"}), ("NeuMF", {"weight_decay": 1e-4}),
     ("LightGCN", {}), ("SimpleX", {}), ("DMF", {}), ("DMF", RATED), ("ENMF", {"train_neg_sample_args": None})],
)  # fmt: skip
def test_quick_steps_end_where_stock_ends(
    tiny_settings: Settings, model: str, more: dict[str, Any], parts: Any
) -> None:
    stock, expected = trained(tiny_settings, model, "none", **more)
    quick, result = trained(tiny_settings, model, parts, **more)
    moved = 0.0
    for name, value in stock.model.state_dict().items():
        # Adam divides by the root of tiny second moments, so rounding may grow to a thousandth of a step's size.
        assert torch.allclose(quick.model.state_dict()[name], value, atol=2e-6, rtol=1e-4), name
        moved = max(moved, float((value - value.mean()).abs().max()))
    assert moved > 1e-3
    assert result == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("more", [{}, {"mf_train": False, "mlp_hidden_size": [8, 4]}, {"mlp_train": False}])
def test_a_whole_catalogue_at_once_ranks_as_pair_by_pair(
    tiny_settings: Settings, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NeuMF has no full_sort_predict, so that stock RecBole builds every pair of user and item."""
    # A large step: logits near 0 are ties after the sigmoid of stock predictions.
    metrics = {"metrics": ["NDCG", "Recall", "MRR", "GAUC"], "topk": [1, 5, 39], "learning_rate": 0.1, **more}
    _, stock = trained(tiny_settings, "NeuMF", ["ranking"], **metrics)
    # Several blocks of items.
    monkeypatch.setattr("recbole_derrd.adapters.neumf._block_numbers", lambda device: 1000)
    trainer, quick = trained(tiny_settings, "NeuMF", ["ranking", "scores"], **metrics)
    assert quick == pytest.approx(stock, abs=1e-6)
    monkeypatch.setattr(trainer.model, "predict", None)
    assert trainer.evaluate(trainer._judging, load_best_model=False) == quick


@pytest.mark.parametrize(("fast", "mode", "said"), [("auto", "full", 1), ("all", "full", 0), ("auto", "fixed20", 0)])
def test_the_slow_way_to_rank_a_catalogue_is_told(
    tiny_settings: Settings, caplog: pytest.LogCaptureFixture, fast: str, mode: str, said: int
) -> None:
    with caplog.at_level("INFO"):
        trained(tiny_settings, "NeuMF", fast, eval_args={"mode": mode})
    assert caplog.text.count("'fast: all' ranks the whole catalogue at once") == said


class OtherNeuMF(NeuMF):
    """A user's own model, which its parent's adapter knows nothing of."""

    def predict(self, interaction: Any) -> torch.Tensor:
        return -super().predict(interaction)


@pytest.mark.parametrize(("model", "known"), [(NeuMF, True), (distilled(NeuMF), True), (OtherNeuMF, False)])
def test_a_model_that_predicts_otherwise_is_asked_itself(model: type[Any], known: bool) -> None:
    assert adapter_class(model).catalogue_at_once(model) == known and adapter_class(model) is NeuMFAdapter
    assert not adapter_class(BPR).catalogue_at_once(BPR)


def test_scores_change_the_key_of_those_models_alone_that_they_change(tiny_settings: Settings) -> None:
    for model, same in (("BPR", True), ("NeuMF", False)):
        configs = [config_of(tiny_settings, model, fast=fast) for fast in (["adam"], ["adam", "scores"])]
        fingerprint = prepare_data(configs[0]).fingerprint
        keys = [cache_key(config, fingerprint) for config in configs]
        assert (keys[0] == keys[1]) == same, model


def test_rows_move_as_dense_adam_moves_them() -> None:
    """Not SparseAdam: rows that were seen once move on by their moments."""
    tables = [torch.nn.Embedding(50, 4) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    give_rows(torch.nn.Sequential(tables[1]))
    dense = torch.optim.Adam(tables[0].parameters(), lr=0.1, weight_decay=0.01)
    rows = quick_adam(torch.optim.Adam(tables[1].parameters(), lr=0.1, weight_decay=0.01))
    assert isinstance(rows, RowAdam)
    for step in range(5):
        for table, optimizer in zip(tables, (dense, rows)):
            optimizer.zero_grad()
            ids = torch.tensor([1, 1, 2, 3 + step])
            loss = table(ids).square().sum() + table(torch.tensor([2, 40])).sum()
            loss.backward()
            optimizer.step()
        assert torch.allclose(tables[0].weight, tables[1].weight, atol=1e-6)
    assert tables[1].weight.grad is None
    assert isinstance(quick_adam(torch.optim.AdamW(tables[1].parameters())), RowAdamW)
    other = torch.optim.SGD(tables[1].parameters(), lr=0.1)
    assert quick_adam(other) is other


def test_rows_are_left_out_where_gradients_are_clipped(tiny_settings: Settings) -> None:
    trainer, _ = trained(tiny_settings, "BPR", "all", clip_grad_norm={"max_norm": 5})
    assert isinstance(trainer.optimizer, RowAdam) and not trainer.model.user_embedding.sparse


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 4), st.integers(0, 10_000))
def test_propagation_is_the_mean_of_layers(nodes: int, size: int, layers: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(nodes, nodes, generator=generator, dtype=torch.float64)
    dense = (dense + dense.T) * (torch.rand(nodes, nodes, generator=generator) < 0.5)
    dense = torch.triu(dense) + torch.triu(dense, 1).T
    embeddings = torch.randn(nodes, size, generator=generator, dtype=torch.float64, requires_grad=True)
    layer, stacked = embeddings, [embeddings]
    for _ in range(layers):
        layer = dense @ layer
        stacked.append(layer)
    expected = torch.stack(stacked).mean(dim=0)
    adjacency = to_csr(dense.to_sparse())
    assert torch.allclose(layer_mean(adjacency, embeddings.detach(), layers), expected)
    assert torch.autograd.gradcheck(lambda x: propagate(adjacency, x, layers), (embeddings,))


def test_propagation_is_float32_under_mixed_precision() -> None:
    """A sparse product in half precision is worse where there is one, and an error elsewhere."""
    generator = torch.Generator().manual_seed(3)
    dense = torch.rand(9, 9, generator=generator)
    adjacency = to_csr((dense + dense.T).to_sparse())
    found = []
    for enabled in (False, True):
        embeddings = torch.rand(9, 4, generator=torch.Generator().manual_seed(4), requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            result = propagate(adjacency, embeddings, 3)
        result.square().sum().backward()
        assert embeddings.grad is not None
        found.append((result.detach(), embeddings.grad))
    assert found[1][0].dtype == torch.float32
    assert all(torch.equal(*pair) for pair in zip(*found))


@pytest.mark.parametrize(("mkl", "kind"), [(True, torch.int32), (False, torch.int64)])
def test_indices_have_half_the_bytes_where_the_product_takes_them(
    monkeypatch: pytest.MonkeyPatch, mkl: bool, kind: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    dense = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    adjacency = to_csr(dense.to_sparse())
    assert adjacency.crow_indices().dtype == adjacency.col_indices().dtype == kind
    assert torch.equal(adjacency.to_dense(), dense)


# -- the option


def test_an_unknown_part_is_named(tiny_settings: Settings) -> None:
    with pytest.raises(OptionError, match="Did you mean 'graph'"):
        config_of(tiny_settings, "BPR", fast=["grahp"])
    with pytest.raises(OptionError, match="It is auto, all, none"):
        config_of(tiny_settings, "BPR", fast="quick")


def test_auto_is_exact_for_plain_students_alone(tiny_settings: Settings) -> None:
    run = config_of(tiny_settings, "BPR", distillers=["rrd"])
    assert {"adam", "rows", "graph"} <= run.fast
    assert {"adam", "rows", "graph"} <= run.derived("BPR", {}, teacher=True).fast
    assert run.derived("BPR", {}).fast == {"batches", "ranking"}
    assert run.derived("BPR", {}).fast == config_of(tiny_settings, "BPR").fast
    assert (
        config_of(tiny_settings, "BPR", fast="none", distillers=["rrd"]).derived("BPR", {}, teacher=True).fast == set()
    )


def test_only_what_rounds_is_another_model(tiny_settings: Settings) -> None:
    stock, exact, rounded = (config_of(tiny_settings, "BPR", fast=fast) for fast in ("none", "auto", "all"))
    fingerprint = prepare_data(stock).fingerprint
    assert cache_key(stock, fingerprint) == cache_key(exact, fingerprint) != cache_key(rounded, fingerprint)


@pytest.mark.slow
def test_batches_may_be_made_by_processes_of_their_own(tiny_settings: Settings) -> None:
    """RecBole's ``worker``: torch then hands over lists of rows."""
    found = [trained(tiny_settings, "BPR", fast, worker=1)[0].model.state_dict() for fast in ("none", ["batches"])]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
