"""Levels for Gaussian numbers and their scales: against published values, slow references, and by invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_derrd.compression import tables as tables_module
from recbole_derrd.compression.tables import LloydMaxTable, QuantizedTable
from recbole_derrd.ops.lloyd_max import best_scales, encode_nearest, gaussian_levels, squared_errors_of

BITS = (1, 2, 3, 4)


def drawn(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("bits", "levels"),
    [
        # Max, "Quantizing for Minimum Distortion", IRE Transactions on Information Theory 1960, table I.
        (1, [0.7980]),
        (2, [0.4528, 1.510]),
        (3, [0.2451, 0.7560, 1.344, 2.152]),
        (4, [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733]),
    ],
)
def test_levels_are_the_published_ones(bits: int, levels: list[float]) -> None:
    found = gaussian_levels(bits).tolist()
    assert found[2 ** (bits - 1) :] == pytest.approx(levels, abs=6e-4)
    assert found == pytest.approx([-level for level in reversed(found)], abs=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_levels_are_those_of_a_slow_search_on_a_grid(bits: int) -> None:
    """The same alternation on a fine histogram of the density, with plain numpy."""
    grid = np.linspace(-8, 8, 160_001)
    weight = np.exp(-(grid**2) / 2)
    mass, moment = (np.concatenate([[0], part.cumsum()]) for part in (weight, weight * grid))
    levels = np.linspace(-2, 2, 2**bits + 2)[1:-1]
    for _ in range(600):
        edges = [0, *np.searchsorted(grid, (levels[1:] + levels[:-1]) / 2), len(grid)]
        levels = np.diff(moment[edges]) / np.diff(mass[edges])
    assert gaussian_levels(bits).tolist() == pytest.approx(levels.tolist(), abs=2e-3)


@pytest.mark.parametrize("bits", (2, 3, 4))
def test_gaussian_rows_lose_less_than_by_uniform_levels(bits: int) -> None:
    rows = drawn(200, 400)
    errors = [float((table.of(rows, bits).rows() - rows).square().mean()) for table in (LloydMaxTable, QuantizedTable)]
    assert errors[0] < 0.99 * errors[1]
    # Max's table I: mean squared errors of 4, 8 and 16 levels; a row's own scale lowers them.
    unscaled = float(squared_errors_of(rows, torch.ones(200), gaussian_levels(bits)).mean()) / 400
    assert unscaled == pytest.approx({2: 0.1175, 3: 0.03454, 4: 0.009497}[bits], rel=0.02)
    assert errors[0] < unscaled


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_the_nearest_levels(bits: int) -> None:
    rows, levels = drawn(6, 11, bits), gaussian_levels(bits)
    scales = torch.rand(6, generator=torch.Generator().manual_seed(1)) + 0.1
    codes = encode_nearest(rows, scales, levels)
    assert codes.dtype == torch.uint8
    for row, scale, own in zip(rows.tolist(), scales.tolist(), codes.tolist()):
        for number, code in zip(row, own):
            distances = [abs(level * scale - number) for level in levels.tolist()]
            assert distances[code] == pytest.approx(min(distances), abs=1e-6)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("power", [1, 3])
def test_scales_are_nearly_those_of_a_search_over_thousands(bits: int, power: int) -> None:
    rows, levels = drawn(5, 80, bits).pow(power), gaussian_levels(bits)
    found = squared_errors_of(rows, best_scales(rows, levels), levels)
    for row, error in zip(rows, found.tolist()):
        tried = torch.linspace(0.001, 3, 4000) * row.square().mean().sqrt()
        best = float(squared_errors_of(row.expand(len(tried), -1), tried, levels).min())
        assert error <= 1.1 * best + 1e-9


def test_one_bit_is_the_sign_times_the_mean_magnitude() -> None:
    rows = drawn(20, 15)
    torch.testing.assert_close(
        best_scales(rows, gaussian_levels(1)) * math.sqrt(2 / math.pi), rows.abs().mean(dim=1), rtol=1e-4, atol=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 40), seed=st.integers(0, 99), bits=st.sampled_from((2, 3, 4)), factor=st.floats(1e-9, 1e9))
def test_quantisation_knows_no_unit_and_no_row_is_worse_than_nothing(
    size: int, seed: int, bits: int, factor: float
) -> None:
    rows = drawn(12, size, seed)
    table = LloydMaxTable.of(factor * rows, bits)
    torch.testing.assert_close(table.rows() / factor, LloydMaxTable.of(rows, bits).rows(), rtol=2e-2, atol=2e-2)
    found = squared_errors_of(rows, best_scales(rows, gaussian_levels(bits)), gaussian_levels(bits))
    assert bool((found <= rows.square().sum(dim=1) + 1e-6).all())


@pytest.mark.parametrize("bits", (2, 3, 4))
@pytest.mark.parametrize("size", [1, 7, 53])
def test_bytes_are_those_stored(bits: int, size: int) -> None:
    table = LloydMaxTable.of(drawn(9, size), bits)
    assert table.bytes_a_row == math.ceil(size * bits / 8) + 2 and table.bits == bits
    stored = sum(array.numel() * array.element_size() for array in table.arrays().values())
    assert stored == 9 * table.bytes_a_row + table.shared_bytes


def test_rows_of_zeros_and_rows_by_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = drawn(50, 10)
    embeddings[0] = 0
    whole = LloydMaxTable.of(embeddings, 3)
    assert not whole.rows()[0].any() and not LloydMaxTable.of(torch.zeros(3, 4), 2).rows().any()
    ids = torch.tensor([3, 0, 3, 49])
    assert torch.equal(whole.rows(ids), whole.rows()[ids])
    monkeypatch.setattr(tables_module, "_CHUNK_NUMBERS", 25)
    chunked = LloydMaxTable.of(embeddings, 3)
    assert torch.equal(chunked.packed, whole.packed) and torch.equal(chunked.rows(), whole.rows())
