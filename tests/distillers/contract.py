"""What the tests of every distillation method owe, and a tiny world without RecBole to test them in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recbole_derrd.adapters import EmbeddingAdapter
from recbole_derrd.data.history import History
from recbole_derrd.distillers import Distiller, StepBatch
from recbole_derrd.registry import method_class
from recbole_derrd.teacher import GivenTeacher, Knowledge, StoredKnowledge

#: The kinds of test without which a loss is not finished (CONTRIBUTING.md); test_<kind>_... in the method's class.
KINDS = ("reference", "gradcheck", "invariant", "golden", "optimisation")


class TinyModel(nn.Module):
    """Two embedding tables: all that a model must be for the distillers."""

    def __init__(self, n_users: int, n_items: int, size: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.n_users, self.n_items, self.device = n_users, n_items, torch.device("cpu")
        self.users = nn.Embedding(n_users, size, _weight=torch.randn(n_users, size, generator=generator))
        self.items = nn.Embedding(n_items, size, _weight=torch.randn(n_items, size, generator=generator))


class TinyAdapter(EmbeddingAdapter):
    """The tables as hint layer "embedding"; layer "twice" is twice them, so that layers can be told apart."""

    hints = ("embedding", "twice")

    @staticmethod
    def _read(table: nn.Embedding, ids: Tensor | None, layer: str) -> Tensor:
        embeddings = table.weight if ids is None else table(ids)
        return 2 * embeddings if layer == "twice" else embeddings

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        return self._read(self.model.users, users, layer)

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        return self._read(self.model.items, items, layer)


def history_of(rows: Sequence[Sequence[int]], n_items: int) -> History:
    """Return the history of users 1, 2 ... with these training items."""
    lengths = [0, *(len(row) for row in rows)]
    items = [item for row in rows for item in sorted(row)]
    return History(np.concatenate([[0], np.cumsum(lengths)]), np.array(items, dtype=np.int64), n_items)


@dataclasses.dataclass
class World:
    """A student, a teacher and what the teacher knows."""

    student: TinyAdapter
    teacher: TinyAdapter
    knowledge: Knowledge

    @property
    def history(self) -> History:
        """Training items of each user."""
        return self.knowledge.history

    def seen(self, user: int) -> set[int]:
        """Return one user's training items."""
        return set(self.history.items[self.history.indptr[user] : self.history.indptr[user + 1]].tolist())

    def teacher_order(self, user: int) -> list[int]:
        """Return the user's unobserved items as the teacher ranks them, by a plain sort."""
        with torch.no_grad():
            scores = self.teacher.score_all(torch.tensor([user]))[0].tolist()
        allowed = set(range(1, self.history.n_items)) - self.seen(user)
        return sorted(allowed, key=lambda item: -scores[item])


def make_world(
    folder: Path,
    rows: Sequence[Sequence[int]],
    n_items: int,
    student_size: int = 4,
    teacher_size: int = 6,
    teacher_hints: tuple[str, ...] = TinyAdapter.hints,
) -> World:
    """Build a world whose users 1, 2 ... have these training items; ``n_items`` counts the padding item."""
    n_users = len(rows) + 1
    student = TinyAdapter(TinyModel(n_users, n_items, student_size, seed=1))
    teacher = TinyAdapter(TinyModel(n_users, n_items, teacher_size, seed=2))
    knowledge = StoredKnowledge(folder, GivenTeacher(lambda: teacher, teacher_hints), history_of(rows, n_items))
    return World(student, teacher, knowledge)


def some_rows(n_users: int, n_items: int, most: int, seed: int = 0) -> list[list[int]]:
    """Return between 0 and ``most`` training items for each user."""
    random = np.random.default_rng(seed)
    return [
        sorted((random.permutation(n_items - 1)[: random.integers(0, most + 1)] + 1).tolist()) for _ in range(n_users)
    ]


def assert_share_is_unbiased(whole: Any, part: Any, batch: StepBatch, draws: int = 300) -> None:
    """Say that a term over a share of a batch, drawn anew each step, is on average the term over all of it."""
    means = [sum(built(batch).item() for _ in range(draws)) / draws for built in (whole, part)]
    assert means[1] == pytest.approx(means[0], rel=0.15)


def step(users: Sequence[int], positives: Sequence[int], negatives: Sequence[int], rows: int = 1) -> StepBatch:
    """Return a batch of these distinct entities."""
    as_ids = lambda ids: torch.tensor(list(ids), dtype=torch.int64)  # noqa: E731
    return StepBatch(as_ids(users), as_ids(positives), as_ids(negatives), rows)


class LossContract:
    """Base of every method's test class; test_coverage.py fails where a method or a kind of test is missing.

    A subclass sets ``method``, may set ``base_options`` (options that make the method cheap and well behaved in the
    tiny world) and adds tests named test_reference_, test_gradcheck_, test_invariant_, test_golden_ and
    test_optimisation_. What every method must do whatever its formula is tested here.
    """

    method: ClassVar[str] = ""
    base_options: ClassVar[dict[str, Any]] = {}
    #: Options under which something is drawn, where the others draw nothing.
    random_options: ClassVar[dict[str, Any]] = {}
    #: Buffers: the state that a resumed run goes on from, nothing of the teacher.
    state: ClassVar[set[str]] = set()
    #: Whether the term reaches users that are not in the batch.
    reaches_other_users: ClassVar[bool] = False
    batch: ClassVar[StepBatch] = step(users=[1, 3, 4], positives=[2, 7, 9], negatives=[5, 7], rows=8)

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give twelve users and forty items, each with up to ten training items."""
        return make_world(tmp_path / "knowledge", some_rows(12, 41, 10), n_items=41)

    def distiller(self, world: World, seed: int = 5, **changes: Any) -> Any:
        """Build the method in its first epoch, with these options on top of the class's."""
        kind: type[Distiller] = method_class(self.method)
        options = kind.options_class(**{**self.base_options, **changes})
        built = kind(options, world.knowledge, world.student, seed)
        built.begin_epoch(0)
        return built

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
        assert (items != 0).any()
        assert all(parameter.grad is None for parameter in world.teacher.model.parameters())

    def test_contract_owns_neither_student_nor_teacher(self, world: World) -> None:
        """A registered student doubles its weight decay; a teacher in the state would be saved with every student."""
        distiller = self.distiller(world)
        foreign = {id(p) for side in (world.student, world.teacher) for p in side.model.parameters()}
        assert not foreign & {id(parameter) for parameter in distiller.parameters()}
        assert all(parameter.requires_grad for parameter in distiller.parameters())
        assert {name for name, _ in distiller.named_buffers()} == self.state

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

    def test_contract_seed_reaches_the_sampling(self, world: World) -> None:
        """With a fixed seed inside, runs over several seeds would share their noise and look steadier than they are."""
        one, other = (self.distiller(world, seed=seed, **self.random_options) for seed in (5, 6))
        other.load_state_dict(one.state_dict())  # what is left to differ is the noise
        # A share of three users is easily the same once.
        first, second = ([built(self.batch).item() for _ in range(6)] for built in (one, other))
        assert first != pytest.approx(second, rel=1e-4)

    def test_contract_weight_is_the_student_s_business(self, world: World) -> None:
        """A term that applies its own weight would be weighted twice."""
        light, heavy = (self.distiller(world, weight=weight) for weight in (0.5, 2.0))
        assert (light.weight, heavy.weight) == (0.5, 2.0)
        assert torch.equal(light(self.batch), heavy(self.batch))
