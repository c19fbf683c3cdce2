"""Listwise distillation: the formula on plain floats, its gradients, what it implies, known values, training."""

from __future__ import annotations

import dataclasses
import math
import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import recbole_derrd.ops.full_softmax as catalogue_module
from recbole_derrd.adapters import Adapter
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.listwise import ListwiseDistillation, ListwiseOptions, listwise_loss, target_probabilities
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.ops.full_softmax import LOWEST, Targets, cross_entropy_sum, label_sum, sum_by_blocks
from recbole_derrd.teacher import GivenTeacher, StoredKnowledge
from recbole_derrd.testing import LossContract, TinyAdapter, TinyModel, World, make_world, some_rows, step

T = 0.7
CATALOGUE: list[dict[str, Any]] = [
    {}, {"observed": True}, {"top_n": 6},
    {"labels": 0.4}, {"labels": 2.0, "top_n": 6}, {"labels": 0.4, "observed": True},
]  # fmt: skip


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Return seeded normal numbers in double precision."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_softmax(logits: list[float], temperature: float) -> list[float]:
    """Return the softmax as the book writes it."""
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def naive_loss(teacher: list[float], student: list[float], temperature: float) -> float:
    """Return H(softmax(t / T), softmax(s / T)) of one user."""
    pairs = zip(naive_softmax(teacher, temperature), naive_softmax(student, temperature))
    return -sum(q * math.log(p) for q, p in pairs)


def build(world: World, seed: int = 5, epoch: int = 0, fused: bool = True, **options: Any) -> ListwiseDistillation:
    """Build the method and begin an epoch."""
    world.student.fused = fused
    distiller = ListwiseDistillation(
        ListwiseOptions(**{"temperature": T, **options}), world.knowledge, world.student, seed
    )
    distiller.begin_epoch(epoch)
    return distiller


def naive_forward(distiller: ListwiseDistillation, world: World, batch: StepBatch) -> float:
    """Return L / rows user by user over the items that take part."""
    options, total = distiller.options, 0.0
    with torch.no_grad():
        student, teacher = (side.score_all(batch.users).double() for side in (world.student, world.teacher))
    for row, user in enumerate(batch.users.tolist()):
        items = [item for item in range(1, world.history.n_items) if options.observed or item not in world.seen(user)]
        normaliser = sum(math.exp(float(student[row, item]) / T) for item in items)
        listed = world.teacher_order(user)[: options.top_n] if options.top_n else items
        masses = naive_softmax([float(teacher[row, item]) for item in listed], T)
        for item, mass in zip(listed, masses):
            total -= mass * math.log(math.exp(float(student[row, item]) / T) / normaliser)
        if options.labels:
            powers = {item: math.exp(float(student[row, item])) for item in range(1, world.history.n_items)}
            for item in world.seen(user):
                total -= options.labels * math.log(powers[item] / sum(powers.values()))
    return total / batch.rows


def naive_over_items(distiller: ListwiseDistillation, world: World, batch: StepBatch) -> float:
    """Return L / rows user by user over the K best items of the teacher or of the student."""
    options, total = distiller.options, 0.0
    with torch.no_grad():
        student, teacher = (side.score_all(batch.users).double() for side in (world.student, world.teacher))
    for row, user in enumerate(batch.users.tolist()):
        allowed = [i for i in range(1, world.history.n_items) if options.observed or i not in world.seen(user)]
        ranked = (teacher if options.items == "teacher" else student)[row]
        items = sorted(allowed, key=lambda item: -float(ranked[item]))[: options.k]
        total += naive_loss(*([float(side[row, item]) for item in items] for side in (teacher, student)), T)
    return total / batch.rows


class ScoresOnly(Adapter):
    """A world's model behind its scores alone: no embeddings to ask for."""

    def __init__(self, inner: TinyAdapter) -> None:
        super().__init__(inner.model)
        self.inner = inner

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the model's scores of listed items."""
        return self.inner.score(users, items)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the model's scores of everything."""
        return self.inner.score_all(users)


logits = st.lists(st.floats(-5, 5), min_size=2, max_size=6)


class TestListwise(LossContract):
    """The five kinds of test for listwise distillation."""

    method = "listwise"
    #: Only the share of users is drawn.
    random_options: ClassVar[dict[str, Any]] = {"sample": 0.34}

    # Reference loops

    @pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
    def test_reference_naive_floats(self, temperature: float) -> None:
        """Prevents a temperature on one side only."""
        student, teacher = normal(6, 9, seed=1), normal(6, 9, seed=2)
        expected = [naive_loss(t, s, temperature) for t, s in zip(teacher.tolist(), student.tolist())]
        loss = listwise_loss(student, target_probabilities(teacher, temperature), temperature)
        assert loss.tolist() == pytest.approx(expected)

    @pytest.mark.parametrize("fused", [True, False])
    @pytest.mark.parametrize("options", [*CATALOGUE, {"top_n": 500}])
    def test_reference_forward(self, world: World, options: dict[str, Any], fused: bool) -> None:
        """Prevents a padding item in the normaliser, and training items hidden in another user's row."""
        distiller = build(world, fused=fused, **options)
        for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
            assert distiller(batch).item() == pytest.approx(naive_forward(distiller, world, batch), rel=1e-5)

    @pytest.mark.parametrize("items", ["teacher", "student"])
    @pytest.mark.parametrize("observed", [False, True])
    @pytest.mark.parametrize("k", [2, 7, 35, 500])
    def test_reference_over_k_items(self, world: World, items: str, observed: bool, k: int) -> None:
        """Plain KD; K = 35 is more than some users have not seen."""
        distiller = build(world, items=items, observed=observed, k=k)
        for epoch in range(2):
            for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
                expected = naive_over_items(distiller, world, batch)
                assert distiller(batch).item() == pytest.approx(expected, rel=1e-5)
            world.student.model.items.weight.data.mul_(-1)
            distiller.begin_epoch(epoch + 1)

    @pytest.mark.parametrize(("items", "observed"), [("student", False), ("student", True), ("teacher", True)])
    def test_rankings_of_some_users_at_a_time_change_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch, items: str, observed: bool
    ) -> None:
        whole = build(world, items=items, observed=observed, k=7)
        monkeypatch.setattr("recbole_derrd.teacher.exact._FEWEST_USERS", 5)
        monkeypatch.setattr("recbole_derrd.teacher.exact._CPU_SCORES", 1)
        parts = build(world, items=items, observed=observed, k=7)
        assert whole.items is not None and parts.items is not None and torch.equal(parts.items, whole.items)
        torch.testing.assert_close(parts.logits, whole.logits)

    def test_one_score_of_the_teachers_that_is_no_number_is_refused(self, world: World) -> None:
        with torch.no_grad():
            world.teacher.model.items.weight[5] = torch.nan
        with pytest.raises(DataError, match="train the teacher again"):
            build(world, items="student", k=40)

    def test_a_teacher_that_gives_its_own_memory_keeps_it(
        self, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """As adapters of models do whose scores are a stored table."""

        class Stored(ScoresOnly):
            def score_all(self, users: Tensor) -> Tensor:
                return table

        batch = step([1, 3, 4], [], [], rows=1)
        table = world.teacher.score_all(batch.users).detach().clone()
        before = table.clone()
        given = GivenTeacher(lambda: Stored(world.teacher), ())
        knowledge = StoredKnowledge(tmp_path / "stored", given, world.history)
        distiller = ListwiseDistillation(ListwiseOptions(temperature=T), knowledge, world.student, 1)
        assert torch.isfinite(distiller(batch)) and torch.equal(table, before)

    @pytest.mark.parametrize("observed", [False, True])
    def test_items_that_no_teacher_scores_get_no_probability(
        self, world: World, monkeypatch: pytest.MonkeyPatch, observed: bool
    ) -> None:
        """As an ensemble's are at -inf: some of user 1's, all of user 3's, who then has no term."""
        whole = world.knowledge.scores

        def scores(users: Tensor, items: Tensor) -> Tensor:
            found = whole(users, items).clone()
            found[users == 1, :3], found[users == 3] = -torch.inf, -torch.inf
            return found

        monkeypatch.setattr(world.knowledge, "scores", scores)
        distiller = build(world, items="student", k=6, observed=observed)
        assert distiller(step([3], [], [], rows=1)).item() == 0
        loss = distiller(step([1], [], [], rows=1))
        items = distiller.items[1].tolist()
        student, teacher = (side.score_all(torch.tensor([1]))[0].tolist() for side in (world.student, world.teacher))
        wanted = dict(zip(items[3:], naive_softmax([teacher[item] for item in items[3:]], T)))
        shares = dict(zip(items, naive_softmax([student[item] for item in items], T)))
        assert loss.item() == pytest.approx(-sum(q * math.log(shares[item]) for item, q in wanted.items()), rel=1e-5)

    def test_golden_over_k_items(self) -> None:
        """Origin: independent code in float64, of the teacher's best three items, T = 2."""
        student, teacher = (torch.tensor([row], dtype=torch.float64) for row in ([0.1, 1.2, 0.3], [2.0, 1.5, 1.1]))
        found = listwise_loss(student, target_probabilities(teacher, 2.0), 2.0)
        assert found.item() == pytest.approx(1.141412886357378, rel=1e-12)

    def test_optimisation_over_the_students_items_finds_the_teachers(self, world: World) -> None:
        """Items that the student ranks too high fall until the teacher's are its own."""
        distiller = build(world, items="student", k=10, epoch=0)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)
        users = torch.arange(1, 13)

        def shared() -> int:
            orders = (world.student.score_all(users), world.teacher.score_all(users))
            seen = [[item in world.seen(user) or item == 0 for item in range(41)] for user in users.tolist()]
            best = [scores.masked_fill(torch.tensor(seen), -1e9).topk(5).indices.tolist() for scores in orders]
            return sum(len({*own} & {*theirs}) for own, theirs in zip(*best))

        before = shared()
        for epoch in range(60):
            distiller.begin_epoch(epoch)
            optimizer.zero_grad()
            distiller(step(users.tolist(), [], [], rows=12)).backward()
            optimizer.step()
        assert shared() > before + 12

    @pytest.mark.parametrize("options", CATALOGUE)
    @pytest.mark.parametrize("block", [1, 50, 1 << 20])
    def test_reference_fused_gradients(
        self, world: World, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], block: int
    ) -> None:
        """The block-wise gradients are autograd's of the readable formula, wherever the blocks end."""
        monkeypatch.setattr(catalogue_module, "_BLOCK_SCORES", block)
        monkeypatch.setattr(catalogue_module, "_FEWEST_USERS", 1)
        batch = step([12, 2, 7, 1, 9], [], [], rows=3)
        weights = list(world.student.model.parameters())
        found = []
        for fused in (True, False):
            loss = build(world, fused=fused, **options)(batch)
            found.append([loss.detach(), *torch.autograd.grad(loss, weights)])
        for one, other in zip(*found):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("options", CATALOGUE)
    def test_reference_models_without_vectors(
        self, world: World, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
    ) -> None:
        """A student or teacher behind its scores alone gives the same term and gradients, in blocks of two users."""
        batch = step([12, 2, 7, 1, 9], [], [], rows=3)
        weights = list(world.student.model.parameters())
        expected = build(world, **options)(batch)
        gradients = torch.autograd.grad(expected, weights)
        monkeypatch.setattr(catalogue_module, "_BLOCK_SCORES", 82)
        monkeypatch.setattr(catalogue_module, "_FEWEST_USERS", 1)
        monkeypatch.setattr(world.knowledge._teacher, "_adapter", ScoresOnly(world.teacher))
        bare = dataclasses.replace(world, student=ScoresOnly(world.student))  # type: ignore[arg-type]
        distiller = build(bare, **options)
        assert distiller.embeddings is None
        with bare.student.shared():
            loss = distiller(batch)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        for one, other in zip(torch.autograd.grad(3 * loss, weights), gradients):
            torch.testing.assert_close(one, 3 * other, rtol=1e-4, atol=1e-6)

    # Gradients

    def test_gradcheck_formula(self) -> None:
        mass = target_probabilities(normal(3, 5, seed=1), T)
        assert torch.autograd.gradcheck(lambda s: listwise_loss(s, mass, T), (normal(3, 5, seed=4).requires_grad_(),))

    @pytest.mark.parametrize("listed", [False, True])
    @pytest.mark.parametrize("labelled", [False, True])
    def test_gradcheck_blocks(self, monkeypatch: pytest.MonkeyPatch, listed: bool, labelled: bool) -> None:
        monkeypatch.setattr(catalogue_module, "_BLOCK_SCORES", 14)
        monkeypatch.setattr(catalogue_module, "_FEWEST_USERS", 2)
        masses = target_probabilities(normal(5, 3 if listed else 7, seed=3), T)
        items = torch.tensor([[1, 2, 3], [4, 5, 6], [6, 1, 2], [3, 4, 5], [2, 6, 1]]) if listed else None
        if not listed:
            masses[:, 0] = 0
            masses /= masses.sum(dim=1, keepdim=True)

        def source(start: int, stop: int) -> Targets:
            rows = torch.arange(stop - start)
            picked = None if items is None else items[start:stop]
            # Row r of the catalogue has the labels 1 .. r: none, one, several.
            label_rows = torch.cat([torch.full((row,), row - start) for row in range(start, stop)])
            label_items = torch.cat([torch.arange(1, row + 1) for row in range(start, stop)])
            labels = (label_rows, label_items) if labelled else None
            return Targets(masses[start:stop], picked, (rows, torch.zeros_like(rows)), labels)

        embeddings = (normal(5, 2, seed=1).requires_grad_(), normal(7, 2, seed=2).requires_grad_())
        assert torch.autograd.gradcheck(lambda *both: cross_entropy_sum(*both, source, T, 0.3), embeddings)

    def test_golden_labels(self) -> None:
        """Three items of logits 0, ln 2, ln 5 in a catalogue with the padding: shares 1/8, 2/8, 5/8."""
        scores = torch.tensor([[9.0, 0.0, math.log(2), math.log(5)]], dtype=torch.float64) / T
        labels = (torch.tensor([0, 0]), torch.tensor([3, 1]))
        part, gradient = label_sum(scores.clone(), labels, T)
        assert part.item() == pytest.approx(-math.log(5 / 8) - math.log(1 / 8))
        wanted = [0.0, 2 / 8 - 1, 4 / 8, 10 / 8 - 1]
        assert gradient[0].tolist() == pytest.approx([T * one for one in wanted])

    def test_optimisation_labels_alone_are_learnt(self, world: World) -> None:
        """With a teacher that knows nothing, the training items end above all others."""
        users = torch.arange(1, world.history.n_users)
        with torch.no_grad():
            for weight in world.teacher.model.parameters():
                weight.zero_()
        distiller = build(world, labels=1.0)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            distiller(step(users.tolist(), [], [], rows=12)).backward()
            optimizer.step()
        with torch.no_grad():
            scores = world.student.score_all(users)
        hits = total = 0
        for row, user in enumerate(users.tolist()):
            seen = world.seen(user)
            best = set((scores[row, 1:].topk(len(seen)).indices + 1).tolist())
            hits, total = hits + len(best & set(seen)), total + len(seen)
        assert hits > 0.6 * total

    def test_optimisation_one_block_in_memory_at_a_time(self) -> None:
        weight = torch.ones(3, requires_grad=True)
        alive: list[weakref.ref[Tensor]] = []

        def block(start: int, stop: int) -> Tensor:
            assert all(reference() is None for reference in alive), "the graph before this one is still there"
            kept = weight * 2.0
            alive.append(weakref.ref(kept))
            return kept.square().sum()

        sum_by_blocks(block, 4, 1, [weight]).backward()
        assert len(alive) == 4 and weight.grad is not None and weight.grad.tolist() == [32.0] * 3

    def test_reference_small_slopes_survive_half_precision(self) -> None:
        """A softmax over a catalogue has gradients that half precision would take for 0."""
        weight = torch.ones(5, requires_grad=True)
        sum_by_blocks(lambda a, b: (weight.half() * 2).float().sum() * 1e-9, 1, 1, [weight]).backward()
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, torch.full((5,), 2e-9), rtol=0.05, atol=0)

    def test_gradcheck_sum_by_blocks(self) -> None:
        """Blocks of a term with a shared part; one weight takes no part."""
        weights = [normal(5, seed=1).requires_grad_(), normal(1, seed=2).requires_grad_()]
        idle = normal(2, seed=3).requires_grad_()

        def total(first: Tensor, second: Tensor) -> Tensor:
            shared = (second.exp() * 2).sum()
            return sum_by_blocks(lambda a, b: (first[a:b].sin() * shared).sum(), 5, 2, [first, second, idle])

        assert torch.autograd.gradcheck(total, tuple(weights))
        assert torch.autograd.grad(total(*weights), idle, allow_unused=True) == (None,)

    # Invariants

    @given(logits, st.floats(-30, 30), st.floats(0.2, 5))
    @settings(max_examples=60, deadline=None)
    def test_invariant_shift(self, row: list[float], shift: float, temperature: float) -> None:
        """A shift of all scores of either side changes nothing."""
        student = torch.tensor([row], dtype=torch.float64)
        teacher = student.flip(1)
        one = listwise_loss(student, target_probabilities(teacher, temperature), temperature)
        torch.testing.assert_close(
            listwise_loss(student + shift, target_probabilities(teacher - shift, temperature), temperature), one
        )

    @given(logits, logits, st.floats(0.2, 5))
    @settings(max_examples=60, deadline=None)
    def test_invariant_teacher_s_own_scores_are_best(
        self, one: list[float], other: list[float], temperature: float
    ) -> None:
        """Cross-entropy is least, the teacher's entropy, where the student scores as the teacher."""
        size = min(len(one), len(other))
        teacher, student = (torch.tensor([row[:size]], dtype=torch.float64) for row in (one, other))
        mass = target_probabilities(teacher, temperature)
        best = listwise_loss(teacher, mass, temperature)
        torch.testing.assert_close(best, torch.special.entr(mass).sum(dim=1))
        assert (listwise_loss(student, mass, temperature) >= best - 1e-9).all()

    def test_invariant_hidden_items_are_absent(self) -> None:
        """An item at -1e30 is as if it were not there."""
        student, teacher = normal(4, 6, seed=1), normal(4, 6, seed=2)
        whole = listwise_loss(student[:, 1:], target_probabilities(teacher[:, 1:], T), T)
        student[:, 0] = teacher[:, 0] = LOWEST
        torch.testing.assert_close(listwise_loss(student, target_probabilities(teacher, T), T), whole)

    @pytest.mark.parametrize("fused", [True, False])
    def test_invariant_training_items_are_free(self, world: World, fused: bool) -> None:
        """Without listwise_observed the scores of what a user has seen, and of the padding item, change nothing."""
        user = next(user for user in range(1, 13) if world.seen(user))
        batch = step([user], [], [])
        free, bound = (build(world, fused=fused, observed=observed) for observed in (False, True))
        before = free(batch).item(), bound(batch).item()
        with torch.no_grad():
            world.student.model.items.weight[[0, *world.seen(user)]] += 3.0
        assert free(batch).item() == pytest.approx(before[0], rel=1e-5)
        assert bound(batch).item() != pytest.approx(before[1], rel=1e-3)

    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_invariant_huge_scores_stay_finite(self, tmp_path: Path, size: float) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        with torch.no_grad():
            world.student.model.users.weight.mul_(size)
        loss = build(world)(self.batch)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(world.student.model.items.weight.grad).all()

    # Golden values

    @pytest.mark.parametrize("size", [2, 7, 25_180])
    def test_golden_equal_scores(self, size: int) -> None:
        """Origin: the cross-entropy with a uniform distribution is ln m, whatever the teacher."""
        mass = target_probabilities(normal(2, size, seed=1), T)
        assert listwise_loss(torch.zeros(2, size), mass, T).tolist() == pytest.approx([math.log(size)] * 2, rel=1e-6)

    def test_golden_by_hand(self) -> None:
        """By hand at T = 1/2: q = (4, 1)/5 of teacher ln 2, 0; p = (1, 9)/10 of student 0, ln 3."""
        teacher, student = torch.tensor([[2.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
        expected = 0.8 * math.log(10) + 0.2 * math.log(10 / 9)
        assert listwise_loss(student, target_probabilities(teacher, 0.5), 0.5).item() == pytest.approx(
            expected, rel=1e-6
        )

    @pytest.mark.parametrize("options", [{}, {"observed": True}, {"top_n": 6}])
    def test_golden_module_at_zero_scores(self, world: World, options: dict[str, Any]) -> None:
        """The sum of ln(items that take part), over eight rows."""
        torch.nn.init.zeros_(world.student.model.items.weight)
        sizes = [40 if options.get("observed") else 40 - len(world.seen(user)) for user in (1, 3, 4)]
        expected = sum(math.log(size) for size in sizes) / 8
        assert build(world, **options)(self.batch).item() == pytest.approx(expected, rel=1e-5)

    # Optimisation

    @pytest.mark.parametrize("options", [{}, {"top_n": 10}])
    def test_optimisation_student_learns_the_teacher_s_head(self, world: World, options: dict[str, Any]) -> None:
        """The teacher's five best items must rise to the student's head."""
        distiller = build(world, **options)
        users = torch.arange(1, 13)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)

        def hits() -> int:
            order = world.student.score_all(users).argsort(dim=1, descending=True)
            ranked = [
                [item for item in row if item and item not in world.seen(user)]
                for user, row in enumerate(order.tolist(), 1)
            ]
            return sum(len(set(ranked[user - 1][:5]) & set(world.teacher_order(user)[:5])) for user in range(1, 13))

        before, losses = hits(), []
        for _ in range(30):
            optimizer.zero_grad()
            loss = distiller(step(users.tolist(), [], [], rows=12))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert all(later < earlier for earlier, later in zip(losses, losses[1:]))
        assert hits() > before + 15


class TestOptionsAndData:
    def test_labels_need_the_whole_catalogue(self) -> None:
        with pytest.raises(OptionError, match="listwise_labels needs the whole catalogue"):
            ListwiseOptions(labels=0.1, items="teacher")

    """What is refused, in a sentence; what is drawn."""

    def test_observed_items_are_in_no_list(self) -> None:
        with pytest.raises(OptionError, match="take out listwise_observed or listwise_top_n"):
            ListwiseOptions(observed=True, top_n=5)

    def test_user_who_knows_everything(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, [list(range(1, 31))] * 2, n_items=31)
        with pytest.raises(OptionError, match=r"too few unobserved items, one has 0.*listwise_observed: True"):
            build(world)
        assert torch.isfinite(build(world, observed=True)(step([1, 2], [], [])))

    @pytest.mark.parametrize("options", [{}, {"top_n": 6}])
    def test_share_of_users_is_unbiased(self, tmp_path: Path, options: dict[str, Any]) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        whole, part = build(world, **options), build(world, sample=0.34, **options)
        each = [3 * whole(step([user], [], [], rows=8)).item() for user in (1, 3, 4)]
        seen = {min(range(3), key=lambda one: abs(each[one] - loss)) for loss in self.draws(part, each)}
        assert seen == {0, 1, 2}

    @staticmethod
    def draws(part: ListwiseDistillation, each: list[float]) -> list[float]:
        """Return forty draws, each of which must be one user's."""
        losses = [part(LossContract.batch).item() for _ in range(40)]
        assert all(min(abs(loss - one) for one in each) < 1e-4 for loss in losses)
        return losses

    def test_lists_need_no_teacher_in_memory(self, tmp_path: Path) -> None:
        """What a resumed run finds on disk is enough."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        first = build(world, top_n=6)(LossContract.batch)
        world.knowledge.forget_teacher()
        world.knowledge._load_teacher = lambda: pytest.fail("the teacher was loaded")
        assert torch.equal(build(world, top_n=6)(LossContract.batch), first)

    def test_tiny_model_is_what_it_says(self) -> None:
        """The reference reads the tables; the adapter must not transform them."""
        model = TinyModel(3, 4, 2, seed=0)
        torch.testing.assert_close(
            TinyAdapter(model).score_all(torch.tensor([1])), model.users.weight[1:2] @ model.items.weight.T
        )
