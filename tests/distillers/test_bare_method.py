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


def test_a_batch_of_nothing_has_no_term(tmp_path: Path) -> None:
    """Items alone are something where a method looks at embeddings."""
    world = make_world(tmp_path, some_rows(6, 20, 5), 20)
    batches = [step([1, 4], [2], [3]), step([1], [], []), step([], [2], []), step([], [], [3]), step([], [], [])]
    for kind, expected in ((Called, [7, 7, 0, 0, 0]), (CalledWithEmbeddings, [7, 7, 7, 7, 0])):
        method = kind(BareOptions(), world.knowledge, world.student, 1)
        assert [method.term(batch).item() for batch in batches] == expected
