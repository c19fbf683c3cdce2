"""Recommendations from an export: those of the obvious product, in any bits, and every mistake a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from recbole_derrd.compression.codebook_table import CodebookTable
from recbole_derrd.compression.tables import QuantizedTable
from recbole_derrd.errors import DataError, DistillError, OptionError
from recbole_derrd.ops.residual import codeword_sums
from recbole_derrd.serving import Recommender
from recbole_derrd.serving.arrays import read_safetensors
from recbole_derrd.serving.codes import decode
from recbole_derrd.serving.layout import CARD
from recbole_derrd.serving.ranking import best
from recbole_derrd.serving.writing import write_card, write_identities, write_seen, write_vectors

USERS, ITEMS, SIZE, SEEN = 30, 200, 12, 7
#: Ids may hold any characters.
NAMES = [f'i,{row}\n"é\ud800' for row in range(ITEMS)]


def tables(seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    draw = np.random.default_rng(seed)
    return tuple(draw.normal(size=(count, SIZE)).astype(np.float32) for count in (USERS, ITEMS))  # type: ignore[return-value]


def quantized(table: np.ndarray[Any, Any], bits: int) -> QuantizedTable:
    return QuantizedTable.of(torch.from_numpy(table), bits)


def in_codebooks(codewords: int = 256, codebooks: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    draw = np.random.default_rng(1)
    return {
        "codes": draw.integers(0, codewords, (ITEMS, codebooks), dtype=np.uint8),
        "codebooks": draw.normal(size=(codebooks, codewords, SIZE)).astype(np.float16),
    }


def write(
    folder: Path, bits: int = 32, kind: str = "npy", coded: dict[str, np.ndarray[Any, Any]] | None = None, **more: Any
) -> Path:
    """Write an export; user u<r> has seen the items r ... r + 6. Items may be coded in codebooks."""
    folder.mkdir()
    units = {}
    for side, table in zip(("user", "item"), tables()):
        arrays = {"embeddings": table}
        if bits != 32:
            made = quantized(table, bits)
            arrays = {"codes": made.packed.numpy(), "scales": made.scales.numpy()}
            units[side] = float(made.unit)
        write_vectors(folder, side, coded if coded and side == "item" else arrays, kind)
    write_identities(folder, [f"u{row}" for row in range(USERS)], NAMES)
    seen = np.concatenate([np.arange(row, row + SEEN) for row in range(USERS)])
    write_seen(folder, np.arange(USERS + 1) * SEEN, seen)
    embedding = {"size": SIZE, "bits": bits, "format": kind, "units": units, **more}
    write_card(folder, {"model": "BPR", "users": USERS, "items": ITEMS, "embedding": embedding})
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("exports") / "plain")


def test_it_imports_numpy_alone_and_at_once() -> None:
    code = (
        "import sys, time, numpy\nstarted = time.perf_counter()\n"
        "from recbole_derrd.serving import Recommender\nimport recbole_derrd.runtime.files\n"
        "print(time.perf_counter() - started)\n"
        "heavy = {'torch', 'pandas', 'recbole', 'scipy', 'sklearn', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    seconds = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
               for _ in range(3)]  # fmt: skip
    assert min(seconds) < 0.2


@given(
    scores=arrays_of.arrays(np.float32, st.integers(1, 120), elements=st.sampled_from([-np.inf, -1, 0, 0.5, 2, 3])),
    count=st.integers(1, 40),
)
def test_the_best_are_those_of_a_stable_sort(scores: np.ndarray[Any, Any], count: int) -> None:
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    assert best(scores, count).tolist() == [place for place in order if scores[place] > -np.inf][:count]


def test_rankings_are_those_of_the_product(export: Path) -> None:
    model, (users, items) = Recommender.load(export), tables()
    scores = users @ items.T
    for row in range(USERS):
        wanted = np.argsort(-scores[row], kind="stable")
        found = model.recommend(f"u{row}", k=15, exclude_seen=False)
        assert [one.item for one in found] == [NAMES[place] for place in wanted[:15]]
        assert [one.score for one in found] == pytest.approx(scores[row][wanted[:15]].tolist(), rel=1e-5)
        unseen = [NAMES[place] for place in wanted if not row <= place < row + SEEN]
        assert [one.item for one in model.recommend(f"u{row}", k=15)] == unseen[:15]
    assert len(model.recommend("u3", k=10_000)) == ITEMS - SEEN
    assert model.user_ids[3] == "u3" and model.item_ids == NAMES


def test_many_users_are_each_one_by_one(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Recommender.load(export)
    monkeypatch.setattr("recbole_derrd.serving.recommender._USERS", 4)
    found = dict(model.recommend_many(["u9", *model.user_ids[:8]], k=5))
    assert list(found) == ["u9", *model.user_ids[:8]]
    assert all([one.item for one in model.recommend(user, 5)] == [one.item for one in found[user]] for user in found)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
def test_few_bits_are_those_of_compression(
    tmp_path: Path, bits: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_derrd.serving.vectors._BLOCK", 17 * SIZE)
    model = Recommender.load(write(tmp_path / "few", bits, kind))
    users, items = (quantized(table, bits).rows().numpy() for table in tables())
    assert np.array_equal(model._user_vectors.rows(slice(None)), users)
    assert np.array_equal(np.concatenate([block for _, block in model._item_vectors.blocks()]), items)
    wanted = np.sort(users @ items.T, axis=1)[:, ::-1][:, :9]
    lists = [model.recommend(user, 9, exclude_seen=False) for user in model.user_ids]
    assert np.allclose([[one.score for one in ranking] for ranking in lists], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize("codewords", [1, 7, 256])
@pytest.mark.parametrize("codebooks", [1, 3])
def test_codebooks_are_those_of_compression(
    tmp_path: Path, codebooks: int, codewords: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_derrd.serving.vectors._BLOCK", 17 * SIZE)
    monkeypatch.setattr("recbole_derrd.serving.codewords._BLOCK", 5 * SIZE)
    coded = in_codebooks(codewords, codebooks)
    model = Recommender.load(write(tmp_path / "coded", 32, kind, coded, item_codebooks=codebooks))
    codes, given = (torch.from_numpy(coded[name]) for name in ("codes", "codebooks"))
    table = CodebookTable(codes.unsqueeze(2), given)
    assert table.shared_bytes == 2 * given.numel() and table.rows().dtype == torch.float32
    assert torch.equal(table.rows(), codeword_sums(codes, given.float()))
    items = table.rows().numpy()
    assert np.array_equal(np.concatenate([block for _, block in model._item_vectors.blocks()]), items)
    assert np.array_equal(model._item_vectors.rows(np.array([5, 3, 5])), items[[5, 3, 5]])
    # Few queries look their products up, many multiply the rows.
    queries = tables()[0]
    few, many = (model._item_vectors.products(np.tile(queries[:5], (times, 1)))[:5] for times in (1, 4))
    assert few.dtype == many.dtype == np.float32
    assert np.allclose(few, queries[:5] @ items.T, rtol=1e-4, atol=1e-5) and np.allclose(
        few, many, rtol=1e-4, atol=1e-5
    )
    wanted = np.sort(tables()[0] @ items.T, axis=1)[:, ::-1][:, :9]
    lists = [model.recommend(user, 9, exclude_seen=False) for user in model.user_ids]
    assert np.allclose([[one.score for one in ranking] for ranking in lists], wanted, rtol=1e-4, atol=1e-5)


def test_codebooks_are_searched_in_two_stages_as_float32_is(tmp_path: Path) -> None:
    coded = in_codebooks()
    items = CodebookTable(*(torch.from_numpy(one) for one in (coded["codes"][:, :, None], coded["codebooks"]))).rows()
    folders = (
        write(tmp_path / "coded", coded=coded, item_codebooks=3),
        write(tmp_path / "plain", coded={"embeddings": items.numpy()}),
    )
    one, other = (Recommender.load(folder, search="two_stage", candidates=4) for folder in folders)
    for user in one.user_ids:
        assert one.recommend(user, 5) == [(item, pytest.approx(score)) for item, score in other.recommend(user, 5)]
    assert [found.item for found in one.similar(NAMES[3], 5)] == [found.item for found in other.similar(NAMES[3], 5)]
    wanted = [found.item for found in other.recommend_from(NAMES[:4], 5)]
    assert [found.item for found in one.recommend_from(NAMES[:4], 5)] == wanted


def _not_finite(coded: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    coded["codebooks"][1, 2, 3] = np.inf
    return coded


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (lambda coded: {**coded, "codes": coded["codes"][:-1]}, {}, "not 200 of 12 dimensions in 3 codebooks"),
        (lambda coded: {**coded, "codes": coded["codes"][:, 1:]}, {}, "not 200 of 12 dimensions in 3 codebooks"),
        (lambda coded: {**coded, "codebooks": coded["codebooks"][:2]}, {}, "dimensions in 3 codebooks"),
        (lambda coded: {**coded, "codebooks": coded["codebooks"][:, :0]}, {}, "dimensions in 3 codebooks"),
        (lambda coded: {**coded, "codebooks": np.repeat(coded["codebooks"], 40, axis=1)}, {}, "in 3 codebooks"),
        (lambda coded: {**coded, "codebooks": coded["codebooks"][:, :, 1:]}, {}, "dimensions in 3 codebooks"),
        (lambda coded: {**coded, "codebooks": coded["codebooks"][0]}, {}, "damaged"),
        (lambda coded: {**coded, "codebooks": coded["codebooks"].astype(np.float32)}, {}, "damaged"),
        (lambda coded: {**coded, "codebooks": coded["codebooks"][:, :-1]}, {}, "codewords that there are not"),
        (_not_finite, {}, "no finite number"),
        (lambda coded: coded, {"item_codebooks": 4}, "dimensions in 4 codebooks"),
        (lambda coded: coded, {"item_codebooks": 0}, "item_codebooks is 0"),
        (lambda coded: coded, {"item_codebooks": 2.5}, "item_codebooks is 2.5"),
        (lambda coded: coded, {"bits": 8}, "in 3 codebooks and in 8 bits"),
        (lambda coded: {"codes": coded["codes"]}, {}, "damaged"),
        (lambda coded: {"embeddings": tables()[1]}, {}, "damaged"),
    ],
)
def test_codebooks_that_do_not_fit_are_a_sentence(
    tmp_path: Path, change: Any, more: dict[str, Any], words: str, kind: str
) -> None:
    folder = write(tmp_path / "export", kind=kind, coded=change(in_codebooks(7)), **{"item_codebooks": 3, **more})
    with pytest.raises(DataError) as caught:
        Recommender.load(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize("size", [1, 3, 8, 13])
@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
def test_rows_that_do_not_fill_their_last_byte(size: int, bits: int) -> None:
    made = quantized(np.random.default_rng(size).normal(size=(20, size)).astype(np.float32), bits)
    found = decode(made.packed.numpy(), made.scales.numpy(), float(made.unit), bits, size)
    assert np.array_equal(found, made.rows().numpy())


def test_safetensors_hold_what_they_were_given(tmp_path: Path) -> None:
    folder = write(tmp_path / "safe", 32, "safetensors")
    assert np.array_equal(read_safetensors(folder / "items.safetensors")["embeddings"], tables()[1])
    plain = [one.item for one in Recommender.load(write(tmp_path / "plain")).recommend("u1")]
    assert [one.item for one in Recommender.load(folder).recommend("u1")] == plain


def test_a_new_user_gets_what_the_formula_says(export: Path) -> None:
    model, (_, items) = Recommender.load(export), tables()
    own = [4, 9, 100]
    vectors, every = items[own].astype(float), items.astype(float)
    gram = every.T @ every / ITEMS
    ridge = 10 * np.trace(gram) / SIZE

    def loss(user: np.ndarray[Any, Any]) -> float:
        return float(((1 - vectors @ user) ** 2).mean() + ((every @ user) ** 2).mean() + ridge * user @ user)

    from recbole_derrd.serving.fold_in import folded_in

    user = folded_in(items[own], gram).astype(float)
    for direction in np.random.default_rng(1).normal(size=(50, SIZE)):
        assert loss(user) <= loss(user + 1e-3 * direction)
    wanted = [NAMES[place] for place in np.argsort(-(every @ user)) if place not in own][:8]
    found = model.recommend_from([NAMES[place] for place in [*own, 4]], k=8)
    assert [one.item for one in found] == wanted
    assert NAMES[4] in [one.item for one in model.recommend_from([NAMES[4]], k=1, exclude_seen=False)]


def test_similar_items_are_by_cosine(export: Path) -> None:
    model, (_, items) = Recommender.load(export), tables()
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    cosines = unit @ unit[5]
    wanted = [place for place in np.argsort(-cosines) if place != 5][:6]
    found = model.similar(NAMES[5], k=6)
    assert [one.item for one in found] == [NAMES[place] for place in wanted]
    assert [one.score for one in found] == pytest.approx(cosines[wanted].tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda model: model.recommend("nobody"), "There is no user 'nobody' in this export."),
        (lambda model: model.recommend_many(["u1", "x", "y"]), "2 of the 3 users are not in this export: 'x', 'y'."),
        (lambda model: model.recommend_many(list("abcdefgh")), "'a', 'b', 'c' and 5 more"),
        (lambda model: model.recommend(7), "There is no user 7"),
        (lambda model: model.similar("thing"), "There is no item 'thing'"),
        (lambda model: model.recommend_from(["thing", NAMES[0]]), "1 of the 2 items are not"),
        (lambda model: model.recommend_from([]), "at least one item"),
        (lambda model: model.recommend("u1", k=0), "whole number from 1 on, but is 0"),
        (lambda model: model.recommend("u1", k=2.5), "but is 2.5"),
        (lambda model: model.similar(NAMES[0], k=True), "but is True"),
    ],
)
def test_a_wrong_question_is_a_sentence(export: Path, ask: Any, words: str) -> None:
    with pytest.raises((DataError, OptionError)) as caught:
        ask(Recommender.load(export))
    assert words in str(caught.value)


@pytest.mark.parametrize("bits", [4, 32])
def test_every_changed_byte_of_every_file_is_found(tmp_path: Path, bits: int) -> None:
    """Of few bits, and of codebooks."""
    more = {"coded": in_codebooks(), "item_codebooks": 3} if bits == 32 else {}
    folder = write(tmp_path / "export", bits, **more)  # type: ignore[arg-type]
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for damaged in (content[:-4], content[: len(content) // 2], b"", content[:-3] + bytes([content[-3] ^ 1])
                        + content[-2:]):  # fmt: skip
            file.write_bytes(damaged)
            with pytest.raises(DataError, match="is damaged"):
                Recommender.load(folder)
        file.unlink()
        with pytest.raises(DataError, match=r"missing|is no export"):
            Recommender.load(folder)
        file.write_bytes(content)
    assert Recommender.load(folder).recommend("u1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "is of format 2, not 1"),
        ({"users": USERS + 1}, "damaged"),
        ({"items": -1}, "items is -1"),
        ({"embedding": None}, "holds no embeddings, because BPR has none"),
        ({"embedding": {"size": SIZE, "bits": 32, "format": "parquet", "units": None}}, "Export the model with"),
        ({"embedding": {"size": SIZE, "bits": 32, "format": "other", "units": None}}, "other in 32 bits"),
        ({"embedding": {"size": SIZE, "bits": 5, "format": "npy", "units": None}}, "npy in 5 bits"),
        ({"embedding": {"size": SIZE + 1, "bits": 32, "format": "npy", "units": None}}, "are not 30 of 13 dimensions"),
        ({"embedding": {"size": SIZE, "bits": 4, "format": "npy", "units": None}}, "codes.npy' is missing"),
    ],
)
def test_a_card_of_something_else_is_a_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    from recbole_derrd.runtime.stored_arrays import sealed

    folder = write(tmp_path / "export")
    card = json.loads((folder / CARD).read_text())
    del card["seal"]
    (folder / CARD).write_text(sealed({**card, **change}))
    with pytest.raises(DistillError) as caught:
        Recommender.load(folder)
    assert words in str(caught.value)


def test_what_is_no_export_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("none", "file", "."):
        with pytest.raises(DataError, match="Make one by 'recbole-derrd export'"):
            Recommender.load(tmp_path / place)
