"""What a method has that says nothing: weight 1, the whole batch, nothing to report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_derrd.config.options.schema import Options, option
from recbole_derrd.distillers import Need
from recbole_derrd.distillers.base import Distiller
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.testing.world import make_world, some_rows, step


@dataclasses.dataclass(frozen=True)
class BareOptions(Options):
    prefix: ClassVar[str] = "bare_"
    steps: int = option(1, "Nothing that every method has.", low=0)


@dataclasses.dataclass(frozen=True)
class WeightedOptions(Options):
    prefix: ClassVar[str] = "weighted_"
    weight: float = option(0.25, "Weight of the term.", low=0)
    sample: float = option(0.5, "Share of a batch.", low=0)


class Bare(Distiller[BareOptions]):
    name = "bare"
    options_class = BareOptions
    needs = frozenset()


class Called(Bare):
    """Its loss says that it was asked for one."""

    def forward(self, batch: StepBatch) -> Tensor:
        return torch.tensor(7.0)


class CalledWithEmbeddings(Called):
    needs = frozenset({Need.EMBEDDINGS})


class Weighted(Distiller[WeightedOptions]):
    name = "weighted"
    options_class = WeightedOptions
    needs = frozenset()
    student_defaults: ClassVar = {"LightGCN": {"weight": 0.75}}


def test_a_method_without_options_has_weight_one_and_the_whole_batch(tmp_path: Path) -> None:
    world = make_world(tmp_path, some_rows(6, 20, 5), 20)
    bare = Bare(BareOptions(), world.knowledge, world.student, 1)
    assert bare.weight == 1 and bare.share(entities=10, rows=4) == 1
    bare.begin_epoch(0)
    assert bare.progress() == {} and bare.progress_note(True) is None and bare.diagnostics(np.zeros(7)) == {}
    assert Bare.defaults_for("LightGCN") == {} and Bare.requirements(BareOptions(), world.history) == []
    assert Bare.note(BareOptions(), world.history) is None and Bare.needed(BareOptions()) == Bare.needs
    with pytest.raises(NotImplementedError, match="bare does not state its work"):
        bare.work()


def test_a_methods_own_options_are_taken(tmp_path: Path) -> None:
    world = make_world(tmp_path, some_rows(6, 20, 5), 20)
    weighted = Weighted(WeightedOptions(), world.knowledge, world.student, 1)
    assert weighted.weight == 0.25 and weighted.share(entities=10, rows=4) == 0.5
    assert Weighted.defaults_for("LightGCN") == {"weighted_weight": 0.75} and Weighted.defaults_for("BPR") == {}


KNOWN = {"user": np.array([True, True, False, True, True, True, True]), "item": np.arange(20) != 3}


@pytest.mark.parametrize("sides", [("user",), ("item",), ("user", "item"), ()])
def test_what_the_teacher_does_not_know_is_left_out(tmp_path: Path, sides: tuple[str, ...]) -> None:
    """Of the side of which it does not know all."""
    world = make_world(tmp_path, some_rows(6, 20, 5), 20)
    world.knowledge.known = lambda side, by_embedding=False: KNOWN[side] if side in sides else None  # type: ignore
    seen: list[StepBatch] = []
    method = CalledWithEmbeddings(BareOptions(), world.knowledge, world.student, 1)
    method.forward = lambda batch: seen.append(batch) or torch.tensor(7.0)  # type: ignore
    method.term(step([1, 2], [3, 4], [5], rows=4))
    method.term(StepBatch(torch.tensor([1, 2]), None, None, 4))
    users = [1] if "user" in sides else [1, 2]
    assert [batch.users.tolist() for batch in seen] == [users, users] and seen[0].rows == 4
    assert seen[0].positives is not None and seen[0].negatives is not None
    assert seen[0].positives.tolist() == ([4] if "item" in sides else [3, 4]) and seen[0].negatives.tolist() == [5]
    assert seen[1].positives is None and seen[1].negatives is None


def test_embeddings_are_asked_for_where_a_method_reads_them(tmp_path: Path) -> None:
    """What is not known by its embedding alone is left out by those methods only."""
    world = make_world(tmp_path, some_rows(6, 20, 5), 20)
    embedded = {"user": None, "item": np.arange(20) != 5}
    world.knowledge.known = lambda side, by_embedding=False: embedded[side] if by_embedding else None  # type: ignore
    of_scores, of_embeddings = (
        kind(BareOptions(), world.knowledge, world.student, 1) for kind in (Called, CalledWithEmbeddings)
    )
    assert of_scores.known("item") is None and of_embeddings.known("user") is None
    found = of_embeddings.known("item")
    assert found is not None and (~found).nonzero().tolist() == [[5]]
    world.knowledge.known = lambda side, by_embedding=False: embedded[side] if by_embedding else KNOWN[side]  # type: ignore
    found = CalledWithEmbeddings(BareOptions(), world.knowledge, world.student, 1).known("item")
    assert found is not None and (~found).nonzero().tolist() == [[3], [5]]


def test_a_batch_of_nothing_has_no_term(tmp_path: Path) -> None:
    """Items alone are something where a method looks at embeddings."""
    world = make_world(tmp_path, some_rows(6, 20, 5), 20)
    batches = [step([1, 4], [2], [3]), step([1], [], []), step([], [2], []), step([], [], [3]), step([], [], [])]
    for kind, expected in ((Called, [7, 7, 0, 0, 0]), (CalledWithEmbeddings, [7, 7, 7, 7, 0])):
        method = kind(BareOptions(), world.knowledge, world.student, 1)
        assert [method.term(batch).item() for batch in batches] == expected
