"""Dot products of listed items: values and gradients against autograd on the plain form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_derrd.adapters import ADAPTERS, EmbeddingAdapter, adapter_of, base
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.ops.listed_scores import distinct_positions, listed_products
from recbole_derrd.recbole_compat.models import general_models

DOT_PRODUCT = [
    name
    for name in sorted(general_models())
    if issubclass(ADAPTERS[name], EmbeddingAdapter) and ADAPTERS[name].trainable
]


def problem(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Users' embeddings [3, 4], items' [9, 4] and lists [3, 5], with items in several lists and twice in one."""
    generator = torch.Generator().manual_seed(seed)
    users, items = (torch.randn(count, 4, generator=generator, dtype=dtype).requires_grad_() for count in (3, 9))
    positions = torch.tensor([[0, 8, 3, 3, 1], [8, 7, 6, 5, 4], [2, 0, 8, 4, 1]])
    return users, items, positions


def plain(users: Tensor, items: Tensor, positions: Tensor) -> Tensor:
    """The definition."""
    return (items[positions] * users.unsqueeze(1)).sum(dim=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_equals_autograd(dtype: torch.dtype) -> None:
    users, items, positions = problem(dtype=dtype)
    gradient = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)
    results = []
    for products in (plain(users, items, positions), listed_products(users, items, positions)):
        assert products.dtype == dtype
        results.append([products.detach(), *torch.autograd.grad(products, (users, items), gradient)])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)
        assert one.dtype == other.dtype


def test_gradcheck() -> None:
    users, items, positions = problem()
    assert torch.autograd.gradcheck(lambda *own: listed_products(*own, positions), (users, items))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 1), (0, 5)])
def test_small_and_empty_lists(shape: tuple[int, int]) -> None:
    users, items, positions = problem()
    users, positions = users[: shape[0]], positions[: shape[0], : shape[1]]
    products = listed_products(users, items, positions)
    torch.testing.assert_close(products, plain(users, items, positions))
    products.sum().backward()


@pytest.mark.parametrize("gathered", [1, 40])
def test_blocks_of_users_change_nothing(monkeypatch: pytest.MonkeyPatch, gathered: int) -> None:
    """One user at a time, and two before the last one."""
    monkeypatch.setattr("recbole_derrd.ops.listed_scores._GATHERED", gathered)
    torch.testing.assert_close(listed_products(*problem()), plain(*problem()))


def test_slope_that_is_not_contiguous() -> None:
    """sum() gives expanded gradients, and so does a loss that reads some columns only."""
    users, items, positions = problem()
    results = []
    for products in (plain(users, items, positions), listed_products(users, items, positions)):
        results.append(torch.autograd.grad(products.sum() + products[:, 2:].T.square().sum(), (users, items)))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("who", ["users", "items", "both"])
def test_half_precision_is_computed_in_single(who: str) -> None:
    users, items, positions = problem(dtype=torch.float32)
    half = (users.bfloat16() if who != "items" else users, items.bfloat16() if who != "users" else items)
    products = listed_products(*half, positions)
    assert products.dtype == torch.float32
    torch.testing.assert_close(products, plain(users, items, positions), rtol=0.05, atol=0.05)
    gradients = torch.autograd.grad(products.sum(), (users, items))
    assert all(torch.isfinite(gradient).all() and gradient.any() for gradient in gradients)


def test_frozen_side_needs_no_gradient() -> None:
    users, items, positions = problem()
    listed_products(users, items.detach(), positions).sum().backward()
    assert users.grad is not None and items.grad is None


def test_backward_can_be_repeated() -> None:
    users, items, positions = problem()
    products = listed_products(users, items, positions).sum()
    once, again = (torch.autograd.grad(products, (users, items), retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(once, again))


@pytest.mark.parametrize("ids", [[[5, 2, 5], [0, 9, 2]], [[3]], [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]])
def test_distinct_places(ids: list[list[int]]) -> None:
    given = torch.tensor(ids)
    distinct, positions = distinct_positions(given, 10)
    expected, inverse = given.unique(return_inverse=True)
    assert torch.equal(distinct, expected) and torch.equal(positions, inverse)


class Tables(EmbeddingAdapter):
    """Two tables, and what was asked of the second."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__(type("Model", (), {"n_users": len(users), "n_items": len(items), "device": "cpu"})())
        self.tables, self.asked = (users, items), []

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        return self.tables[0] if users is None else self.tables[0][users]

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        self.asked.append(None if items is None else items.tolist())
        return self.tables[1] if items is None else self.tables[1][items]


@pytest.mark.parametrize(("share", "asked"), [(2.0, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (0.25, None)])
def test_score_asks_for_each_item_once(monkeypatch: pytest.MonkeyPatch, share: float, asked: Any) -> None:
    """Short lists: the distinct items. Long ones: the catalogue. The same scores and gradients as the plain way."""
    monkeypatch.setattr(base, "_WHOLE_CATALOGUE", share)
    users, items, positions = problem()
    adapter, results = Tables(users, items), []
    for fused in (True, False):
        adapter.fused = fused
        scores = adapter.score(torch.tensor([2, 0, 1]), positions)
        results.append([scores.detach(), *torch.autograd.grad(scores.square().sum(), (users, items))])
    assert adapter.asked == [asked, positions.flatten().tolist()]
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", DOT_PRODUCT)
@pytest.mark.parametrize("share", [2.0, 0.25])
def test_every_adapter_scores_as_the_plain_way(
    name: str, share: float, tiny_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters that normalise, weigh or propagate their embeddings: same scores, same gradients."""
    monkeypatch.setattr(base, "_WHOLE_CATALOGUE", share)
    config = DistillConfig(name, "tiny", config_dict=tiny_settings(name))
    adapter = adapter_of(build_model(config, prepare_data(config)).eval())
    users = torch.tensor([3, 30, 1, 17])
    items = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(one))[:7] + 1 for one in range(4)])
    weights = [weight for weight in adapter.model.parameters() if weight.requires_grad]
    results = []
    for fused in (True, False):
        adapter.fused = fused
        scores = adapter.score(users, items)
        gradient = torch.linspace(-1, 1, scores.numel()).view_as(scores)
        results.append([scores.detach(), *torch.autograd.grad(scores, weights, gradient, allow_unused=True)])
    for one, other in zip(*results):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
