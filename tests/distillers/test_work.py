"""The arithmetic that each method states, which ``sample: auto`` is found from, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_derrd.distillers import Need
from recbole_derrd.distillers.subsampling import Work
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.testing.world import TEACHERS, make_world, some_rows


def _listed(items: int, passes: int) -> float:
    """Return the work of a user's items: three products of 4 numbers, an embedding found, and the loss's operations."""
    return items * (3 * 4 + 640 + 16 * passes)


def _network(hidden: int, networks: int = 1) -> float:
    """Return the work of an embedding in networks, 4 numbers to 6: three products, and operations on each number."""
    return networks * 3 * hidden * (4 + 6) + 16 * 6 * (networks * (hidden + 4) + 6)


def _of_network(hidden: int, networks: int = 1) -> float:
    """Return the work of the optimizer's step on the networks of both sides."""
    return 32 * 2 * networks * (hidden * (4 + 6) + hidden + 6)


#: An entity in three experts of five units, 4 numbers to 6: products, operations on numbers, random numbers.
_EXPERTS = 3 * 15 * 10 + 16 * (8 * 15 + 2 * 10) + 128 * 3
#: The parameters of both sides in the optimizer's step; an expert has 6 + 1 in its last bias and its selection each.
_OF_EXPERTS = 32 * 2 * (15 * 10 + 15 + 2 * 3 * (6 + 1))


CASES: list[tuple[str, dict[str, Any], float, float]] = [
    ("cd", {}, _listed(5, 16), 0),
    ("cd", {"guide": "student", "top_n": 20}, _listed(5, 16), 0),
    ("cpd", {}, _EXPERTS * 1.75 + 320, _OF_EXPERTS),
    ("cpd", {"ranking_weight": 0.0, "pair_weight": 0.0}, _EXPERTS, _OF_EXPERTS),
    ("cpd", {"feature": "cosine", "num_experts": 1}, _network(5) * 1.75 + 320, _of_network(5)),
    ("dcd", {}, _listed(2 * 4, 24), 0),
    ("dcd", {"item_weight": 0.5}, 2 * _listed(2 * 4, 24), 0),
    ("de", {}, _EXPERTS, _OF_EXPERTS),
    ("de", {"hint": "embedding+twice"}, 2 * _EXPERTS, 2 * _OF_EXPERTS),
    ("freqd", {}, (1 + 2 * 3) * _network(6, 2), _of_network(6, 2)),
    ("ftd", {}, 6 * 6 + 3 * 4 * (4 + 6) + 4 * 16 * (4 + 6), 0),
    ("hetcomp", {}, _listed(2 + 8, 64) + 41 * (3 * 4 + 16 * 12), 0),
    ("hetcomp", {"remainder": 5}, _listed(2 + 8 + 5, 64), 0),
    ("htd", {}, _EXPERTS, _OF_EXPERTS),
    ("ir_rrd", {}, 2 * _listed(4 + 6, 24), 0),
    ("listwise", {}, 41 * (3 * 4 + 6 + 16 * 24), 0),
    ("listwise", {"top_n": 8}, 41 * (3 * 4 + 16 * 12), 0),
    ("listwise", {"items": "teacher", "k": 7}, _listed(7, 16), 0),
    ("listwise", {"items": "student", "k": 7, "temperature": 0.7}, _listed(7, 16), 0),
    ("nkd", {}, _network(3, 2) + (128 + 8 * 16) * (4 + 6), _of_network(3, 2)),
    (
        "nkd",
        {"num_experts": 1, "dropout": 0.2},
        _network(3) + 128 * (3 + 4) + (128 + 8 * 16) * (4 + 6),
        _of_network(3),
    ),
    ("rce_kd", {}, _listed(2 * 4 + 5, 24), 0),
    ("rce_kd", {"l": 90, "m": 90}, _listed(2 * 4 + 40, 24), 0),
    ("rd", {}, _listed(4 + 20, 32), 0),
    ("rrd", {}, _listed(4 + 6, 24), 0),
    ("sld", {}, _listed(4 + 6, 16), 0),
    ("unkd", {}, _listed(2 * 2 * 3, 8), 0),
]

#: Of each user and item of a batch, whatever the share: HTD's groups, 6 prototypes and 64 members, and 10 numbers.
EVERY = {"htd": 3 * 6 + (6 + 64) * (6 + 3 * 4) + 8 * 16 * (4 + 6)}


#: Of each epoch: 12 users rank 41 items, a product of 4 numbers and the search each. By method and options.
_RANKING = 12 * 41 * (4 + 16 * 12)
EPOCH = {
    ("cd", "guide", "top_n"): _RANKING,
    ("dcd",): _RANKING,
    ("dcd", "item_weight"): 2 * _RANKING,
    ("listwise", "items", "k", "temperature"): _RANKING,
    ("rce_kd",): _RANKING,
    ("rce_kd", "l", "m"): _RANKING,
}


@pytest.mark.parametrize(("name", "options", "entity", "fixed"), CASES)
def test_the_work_of_every_method_is_that_of_its_sizes(
    name: str, options: dict[str, Any], entity: float, fixed: float, tmp_path: Path
) -> None:
    """A student of 4 dimensions, a teacher of 6, 40 items and the padding item."""
    kind = method_class(name)
    world = make_world(
        tmp_path, some_rows(12, 41, 10), 41, teachers=TEACHERS if Need.TRAJECTORY in kind.needs else None
    )
    built = kind(kind.options_class(**{**kind.test_settings, **options}), world.knowledge, world.student, 5)
    every, epoch = EVERY.get(name, 0), EPOCH.get((name, *options), 0)
    assert built.work() == Work(*(pytest.approx(one) for one in (entity, fixed, every, epoch)))


def test_a_teacher_without_embeddings_is_asked_for_its_scores_in_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, some_rows(12, 41, 10), 41)
    kind = method_class("listwise")
    built = kind(kind.options_class(), world.knowledge, world.student, 5)
    built.embeddings = None
    monkeypatch.setattr(world.knowledge.teacher, "logit_work", lambda: 5000)
    assert built.work().entity == pytest.approx(41 * (3 * 4 + 5000 + 16 * 24))


def test_no_method_is_left_out() -> None:
    assert {name for name, *_ in CASES} == set(METHODS)
