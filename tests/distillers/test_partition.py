"""The rest of the catalogue: its gradients block by block, and what a sample of it says."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import recbole_derrd.ops.full_softmax as catalogue_module
from recbole_derrd.distillers.hetcomp.partition import (
    ListedItems,
    estimated_log_partition,
    log_partition,
    partition_sum,
    sampled_partition,
)
from recbole_derrd.ops.full_softmax import LOWEST, hidden_pairs

ITEMS = torch.tensor([[1, 4], [2, 0], [6, 5], [3, 4], [0, 0]])
#: Beside the padding item and what is picked: row 0 hides item 2, row 3 everything else.
MORE = [(0, 2), (3, 1), (3, 2), (3, 5), (3, 6)]


def normal(*shape: int, seed: int) -> Tensor:
    """Return seeded normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def source(start: int, stop: int) -> ListedItems:
    """Return what is picked for some of the five users."""
    pairs = [(row, item) for row in range(5) for item in [0, *ITEMS[row].tolist()]] + MORE
    inside = torch.tensor([(row - start, item) for row, item in pairs if start <= row < stop])
    return ListedItems(ITEMS[start:stop], (inside[:, 0], inside[:, 1]))


def loss(scores: Tensor, held: Tensor, log_partition_term: Tensor) -> Tensor:
    """Return something that depends on everything, whether or not there is a rest."""
    rest = torch.where(
        log_partition_term > LOWEST / 2, log_partition_term.clamp(min=-1e3).sin() * 2, log_partition_term - LOWEST + 1
    )
    return (scores.cos() * held).sum(dim=1) * rest + rest.square()


def readable(users: Tensor, items: Tensor) -> Tensor:
    """Return the same sum by autograd."""
    picked, scores = source(0, 5), users @ items.T
    return loss(scores.gather(1, picked.items), picked.items > 0, log_partition(scores, picked.hidden)).sum()


def test_rest_by_hand() -> None:
    scores = normal(5, 7, seed=1)
    found = log_partition(scores, source(0, 5).hidden)
    for row, rest in enumerate([[3, 5, 6], [1, 3, 4, 5, 6], [1, 2, 3, 4], [], [1, 2, 3, 4, 5, 6]]):
        expected = math.log(sum(math.exp(scores[row, item]) for item in rest)) if rest else LOWEST
        assert found[row].item() == pytest.approx(expected)


@pytest.mark.parametrize("block", [7, 14, 1 << 20])
def test_blocks_give_what_autograd_gives(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Wherever blocks end, also for a user of whom nothing is left."""
    monkeypatch.setattr(catalogue_module, "_BLOCK_SCORES", block)
    monkeypatch.setattr(catalogue_module, "_FEWEST_USERS", 1)
    embeddings = (normal(5, 2, seed=1).requires_grad_(), normal(7, 2, seed=2).requires_grad_())
    found, expected = partition_sum(*embeddings, source, loss), readable(*embeddings)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(3 * found, embeddings), torch.autograd.grad(expected, embeddings)):
        torch.testing.assert_close(one, 3 * other)


def test_gradients_are_those_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "_BLOCK_SCORES", 14)
    monkeypatch.setattr(catalogue_module, "_FEWEST_USERS", 2)
    embeddings = (normal(5, 2, seed=1).requires_grad_(), normal(7, 2, seed=2).requires_grad_())
    assert torch.autograd.gradcheck(lambda *both: partition_sum(*both, source, loss), embeddings)
    assert torch.autograd.gradcheck(readable, embeddings)


def test_drawn_items_are_of_the_rest_and_equally_likely() -> None:
    hidden, generator = source(0, 5).hidden, torch.Generator().manual_seed(0)
    items, sizes = sampled_partition(hidden, 5, 7, 20_000, generator)
    rests = [[3, 5, 6], [1, 3, 4, 5, 6], [1, 2, 3, 4], [0], [1, 2, 3, 4, 5, 6]]
    assert sizes.tolist() == [3, 5, 4, 0, 6]
    for row, rest in enumerate(rests):
        found, counts = items[row].unique(return_counts=True)
        assert found.tolist() == rest
        assert len(rest) == 1 or stats.chisquare(counts.tolist()).pvalue > 0.001


def test_estimate_of_the_rest_has_no_bias_and_its_logarithm_a_known_one() -> None:
    """E of R's estimate is R; its logarithm is too low by Var / (2 R^2) to first order, less with more items."""
    scores = normal(1, 500, seed=3)
    hidden = (torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    exact = log_partition(scores, hidden)
    generator = torch.Generator().manual_seed(1)
    biases = []
    for count in (10, 100):
        items, sizes = sampled_partition(
            (torch.arange(20_000), torch.zeros(20_000).long()), 20_000, 500, count, generator
        )
        ratios = (estimated_log_partition(scores[0][items], sizes) - exact).exp()
        error = ratios.std() / math.sqrt(len(ratios))
        assert abs(ratios.mean() - 1) < 4 * error and error < 0.01
        biases.append(ratios.log().mean().item())
        assert biases[-1] == pytest.approx(-ratios.var().item() / 2, rel=0.25)
    assert -0.1 < biases[0] < 5 * biases[1] < 0


def test_nothing_left_is_no_number_to_worry_about() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    found = estimated_log_partition(scores, torch.tensor([0, 6]))
    assert found.tolist() == pytest.approx([LOWEST, math.log(6)])
    found.sum().backward()
    assert scores.grad is not None and scores.grad[0].tolist() == [0, 0, 0] and torch.isfinite(scores.grad).all()


def test_hidden_pairs() -> None:
    """Users in any order, some without training items."""
    rows, items = hidden_pairs(torch.tensor([3, 1, 2]), torch.tensor([0, 0, 2, 2, 5]), torch.tensor([4, 6, 1, 2, 3]))
    assert sorted(zip(rows.tolist(), items.tolist())) == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 4), (1, 6), (2, 0),
    ]  # fmt: skip


def test_an_estimate_from_one_item_that_is_all_of_the_rest_is_exact() -> None:
    scores = torch.tensor([[0.7, 0.7], [0.2, 0.2]], dtype=torch.float64)
    found = estimated_log_partition(scores, torch.tensor([1, 2]))
    assert found.tolist() == pytest.approx([0.7, 0.2 + float(torch.log(torch.tensor(2.0)))])
