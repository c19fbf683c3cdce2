"""Rows read through their quantiser: against a slow reference, by gradcheck, by invariants, by hand, by training."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_derrd.ops.quantize import best_steps, squared_errors
from recbole_derrd.ops.rotation import learned_rotation, random_rotation
from recbole_derrd.ops.straight_through import clip_at, quantized, readable_quantized, stored_steps, unit_of

ALL_BITS = [1, 2, 3, 4, 8]


def drawn(rows: int, size: int, seed: int, bits: int = 1) -> tuple[Tensor, Tensor]:
    """Rows and steps, some numbers beyond the outermost level, none on the border between two levels."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(rows, generator=generator, dtype=torch.float64) + 0.2
    levels = torch.randint(-(2**bits), 2**bits, (rows, size), generator=generator)
    inside = 0.1 + 0.8 * torch.rand(rows, size, generator=generator, dtype=torch.float64)
    return (levels + inside) * steps.unsqueeze(1), steps


def slow(rows: Tensor, steps: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """The formulas of the file's head, number by number: what is read, and both derivatives."""
    most = (2**bits - 1) / 2
    value, by_row, by_step = (torch.zeros_like(rows) for _ in range(3))
    for i, row in enumerate(rows.tolist()):
        step = float(steps[i])
        for j, number in enumerate(row):
            level = max(-most, min(most, math.floor(number / step) + 0.5))
            within = abs(number) <= clip_at(bits) * step
            value[i, j] = step * level
            by_row[i, j] = 1.0 if within else 0.0
            by_step[i, j] = level - number / step if within else level
    return value, by_row, by_step


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("way", [quantized, readable_quantized])
def test_values_and_gradients_are_those_of_the_formulas(way: object, bits: int) -> None:
    rows, steps = drawn(5, 7, bits, min(bits, 4))
    value, by_row, by_step = slow(rows, steps, bits)
    rows.requires_grad_(), steps.requires_grad_()
    weights = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = way(rows, steps, bits)  # type: ignore[operator]
    torch.testing.assert_close(result, value)
    (result * weights).sum().backward()
    torch.testing.assert_close(rows.grad, by_row * weights)
    torch.testing.assert_close(steps.grad, (by_step * weights).sum(dim=1))


@pytest.mark.parametrize("bits", ALL_BITS)
def test_the_gradient_of_the_step_where_all_is_clipped_is_the_true_one(bits: int) -> None:
    """Beyond the outermost level nothing is straight through: there v̂ = ± m s, and gradcheck holds."""
    signs = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]], dtype=torch.float64)
    steps = torch.tensor([0.5, 1.3], dtype=torch.float64, requires_grad=True)
    rows = (signs * 4 * 2.0**bits).detach()
    assert torch.autograd.gradcheck(lambda steps: quantized(rows, steps, bits), (steps,))


def test_values_worked_out_by_hand() -> None:
    row, step = torch.tensor([[0.3, -0.7, 2.9, -9.0]], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    one = quantized(row, step, 1)
    assert one.tolist() == [[0.5, -0.5, 0.5, -0.5]]
    one.sum().backward()
    # Within 3/2: 0.3 and -0.7. By the step: 0.5 - 0.3, -0.5 + 0.7, and the levels 0.5 and -0.5 beyond.
    assert row.grad.tolist() == [[1.0, 1.0, 0.0, 0.0]]  # type: ignore[union-attr]
    assert step.grad.tolist() == pytest.approx([0.4])  # type: ignore[union-attr]
    assert quantized(row, step, 2).tolist() == [[0.5, -0.5, 1.5, -1.5]]
    assert quantized(row, step, 3).tolist() == [[0.5, -0.5, 2.5, -3.5]]


@settings(max_examples=50)
@given(bits=st.sampled_from(ALL_BITS), rows=st.integers(1, 6), size=st.integers(1, 9), seed=st.integers(0, 999))
def test_what_is_read_once_is_read_the_same_again(bits: int, rows: int, size: int, seed: int) -> None:
    latent = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    steps = best_steps(latent, bits).clamp(min=1e-3)
    once = quantized(latent, steps, bits)
    assert torch.equal(quantized(once, steps, bits), once)
    # The best steps' errors are those of what is read.
    torch.testing.assert_close((latent - once).square().sum(dim=1), squared_errors(latent, steps, bits))
    for row, step in zip(once, steps):
        assert len(row.unique()) <= 2**bits
        assert row.abs().max() <= (2**bits - 1) / 2 * step * 1.0001
    # One scale for a row and its step changes what is read by just that.
    torch.testing.assert_close(quantized(2 * latent, 2 * steps, bits), 2 * once)


@settings(max_examples=50)
@given(seed=st.integers(0, 999), size=st.floats(1e-6, 1e6))
def test_stored_steps_are_float16_times_a_power_of_two(seed: int, size: float) -> None:
    steps = size * (torch.rand(9, generator=torch.Generator().manual_seed(seed)) + 0.01)
    unit = unit_of(steps)
    assert 1 <= float(steps.max() / unit) < 2 and float(unit.log2()) == round(float(unit.log2()))
    stored = stored_steps(steps, unit)
    assert torch.equal((stored / unit).half().float() * unit, stored)
    torch.testing.assert_close(stored, steps, rtol=2**-10, atol=0)
    assert torch.equal(stored_steps(stored, unit), stored)


def test_rounding_of_stored_steps_is_passed_straight_through() -> None:
    steps = torch.tensor([0.3, 0.7], requires_grad=True)
    stored_steps(steps, torch.tensor([1.0])).sum().backward()
    assert steps.grad.tolist() == [1.0, 1.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_training_through_the_quantiser_finds_planted_codes(bits: int) -> None:
    """Scores are those of planted codes, and training begins at codes of which many are wrong."""
    generator = torch.Generator().manual_seed(3)
    users, items = torch.randn(60, 8, generator=generator), torch.randn(40, 8, generator=generator)
    steps = best_steps(items, bits)
    planted = quantized(items, steps, bits)
    start = planted + 0.7 * steps.unsqueeze(1) * torch.randn(40, 8, generator=generator)
    wanted = users @ planted.T
    log_steps = best_steps(start, bits).log()
    untrained = (users @ quantized(start, log_steps.exp(), bits).T - wanted).square().mean()
    start.requires_grad_(), log_steps.requires_grad_()
    optimizer = torch.optim.Adam([start, log_steps], lr=0.03)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.03 * 0.02 ** (step / 300)
        optimizer.zero_grad()
        loss = (users @ quantized(start, log_steps.exp(), bits).T - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.03 * untrained


# -- the learned rotation


@settings(max_examples=20)
@given(bits=st.sampled_from([1, 2, 4]), size=st.integers(1, 10), seed=st.integers(0, 99))
def test_a_learned_rotation_is_one(bits: int, size: int, seed: int) -> None:
    rows = torch.randn(12, size, generator=torch.Generator().manual_seed(seed))
    rotation = learned_rotation(rows, bits, seed, rounds=3)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(size), rtol=1e-4, atol=1e-4)
    assert torch.equal(rotation, learned_rotation(rows, bits, seed, rounds=3))


def lost(rows: Tensor, rotation: Tensor, bits: int) -> float:
    turned = torch.nn.functional.normalize(rows) @ rotation
    return float(squared_errors(turned, best_steps(turned, bits), bits).mean())


def test_rows_that_a_rotation_makes_exact_are_found_so() -> None:
    """Rows are planted at the corners of a turned cube; turned back, one bit loses nothing."""
    generator = torch.Generator().manual_seed(5)
    corners = torch.randint(0, 2, (400, 6), generator=generator) * 2.0 - 1
    rows = corners @ random_rotation(6, 9) * (1 + torch.rand(400, 1, generator=generator))
    assert lost(rows, random_rotation(6, 0), 1) > 0.02
    assert lost(rows, learned_rotation(rows, 1, 0), 1) < 1e-6


def test_each_round_loses_no_more_than_the_one_before() -> None:
    rows = torch.randn(300, 8, generator=torch.Generator().manual_seed(2)) * torch.logspace(0, -1, 8)
    errors = [lost(rows, learned_rotation(rows, 1, 0, rounds=rounds), 1) for rounds in (0, 1, 2, 5, 20)]
    assert all(after <= before + 1e-6 for before, after in zip(errors, errors[1:]))
    assert errors[-1] < 0.95 * errors[0]


def test_how_long_a_row_is_does_not_matter() -> None:
    """Powers of two, by which lengths are exact."""
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(2))
    scales = torch.tensor([0.25, 1.0, 8.0]).repeat(10).unsqueeze(1)
    torch.testing.assert_close(learned_rotation(scales * rows, 2, seed=3), learned_rotation(rows, 2, seed=3))


def test_rows_of_zeros_take_no_part_and_alone_leave_a_random_rotation() -> None:
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([rows, torch.zeros(9, 4)])
    assert torch.equal(learned_rotation(rows, 1, 0), learned_rotation(padded, 1, 0))
    assert torch.equal(learned_rotation(torch.zeros(3, 4), 1, 0), random_rotation(4, 0))
