"""Soft Label Distillation: the formula on plain floats, its gradients, what it implies, known values, training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recbole_derrd.distillers.sld as sld_module
from recbole_derrd.distillers.listwise import listwise_loss
from recbole_derrd.distillers.sld import SLDOptions, SoftLabelDistillation, soft_labels
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.testing import LossContract, World, assert_share_is_unbiased, make_world, some_rows, step

SIZES = SoftLabelDistillation.test_settings


def build(world: World, seed: int = 5, epoch: int = 0, **options: Any) -> SoftLabelDistillation:
    """Build the method with small sizes."""
    distiller = SoftLabelDistillation(SLDOptions(**{**SIZES, **options}), world.knowledge, world.student, seed)
    distiller.begin_epoch(epoch)
    return distiller


def softmax(values: list[float]) -> list[float]:
    """Return the softmax of plain floats."""
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def naive_loss(student: list[float], teacher: list[float], share: float, tau: float) -> float:
    """Return one user's loss as the head of the file writes it."""
    labels = softmax([((1 - share) * t + share * s) / tau for s, t in zip(student, teacher)])
    return -sum(q * math.log(p) for q, p in zip(labels, softmax([s / tau for s in student])))


def loss_of(student: torch.Tensor, teacher: torch.Tensor, share: float, tau: float) -> torch.Tensor:
    """Return each user's loss, as the module puts it together."""
    return listwise_loss(student, soft_labels(teacher, student, share, tau), tau)


logits = st.lists(st.floats(-20, 20), min_size=2, max_size=7)


class TestSLD(LossContract):
    """The five kinds of test for SLD."""

    method = "sld"

    # Reference loops

    @pytest.mark.parametrize("options", [{}, {"student_share": 0.4}, {"temperature": 2.0, "l": 0}, {"k": 1, "l": 9}])
    def test_reference_forward(self, world: World, options: dict[str, Any]) -> None:
        """Prevents another user's items or labels, and labels that belong to items in another order."""
        distiller = build(world, epoch=2, **options)
        chosen = distiller.options
        assert distiller.drawing.items is not None
        tables = [
            (side.model.users.weight @ side.model.items.weight.T).detach().double()
            for side in (world.student, world.teacher)
        ]
        for batch in (self.batch, step([12, 2, 7], [], [], rows=3)):
            total = 0.0
            for user in batch.users.tolist():
                items = distiller.drawing.items[user].tolist()
                student, teacher = ([float(table[user, item]) for item in items] for table in tables)
                total += naive_loss(student, teacher, chosen.student_share, chosen.temperature)
            assert distiller(batch).item() == pytest.approx(total / batch.rows, rel=1e-5)

    def test_reference_items_are_the_teachers_best_and_others(self, world: World) -> None:
        distiller = build(world)
        assert distiller.drawing.items is not None
        for user in range(1, 13):
            items, order = distiller.drawing.items[user].tolist(), world.teacher_order(user)
            assert len(set(items)) == 10 and set(items[:4]) <= set(order[:10])
            assert not set(items[4:]) & (set(order[:10]) | world.seen(user) | {0})

    # Gradients

    @pytest.mark.parametrize("share", [0.0, 0.6])
    def test_gradcheck_logits(self, share: float) -> None:
        """By labels that are held fixed: a gradient through them would make the student agree with itself."""
        generator = torch.Generator().manual_seed(2)
        student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
        labels = soft_labels(teacher, student, share, 0.5)
        free = student.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda s: listwise_loss(s, labels, 0.5), (free,))
        loss_of(free, teacher, share, 0.5).sum().backward()
        expected = ((student / 0.5).softmax(dim=1) - labels) / 0.5
        torch.testing.assert_close(free.grad, expected)

    # Invariants

    @given(logits, st.floats(0, 0.99), st.floats(0.05, 5), st.floats(-9, 9))
    @settings(max_examples=60, deadline=None)
    def test_invariant_labels_are_shares_and_shifts_change_nothing(
        self, row: list[float], share: float, tau: float, shift: float
    ) -> None:
        teacher = torch.tensor([row], dtype=torch.float64)
        student = teacher.flip(1)
        labels = soft_labels(teacher, student, share, tau)
        assert (labels >= 0).all() and labels.sum().item() == pytest.approx(1)
        torch.testing.assert_close(
            loss_of(student + shift, teacher - shift, share, tau),
            loss_of(student, teacher, share, tau),
            rtol=1e-6,
            atol=1e-6,
        )

    @given(logits, st.floats(0, 0.99))
    @settings(max_examples=60, deadline=None)
    def test_invariant_an_equal_student_is_at_rest(self, row: list[float], share: float) -> None:
        """Whatever its share in the labels, a student with the teacher's scores has no gradient."""
        teacher = torch.tensor([row], dtype=torch.float64)
        student = teacher.clone().requires_grad_()
        loss_of(student, teacher, share, 1.0).sum().backward()
        assert student.grad is not None and student.grad.abs().max().item() < 1e-9

    @given(st.floats(0.0, 0.9))
    @settings(max_examples=30, deadline=None)
    def test_invariant_the_students_share_softens_the_pull(self, share: float) -> None:
        """The student's own opinion in the labels can only make the step towards the teacher's smaller."""
        teacher = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
        pulls = []
        for one in (0.0, share):
            student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
            loss_of(student, teacher, one, 1.0).sum().backward()
            assert student.grad is not None
            pulls.append(-student.grad[0, 0].item())
        assert 0 < pulls[1] <= pulls[0] + 1e-12

    def test_invariant_items_behind_all_others_get_no_label(self) -> None:
        """An ensemble gives -inf to who is in no list."""
        teacher, student = torch.tensor([[1.0, -torch.inf, 0.0]]), torch.tensor([[0.0, 5.0, 1.0]])
        labels = soft_labels(teacher, student, 0.5, 0.1)
        assert labels[0, 1] == 0 and torch.isfinite(labels).all()

    def test_invariant_huge_scores_stay_finite(self) -> None:
        student = torch.tensor([[1e4, -1e4]]).requires_grad_()
        loss = loss_of(student, torch.tensor([[-1e4, 1e4]]), 0.0, 0.1)
        loss.sum().backward()
        assert torch.isfinite(loss).all() and student.grad is not None and torch.isfinite(student.grad).all()

    # Golden values

    def test_golden_equal_scores(self) -> None:
        """Origin: a softmax over m equal scores is 1/m, whatever the labels: ln m."""
        assert loss_of(torch.zeros(1, 300), torch.randn(1, 300), 0.3, 0.1).item() == pytest.approx(math.log(300))

    def test_golden_two_items_by_hand(self) -> None:
        """By hand: labels (e/(1+e), 1/(1+e)) of (1, 0); the student has (0, 1): ln(1+e) - 1/(1+e) = 1.044320."""
        loss = loss_of(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), 0.0, 1.0)
        assert loss.item() == pytest.approx(1.044320, abs=1e-6)

    def test_golden_half_a_share_by_hand(self) -> None:
        """By hand: half of (1, 0) and half of (0, 1) is (1/2, 1/2): labels 1/2 each, ln(1+e) - 1/2 = 0.813262."""
        loss = loss_of(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), 0.5, 1.0)
        assert loss.item() == pytest.approx(0.813262, abs=1e-6)

    # Optimisation

    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_optimisation_the_teachers_order_is_learnt(self, world: World, share: float) -> None:
        distiller = build(world, student_share=share)
        users = torch.arange(1, 13)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)

        def agreement() -> float:
            """Share of pairs of items of each list that student and teacher have in one order."""
            assert distiller.drawing.items is not None and distiller.logits is not None
            mine = world.student.score(users, distiller.drawing.items[1:].long()).detach()
            pairs = [(x.unsqueeze(2) - x.unsqueeze(1)).sign() for x in (mine, distiller.logits[1:])]
            return (pairs[0] == pairs[1]).float().mean().item()

        before = agreement()
        for _ in range(40):
            optimizer.zero_grad()
            distiller(step(users.tolist(), [], [], rows=12)).backward()
            optimizer.step()
        assert agreement() > before + 0.1


class TestDrawing:
    """The epoch's items and labels of all users."""

    def test_resumed_run_draws_what_an_uninterrupted_one_draws(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        through = build(world)
        for epoch in range(1, 4):
            through.begin_epoch(epoch)
        again = build(world, epoch=3)
        assert through.drawing.items is not None and again.drawing.items is not None
        assert torch.equal(through.drawing.items, again.drawing.items)
        assert through.logits is not None and again.logits is not None and torch.equal(through.logits, again.logits)
        assert not torch.equal(again.logits, build(world, epoch=2).logits)  # type: ignore[arg-type]

    @pytest.mark.parametrize("unobserved", [9, 1])
    def test_too_few_is_refused_with_the_number(self, tmp_path: Path, unobserved: int) -> None:
        world = make_world(tmp_path, [list(range(1, 31 - unobserved))] * 2, n_items=31)
        with pytest.raises(OptionError, match=rf"sld_k \+ sld_l = 10 is more.*Lower sld_k and sld_l to {unobserved} "):
            build(world)
        assert torch.isfinite(build(world, k=1, l=unobserved - 1)(step([1, 2], [], [])))

    def test_user_who_knows_everything(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="too few unobserved items, one has 0"):
            build(make_world(tmp_path, [list(range(1, 31))] * 2, n_items=31))

    def test_a_list_shorter_than_what_is_drawn_from_it(self) -> None:
        with pytest.raises(OptionError, match="sld_top_n = 3 is shorter than sld_k = 4"):
            SLDOptions(k=4, top_n=3)

    def test_the_teachers_answers_are_the_same_in_any_blocks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        whole = build(world).logits
        monkeypatch.setattr(sld_module, "_LABELS_AT_ONCE", 25)
        assert whole is not None and torch.equal(build(world).logits, whole)  # type: ignore[arg-type]

    def test_how_items_are_drawn_is_its_own_business(self, tmp_path: Path) -> None:
        """Drawing as RRD does must not take RRD's options, or change how the student is asked."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        world.student.fused = False
        assert build(world).drawing.options.decay == 3.0 and not world.student.fused

    def test_a_share_of_users_is_unbiased(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        assert_share_is_unbiased(build(world), build(world, sample=0.34), LossContract.batch)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_a_teacher_that_has_diverged(self, tmp_path: Path, value: float) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        distiller = build(world)
        with torch.no_grad():
            world.teacher.model.items.weight[3] = 0
            world.teacher.model.items.weight[3, 0] = value
        with pytest.raises(DataError, match="train the teacher again"):
            for epoch in range(20):
                distiller.begin_epoch(epoch)
