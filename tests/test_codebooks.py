"""Codebooks by faiss: against slow references, by invariants, and by hand."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_derrd.compression import codebook_table
from recbole_derrd.compression.additive import additive_rows, local_search_codes, residual_codes
from recbole_derrd.compression.codebook_table import CodebookTable, Coder
from recbole_derrd.compression.product import part_of_dimension, product_codes, product_rotation
from recbole_derrd.errors import OptionError

#: Every way to make codes of 4 bytes, of rows of at least 4 dimensions.
CODERS: dict[str, Coder] = {
    "pq": lambda rows: product_codes(rows, 4, 1),
    "rq": lambda rows: residual_codes(rows, 1, 4, 1),
    "prq": lambda rows: residual_codes(rows, 2, 2, 1),
    "lsq": lambda rows: local_search_codes(rows, 4, 1),
}


def drawn(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def slowly(codes: torch.Tensor, codebooks: torch.Tensor) -> list[list[float]]:
    """Add up the codewords of each number, one after the other."""
    _, levels, parts = codes.shape
    size = codebooks.shape[2]
    cuts = [list(piece) for piece in torch.arange(size).tensor_split(parts)]
    owner = {int(dimension): part for part, piece in enumerate(cuts) for dimension in piece}
    return [
        [
            sum(float(codebooks[level, code[level][owner[j]], j]) for level in range(levels))
            for j in range(size)
        ]
        for code in codes.tolist()
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 9), parts=st.integers(1, 9), levels=st.integers(1, 3), rows=st.integers(0, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_rows_are_sums_of_their_codewords(size: int, parts: int, levels: int, rows: int, seed: int) -> None:
    parts = min(parts, size)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 5, (rows, levels, parts), generator=generator).to(torch.uint8)
    codebooks = torch.randn(levels, 5, size, generator=generator)
    found = additive_rows(codes, codebooks, part_of_dimension(size, parts))
    assert found.shape == (rows, size)
    for row, wanted in zip(found.tolist(), slowly(codes, codebooks)):
        assert row == pytest.approx(wanted, abs=1e-5)


def test_a_row_worked_out_by_hand() -> None:
    codebooks = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]]])
    # The first part has dimensions 0 and 1, the second dimension 2.
    table = CodebookTable(torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8), codebooks)
    assert table.rows().tolist() == [[1 + 40, 2 + 50, 6 + 30]]
    assert table.bytes_a_row == 4 and table.shared_bytes == 4 * 12 and table.size == 3


def test_parts_are_neighbours_and_as_equal_as_can_be() -> None:
    assert part_of_dimension(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert part_of_dimension(200, 80).bincount().unique().tolist() == [2, 3]


def test_product_codes_are_the_nearest_centres() -> None:
    pytest.importorskip("faiss")
    rows = drawn(400, 7)
    codes, centres = product_codes(rows, 3, seed=1)
    assert codes.shape == (400, 1, 3) and codes.dtype == torch.uint8 and centres.shape == (1, 256, 7)
    owner = part_of_dimension(7, 3)
    found = additive_rows(codes, centres, owner)
    for row, code, vector in list(zip(rows, codes[:, 0].tolist(), found))[::20]:
        for part in range(3):
            columns = owner == part
            distances = [float((row[columns] - centre).square().sum()) for centre in centres[0, :, columns]]
            assert distances[code[part]] == pytest.approx(min(distances), abs=1e-5)
            assert torch.equal(vector[columns], centres[0, code[part], columns])


@pytest.mark.parametrize("kind", ["rq", "prq", "lsq"])
def test_what_is_decoded_is_what_faiss_decodes(kind: str) -> None:
    faiss = pytest.importorskip("faiss")
    rows = drawn(400, 7)
    codes, codebooks = CODERS[kind](rows)
    owner = part_of_dimension(7, codes.shape[2])
    found = additive_rows(codes, codebooks, owner)
    for part in range(codes.shape[2]):
        columns = owner == part
        made = (faiss.LocalSearchQuantizer if kind == "lsq" else faiss.ResidualQuantizer)(
            int(columns.sum()), codes.shape[1], 8
        )
        made.is_trained = True
        faiss.copy_array_to_vector(codebooks[:, :, columns].reshape(-1).numpy().copy(), made.codebooks)
        wanted = made.decode(codes[:, :, part].contiguous().numpy().copy())
        torch.testing.assert_close(found[:, columns], torch.from_numpy(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["rq", "prq"])
def test_no_other_last_codeword_is_nearer(kind: str) -> None:
    pytest.importorskip("faiss")
    rows = drawn(400, 6)
    codes, codebooks = CODERS[kind](rows)
    owner = part_of_dimension(6, codes.shape[2])
    found = additive_rows(codes, codebooks, owner)
    for row, code, vector in list(zip(rows, codes[:, -1].tolist(), found))[::40]:
        for part, chosen in enumerate(code):
            columns = owner == part
            left = row[columns] - vector[columns] + codebooks[-1, chosen, columns]
            distances = (left - codebooks[-1][:, columns]).square().sum(dim=1)
            assert float(distances[chosen]) <= float(distances.min()) + 1e-4


@pytest.mark.parametrize("kind", CODERS)
def test_codes_are_the_seeds_alone(kind: str) -> None:
    pytest.importorskip("faiss")
    rows = drawn(300, 8)
    torch.manual_seed(1)
    codes, codebooks = CODERS[kind](rows)
    torch.manual_seed(2)
    again, same = CODERS[kind](rows)
    assert torch.equal(codes, again) and torch.equal(codebooks, same)


@pytest.mark.parametrize("kind", ["pq", "rq", "lsq"])
def test_another_seed_makes_other_codebooks(kind: str) -> None:
    pytest.importorskip("faiss")
    rows = drawn(600, 8)
    coders = {"pq": product_codes, "lsq": local_search_codes}
    books = [residual_codes(rows, 1, 2, seed)[1] if kind == "rq" else coders[kind](rows, 2, seed)[1] for seed in (1, 2)]
    assert not torch.equal(*books)


@pytest.mark.parametrize("kind", CODERS)
def test_tables_count_what_they_store_and_find_rows_by_id(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    rows = drawn(300, 8)
    table = CodebookTable.of(rows, CODERS[kind])
    assert table.bytes_a_row == 4 and table.size == 8 and table.rows().shape == (300, 8)
    stored = sum(array.numel() * array.element_size() for array in table.arrays().values())
    assert stored == 300 * table.bytes_a_row + table.shared_bytes
    ids = torch.tensor([3, 1, 3, 299])
    assert torch.equal(table.rows(ids), table.rows()[ids])
    whole = table.rows()
    monkeypatch.setattr(codebook_table, "_CHUNK_NUMBERS", 30)
    assert torch.equal(table.rows(), whole)


@pytest.mark.parametrize("kind", CODERS)
def test_few_rows_are_exact_and_padding_is_no_example(kind: str) -> None:
    pytest.importorskip("faiss")
    rows = drawn(41, 8)
    table = CodebookTable.of(rows, CODERS[kind])
    torch.testing.assert_close(table.rows()[1:], rows[1:], rtol=1e-2, atol=1e-2)
    other = rows.clone()
    other[0] = 1000
    assert torch.equal(CodebookTable.of(other, CODERS[kind]).codebooks, table.codebooks)


def lost(rows: torch.Tensor, codes: torch.Tensor, codebooks: torch.Tensor) -> float:
    found = additive_rows(codes, codebooks, part_of_dimension(rows.shape[1], codes.shape[2]))
    return float((found - rows).square().mean())


def test_more_bytes_are_better() -> None:
    pytest.importorskip("faiss")
    rows = drawn(600, 12)
    for errors in (
        [lost(rows, *product_codes(rows, parts, 0)) for parts in (1, 3, 6, 12)],
        [lost(rows, *residual_codes(rows, 1, levels, 0)) for levels in (1, 2, 4)],
        [lost(rows, *residual_codes(rows, parts, 2, 0)) for parts in (1, 2, 4)],
        [lost(rows, *local_search_codes(rows, levels, 0)) for levels in (1, 2, 4)],
    ):
        assert errors == sorted(errors, reverse=True)


def test_codewords_of_whole_vectors_lose_less_than_those_of_parts() -> None:
    pytest.importorskip("faiss")
    rows = drawn(2000, 8) @ drawn(8, 8, 1)
    parts, whole = lost(rows, *product_codes(rows, 4, 0)), lost(rows, *residual_codes(rows, 1, 4, 0))
    assert whole < 0.7 * parts


# -- the rotation of product quantisation


@pytest.mark.parametrize("count", [50, 800])
def test_the_learned_rotation_is_one_and_of_its_seed(count: int) -> None:
    pytest.importorskip("faiss")
    rows = drawn(count, 8) * torch.logspace(0, -2, 8)
    rotation = product_rotation(rows, 4, seed=3)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(8), rtol=1e-4, atol=1e-4)
    assert torch.equal(rotation, product_rotation(rows, 4, seed=3))
    assert not torch.equal(rotation, product_rotation(rows, 4, seed=4))


def test_the_learned_rotation_turns_the_right_way() -> None:
    """Turned back, by its transpose, it would be no better than any other."""
    pytest.importorskip("faiss")
    rows = (drawn(2000, 16) * torch.logspace(0, -1.5, 16)) @ torch.linalg.qr(drawn(16, 16, 5))[0]
    rotation = product_rotation(rows, 4, seed=0)
    learned, plain, turned_back = (
        lost(rows @ one, *product_codes(rows @ one, 4, 0)) for one in (rotation, torch.eye(16), rotation.T)
    )
    assert learned < 0.7 * plain and learned < 0.7 * turned_back


# -- what is refused


@pytest.mark.parametrize(
    ("codes", "codebooks", "words"),
    [
        (torch.zeros(3, 1, 2), torch.zeros(1, 4, 5), "not uint8"),
        (torch.zeros(3, 2, dtype=torch.uint8), torch.zeros(1, 4, 5), "not uint8"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(1, 4, 5), "do not fit"),
        (torch.zeros(3, 1, 6, dtype=torch.uint8), torch.zeros(1, 4, 5), "do not fit"),
        (torch.full((3, 1, 2), 4, dtype=torch.uint8), torch.zeros(1, 4, 5), "that there are not"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(codes: torch.Tensor, codebooks: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CodebookTable(codes, codebooks)


def test_without_faiss_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for coder in CODERS.values():
        with pytest.raises(OptionError, match=r"pip install 'recbole_derrd\[ann\]'"):
            coder(drawn(5, 4))
