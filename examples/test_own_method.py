"""The method of own_method.py, held to what every built-in method is held to: pytest test_own_method.py."""

from __future__ import annotations

import pytest
import torch
from own_method import HingeDistillation, hinge_loss
from torch import Tensor

from recbole_derrd.testing import LossContract, World, step


def normal(*shape: int, seed: int) -> Tensor:
    """Return seeded normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(best: list[float], sampled: list[float], margin: float) -> float:
    """Return the loss of one user as the formula is written, of the sampled items that take part."""
    return sum(max(0.0, margin - (one - other)) for one in best for other in sampled)


class TestHinge(LossContract):
    """Five kinds of test; a kind that is missing is itself a failure, and what holds for every method is inherited."""

    method = HingeDistillation

    # The formula, slowly

    @pytest.mark.parametrize(("k", "l"), [(1, 1), (1, 4), (5, 3)])
    def test_reference_plain_floats(self, k: int, l: int) -> None:  # noqa: E741
        best, sampled = normal(6, k, seed=1), normal(6, l, seed=2)
        counts = (normal(6, l, seed=3) > 0).double()
        expected = [
            naive(row, [score for score, counted in zip(other, own) if counted], 0.8) / (k * l)
            for row, other, own in zip(best.tolist(), sampled.tolist(), counts.tolist())
        ]
        assert hinge_loss(best, sampled, counts, 0.8).tolist() == pytest.approx(expected)

    def test_reference_forward(self, world: World) -> None:
        """The teacher's best items are the user's own, and a best item is not pushed below the best items."""
        distiller = self.distiller(world)
        users, items = (table.weight.detach() for table in (world.student.model.users, world.student.model.items))
        for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
            total = 0.0
            for user in batch.users.tolist():
                top, drawn = world.teacher_order(user)[:4], distiller.sampled[user].tolist()
                assert len(set(drawn)) == 6 and not set(drawn) & (world.seen(user) | {0})
                scores = (items @ users[user]).tolist()
                others = [scores[item] for item in drawn if item not in top]
                total += naive([scores[item] for item in top], others, distiller.options.margin) / 24
            assert distiller(batch).item() == pytest.approx(total / batch.rows, rel=1e-5)

    # Gradients

    def test_gradcheck_both_inputs(self) -> None:
        counts = (normal(3, 5, seed=6) > 0).double()
        parts = [normal(3, count, seed=seed).requires_grad_() for count, seed in ((4, 4), (5, 5))]
        assert torch.autograd.gradcheck(lambda best, sampled: hinge_loss(best, sampled, counts, 1.0), parts)

    # What the formula implies

    @pytest.mark.parametrize("shift", [-40.0, 0.3, 1000.0])
    def test_invariant_shift(self, shift: float) -> None:
        """Only differences of scores matter."""
        best, sampled, counts = normal(7, 4, seed=1), normal(7, 5, seed=2), torch.ones(7, 5)
        moved = hinge_loss(best + shift, sampled + shift, counts, 1.0)
        torch.testing.assert_close(moved, hinge_loss(best, sampled, counts, 1.0))

    def test_invariant_nothing_to_learn_beyond_the_margin(self) -> None:
        best = normal(7, 4, seed=1)
        sampled = best.min(dim=1, keepdim=True).values - 1.0 - normal(7, 5, seed=2).abs()
        assert (hinge_loss(best, sampled, torch.ones(7, 5), 1.0) == 0).all()

    # A known value

    def test_golden_by_hand(self) -> None:
        """Best 2 and 1, sampled 0 and 1.5, m = 1: 0 + 0.5 + 0 + 1.5 over four pairs; without the second, 0."""
        best, sampled = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 1.5]])
        assert hinge_loss(best, sampled, torch.ones(1, 2), 1.0).tolist() == [0.5]
        assert hinge_loss(best, sampled, torch.tensor([[1.0, 0.0]]), 1.0).tolist() == [0.0]

    # Training on the loss alone

    def test_optimisation_brings_the_teacher_s_best_to_the_top(self, world: World) -> None:
        distiller, batch = self.distiller(world), step(range(1, 13), [], [], rows=12)

        def recall() -> float:
            """Return the share of the teacher's four best items among the student's four best unobserved ones."""
            found = 0
            for user in range(1, 13):
                order = world.teacher_order(user)
                scores = world.student.score_all(torch.tensor([user]))[0].tolist()
                found += len(set(order[:4]) & set(sorted(order, key=lambda item: -scores[item])[:4]))
            return found / 48

        before = recall()
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)
        for epoch in range(60):
            distiller.begin_epoch(epoch)
            optimizer.zero_grad()
            distiller(batch).backward()
            optimizer.step()
        assert recall() > max(0.6, 2 * before)
