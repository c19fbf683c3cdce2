"""RCE-KD: the formula and the draw on plain floats, gradients, what it implies, known values, training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import recbole_derrd.distillers.rce_kd as rce_kd_module
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.listwise import cross_entropy
from recbole_derrd.distillers.rce_kd import (
    RCEKDOptions,
    RejuvenatedCrossEntropy,
    contained,
    log_draw_weights,
    mixing_weight,
    rejuvenated_loss,
)
from recbole_derrd.distillers.subsampling import epoch_seed
from recbole_derrd.errors import DataError, OptionError, TrainingError
from recbole_derrd.ops.sampling import sample_weighted_positions
from recbole_derrd.teacher.exact import ExactSearch
from recbole_derrd.testing import LossContract, World, make_world, some_rows, step

#: The example of the facts file: scores of items 0..7, here 1..8, as 0 is padding.
STUDENT, TEACHER = (0.1, 1.2, 0.8, 0.4, -0.5, 0.9, 0.2, 0.3), (2.0, 1.5, 0.3, -0.2, 0.9, -1.0, 0.0, 1.1)


def normal(*shape: int, seed: int) -> Tensor:
    """Return seeded normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def picked(scores: tuple[float, ...], items: list[int]) -> Tensor:
    """Return one row of the example's scores."""
    return torch.tensor([[scores[item] for item in items]], dtype=torch.float64)


def naive_entropy(teacher: list[float], student: list[float], tau: float) -> float:
    """Return H(softmax(t / tau), softmax(s / tau)) as the book writes it."""
    shares = [
        [math.exp(one / tau) / sum(math.exp(other / tau) for other in row) for one in row] for row in (teacher, student)
    ]
    return -sum(q * math.log(p) for q, p in zip(*shares))


def naive_best(scores: list[float], count: int) -> list[int]:
    """Return the best items of all, padding left out."""
    return sorted(range(1, len(scores)), key=lambda item: -scores[item])[:count]


def naive_weights(ranked: list[int], best: set[int], t: float) -> list[float]:
    """Return the weight of each position of a ranking."""
    return [math.exp((min(sum(item in best for item in ranked[place:]), 50) + 1) / t) for place, _ in enumerate(ranked)]


def naive_user(teacher: list[float], student: list[float], drawn: list[int], k: int, tau: float, beta: float) -> float:
    """Return one user's loss, the sets as sets."""
    best, own = naive_best(teacher, k), naive_best(student, k)
    union = set(drawn) | {item for item in best if item not in drawn and item not in own}
    parts = [
        naive_entropy([teacher[item] for item in items], [student[item] for item in items], tau)
        for items in (set(own), union)
    ]
    weight = math.exp(-beta * len(set(best) & set(drawn)) / k)
    return (1 - weight) * parts[0] + weight * parts[1]


def all_scores(world: World) -> list[list[list[float]]]:
    """Return every user's scores of every item, the student's and the teacher's."""
    users = torch.arange(world.history.n_users)
    with torch.no_grad():
        return [side.score_all(users).double().tolist() for side in (world.student, world.teacher)]


def build(world: World, seed: int = 5, epoch: int = 0, **options: Any) -> RejuvenatedCrossEntropy:
    """Build the method and begin an epoch."""
    chosen = RCEKDOptions(**{**RejuvenatedCrossEntropy.test_settings, **options})
    distiller = RejuvenatedCrossEntropy(chosen, world.knowledge, world.student, seed)
    distiller.begin_epoch(epoch)
    return distiller


def drawn_of(distiller: RejuvenatedCrossEntropy) -> list[list[int]]:
    """Return A of every user."""
    assert distiller.items is not None
    k = distiller.best.shape[1]
    rows: list[list[int]] = distiller.items[:, k : distiller.items.shape[1] - k].tolist()
    return rows


logits = st.lists(st.floats(-5, 5), min_size=3, max_size=8)


class TestRCEKD(LossContract):
    """The five kinds of test for RCE-KD."""

    method = "rce_kd"

    # Reference loops

    @pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
    def test_reference_cross_entropy(self, tau: float) -> None:
        """Items that are not held, whatever their scores, are in neither softmax."""
        student, teacher = normal(6, 9, seed=1), normal(6, 9, seed=2)
        held = normal(6, 9, seed=3) > -0.5
        expected = [
            naive_entropy(t[mask].tolist(), s[mask].tolist(), tau) for s, t, mask in zip(student, teacher, held)
        ]
        assert cross_entropy(student, teacher, held, tau).tolist() == pytest.approx(expected)

    @pytest.mark.parametrize("most", [2, 50])
    def test_reference_draw_weights(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        """The teacher's items are counted from the position on, itself included, and up to 50 of them."""
        monkeypatch.setattr(rce_kd_module, "_MOST_COUNTED", most)
        generator = torch.Generator().manual_seed(0)
        rows = torch.stack([torch.randperm(20, generator=generator) + 1 for _ in range(8)])
        best = torch.stack([torch.randperm(20, generator=generator)[:6] for _ in range(8)])
        for t in (0.5, 10.0):
            found = log_draw_weights(rows[:, :12], best, t)
            for row, ranked, wanted in zip(found, rows[:, :12].tolist(), best.tolist()):
                counts = [sum(item in wanted and item > 0 for item in ranked[place:]) for place in range(12)]
                assert row.tolist() == pytest.approx([(min(count, most) + 1) / t for count in counts])

    def test_reference_more_than_fifty_are_fifty(self) -> None:
        ranked = torch.arange(1, 61).unsqueeze(0)
        expected = [math.log(weight) for weight in naive_weights(list(range(1, 61)), set(range(1, 61)), 10.0)]
        found = log_draw_weights(ranked, ranked, 10.0)
        assert found[0].tolist() == pytest.approx(expected)
        assert found[0, :11].tolist() == [5.1] * 11 and found[0, 11].item() == pytest.approx(5.0)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"tau": 0.3, "beta": 0.0},
            {"weighting": "rank", "t": 2.0},
            {"k": 9, "m": 5},
            {"k": 1, "l": 1, "m": 1},
            {"k": 40, "l": 40, "m": 40},
            {"k": 500, "l": 70, "m": 900},
            {"k": 500, "l": 5, "m": 12},
        ],
    )
    def test_reference_forward(self, world: World, options: dict[str, Any]) -> None:
        """Sets found again by plain sorts, in each epoch; only what is drawn is taken from the method."""
        distiller = build(world, **options)
        chosen = distiller.options
        for epoch in (1, 2):
            student, teacher = all_scores(world)
            drawn = drawn_of(distiller)
            for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
                expected = [
                    naive_user(teacher[u], student[u], drawn[u], min(chosen.k, 40), chosen.tau, chosen.beta)
                    for u in batch.users.tolist()
                ]
                assert distiller(batch).item() == pytest.approx(sum(expected) / batch.rows, rel=1e-4)
            with torch.no_grad():
                world.student.model.items.weight.mul_(-1)
            distiller.begin_epoch(epoch)

    def test_reference_items_are_drawn_by_their_weights(self, tmp_path: Path) -> None:
        """Of one item drawn, the share of each position is that of its weight; over 3,000 epochs of twelve users."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        student, teacher = all_scores(world)
        for weighting in ("teacher", "rank"):
            distiller = build(world, l=1, m=6, t=1.5, weighting=weighting)
            counts, expected = torch.zeros(6), torch.zeros(6)
            for epoch in range(250):
                distiller.begin_epoch(epoch)
                drawn = drawn_of(distiller)
                for user in range(1, 13):
                    counts[naive_best(student[user], 6).index(drawn[user][0])] += 1
            for user in range(1, 13):
                ranked, best = naive_best(student[user], 6), set(naive_best(teacher[user], 4))
                of_rank = [math.exp(-place / 1.5) for place in range(6)]
                weights = torch.tensor(naive_weights(ranked, best, 1.5) if weighting == "teacher" else of_rank)
                expected += 250 * weights / weights.sum()
            assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 0.01, weighting

    def test_reference_draws_are_successive(self) -> None:
        """Every pair of three positions as often as drawing one after the other without replacement gives it."""
        weights, rows = [1.0, 2.0, 5.0], 20_000
        logs = torch.tensor(weights, dtype=torch.float64).log().expand(rows, 3)
        found = sample_weighted_positions(logs, 2, torch.Generator().manual_seed(1))
        pairs = [(0, 1), (0, 2), (1, 2)]
        chance = [
            sum(weights[a] / 8 * weights[b] / (8 - weights[a]) for a, b in (pair, pair[::-1])) * rows for pair in pairs
        ]
        counts = [(found == torch.tensor(pair)).all(dim=1).sum().item() for pair in pairs]
        assert sum(counts) == rows and stats.chisquare(counts, chance).pvalue > 0.01

    def test_reference_contained(self) -> None:
        items, others = torch.tensor([[3, 0, 5], [1, 2, 9]]), torch.tensor([[5, 4, 0, 0], [9, 1, 7, 0]])
        assert contained(items, others).tolist() == [[False, False, True], [True, False, True]]

    # Gradients

    def test_gradcheck_formula(self) -> None:
        teacher, held = normal(3, 9, seed=2), normal(3, 9, seed=3) > -0.8
        held[:, :2] = held[:, 3:5] = True
        mixing = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
        student = normal(3, 9, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda s: rejuvenated_loss(s, teacher, held, 3, mixing, 0.7), (student,))

    # Invariants

    @given(logits, st.floats(-30, 30), st.floats(0.2, 5))
    @settings(max_examples=60, deadline=None)
    def test_invariant_shift(self, row: list[float], shift: float, tau: float) -> None:
        """A shift of all scores of either side changes nothing."""
        student = torch.tensor([row], dtype=torch.float64)
        teacher, held = student.flip(1), torch.ones(1, len(row), dtype=torch.bool)
        one = cross_entropy(student, teacher, held, tau)
        torch.testing.assert_close(cross_entropy(student + shift, teacher - shift, held, tau), one)

    @given(logits, logits, st.floats(0.2, 5), st.floats(0, 1))
    @settings(max_examples=60, deadline=None)
    def test_invariant_teachers_scores_are_best(
        self, one: list[float], other: list[float], tau: float, w: float
    ) -> None:
        size = min(len(one), len(other))
        teacher, student = (torch.tensor([row[:size]], dtype=torch.float64) for row in (one, other))
        held, mixing = torch.ones(1, size, dtype=torch.bool), torch.tensor([w], dtype=torch.float64)
        best, found = (rejuvenated_loss(side, teacher, held, 1, mixing, tau) for side in (teacher, student))
        assert (found >= best - 1e-9).all() and (best >= -1e-9).all()

    @given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.lists(st.integers(0, 9), min_size=1, max_size=6))
    @settings(max_examples=60, deadline=None)
    def test_invariant_contained_is_that_of_sets(self, items: list[int], others: list[int]) -> None:
        found = contained(torch.tensor([items]), torch.tensor([others]))
        assert found[0].tolist() == [item in others and item > 0 for item in items]

    @given(st.permutations(range(1, 11)), st.sets(st.integers(1, 10), min_size=1), st.floats(0.1, 20))
    @settings(max_examples=60, deadline=None)
    def test_invariant_weights_never_rise(self, ranked: list[int], best: set[int], t: float) -> None:
        """Below the teacher's last item all positions are alike, and the teacher's order is free."""
        found = log_draw_weights(torch.tensor([ranked]), torch.tensor([sorted(best)]), t)
        assert (found.diff(dim=1) <= 0).all() and found[0, 0].item() == pytest.approx((len(best) + 1) / t)
        assert torch.equal(found, log_draw_weights(torch.tensor([ranked]), torch.tensor([sorted(best)[::-1]]), t))

    @given(st.integers(0, 50), st.floats(0, 20))
    @settings(max_examples=60, deadline=None)
    def test_invariant_mixing_weight_falls_with_agreement(self, shared: int, beta: float) -> None:
        found = mixing_weight(torch.tensor([float(shared), shared + 1.0]), 50, beta)
        assert 0 < found[1] <= found[0] <= 1 and found[0].item() == pytest.approx(math.exp(-beta * shared / 50), 1e-5)

    def test_invariant_items_without_a_score_of_the_teacher(self) -> None:
        """They have no share of q, but one of p; where no item has a score, there is nothing to learn."""
        student, teacher = normal(2, 4, seed=1).requires_grad_(), normal(2, 4, seed=2)
        teacher[0, 1] = teacher[1] = -torch.inf
        loss = cross_entropy(student, teacher, torch.ones(2, 4, dtype=torch.bool), 0.7)
        rest, powers = [0, 2, 3], [math.exp(score / 0.7) for score in student[0].tolist()]
        masses = [math.exp(teacher[0, item].item() / 0.7) for item in rest]
        expected = -sum(q / sum(masses) * math.log(powers[item] / sum(powers)) for q, item in zip(masses, rest))
        assert loss.tolist() == pytest.approx([expected, 0.0])
        loss.sum().backward()
        assert student.grad is not None and torch.isfinite(student.grad).all() and (student.grad[1] == 0).all()

    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_invariant_huge_scores_stay_finite(self, world: World, size: float) -> None:
        with torch.no_grad():
            world.student.model.users.weight.mul_(size)
        loss = build(world)(self.batch)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(world.student.model.items.weight.grad).all()

    def test_invariant_sets(self, world: World) -> None:
        """A is of the student's m best, without repetition; what is left of Q_T is in neither A nor Q_S."""
        distiller = build(world)
        student, teacher = all_scores(world)
        assert distiller.items is not None
        for user in range(1, 13):
            row = distiller.items[user].tolist()
            own, drawn, left = row[:4], row[4:9], {*row[9:]} - {0}
            assert own == naive_best(student[user], 4)
            assert len({*drawn}) == 5 and {*drawn} <= {*naive_best(student[user], 12)}
            assert left == {*naive_best(teacher[user], 4)} - {*drawn} - {*own}
        assert (distiller.items[0] == 0).all()

    def test_invariant_training_items_take_part(self, world: World) -> None:
        """Nothing is masked: the teacher's best items are those of its scores, seen ones among them."""
        best = build(world).best
        _, teacher = all_scores(world)
        assert best[1:].tolist() == [naive_best(teacher[user], 4) for user in range(1, 13)]
        assert any({*best[user].tolist()} & world.seen(user) for user in range(1, 13))

    # Golden values: origin of all is independent code in float64; items are counted from 0 there.

    def test_golden_loss(self) -> None:
        own, union = [1, 5, 2], [1, 5, 0, 7]
        student, teacher = (picked(side, own + union) for side in (STUDENT, TEACHER))
        held = torch.ones(1, 7, dtype=torch.bool)
        first = cross_entropy(student[:, :3], teacher[:, :3], held[:, :3], 1.0)
        second = cross_entropy(student[:, 3:], teacher[:, 3:], held[:, 3:], 1.0)
        mixing = mixing_weight(torch.tensor([1.0], dtype=torch.float64), 3, 3.0)
        assert first.item() == pytest.approx(0.9849969181710176, rel=1e-12)
        assert second.item() == pytest.approx(1.626215449424715, rel=1e-12)
        assert mixing.item() == pytest.approx(0.36787944117144233, rel=1e-12)
        loss = rejuvenated_loss(student, teacher, held, 3, mixing, 1.0)
        assert loss.item() == pytest.approx(1.2208880331174008, rel=1e-12)

    def test_golden_draw_weights(self) -> None:
        """Of the student's best five (1, 5, 2, 3, 7) with Q_T = {0, 1, 7}, n_p = (2, 1, 1, 1, 1)."""
        found = log_draw_weights(torch.tensor([[2, 6, 3, 4, 8]]), torch.tensor([[1, 2, 8]]), 10.0).exp()
        assert found[0].tolist() == pytest.approx([1.3498588075760032, *[1.2214027581601699] * 4], rel=1e-12)

    def test_golden_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The whole module on the example, with A = {1, 5} of the student's best five."""
        world = make_world(tmp_path, [[3], [5, 6]], n_items=9, student_size=1, teacher_size=1)
        for side, scores in ((world.student, STUDENT), (world.teacher, TEACHER)):
            with torch.no_grad():
                side.model.users.weight.fill_(1.0)
                side.model.items.weight.copy_(torch.tensor([[9.0], *([score] for score in scores)]))
        asked = []

        def first_two(log_weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
            asked.append((log_weights.exp(), count))
            return torch.tensor([[0, 1]] * len(log_weights))

        monkeypatch.setattr(rce_kd_module, "sample_weighted_positions", first_two)
        distiller = build(world, k=3, l=2, m=5, beta=3.0, tau=1.0, t=10.0)
        assert distiller(step([1, 2], [], [], rows=2)).item() == pytest.approx(1.2208880331174008, rel=1e-6)
        ((weights, count),) = asked
        assert count == 2 and weights[0].tolist() == pytest.approx([1.3498588075760032, *[1.2214027581601699] * 4])

    # Optimisation

    def test_optimisation_student_finds_the_teachers_best(self, world: World) -> None:
        """The teacher's five best items of all must rise to the student's head."""
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)
        distiller = build(world, k=5, l=5, m=20)

        def hits() -> int:
            student, teacher = all_scores(world)
            return sum(len({*naive_best(student[u], 5)} & {*naive_best(teacher[u], 5)}) for u in range(1, 13))

        before = hits()
        for epoch in range(60):
            distiller.begin_epoch(epoch)
            optimizer.zero_grad()
            distiller(step(range(1, 13), [], [], rows=12)).backward()
            optimizer.step()
        assert hits() > before + 15


class TestDrawing:
    """What is drawn when, and what is refused."""

    batch: ClassVar[StepBatch] = LossContract.batch

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give twelve users and forty items."""
        return make_world(tmp_path, some_rows(12, 41, 10), n_items=41)

    def test_no_epoch_no_items(self, world: World) -> None:
        distiller = RejuvenatedCrossEntropy(RCEKDOptions(k=4), world.knowledge, world.student, 5)
        with pytest.raises(RuntimeError, match="begin_epoch"):
            distiller(self.batch)

    def test_each_epoch_draws_again_and_each_seed(self, world: World) -> None:
        first = drawn_of(build(world))
        assert first == drawn_of(build(world))
        assert first != drawn_of(build(world, epoch=1)) and first != drawn_of(build(world, seed=6))

    def test_the_draw_is_that_of_the_epoch_s_seed(self, world: World) -> None:
        """Padding user 0 draws no number, so users' draws are those of this generator from the first on."""
        drawn = drawn_of(build(world, epoch=3))
        search = ExactSearch(world.student, world.history.without_items(), 12)
        with torch.no_grad():
            ranked = search.rankings(1, 13)
        best = build(world).best[1:]
        generator = torch.Generator().manual_seed(epoch_seed(5, 3))
        positions = sample_weighted_positions(log_draw_weights(ranked, best, 3.0), 5, generator)
        assert drawn[1:] == ranked.gather(1, positions).tolist()

    def test_drawn_of_the_m_best_where_k_is_more(self, world: World) -> None:
        drawn, (student, _) = drawn_of(build(world, k=9, m=5)), all_scores(world)
        assert [{*drawn[user]} for user in range(1, 13)] == [{*naive_best(student[user], 5)} for user in range(1, 13)]

    def test_rankings_and_scores_are_float32_under_autocast(self, world: World) -> None:
        distiller = build(world, k=40, l=40, m=40)
        before = distiller.items, distiller.logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            distiller.begin_epoch(0)
        for one, other in zip(before, (distiller.items, distiller.logits)):
            assert one is not None and other is not None and torch.equal(one, other)
        student, _ = all_scores(world)
        assert distiller.items is not None
        assert distiller.items[1:, :40].tolist() == [naive_best(student[user], 40) for user in range(1, 13)]

    @pytest.mark.parametrize("entries", [1, 30, 1 << 20])
    def test_blocks_of_users_change_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
        whole = build(world)
        monkeypatch.setattr(rce_kd_module, "_DRAWN_AT_ONCE", entries)
        monkeypatch.setattr("recbole_derrd.teacher.exact._FEWEST_USERS", 5)
        monkeypatch.setattr("recbole_derrd.teacher.exact._CPU_SCORES", 1)
        parts = build(world)
        for one, other in ((whole.items, parts.items), (whole.logits, parts.logits), (whole.mixing, parts.mixing)):
            assert one is not None and other is not None
            torch.testing.assert_close(one, other)

    def test_share_of_users_is_unbiased(self, world: World) -> None:
        each = [3 * build(world)(step([user], [], [], rows=8)).item() for user in (1, 3, 4)]
        part = build(world, sample=0.34)
        losses = [part(self.batch).item() for _ in range(40)]
        nearest = [min(range(3), key=lambda one: abs(each[one] - loss)) for loss in losses]
        assert {*nearest} == {0, 1, 2}
        assert losses == pytest.approx([each[one] for one in nearest], rel=1e-5)

    def test_a_ranking_of_several_teachers_may_be_short(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Items that have -inf are none of the teacher's best, and a user who has no other learns nothing."""
        score_all, score = world.teacher.score_all, world.teacher.score
        hidden = torch.zeros(13, 41, dtype=torch.bool)
        hidden[1, 3:] = True
        hidden[3] = True

        def all_of(users: Tensor) -> Tensor:
            return score_all(users).masked_fill(hidden[users], -torch.inf)

        def listed(users: Tensor, items: Tensor) -> Tensor:
            return score(users, items).masked_fill(hidden[users.unsqueeze(1), items], -torch.inf)

        monkeypatch.setattr(world.teacher, "score_all", all_of)
        monkeypatch.setattr(world.teacher, "score", listed)
        distiller = build(world)
        assert {*distiller.best[1].tolist()} == {0, 1, 2} and distiller.best[3].tolist() == [0] * 4
        assert (distiller.best[4] > 0).all()
        assert distiller(step([3], [], [])).item() == 0
        loss = distiller(self.batch)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(world.student.model.items.weight.grad).all()

    def test_scores_that_are_no_numbers_are_refused(self, world: World) -> None:
        distiller = build(world)
        with torch.no_grad():
            world.student.model.items.weight[5] = torch.nan
        with pytest.raises(TrainingError, match="student's scores hold NaN"):
            distiller.begin_epoch(1)
        with torch.no_grad():
            world.teacher.model.items.weight[5] = torch.nan
        with pytest.raises(DataError, match="train the teacher again"):
            build(world)

    def test_more_drawn_than_there_are_is_refused(self) -> None:
        with pytest.raises(OptionError, match="rce_kd_l = 9 is more than rce_kd_m = 8"):
            RCEKDOptions(l=9, m=8)
        assert RCEKDOptions(l=8, m=8).l == 8
