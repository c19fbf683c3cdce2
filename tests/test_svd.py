"""The SVD of a score matrix that is never formed, against one of the matrix itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_derrd.ops.svd import score_factors


def embeddings(users: int, items: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -2, size, dtype=torch.float64)
    return (
        torch.randn(users, size, generator=generator, dtype=torch.float64) * scale,
        torch.randn(items, size, generator=generator, dtype=torch.float64) * scale,
    )


@pytest.mark.parametrize("kept", [1, 3, 8, 12])
def test_factors_are_those_of_a_dense_svd(kept: int) -> None:
    users, items = embeddings(30, 45, 12)
    left, values, right = torch.linalg.svd(users @ items.T, full_matrices=False)
    first, second = score_factors(users, items, kept)
    assert first.shape == (30, kept) and second.shape == (45, kept)
    dense = left[:, :kept] * values[:kept] @ right[:kept]
    torch.testing.assert_close(first @ second.T, dense)
    for side in (first, second):
        torch.testing.assert_close(side.T @ side, torch.diag(values[:kept]), rtol=1e-7, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    users=st.integers(1, 20), items=st.integers(1, 20), size=st.integers(1, 12), kept=st.integers(1, 14),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_the_error_is_what_was_cut_off(users: int, items: int, size: int, kept: int, seed: int) -> None:
    left, right = embeddings(users, items, size, seed)
    values = torch.linalg.svdvals(left @ right.T)[: min(users, items, size)]
    first, second = score_factors(left, right, kept)
    assert first.shape[1] == second.shape[1] == min(kept, len(values))
    error = (first @ second.T - left @ right.T).square().sum()
    torch.testing.assert_close(error, values[kept:].square().sum(), rtol=1e-6, atol=1e-12)


def test_full_rank_in_float32_gives_the_scores_back() -> None:
    users, items = (side.float() for side in embeddings(200, 300, 24))
    first, second = score_factors(users, items, 24)
    assert first.dtype == torch.float32
    torch.testing.assert_close(first @ second.T, users @ items.T, rtol=1e-4, atol=1e-5)


def test_repeated_dimensions_are_folded() -> None:
    """Rank 2 in 4 dimensions: two are enough, whatever the rest holds."""
    users, items = embeddings(20, 30, 2)
    first, second = score_factors(torch.cat([users, users], 1), torch.cat([items, items], 1), 2)
    torch.testing.assert_close(first @ second.T, 2 * users @ items.T)


def test_factors_worked_out_by_hand() -> None:
    # S = diag(9, 4) of U = diag(3, 2) and V = diag(3, 2): sigma = 9, 4, so rank 1 keeps a 9 and each side its root.
    side = torch.diag(torch.tensor([3.0, 2.0]))
    first, second = score_factors(side, side, 1)
    torch.testing.assert_close((first @ second.T), torch.tensor([[9.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(first.abs(), torch.tensor([[3.0], [0.0]]))


def test_halves_of_sigma_lose_least_to_errors_of_one_size() -> None:
    """The docstring's claim: a quantiser that errs by the items' mean square harms these scores least."""
    users, items = embeddings(60, 80, 10)
    first, second = score_factors(users, items, 10)
    values = torch.linalg.svdvals(users @ items.T)[:10]

    def harm(power: float) -> float:
        moved = values ** (power - 0.5)
        return float((first * moved).square().sum() * (second / moved).square().sum())

    assert harm(0.5) == pytest.approx(float(values.sum() ** 2))
    assert harm(0.5) < min(harm(0.0), harm(0.3), harm(0.7), harm(1.0))
