"""Collaborative Distillation: the formula on plain floats, its gradients, what it implies, known values, training."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import recbole_derrd.distillers.cd as cd_module
import recbole_derrd.distillers.negative_sampling as unobserved_module
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.cd import (
    CDOptions,
    CollaborativeDistillation,
    better_of_pairs,
    collaborative_loss,
    soft_labels,
)
from recbole_derrd.distillers.negative_sampling import NegativeSampler, distinct_numbers
from recbole_derrd.errors import OptionError, TrainingError
from recbole_derrd.testing import LossContract, World, history_of, make_world, some_rows, step

M = 5
GUIDES = ["student", "teacher", "uniform"]


def build(world: World, seed: int = 5, epoch: int = 0, **options: Any) -> CollaborativeDistillation:
    """Build the method with few items and draw an epoch's."""
    distiller = CollaborativeDistillation(
        CDOptions(**{"n_distill": M, **options}), world.knowledge, world.student, seed
    )
    distiller.begin_epoch(epoch)
    return distiller


def drawn(distiller: CollaborativeDistillation) -> Tensor:
    """Return the epoch's items."""
    assert distiller.items is not None
    return distiller.items


def sigmoid(value: float) -> float:
    """Return 1 / (1 + e^-x)."""
    return 1 / (1 + math.exp(-value))


def naive_loss(student: list[float], labels: list[float]) -> float:
    """Return the loss of one user as the paper writes it."""
    return -sum(q * math.log(sigmoid(s)) + (1 - q) * math.log(1 - sigmoid(s)) for s, q in zip(student, labels))


def naive_forward(distiller: CollaborativeDistillation, world: World, batch: StepBatch) -> float:
    """Return L_CD / rows user by user from both models' tables."""
    options, total = distiller.options, 0.0
    student, teacher = (
        (side.model.users.weight @ side.model.items.weight.T).detach().double()
        for side in (world.student, world.teacher)
    )
    for user in batch.users.tolist():
        items = drawn(distiller)[user].tolist()
        labels = [sigmoid((float(teacher[user, item]) + options.t2) / options.t1) for item in items]
        total += naive_loss([float(student[user, item]) for item in items], labels)
    return total / batch.rows


rows = st.lists(st.tuples(st.floats(-20, 20), st.floats(0, 1)), min_size=1, max_size=6)


def as_rows(row: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Return one user's logits and labels as tensors of one row."""
    student, labels = torch.tensor(row, dtype=torch.float64).T
    return student.unsqueeze(0), labels.unsqueeze(0)


class TestCD(LossContract):
    """The five kinds of test for CD."""

    method = "cd"

    # Reference loops

    @pytest.mark.parametrize("scale", [0.1, 3.0])
    def test_reference_naive_floats(self, scale: float) -> None:
        generator = torch.Generator().manual_seed(1)
        student, teacher = scale * torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
        labels = soft_labels(teacher, 2.0, 0.5)
        assert labels[1, 2].item() == pytest.approx(sigmoid((float(teacher[1, 2]) + 0.5) / 2))
        expected = [naive_loss(s, q) for s, q in zip(student.tolist(), labels.tolist())]
        assert collaborative_loss(student, labels).tolist() == pytest.approx(expected)

    @pytest.mark.parametrize("guide", GUIDES)
    @pytest.mark.parametrize("labels", [{}, {"t1": 0.5, "t2": -1.0}])
    def test_reference_forward(self, world: World, guide: str, labels: dict[str, float]) -> None:
        """Prevents another user's labels, and labels in another order than the items."""
        distiller = build(world, guide=guide, **labels)
        for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
            assert distiller(batch).item() == pytest.approx(naive_forward(distiller, world, batch), rel=1e-5)

    def test_reference_better_of_all_pairs_is_linear_in_the_rank(self) -> None:
        """Of the pairs of n items the one at rank r is the better of n - r: proportional to 1 - r / n."""
        pairs = torch.tensor(list(itertools.permutations(range(7), 2)))
        winners = Counter(better_of_pairs(pairs, -pairs).flatten().tolist())
        assert [winners[rank - 1] for rank in range(1, 8)] == [2 * (7 - rank) for rank in range(1, 8)]

    # Gradients

    def test_gradcheck_logits(self) -> None:
        generator = torch.Generator().manual_seed(2)
        student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
        labels = soft_labels(teacher, 2.0, 0.0)
        assert torch.autograd.gradcheck(lambda s: collaborative_loss(s, labels), (student.requires_grad_(),))

    # Invariants

    @given(rows)
    @settings(max_examples=60, deadline=None)
    def test_invariant_best_is_the_label(self, row: list[tuple[float, float]]) -> None:
        """The least loss, the labels' entropy, is where the student's probability is the label."""
        student, labels = as_rows(row)
        best = collaborative_loss(torch.logit(labels, eps=1e-12), labels)
        entropy = (torch.special.entr(labels) + torch.special.entr(1 - labels)).sum(dim=1)
        torch.testing.assert_close(best, entropy, atol=1e-8, rtol=1e-6)
        assert (collaborative_loss(student, labels) >= best - 1e-8).all()

    @given(rows)
    @settings(max_examples=60, deadline=None)
    def test_invariant_signs(self, row: list[tuple[float, float]]) -> None:
        """Liking turned into disliking on both sides changes nothing."""
        student, labels = as_rows(row)
        torch.testing.assert_close(collaborative_loss(-student, 1 - labels), collaborative_loss(student, labels))

    @given(rows, st.randoms(use_true_random=False))
    @settings(max_examples=60, deadline=None)
    def test_invariant_order_of_items_is_free(self, row: list[tuple[float, float]], random: Any) -> None:
        other = list(row)
        random.shuffle(other)
        torch.testing.assert_close(collaborative_loss(*as_rows(other)), collaborative_loss(*as_rows(row)))

    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_invariant_huge_scores_stay_finite(self, size: float) -> None:
        student = torch.full((2, 3), size).requires_grad_()
        loss = collaborative_loss(student, torch.full((2, 3), 0.5))
        loss.sum().backward()
        assert loss.tolist() == pytest.approx([1.5e4] * 2) and torch.isfinite(student.grad).all()  # type: ignore[arg-type]

    # Golden values

    def test_golden_equal_scores(self) -> None:
        """Origin: at logit 0 each item costs ln 2, whatever its label."""
        assert collaborative_loss(torch.zeros(1, 7), torch.rand(1, 7)).item() == pytest.approx(7 * math.log(2))

    def test_golden_by_hand(self) -> None:
        """By hand: t = 2 ln 3 and T1 = 2 give q = 3/4; s = ln 4 gives p = 4/5: -3/4 ln 4/5 - 1/4 ln 1/5."""
        labels = soft_labels(torch.tensor([[2 * math.log(3)]]), 2.0, 0.0)
        assert labels.item() == pytest.approx(0.75)
        expected = 0.75 * math.log(5 / 4) + 0.25 * math.log(5)
        assert collaborative_loss(torch.tensor([[math.log(4)]]), labels).item() == pytest.approx(expected)

    @pytest.mark.parametrize("guide", GUIDES)
    def test_golden_module_at_zero_scores(self, world: World, guide: str) -> None:
        """Three users at 5 ln 2 each, over eight rows."""
        torch.nn.init.zeros_(world.student.model.items.weight)
        assert build(world, guide=guide)(self.batch).item() == pytest.approx(15 * math.log(2) / 8, rel=1e-5)

    # Optimisation

    def test_optimisation_student_approaches_the_labels(self, world: World) -> None:
        distiller = build(world)
        users = torch.arange(1, 13)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)

        def distance() -> float:
            with torch.no_grad():
                scores = world.student.score(users, drawn(distiller)[users].long())
            return float((scores.sigmoid() - distiller.labels[users]).abs().mean())

        before, losses = distance(), []
        for _ in range(40):
            optimizer.zero_grad()
            loss = distiller(step(users.tolist(), [], [], rows=12))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0] and distance() < 0.5 * before


class TestDrawing:
    """The epoch's items of all users."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give thirty users and sixty items."""
        return make_world(tmp_path / "knowledge", some_rows(30, 61, 20, seed=3), n_items=61)

    def order(self, world: World, guide: str, user: int) -> list[int]:
        """Return the user's unobserved items by a plain sort of the guide's scores."""
        scores = {"student": world.student, "teacher": world.teacher}[guide].score_all(torch.tensor([user]))[0].tolist()
        return sorted(set(range(1, 61)) - world.seen(user), key=lambda item: -scores[item])

    @pytest.mark.parametrize("at_once", [1 << 19, 40, 1])
    @pytest.mark.parametrize("guide", GUIDES)
    @pytest.mark.parametrize("top_n", [0, 12])
    def test_sets(self, world: World, monkeypatch: pytest.MonkeyPatch, guide: str, top_n: int, at_once: int) -> None:
        """Distinct unobserved items, wherever the blocks of users end; of the guide's head where that is asked for."""
        if guide == "uniform" and top_n:
            return
        monkeypatch.setattr(unobserved_module, "_DRAWN_AT_ONCE", at_once)
        monkeypatch.setattr(cd_module, "_CHUNK_NUMBERS", 16 * 10 * at_once)
        items = drawn(build(world, guide=guide, top_n=top_n))
        assert items.shape == (31, M)
        for user in range(1, 31):
            row = items[user].tolist()
            assert len(set(row)) == M and 0 not in row and not set(row) & world.seen(user)
            if top_n:
                assert set(row) <= set(self.order(world, guide, user)[:top_n])

    @pytest.mark.parametrize("guide", ["student", "teacher"])
    def test_rankings_of_some_users_at_a_time_change_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch, guide: str
    ) -> None:
        """Blocks that draw hold several of those that rank, and neither ends where the users do."""
        monkeypatch.setattr(unobserved_module, "_DRAWN_AT_ONCE", 14 * 2 * M)
        whole = drawn(build(world, guide=guide, top_n=12))
        monkeypatch.setattr("recbole_derrd.teacher.exact._FEWEST_USERS", 4)
        monkeypatch.setattr("recbole_derrd.teacher.exact._CPU_SCORES", 1)
        assert torch.equal(drawn(build(world, guide=guide, top_n=12)), whole)

    @pytest.mark.parametrize(("guide", "top_n"), [("student", 0), ("teacher", 0), ("student", 12), ("teacher", 12)])
    def test_rank_r_is_drawn_in_proportion_to_one_minus_r_over_n(self, world: World, guide: str, top_n: int) -> None:
        """Over many epochs, against the exact probabilities; the items of one epoch exclude each other, so cautious."""
        user = 4
        ranked = self.order(world, guide, user)[: top_n or None]
        distiller = build(world, guide=guide, top_n=top_n)
        found: Counter[int] = Counter()
        for epoch in range(400):
            distiller.begin_epoch(epoch)
            found.update(drawn(distiller)[user].tolist())
        size = len(ranked)
        expected = [400 * M * 2 * (size - rank) / (size * (size - 1)) for rank in range(1, size)]
        assert found[ranked[-1]] == 0  # the worst of all never wins
        assert stats.chisquare([found[item] for item in ranked[:-1]], expected).pvalue > 0.01

    @pytest.mark.parametrize("guide", ["student", "teacher"])
    def test_rank_r_is_drawn_alike_where_good_items_have_small_ids(self, world: World, guide: str) -> None:
        """Popular items come first in a file and get small ids; a draw in the order of the ids would pair them so."""
        for model in (world.student.model, world.teacher.model):
            with torch.no_grad():
                model.users.weight.zero_()[:, 0] = 1.0
                model.items.weight[:, 0] = -torch.arange(61.0)
        self.test_rank_r_is_drawn_in_proportion_to_one_minus_r_over_n(world, guide, 0)

    def test_uniform(self, world: World) -> None:
        user = 4
        distiller = build(world, guide="uniform")
        found: Counter[int] = Counter()
        for epoch in range(400):
            distiller.begin_epoch(epoch)
            found.update(drawn(distiller)[user].tolist())
        assert stats.chisquare([found[item] for item in world.teacher_order(user)]).pvalue > 0.01

    def test_student_s_ranks_are_those_of_the_epoch(self, world: World) -> None:
        """The student-guided draw follows the student; the teacher-guided one does not."""
        before = {guide: drawn(build(world, guide=guide)).clone() for guide in GUIDES}
        with torch.no_grad():
            world.student.model.users.weight.neg_()
        after = {guide: drawn(build(world, guide=guide)) for guide in GUIDES}
        assert not torch.equal(before["student"], after["student"])
        assert torch.equal(before["teacher"], after["teacher"]) and torch.equal(before["uniform"], after["uniform"])

    @pytest.mark.parametrize("training", [True, False])
    def test_drawing_leaves_no_trace(self, world: World, training: bool) -> None:
        """The global generator and the student's mode are as they were, and no graph is kept."""
        world.student.model.train(training)
        state = torch.get_rng_state()
        distiller = build(world, top_n=12)
        assert torch.equal(torch.get_rng_state(), state)
        assert world.student.model.training is training and world.student._shared is None
        assert distiller.labels is not None and not distiller.labels.requires_grad

    @pytest.mark.parametrize("top_n", [0, 12])
    def test_resumed_run_draws_what_an_uninterrupted_one_draws(self, world: World, top_n: int) -> None:
        """The draw depends on seed, epoch and, where it guides, the student's weights only."""
        through = build(world, top_n=top_n)
        for epoch in range(1, 8):
            through.begin_epoch(epoch)
        resumed = build(world, epoch=7, top_n=top_n)
        assert torch.equal(drawn(through), drawn(resumed)) and torch.equal(through.labels, resumed.labels)
        assert not torch.equal(drawn(through), drawn(build(world, epoch=6, top_n=top_n)))
        assert not torch.equal(drawn(through), drawn(build(world, epoch=7, seed=6, top_n=top_n)))

    def test_kept_order_of_training_items_changes_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = build(world, epoch=1)
        monkeypatch.setattr(unobserved_module, "_KEPT_PAIRS", 0)
        anew = build(world, epoch=1)
        assert kept.unobserved._keys and not anew.unobserved._keys
        assert torch.equal(drawn(kept), drawn(anew))

    def test_independent_draws_are_uniform_over_the_unobserved(self) -> None:
        """Those of ranking distillation: each on its own, so an item may come again."""
        source = NegativeSampler(history_of([[2, 3, 9], [1], []], n_items=10))
        generator = torch.Generator().manual_seed(3)
        items = source.independent(1, 4, 6000, generator)
        for row, seen in enumerate(({2, 3, 9}, {1}, set())):
            found = Counter(items[row].tolist())
            allowed = sorted(set(range(1, 10)) - seen)
            assert sorted(found) == allowed
            assert stats.chisquare([found[item] for item in allowed]).pvalue > 0.01

    @pytest.mark.parametrize("floyd", [True, False])
    def test_distinct_numbers_are_uniform_over_subsets(self, monkeypatch: pytest.MonkeyPatch, floyd: bool) -> None:
        """By either way every pair of seven, and every pair of five, is as likely as any other."""
        if not floyd:
            monkeypatch.setattr(unobserved_module, "_FEW", 0)
            monkeypatch.setattr(unobserved_module, "_SPARSE", 1)
        sizes = torch.tensor([7, 5]).repeat(4000)
        numbers = distinct_numbers(sizes, 2, torch.Generator().manual_seed(1))
        for size in (7, 5):
            pairs = Counter(tuple(sorted(pair)) for pair in numbers[sizes == size].tolist())
            assert sorted(pairs) == list(itertools.combinations(range(size), 2))
            assert stats.chisquare(list(pairs.values())).pvalue > 0.01

    def test_many_distinct_numbers(self) -> None:
        """Past Floyd's: distinct, below their size, and every draw from a size of just enough is the same set."""
        sizes = torch.tensor([120, 400, 5000])
        numbers = distinct_numbers(sizes, 30, torch.Generator().manual_seed(1))
        assert all(len(set(row)) == 30 and max(row) < size for row, size in zip(numbers.tolist(), sizes.tolist()))
        assert sorted(distinct_numbers(torch.tensor([30]), 30, torch.Generator())[0].tolist()) == list(range(30))
        assert distinct_numbers(torch.empty(0, dtype=torch.int64), 30, torch.Generator()).shape == (0, 30)

    def test_forward_before_the_first_epoch(self, world: World) -> None:
        distiller = CollaborativeDistillation(CDOptions(n_distill=M), world.knowledge, world.student, seed=0)
        with pytest.raises(RuntimeError, match="begin_epoch"):
            distiller(step([1], [2], [3]))


@pytest.mark.parametrize("top_n", [0, 12])
def test_a_student_that_has_diverged_is_named_and_not_the_teacher(tmp_path: Path, top_n: int) -> None:
    world = make_world(tmp_path, some_rows(12, 41, 8), n_items=41)
    with torch.no_grad():
        world.student.model.items.weight[5] = torch.nan
    with pytest.raises(TrainingError, match="The student's scores hold NaN"):
        build(world, top_n=top_n, guide="student")


class TestRefusals:
    """What the data or the other options do not allow, in a sentence."""

    @pytest.mark.parametrize(("guide", "needed"), [("student", 10), ("teacher", 10), ("uniform", 5)])
    def test_few_unobserved_items(self, tmp_path: Path, guide: str, needed: int) -> None:
        """Exactly enough works; one less is refused with the number that fits."""
        enough = make_world(tmp_path / "a", [[1], list(range(1, 31 - needed))], n_items=31)
        assert len(set(drawn(build(enough, guide=guide))[2].tolist())) == M
        short = make_world(tmp_path / "b", [list(range(1, 32 - needed))] * 2, n_items=31)
        asked = f"^{'' if guide == 'uniform' else '2 x '}cd_n_distill = {needed} "
        with pytest.raises(OptionError, match=rf"{asked}.*only {needed - 1} unobserved.*Lower cd_n_distill to 4\b"):
            build(short, guide=guide)

    def test_user_who_knows_everything(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="too few unobserved items, one has 0"):
            build(make_world(tmp_path, [list(range(1, 31))], n_items=31))

    def test_lists(self) -> None:
        with pytest.raises(OptionError, match="take out cd_top_n"):
            CDOptions(guide="uniform", top_n=10)
        with pytest.raises(OptionError, match="cd_top_n = 1 is too short"):
            CDOptions(n_distill=5, top_n=1)
        with pytest.raises(OptionError, match="cd_top_n = 9 is too short for cd_n_distill = 5"):
            CDOptions(n_distill=5, top_n=9)

    def test_list_longer_than_the_catalogue(self, tmp_path: Path) -> None:
        """A head of 500 of 60 items is all of them."""
        world = make_world(tmp_path, some_rows(30, 61, 20, seed=3), n_items=61)
        items = drawn(build(world, top_n=500))
        assert all(not set(items[user].tolist()) & (world.seen(user) | {0}) for user in range(1, 31))


def test_share_of_users_is_unbiased(tmp_path: Path) -> None:
    world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
    whole, part = build(world), build(world, sample=0.34)
    each = [3 * whole(step([user], [], [], rows=8)).item() for user in (1, 3, 4)]
    losses = [part(LossContract.batch).item() for _ in range(60)]
    assert all(min(abs(loss - one) for one in each) < 1e-4 for loss in losses)
    assert {min(range(3), key=lambda one: abs(each[one] - loss)) for loss in losses} == {0, 1, 2}
