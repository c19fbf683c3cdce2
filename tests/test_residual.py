"""Residual quantisation: sums of codewords against slow loops, and codes that leave little over."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_derrd.ops import residual
from recbole_derrd.ops.residual import centres_of, codes_of, codeword_sums, residual_codes


def some_rows(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def left_over(rows: Tensor, codes: Tensor, codebooks: Tensor) -> float:
    return float((rows - codeword_sums(codes, codebooks)).square().sum())


class TestSums:
    """codeword_sums."""

    @given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
    @settings(max_examples=40)
    def test_reference(self, count: int, levels: int, codewords: int, size: int, seed: int) -> None:
        codebooks = torch.randn(levels, codewords, size, generator=torch.Generator().manual_seed(seed))
        codes = torch.randint(codewords, (count, levels), generator=torch.Generator().manual_seed(seed))
        expected = []
        for row in codes.tolist():
            total = [0.0] * size
            for level, code in enumerate(row):
                total = [one + other for one, other in zip(total, codebooks[level][code].tolist())]
            expected.append(total)
        torch.testing.assert_close(codeword_sums(codes.to(torch.uint8), codebooks), torch.tensor(expected))

    def test_gradcheck(self) -> None:
        codebooks = some_rows(6, 2).view(2, 3, 2).double().requires_grad_()
        codes = torch.tensor([[0, 2], [0, 1], [2, 2]], dtype=torch.uint8)
        assert torch.autograd.gradcheck(lambda books: codeword_sums(codes, books), (codebooks,))

    def test_a_codeword_has_the_gradients_of_its_rows(self) -> None:
        codebooks = torch.zeros(2, 3, 1, requires_grad=True)
        rows = codeword_sums(torch.tensor([[0, 2], [0, 1], [2, 2]]), codebooks)
        (rows.squeeze(1) * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
        assert codebooks.grad is not None and codebooks.grad.squeeze(2).tolist() == [[11, 0, 100], [0, 10, 101]]


class TestCodes:
    """residual_codes and codes_of."""

    def test_each_codebook_leaves_less_over(self) -> None:
        rows = some_rows(2000, 6)
        errors = [left_over(rows, *residual_codes(rows, levels, seed=1)) for levels in (1, 2, 3, 4)]
        assert errors[0] < 0.5 * float(rows.square().sum())
        assert all(later < 0.6 * earlier for earlier, later in zip(errors, errors[1:]))

    def test_codes_are_of_the_nearest_codewords_where_there_is_one_codebook(self) -> None:
        rows = some_rows(700, 4)
        codes, codebooks = residual_codes(rows, 1, seed=0)
        assert codes.dtype == torch.uint8 and codes.shape == (700, 1) and codebooks.shape == (1, 256, 4)
        assert codes[:, 0].tolist() == torch.cdist(rows, codebooks[0]).argmin(dim=1).tolist()

    def test_a_beam_leaves_less_over_than_the_nearest_in_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = some_rows(1500, 8)
        _, codebooks = residual_codes(rows, 4, seed=0)
        beam = codes_of(rows, codebooks)
        left, turn = rows.clone(), []
        for codebook in codebooks:
            turn.append(torch.cdist(left, codebook).argmin(dim=1))
            left -= codebook[turn[-1]]
        monkeypatch.setattr(residual, "_BEAM", 1)
        assert codes_of(rows, codebooks).tolist() == torch.stack(turn, dim=1).tolist()
        assert left_over(rows, beam, codebooks) < 0.97 * float(left.square().sum())

    def test_planted_codewords_are_found(self) -> None:
        """Sums of far and near codewords: 3 directions, and 2 steps along another."""
        far = 100 * torch.eye(3, 4)
        near = torch.tensor([[0.0, 0, 0, 1], [0.0, 0, 0, -1]])
        rows = (far.unsqueeze(1) + near).flatten(0, 1).repeat(60, 1)
        codes, codebooks = residual_codes(rows, 2, seed=0)
        assert left_over(rows, codes, codebooks) < 1e-6 * float(rows.square().sum())

    @pytest.mark.parametrize("count", [1, 2, 255, 300])
    def test_few_rows_have_as_many_codewords(self, count: int) -> None:
        rows = some_rows(count, 3)
        codes, codebooks = residual_codes(rows, 2, seed=0)
        assert codebooks.shape == (2, min(256, count), 3)
        if count <= 256:
            torch.testing.assert_close(codeword_sums(codes, codebooks), rows, atol=1e-5, rtol=1e-4)

    def test_equal_rows_and_zeros(self) -> None:
        """Of equal rows all centres but one are nearest to none."""
        for rows in (torch.ones(400, 3), torch.zeros(400, 3)):
            codes, codebooks = residual_codes(rows, 3, seed=0)
            assert bool(codebooks.isfinite().all())
            torch.testing.assert_close(codeword_sums(codes, codebooks), rows)

    def test_blocks_and_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = some_rows(600, 4)
        codes, codebooks = residual_codes(rows, 3, seed=0)
        monkeypatch.setattr(residual, "_DISTANCES_AT_ONCE", 10_000)
        in_blocks, same = residual_codes(rows, 3, seed=0)
        torch.testing.assert_close(same, codebooks)
        assert (in_blocks == codes).double().mean() > 0.999
        monkeypatch.setattr(residual, "_MOST_ROWS", 400)
        sampled, others = residual_codes(rows, 3, seed=0)
        assert len(sampled) == 600 and not torch.equal(others, codebooks)
        assert left_over(rows, sampled, others) < 0.1 * float(rows.square().sum())

    def test_seed_decides(self) -> None:
        rows = some_rows(600, 4)
        first, again, other = (residual_codes(rows, 2, seed) for seed in (3, 3, 4))
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
        assert not torch.equal(first[1], other[1])


class TestCentres:
    """centres_of."""

    def test_planted_clusters(self) -> None:
        means = 50 * some_rows(4, 3, seed=1)
        rows = (means.unsqueeze(1) + 0.1 * some_rows(4 * 100, 3).view(4, 100, 3)).flatten(0, 1)
        best = min(
            float(torch.cdist(rows, centres_of(rows, 4, torch.Generator().manual_seed(seed))).amin(dim=1).sum())
            for seed in range(8)
        )
        assert best < 0.3 * len(rows)

    def test_a_centre_is_the_mean_of_its_rows(self) -> None:
        rows = some_rows(900, 2)
        centres = centres_of(rows, 5, torch.Generator().manual_seed(0))
        nearest = torch.cdist(rows, centres).argmin(dim=1)
        for number, centre in enumerate(centres):
            torch.testing.assert_close(centre, rows[nearest == number].mean(dim=0), atol=0.05, rtol=0.05)
