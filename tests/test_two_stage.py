"""A search in two stages: exact scores of the items that one bit a dimension finds, and nearly the exact search's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_derrd.compression.tables import QuantizedTable
from recbole_derrd.errors import OptionError
from recbole_derrd.serving import Recommender
from recbole_derrd.serving.signs import Signs, rotation
from recbole_derrd.serving.vectors import Vectors
from recbole_derrd.serving.writing import write_card, write_identities, write_seen, write_vectors

USERS, ITEMS, SIZE, SEEN = 40, 3_000, 44, 60
ALL_BITS = (32, 8, 4, 2, 1)


def planted() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Vectors in groups, as a model's are: a common direction, and lengths that differ."""
    draw = np.random.default_rng(0)
    groups = draw.normal(size=(60, SIZE))
    users = groups[draw.integers(60, size=USERS)] + 0.6 * draw.normal(size=(USERS, SIZE))
    items = groups[draw.integers(60, size=ITEMS)] + 0.6 * draw.normal(size=(ITEMS, SIZE)) + draw.normal(size=SIZE)
    return users.astype(np.float32), (items * np.exp(0.3 * draw.normal(size=(ITEMS, 1)))).astype(np.float32)


def stored(table: np.ndarray[Any, Any], bits: int) -> tuple[dict[str, np.ndarray[Any, Any]], float]:
    if bits == 32:
        return {"embeddings": table}, 1.0
    turned = table @ rotation(table.shape[1])
    made = QuantizedTable.of(torch.from_numpy(np.ascontiguousarray(turned)), bits)
    return {"codes": made.packed.numpy(), "scales": made.scales.numpy()}, float(made.unit)


def write(folder: Path, bits: int, items: np.ndarray[Any, Any] | None = None) -> Path:
    """Write an export; each user has seen the 60 items that score highest."""
    folder.mkdir()
    users, given = planted()
    items = given if items is None else items
    units = {}
    for side, table in (("user", users), ("item", items)):
        arrays, units[side] = stored(table, bits)
        write_vectors(folder, side, arrays, "npy")
    write_identities(folder, [f"u{row}" for row in range(USERS)], [f"i{row}" for row in range(len(items))])
    seen = np.sort(np.argsort(-users @ items.T, axis=1)[:, :SEEN], axis=1)
    write_seen(folder, np.arange(USERS + 1) * SEEN, seen.reshape(-1))
    embedding = {"size": SIZE, "bits": bits, "format": "npy", "units": units}
    write_card(folder, {"model": "BPR", "users": USERS, "items": len(items), "embedding": embedding})
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    home = tmp_path_factory.mktemp("two")
    return {bits: write(home / str(bits), bits) for bits in ALL_BITS}


def names(ranking: list[Any]) -> list[str]:
    return [one.item for one in ranking]


def shared(left: dict[str, list[Any]], right: dict[str, list[Any]]) -> float:
    """Return the share of the left rankings' items that the right ones have."""
    found = sum(len({*names(left[user])} & {*names(right[user])}) for user in left)
    return found / sum(map(len, left.values()))


@pytest.mark.parametrize("size", [1, 7, 16, 20, 33])
def test_estimates_are_the_formula(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_derrd.serving.signs._BLOCK", 8)
    draw = np.random.default_rng(size)
    items, query = draw.normal(size=(21, size)).astype(np.float32), draw.normal(size=size).astype(np.float32)
    items[4] = items.mean(axis=0)
    found = Signs(Vectors({"embeddings": items}, size, 32, 1.0, 21)).products(query)
    turn, centre = rotation(size).astype(float), items.astype(float).mean(axis=0)
    for item, estimate in zip(items, found):
        x = (item - centre) @ turn
        signs = [1 if value > 0 else -1 for value in x]
        factor = sum(value**2 for value in x) / max(sum(abs(value) for value in x), 1e-30)
        wanted = query @ centre + factor * sum(q * sign for q, sign in zip(query @ turn, signs))
        assert estimate == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_a_rotation_keeps_inner_products() -> None:
    turn = rotation(33)
    assert np.allclose(turn @ turn.T, np.eye(33), atol=1e-5) and np.array_equal(turn, rotation(33))


def test_one_bit_is_estimated_to_its_score(exports: dict[int, Path]) -> None:
    model = Recommender.load(exports[1])
    query = planted()[0][:1]
    estimates = Signs(model._item_vectors).products(query[0])
    assert np.allclose(estimates, model._item_vectors.products(query)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bits", "least"), [(32, 0.8), (8, 0.8), (4, 0.8), (2, 0.8), (1, 1.0)])
def test_nearly_all_of_the_exact_rankings_are_found(exports: dict[int, Path], bits: int, least: float) -> None:
    exact = dict(Recommender.load(exports[bits]).recommend_many([f"u{row}" for row in range(USERS)]))
    two = Recommender.load(exports[bits], search="two_stage", candidates=20)
    found = dict(two.recommend_many(two.user_ids))
    assert all(len(ranking) == 10 for ranking in found.values())
    assert shared(exact, found) >= least
    # What both have has the same score, and so the same order.
    for user, ranking in found.items():
        scores = {one.item: one.score for one in exact[user]}
        assert all(one.score == pytest.approx(scores.get(one.item, one.score), rel=1e-5) for one in ranking)
        assert [one.score for one in ranking] == sorted((one.score for one in ranking), reverse=True)
        assert [(name, score) for name, score in ranking] == two.recommend(user)


def test_more_candidates_find_more(exports: dict[int, Path]) -> None:
    exact = dict(Recommender.load(exports[32]).recommend_many([f"u{row}" for row in range(USERS)]))
    recalls = []
    for candidates in (1, 4, 30):
        two = Recommender.load(exports[32], search="two_stage", candidates=candidates)
        recalls.append(shared(exact, dict(two.recommend_many(two.user_ids))))
    assert recalls[0] < recalls[1] < recalls[2] and recalls[2] > 0.9


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("k", [1, 10])
def test_as_many_candidates_as_items_are_the_exact_search(exports: dict[int, Path], bits: int, k: int) -> None:
    exact = Recommender.load(exports[bits])
    whole = Recommender.load(exports[bits], search="two_stage", candidates=ITEMS // k)
    # One fewer than there are items: the seen ones are none of them, so that none can be missed.
    nearly = Recommender.load(exports[bits], search="two_stage", candidates=(ITEMS - 1) // k)
    for user in ("u0", "u7"):
        wanted = exact.recommend(user, k)
        assert whole.recommend(user, k) == wanted
        assert names(nearly.recommend(user, k)) == names(wanted)
    assert names(nearly.recommend_from(["i5", "i9"], k)) == names(exact.recommend_from(["i5", "i9"], k))
    assert names(nearly.similar("i5", k)) == names(exact.similar("i5", k))


@pytest.mark.parametrize("bits", ALL_BITS)
def test_seen_items_take_no_candidates_place(exports: dict[int, Path], bits: int) -> None:
    model = Recommender.load(exports[bits], search="two_stage", candidates=1)
    order = np.argsort(-(planted()[0] @ planted()[1].T), axis=1)
    for row in range(USERS):
        seen = {f"i{place}" for place in order[row, :SEEN]}
        found = names(model.recommend(f"u{row}", k=20))
        assert len(found) == 20 and not seen & {*found}
        assert seen & {*names(model.recommend(f"u{row}", k=20, exclude_seen=False))}
    own = ["i1", "i2", "i3"]
    assert not {*own} & {*names(model.recommend_from(own, k=20))}
    assert len(model.recommend_from(own, k=20, exclude_seen=False)) == 20
    assert "i7" not in names(model.similar("i7", k=20))


def test_of_equal_scores_the_first_item_is_first(tmp_path: Path) -> None:
    items = planted()[1]
    items[1::2] = items[::2]
    exact, two = (Recommender.load(folder, search=search) for folder in [write(tmp_path / "ties", 32, items)]
                  for search in ("exact", "two_stage"))  # fmt: skip
    for user in exact.user_ids:
        found = [int(name[1:]) for name in names(two.recommend(user))]
        assert found[1::2] == [row + 1 for row in found[::2]] and all(row % 2 == 0 for row in found[::2])


def test_similar_items_and_new_users_are_nearly_the_exact_ones(exports: dict[int, Path]) -> None:
    exact, two = Recommender.load(exports[32]), Recommender.load(exports[32], search="two_stage", candidates=20)
    ask = {f"i{row}": None for row in range(0, ITEMS, 100)}
    assert shared({i: exact.similar(i) for i in ask}, {i: two.similar(i) for i in ask}) > 0.9
    assert shared({i: exact.recommend_from([i]) for i in ask}, {i: two.recommend_from([i]) for i in ask}) > 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"search": "fast"}, "search must be 'exact' or 'two_stage', but is 'fast'."),
        ({"search": "two_stage", "candidates": 0}, "candidates, of each wanted item, must be a whole number"),
        ({"candidates": 2.5}, "but is 2.5"),
    ],
)
def test_a_wrong_search_is_a_sentence(exports: dict[int, Path], options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        Recommender.load(exports[32], **options)
    assert words in str(caught.value)
