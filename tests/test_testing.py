"""recbole_derrd.testing: each of its tests fails for the method that it is there for; pytest is needed there alone."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, ClassVar

import pytest
import torch
from torch import Tensor, nn

from recbole_derrd.distillers import Distiller, Need, Options, StepBatch, epoch_seed, option, published
from recbole_derrd.testing import TEACHERS, LossContract, World, make_world, some_rows, step


@dataclasses.dataclass(frozen=True)
class PullOptions(Options):
    """A method that is sound."""

    prefix: ClassVar[str] = "pull_"

    weight: float = option(1.0, "Weight of the term in the loss.", low=0)
    k: int = option(3, "Best items.", low=1)


class Pull(Distiller):
    """Raise the teacher's best items, each by a share of its own that is drawn once an epoch."""

    name = "pull"
    options_class = PullOptions
    needs = frozenset({Need.TOP_ITEMS})
    test_settings: ClassVar[dict[str, Any]] = {"k": 3}

    def __init__(self, options: Any, knowledge: Any, student: Any, seed: int) -> None:
        super().__init__(options, knowledge, student, seed)
        self.items = torch.from_numpy(knowledge.top_items(options.k))

    def begin_epoch(self, epoch: int) -> None:
        self.shares = self.draw(torch.Generator().manual_seed(epoch_seed(self.seed, epoch)))

    def draw(self, generator: torch.Generator) -> Tensor:
        return torch.rand(self.items.shape, generator=generator)

    def scores(self, users: Tensor) -> Tensor:
        items = self.items[users].long()
        return nn.functional.softplus(-self.student.score(users, items).float()) * (items > 0)

    def forward(self, batch: StepBatch) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return (self.scores(batch.users) * self.shares[batch.users]).sum() / batch.rows


class Detached(Pull):
    def scores(self, users: Tensor) -> Tensor:
        return super().scores(users).detach() + 0 * self.student.model.users.weight.sum()


class TrainsTheTeacher(Pull):
    def scores(self, users: Tensor) -> Tensor:
        return super().scores(users) + self.knowledge.teacher.user_embeddings(users).square().sum(dim=1, keepdim=True)


class TeachesPadding(Pull):
    def scores(self, users: Tensor) -> Tensor:
        return super().scores(users) + self.student.score(users, torch.zeros(len(users), 1, dtype=torch.int64)).exp()


class OwnsTheStudent(Pull):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.kept = self.student.model


class KeepsTheTeacher(Pull):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("table", self.knowledge.teacher.user_embeddings().detach())


class MovesTheStudent(Pull):
    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        with torch.no_grad():
            self.student.model.users.weight.mul_(0.99)


class LeavesTheStudentInEvaluation(Pull):
    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self.student.model.eval()


class DividedByUsers(Pull):
    def forward(self, batch: StepBatch) -> Tensor:
        return super().forward(batch) * batch.rows / len(batch.users)


class HalfPrecision(Pull):
    def forward(self, batch: StepBatch) -> Tensor:
        users, items = self.student.user_embeddings(batch.users), self.student.item_embeddings()
        scores = nn.functional.softplus(-(users @ items.T).gather(1, self.items[batch.users].long()))
        return (scores * self.shares[batch.users].to(scores.dtype)).sum() / batch.rows


class GlobalDraws(Pull):
    def begin_epoch(self, epoch: int) -> None:
        self.shares = torch.rand(self.items.shape)


class SeedsTheWorld(Pull):
    def begin_epoch(self, epoch: int) -> None:
        torch.manual_seed(epoch_seed(self.seed, epoch))
        self.shares = torch.rand(self.items.shape)


class FixedSeed(Pull):
    def begin_epoch(self, epoch: int) -> None:
        self.shares = self.draw(torch.Generator().manual_seed(epoch))


class CarriesOver(Pull):
    def begin_epoch(self, epoch: int) -> None:
        self.own = getattr(self, "own", torch.Generator().manual_seed(self.seed))
        self.shares = self.draw(self.own)


class ReadsByPosition(Pull):
    def forward(self, batch: StepBatch) -> Tensor:
        return (self.scores(batch.users) * self.shares[: len(batch.users)]).sum() / batch.rows


class StumblesOverNoItems(Pull):
    def forward(self, batch: StepBatch) -> Tensor:
        assert batch.positives is not None
        return super().forward(batch) + 0 * len(batch.positives)


class SoftmaxOfNothing(Pull):
    def scores(self, users: Tensor) -> Tensor:
        items = self.items[users].long()
        held = self.student.score(users, items).masked_fill(items == 0, -torch.inf)
        return -held.float().log_softmax(dim=1)


class WeighsItself(Pull):
    def forward(self, batch: StepBatch) -> Tensor:
        return self.weight * super().forward(batch)


class NamedAsABuiltIn(Pull):
    name = "rrd"


class SettingsOfNoOption(Pull):
    test_settings: ClassVar[dict[str, Any]] = {"k": 3, "n": 1}


class PresetOfTheShare(Pull):
    """Cheaper by its preset than its author's own."""

    options_class = dataclasses.make_dataclass(
        "PresetOptions",
        [("preset", Any, published({"a-b": {"k": 2, "sample": 0.5}})), ("sample", float, option(1.0, "Share."))],
        bases=(PullOptions,),
        frozen=True,
    )


FAILING: dict[type[Distiller], str] = {
    Detached: "scalar_that_trains", TrainsTheTeacher: "scalar_that_trains", TeachesPadding: "scalar_that_trains",
    OwnsTheStudent: "owns_neither", KeepsTheTeacher: "owns_neither",
    MovesTheStudent: "changes_neither", LeavesTheStudentInEvaluation: "changes_neither",
    DividedByUsers: "divided_by_rows", HalfPrecision: "float32_under_autocast",
    GlobalDraws: "same_seed_same_loss", SeedsTheWorld: "leaves_the_global_generators",
    FixedSeed: "seed_reaches", CarriesOver: "goes_on_from_a_checkpoint", ReadsByPosition: "order_of_the_batch",
    StumblesOverNoItems: "batch_of_users_only", WeighsItself: "weight_is",
    SoftmaxOfNothing: "a_user_who_has_seen_everything",
    NamedAsABuiltIn: "declares_itself", SettingsOfNoOption: "declares_itself",
    PresetOfTheShare: "presets_are_valid",
}  # fmt: skip
#: What the contract tests, but for the kinds of test, of which test_coverage.py has the proofs.
TESTS: dict[str, Callable[..., None]] = {
    name: test for name, test in inspect.getmembers(LossContract) if name.startswith("test_") and "kinds" not in name
}


def failed(method: type[Distiller], folder: Path) -> list[str]:
    """Return which tests of the contract a method fails."""
    contract = type("Contract", (LossContract,), {"method": method})()
    found = []
    for name, test in TESTS.items():
        wanted = inspect.signature(test).parameters
        place = folder / name
        world = make_world(place / "knowledge", some_rows(12, 41, 10), n_items=41)
        given = {key: value for key, value in (("world", world), ("tmp_path", place)) if key in wanted}
        try:
            test(contract, **given)
        except (AssertionError, RuntimeError, TypeError):
            found.append(name)
    return found


def test_a_sound_method_passes(tmp_path: Path) -> None:
    assert failed(Pull, tmp_path) == []


@pytest.mark.parametrize("method", FAILING, ids=lambda method: method.__name__)
def test_each_test_of_the_contract_can_fail(method: type[Distiller], tmp_path: Path) -> None:
    assert f"test_contract_{FAILING[method]}" in " ".join(failed(method, tmp_path))


def test_every_test_of_the_contract_has_its_proof() -> None:
    assert all(any(f"test_contract_{part}" in name for part in FAILING.values()) for name in TESTS)


@pytest.mark.parametrize("method", [Pull, "rrd", f"{__name__}.Pull"])
def test_a_method_is_a_class_a_name_or_a_path(method: Any) -> None:
    contract = type("Contract", (LossContract,), {"method": method})
    assert contract.kind().name in ("pull", "rrd") and contract.settings() == dict(contract.kind().test_settings)
    changed = type("Contract", (contract,), {"base_options": {"k": 2}})
    assert changed.settings() == {"k": 2}


def test_a_method_that_needs_trajectories_gets_several_teachers(tmp_path: Path) -> None:
    class Follows(Pull):
        needs = frozenset({Need.TRAJECTORY})

    plain, several = (
        type("Contract", (LossContract,), {"method": method}).make_world(tmp_path / method.name, [[1], [2]], 9)
        for method in (Pull, Follows)
    )
    assert [len(own) for own in several.knowledge.trajectories(3)] == [len(seeds) for seeds in TEACHERS]
    assert [len(own) for own in plain.knowledge.trajectories(3)] == [1]
    assert several.knowledge.top_items(3).tolist() == plain.knowledge.top_items(3).tolist()


def test_the_tiny_world_is_as_it_says(tmp_path: Path) -> None:
    world: World = make_world(tmp_path, [[3, 1], [], [2]], n_items=5)
    assert (world.history.n_users, world.history.n_items) == (4, 5)
    assert world.seen(1) == {1, 3} and world.seen(2) == set() and set(world.teacher_order(3)) == {1, 3, 4}
    assert world.knowledge.top_items(4)[3].tolist() == [*world.teacher_order(3), 0]
    batch = step([1, 2], [3], [], rows=7)
    assert batch.users.tolist() == [1, 2] and batch.rows == 7


@pytest.mark.slow
def test_without_pytest_there_is_a_sentence() -> None:
    program = "import sys; sys.modules['pytest'] = None; import recbole_derrd.distillers; import recbole_derrd.testing"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and "needs pytest" in last and last.endswith("pip install pytest"), ended.stderr
