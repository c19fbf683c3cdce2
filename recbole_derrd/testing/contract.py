"""What the tests of every distillation method owe."""

from __future__ import annotations

import copy
import dataclasses
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from recbole_derrd.config.options import Options
from recbole_derrd.distillers import Distiller, Need, StepBatch
from recbole_derrd.errors import OptionError
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.testing.world import TEACHERS, World, make_world, some_rows, step

#: The kinds of test without which a loss is not finished (CONTRIBUTING.md); test_<kind>_... in the method's class.
KINDS = ("reference", "gradcheck", "invariant", "golden", "optimisation")


def _name(method: type[Distiller[Any]] | str) -> str:
    """Return a method's name, however it is given."""
    if isinstance(method, str):
        return method_class(method).name if "." in method else method
    return method.name


def _counts(test: object) -> bool:
    """Say whether pytest runs the test and its failure fails the run."""
    marks = {mark.name for mark in getattr(test, "pytestmark", [])}
    return callable(test) and not marks & {"skip", "xfail"}


def gaps(module: ModuleType, method: type[Distiller[Any]] | str) -> list[str]:
    """Return what a module lacks as the test module of a method; nothing if it is complete.

    Args:
        module: the test module.
        method: the method's class, its name, or its dotted path.
    """
    name = _name(method)
    classes = [
        found
        for title, found in vars(module).items()
        if isinstance(found, type)
        and issubclass(found, LossContract)
        and _name(found.method) == name
        and title.startswith("Test")  # others are not collected
    ]
    if not classes:
        return [f"{name}: no class Test... derived from LossContract with method = '{name}'"]
    tests = {title for found in classes for title in dir(found) if _counts(getattr(found, title))}
    return [
        f"{name}: no test_{kind}_..." for kind in KINDS if not any(title.startswith(f"test_{kind}_") for title in tests)
    ]


def assert_share_is_unbiased(whole: Any, part: Any, batch: StepBatch, draws: int = 300) -> None:
    """Check that a term over a share of a batch, drawn anew each step, is on average the term over all of it."""
    with torch.no_grad():
        wanted = [whole(batch).item() for _ in range(3)]
        if len(set(wanted)) > 1:  # it has noise of its own
            wanted += [whole(batch).item() for _ in range(draws - 3)]
        found = [part(batch).item() for _ in range(draws)]
    assert sum(found) / draws == pytest.approx(sum(wanted) / len(wanted), rel=0.15)


def _global_state() -> list[Any]:
    """Return the states of the generators that a student draws from, as plain values."""
    kind, keys, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), kind, np.asarray(keys).tolist(), *rest]


class LossContract:
    """Base of every method's test class: ``class TestMine(LossContract): method = Mine``.

    A subclass sets ``method`` and adds tests named test_reference_, test_gradcheck_, test_invariant_, test_golden_ and
    test_optimisation_. What every method must do whatever its formula is tested here, and so is that no kind of test
    is missing.
    """

    #: The method: its class, its name in the registry, or its dotted path.
    method: ClassVar[type[Distiller[Any]] | str] = ""
    #: Options that make the method cheap and well behaved in the tiny world; None for its ``test_settings``.
    base_options: ClassVar[Mapping[str, Any] | None] = None
    #: Options under which something is drawn, where the others draw nothing.
    random_options: ClassVar[Mapping[str, Any]] = {}
    #: Buffers: the state that a resumed run goes on from, nothing of the teacher.
    state: ClassVar[set[str]] = set()
    #: Whether the term reaches users that are not in the batch.
    reaches_other_users: ClassVar[bool] = False
    batch: ClassVar[StepBatch] = step(users=[1, 3, 4], positives=[2, 7, 9], negatives=[5, 7], rows=8)

    @classmethod
    def kind(cls) -> type[Distiller[Any]]:
        """Return the method's class."""
        return method_class(cls.method) if isinstance(cls.method, str) else cls.method

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Return the options that the method is tested with."""
        return dict(cls.kind().test_settings if cls.base_options is None else cls.base_options)

    @classmethod
    def make_world(cls, folder: Path, rows: list[list[int]], n_items: int) -> World:
        """Build a world, with several teachers where the method needs trajectories."""
        return make_world(folder, rows, n_items, teachers=TEACHERS if Need.TRAJECTORY in cls.kind().needs else None)

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give twelve users and forty items, each user with up to ten training items."""
        return self.make_world(tmp_path / "knowledge", some_rows(12, 41, 10), 41)

    def build(self, world: World, seed: int = 5, **changes: Any) -> Any:
        """Build the method before its first epoch, with these options on top of the class's."""
        options = self.kind().options_class(**{**self.settings(), **changes})
        return self.kind()(options, world.knowledge, world.student, seed)

    def distiller(self, world: World, seed: int = 5, **changes: Any) -> Any:
        """Build the method in its first epoch, with these options on top of the class's."""
        built = self.build(world, seed, **changes)
        built.begin_epoch(0)
        return built

    def test_contract_has_all_kinds_of_test(self) -> None:
        """A loss without all five is not finished."""
        assert gaps(sys.modules[type(self).__module__], self.kind()) == []

    def test_contract_declares_itself(self) -> None:
        """Options under another method's prefix would read that method's values, and its name stands in every log."""
        kind = self.kind()
        assert issubclass(kind, Distiller) and issubclass(kind.options_class, Options)
        assert kind.name.isidentifier() and kind.options_class.prefix == f"{kind.name}_"
        assert kind.name not in METHODS or method_class(kind.name) is kind, "a built-in method has this name"
        assert kind.needs and all(isinstance(need, Need) for need in kind.needs)
        options = {field.name for field in dataclasses.fields(kind.options_class)}
        assert "weight" in options and {*kind.test_settings, *self.settings(), *self.random_options} <= options

    def test_contract_presets_are_valid_options(self) -> None:
        """Published settings are read years after they were typed in; the share of a batch is not one of them."""
        group = self.kind().options_class
        usual = set(group.keys()) - {f"{group.prefix}preset", f"{group.prefix}sample"}
        for name, given in group.presets().items():
            assert given and given.keys() <= usual, f"preset '{name}': {sorted(given.keys() - usual)}"
            made = group.from_keys({f"{group.prefix}preset": name}).to_keys()
            wrong = {key: value for key, value in given.items() if repr(made[key]) != repr(value)}
            assert not wrong, f"preset '{name}' gives values of another type: {wrong}"

    def test_contract_scalar_that_trains_the_student_only(self, world: World) -> None:
        """A detached student or a trained teacher would leave a loss that falls and a student that stays as it was."""
        distiller = self.distiller(world)
        loss = distiller(self.batch)
        assert loss.shape == () and loss.dtype == torch.float32 and torch.isfinite(loss)
        loss.backward()
        users, items = world.student.model.users.weight.grad, world.student.model.items.weight.grad
        assert users is not None and items is not None
        in_batch = torch.zeros(len(users), dtype=torch.bool)
        in_batch[self.batch.users] = True
        assert (users[in_batch] != 0).any(dim=1).all() and (users[0] == 0).all()
        assert self.reaches_other_users or (users[~in_batch] == 0).all()
        assert (items != 0).any() and (items[0] == 0).all()
        assert all(parameter.grad is None for parameter in world.teacher.model.parameters())

    def test_contract_owns_neither_student_nor_teacher(self, world: World) -> None:
        """A registered student doubles its weight decay; a teacher in the state would be saved with every student."""
        distiller = self.distiller(world)
        foreign = {id(p) for side in (world.student, world.teacher) for p in side.model.parameters()}
        assert not foreign & {id(parameter) for parameter in distiller.parameters()}
        assert all(parameter.requires_grad for parameter in distiller.parameters())
        assert {name for name, _ in distiller.named_buffers()} == self.state

    def test_contract_changes_neither_student_nor_teacher(self, world: World) -> None:
        """Only the optimizer moves weights, and whoever looks at the student puts its mode back."""
        models = [side.model for side in (world.student, world.teacher)]
        models[0].train()
        before = [copy.deepcopy(model.state_dict()) for model in models]
        modes = [model.training for model in models]
        distiller = self.distiller(world)
        for epoch in (1, 2):
            distiller(self.batch).backward()
            distiller.begin_epoch(epoch)
        assert [model.training for model in models] == modes
        assert all(
            torch.equal(state[name], value)
            for model, state in zip(models, before)
            for name, value in model.state_dict().items()
        )

    def test_contract_divided_by_rows(self, world: World) -> None:
        """Dividing by the distinct entities instead would change a term's weight from batch to batch."""
        few, many = (self.distiller(world)(dataclasses.replace(self.batch, rows=rows)) for rows in (1, self.batch.rows))
        torch.testing.assert_close(few, self.batch.rows * many)

    def test_contract_float32_under_autocast(self, world: World) -> None:
        """Half precision overflows in DE's division by the temperature and rounds away small differences in RRD."""
        plain = self.distiller(world)(self.batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = self.distiller(world)(self.batch)
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, plain, rtol=0.02, atol=0)

    def test_contract_same_seed_same_loss(self, world: World) -> None:
        """Randomness from torch's global generator would make a run depend on whatever drew before it."""
        first = self.distiller(world, seed=5)(self.batch)
        torch.rand(7)
        assert torch.equal(first, self.distiller(world, seed=5)(self.batch))

    def test_contract_leaves_the_global_generators_alone(self, world: World) -> None:
        """The student's random stream must be that of the plain model."""
        distiller = self.build(world, **self.random_options)
        state = _global_state()
        for epoch in range(2):
            distiller.begin_epoch(epoch)
            distiller(self.batch).backward()
        assert _global_state() == state

    def test_contract_seed_reaches_the_sampling(self, world: World) -> None:
        """With a fixed seed inside, runs over several seeds would share their noise and look steadier than they are."""
        one, other = (self.distiller(world, seed=seed, **self.random_options) for seed in (5, 6))
        other.load_state_dict(one.state_dict())  # what is left to differ is the noise
        # A share of three users is easily the same once.
        first, second = ([built(self.batch).item() for _ in range(6)] for built in (one, other))
        assert first != pytest.approx(second, rel=1e-4)

    def test_contract_goes_on_from_a_checkpoint(self, world: World) -> None:
        """A checkpoint holds parameters, buffers and the generator; whatever else a method carries over is lost."""
        through = self.distiller(world, **self.random_options)
        for epoch in (1, 2):
            through(self.batch)
            through.begin_epoch(epoch)
        through(self.batch)
        resumed = self.build(world, **self.random_options)
        resumed.load_state_dict(copy.deepcopy(through.state_dict()))
        resumed.generator.set_state(through.generator.get_state())
        losses = []
        for built in (through, resumed):
            built.begin_epoch(3)
            losses.append([built(self.batch).item() for _ in range(4)])
        assert losses[0] == losses[1]

    def test_contract_order_of_the_batch_is_free(self, world: World) -> None:
        """A batch is a set: items read by a user's position in it would be another user's."""
        turned = {name: getattr(self.batch, name).flip(0) for name in ("users", "positives", "negatives")}
        batch = dataclasses.replace(self.batch, **turned)
        distiller = self.distiller(world)
        first, again, other = (distiller(one).item() for one in (self.batch, self.batch, batch))
        if first == again:  # noise that each step draws goes by positions
            assert other == pytest.approx(first, rel=1e-5)

    def test_contract_batch_of_users_only(self, world: World) -> None:
        """Models that are trained on whole users give no items: a number, or a sentence."""
        batch = dataclasses.replace(self.batch, positives=None, negatives=None)
        try:
            loss = self.distiller(world)(batch)
        except OptionError:
            return
        assert torch.isfinite(loss)

    def test_contract_a_user_who_has_seen_everything(self, tmp_path: Path) -> None:
        """Such a user has no rankings; a softmax over nothing would make every weight NaN."""
        world = self.make_world(tmp_path / "knowledge", [list(range(1, 41)), *some_rows(17, 41, 8)], 41)
        distiller = self.distiller(world)
        for batch in (self.batch, dataclasses.replace(self.batch, users=torch.tensor([1]))):
            loss = distiller(batch)
            if loss.requires_grad:
                loss.backward()
            assert torch.isfinite(loss)
        gradients = [parameter.grad for parameter in world.student.model.parameters() if parameter.grad is not None]
        assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)

    def test_contract_weight_is_the_student_s_business(self, world: World) -> None:
        """A term that applies its own weight would be weighted twice."""
        light, heavy = (self.distiller(world, weight=weight) for weight in (0.5, 2.0))
        assert (light.weight, heavy.weight) == (0.5, 2.0)
        assert torch.equal(light(self.batch), heavy(self.batch))
