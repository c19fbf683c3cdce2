"""Rotation, steps and packing: against slow references, by invariants, and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recbole_derrd.compression import tables as tables_module
from recbole_derrd.compression.tables import PlainTable, QuantizedTable
from recbole_derrd.ops import quantize as quantize_module
from recbole_derrd.ops.packing import pack, packed_size, unpack
from recbole_derrd.ops.quantize import best_steps, encode, levels, squared_errors
from recbole_derrd.ops.rotation import random_rotation

ALL_BITS = range(1, 9)


def drawn(rows: int, size: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


# -- packing


def bytes_of(row: list[int], bits: int) -> list[int]:
    """Write codes one bit after the other, lowest first."""
    stream = "".join(format(code, f"0{bits}b")[::-1] for code in row)
    stream += "0" * (-len(stream) % 8)
    return [int(stream[at : at + 8][::-1], 2) for at in range(0, len(stream), 8)]


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), size=st.integers(1, 40), rows=st.integers(0, 5), seed=st.integers(0, 99))
def test_packing_goes_there_and_back_in_the_fewest_whole_bytes(bits: int, size: int, rows: int, seed: int) -> None:
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**bits, (rows, size), dtype=np.uint8))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (rows, math.ceil(size * bits / 8))
    assert packed.tolist() == [bytes_of(row, bits) for row in codes.tolist()]
    assert torch.equal(unpack(packed, bits, size), codes)


def test_packed_bytes_worked_out_by_hand() -> None:
    # 3 bits, lowest first: 5 = 101, 1 = 100, 6 = 011 -> 10110001 1....... -> 0b10001101 = 141 and 1.
    assert pack(torch.tensor([[5, 1, 6]], dtype=torch.uint8), 3).tolist() == [[141, 1]]
    assert [packed_size(106, 3), packed_size(80, 1), packed_size(160, 4)] == [40, 10, 80]


# -- rotation


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 24), seed=st.integers(0, 999))
def test_a_rotation_leaves_scores_as_they_are(size: int, seed: int) -> None:
    rotation = random_rotation(size, seed)
    users, items = drawn(7, size, seed), drawn(9, size, seed + 1)
    torch.testing.assert_close((users @ rotation) @ (items @ rotation).T, users @ items.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(size), rtol=1e-5, atol=1e-5)
    assert torch.equal(rotation, random_rotation(size, seed))


def test_a_rotation_is_random_and_makes_dimensions_alike() -> None:
    assert not torch.equal(random_rotation(8, 0), random_rotation(8, 1))
    # Uniformly distributed, each entry has mean 0: a QR whose signs LAPACK chose would not.
    mean = torch.stack([random_rotation(3, seed) for seed in range(2000)]).mean(dim=0)
    assert mean.abs().max() < 0.06
    lopsided = drawn(500, 16) * torch.logspace(0, -3, 16)
    spread = (lopsided @ random_rotation(16, 0)).std(dim=0)
    assert spread.max() / spread.min() < 10 < 100 < lopsided.std(dim=0).max() / lopsided.std(dim=0).min()


# -- one row's quantisation


def decoded(row: list[float], step: float, bits: int) -> list[float]:
    """Give each number its nearest level (q - (2^b - 1) / 2) step, one after the other."""
    every = [(code - (2**bits - 1) / 2) * step for code in range(2**bits)]
    return [min(every, key=lambda level: abs(level - number)) for number in row]


@pytest.mark.parametrize("bits", ALL_BITS)
def test_codes_are_the_nearest_levels(bits: int) -> None:
    rows, steps = drawn(6, 11, bits), torch.rand(6, generator=torch.Generator().manual_seed(1)) + 0.1
    found = levels(encode(rows, steps, bits), bits) * steps.unsqueeze(1)
    for row, step, own in zip(rows.tolist(), steps.tolist(), found.tolist()):
        wanted = decoded(row, step, bits)
        # Halfway between two levels either is nearest.
        assert [abs(a - b) for a, b in zip(own, row)] == pytest.approx(
            [abs(a - b) for a, b in zip(wanted, row)], abs=1e-5
        )


@pytest.mark.parametrize("bits", ALL_BITS)
def test_steps_are_nearly_those_of_a_search_over_thousands(bits: int) -> None:
    rows = torch.cat([drawn(4, 200, bits), drawn(4, 200, bits).pow(3)])
    found = squared_errors(rows, best_steps(rows, bits), bits)
    for row, error in zip(rows, found.tolist()):
        tried = torch.linspace(0.001, 2.2, 4000) * row.abs().max() / ((2**bits - 1) / 2)
        best = float(squared_errors(row.expand(len(tried), -1), tried, bits).min())
        assert error <= 1.2 * best + 1e-9


def test_one_bit_is_the_sign_times_the_mean_magnitude_which_no_other_step_beats() -> None:
    rows = drawn(20, 15)
    steps = best_steps(rows, 1)
    torch.testing.assert_close(steps / 2, rows.abs().mean(dim=1))
    error = squared_errors(rows, steps, 1)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert bool((squared_errors(rows, factor * steps, 1) > error).all())


def slow_error(row: list[float], bits: int) -> float:
    """Return the least squared error of the steps that are tried, and of the least squares' for the codes of each."""
    outermost, errors = (2**bits - 1) / 2, []

    def coded(step: float) -> list[float]:
        return [min(max(math.floor(one / step) + 0.5, -outermost), outermost) for one in row]

    for share in range(46):
        tried = (0.1 + 0.02 * share) * max(map(abs, row)) / outermost
        found = coded(tried)
        refined = sum(one * level for one, level in zip(row, found)) / sum(level * level for level in found)
        errors += [sum((one - step * level) ** 2 for one, level in zip(row, coded(step))) for step in (tried, refined)]
    return min(errors)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_steps_are_those_of_the_slow_search(bits: int) -> None:
    rows = drawn(12, 9).pow(3)
    errors = squared_errors(rows, best_steps(rows, bits), bits).tolist()
    assert errors == pytest.approx([slow_error(row, bits) for row in rows.double().tolist()], rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(3, 60), seed=st.integers(0, 999), power=st.sampled_from([1, 3]))
@pytest.mark.slow
def test_more_bits_are_better_on_average(size: int, seed: int, power: int) -> None:
    """Over rows that weigh the same; in one short row a bit more may lose, since it has other levels."""
    rows = drawn(64, size, seed).pow(power)
    tables = [QuantizedTable.of(rows, bits).rows() for bits in ALL_BITS]
    errors = [float(((table - rows).square().sum(dim=1) / rows.square().sum(dim=1)).mean()) for table in tables]
    assert errors == sorted(errors, reverse=True)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 60), seed=st.integers(0, 999), power=st.sampled_from([1, 3]), bits=st.sampled_from(ALL_BITS))
@example(size=2, seed=364, power=3, bits=8)
def test_no_row_is_worse_than_with_levels_over_its_whole_range(size: int, seed: int, power: int, bits: int) -> None:
    """Which also bounds the error: each number is within half a step, largest / (2^b - 1), of its level."""
    rows = drawn(64, size, seed).pow(power)
    largest = rows.abs().amax(dim=1)
    error, rounding = squared_errors(rows, best_steps(rows, bits), bits), 1e-5 * largest.square()
    assert bool((error <= squared_errors(rows, 2 * largest / (2**bits - 1), bits) + rounding).all())
    assert bool((error <= size * (largest / (2**bits - 1)).square() + rounding).all())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("factor", [-3.0, 1e-12, 1e12])
def test_quantisation_knows_no_unit(bits: int, factor: float) -> None:
    """Scales are float16, whose range ends at 65504 and 6e-8; a table of any magnitude fits."""
    rows = drawn(8, 12)
    found = QuantizedTable.of(factor * rows, bits).rows()
    torch.testing.assert_close(found, factor * QuantizedTable.of(rows, bits).rows(), rtol=2e-2, atol=2e-2 * abs(factor))


def test_tables_worked_out_by_hand() -> None:
    # 1 bit: mean magnitudes 2 and 4.
    table = QuantizedTable.of(torch.tensor([[3.0, -1.0, 2.0, -2.0], [-4.0, -4.0, 4.0, 4.0]]), 1)
    assert table.rows().tolist() == [[2, -2, 2, -2], [-4, -4, 4, 4]]
    assert table.packed.tolist() == [[0b0101], [0b1100]] and table.scales.tolist() == [0.5, 1.0]
    # 2 bits: levels ±1 and ±3 with step 2 meet every number; codes 3, 0, 2, 1 are 11 00 01 10 lowest bit first.
    table = QuantizedTable.of(torch.tensor([[3.0, -3.0, 1.0, -1.0]]), 2)
    assert table.rows().tolist() == [[3, -3, 1, -1]] and table.packed.tolist() == [[3 + (2 << 4) + (1 << 6)]]


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("size", [1, 7, 106, 200])
def test_bytes_are_those_stored(bits: int, size: int) -> None:
    table = QuantizedTable.of(drawn(9, size), bits)
    arrays = table.arrays()
    assert table.bytes_a_row == math.ceil(size * bits / 8) + 2
    stored = sum(array.numel() * array.element_size() for array in arrays.values())
    assert stored == 9 * table.bytes_a_row + table.shared_bytes


def test_rows_of_zeros_and_rows_by_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = drawn(50, 10)
    embeddings[0] = 0
    whole = QuantizedTable.of(embeddings, 3)
    assert not whole.rows()[0].any() and not QuantizedTable.of(torch.zeros(3, 4), 5).rows().any()
    ids = torch.tensor([3, 0, 3, 49])
    assert torch.equal(whole.rows(ids), whole.rows()[ids])
    monkeypatch.setattr(tables_module, "_CHUNK_NUMBERS", 25)
    chunked = QuantizedTable.of(embeddings, 3)
    assert torch.equal(chunked.packed, whole.packed) and torch.equal(chunked.rows(), whole.rows())
    assert torch.equal(PlainTable(embeddings).rows(ids), embeddings[ids])


def test_memory_is_bounded_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single bits of a large table are never all in memory at once."""
    largest: list[int] = []
    original = tables_module.pack

    def spy(codes: torch.Tensor, bits: int) -> Any:
        largest.append(codes.numel())
        return original(codes, bits)

    monkeypatch.setattr(tables_module, "pack", spy)
    monkeypatch.setattr(tables_module, "_CHUNK_NUMBERS", 1000)
    QuantizedTable.of(drawn(500, 20), 2)
    assert max(largest) <= 1000


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_steps_are_those_of_the_row_in_blocks_of_any_size(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that are wider than a block is large, too."""
    rows = torch.randn(9, 7, generator=torch.Generator().manual_seed(5))
    whole = best_steps(rows, bits)
    for numbers in (5, 20):
        monkeypatch.setattr(quantize_module, "_CHUNK_NUMBERS", numbers)
        assert torch.equal(best_steps(rows, bits), whole)
