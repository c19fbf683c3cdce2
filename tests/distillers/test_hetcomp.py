"""HetComp: the formulas on plain floats, their gradients, what they imply, known values, training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import recbole_derrd.ops.full_softmax as catalogue_module
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.hetcomp import HeterogeneousDistillation, fine_order_loss, overall_relation_loss
from recbole_derrd.distillers.hetcomp.curriculum import threshold
from recbole_derrd.distillers.hetcomp.partition import ListedItems, partition_sum
from recbole_derrd.distillers.rrd import relaxed_ranking_loss
from recbole_derrd.ops.full_softmax import LOWEST
from recbole_derrd.teacher import RankWeighting
from recbole_derrd.testing import LossContract, SeveralTeachers, World, step

from .hetcomp_world import build, world_of
from .test_discrepancy import naive as naive_discrepancy
from .test_listwise import ScoresOnly
from .test_rank_fusion import naive_merge


def unobserved(world: World, user: int) -> set[int]:
    """Return the items that a user has no training interaction with."""
    return set(range(1, world.history.n_items)) - world.seen(user)


def naive_lists(distiller: HeterogeneousDistillation, world: World, user: int) -> tuple[list[int], list[int]]:
    """Return O and P of a user by plain sorts and dictionaries."""
    options, knowledge = distiller.options, world.knowledge
    assert isinstance(knowledge, SeveralTeachers)
    teachers = range(len(knowledge.members))
    last = [len(own) - 1 for own in knowledge.loaders]
    at = [int(distiller.snapshot[user, m]) if options.trajectory else last[m] for m in teachers]
    rankings = [knowledge.order(m, at[m], user, unobserved(world, user))[: options.top_n] for m in teachers]
    table = knowledge.rank_weighting.of_ranking(options.top_n).tolist()
    ranked, _ = naive_merge(rankings, table, options.k)
    seen = world.seen(user)
    long_table = knowledge.rank_weighting.of_ranking(40).tolist()
    observed, _ = naive_merge([knowledge.order(m, last[m], user, seen) for m in teachers], long_table, options.observed)
    return [item for item in observed if item], [item for item in ranked if item]


def naive_overall(s: dict[int, float], observed: list[int], ranked: list[int], rest: set[int]) -> float:
    """Return L_O of one user."""
    outside = sum(math.exp(s[j]) for j in rest - set(ranked))
    return -sum(s[i] - math.log(math.exp(s[i]) + outside) for i in observed + ranked)


def naive_likelihood(s: dict[int, float], order: list[int], outside: float) -> float:
    """Return LM of an order."""
    return -sum(s[i] - math.log(sum(math.exp(s[q]) for q in order[at:]) + outside) for at, i in enumerate(order))


def naive_fine(
    s: dict[int, float], observed: list[int], ranked: list[int], rest: set[int], lengths: Sequence[int]
) -> float:
    """Return L_F of one user; rest are all unobserved items."""

    def outside(n: int) -> float:
        return sum(math.exp(s[j]) for j in rest - set(ranked[:n]))

    orders = [naive_likelihood(s, ranked[:n], outside(n)) for n in lengths]
    return naive_likelihood(s, observed, outside(max(lengths))) + sum(orders) / len(orders)


def naive_forward(distiller: HeterogeneousDistillation, world: World, batch: StepBatch) -> float:
    """Return the term user by user."""
    total = 0.0
    for user in batch.users.tolist():
        with torch.no_grad():
            s = dict(enumerate(world.student.score_all(torch.tensor([user])).double()[0].tolist()))
        observed, ranked = naive_lists(distiller, world, user)
        if distiller.in_fine_order:
            total += naive_fine(s, observed, ranked, unobserved(world, user), distiller.options.fine_lengths)
        else:
            total += naive_overall(s, observed, ranked, unobserved(world, user))
    return total / batch.rows


def normal(*shape: int, seed: int) -> Tensor:
    """Return seeded normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_held(scores: Tensor) -> Tensor:
    """Return that every place holds an item."""
    return torch.ones_like(scores, dtype=torch.bool)


def overall(scores: Tensor, log_partition_term: Tensor) -> Tensor:
    """Return L_O of full rows."""
    return overall_relation_loss(scores, all_held(scores), log_partition_term)


def fine(observed: Tensor, ranked: Tensor, log_partition_term: Tensor, lengths: list[int]) -> Tensor:
    """Return L_F of full rows."""
    return fine_order_loss((observed, all_held(observed)), (ranked, all_held(ranked)), log_partition_term, lengths)


logits = st.lists(st.floats(-5, 5), min_size=2, max_size=7)


class TestHetComp(LossContract):
    """The five kinds of test for HetComp."""

    method = "hetcomp"
    random_options: ClassVar[dict[str, Any]] = {"remainder": 5}
    state: ClassVar[set[str]] = {"snapshot", "kept", "stepped", "finished"}

    # Reference loops

    @given(logits, logits, st.floats(-5, 5))
    @settings(max_examples=60, deadline=None)
    def test_reference_overall_relation(self, observed: list[float], ranked: list[float], rest: float) -> None:
        """Prevents items of O or P in each other's denominator."""
        s = dict(enumerate([*observed, *ranked, rest], start=1))
        own, listed = range(1, len(observed) + 1), range(len(observed) + 1, len(s))
        expected = naive_overall(s, list(own), list(listed), {*listed, len(s)})
        found = overall(torch.tensor([[*observed, *ranked]], dtype=torch.float64), torch.tensor([rest]).double())
        assert found.tolist() == pytest.approx([expected])

    @given(logits, logits, st.floats(-5, 5), st.data())
    @settings(max_examples=80, deadline=None)
    def test_reference_fine_order(
        self, observed: list[float], ranked: list[float], rest: float, data: st.DataObject
    ) -> None:
        """Prevents a tail that starts one late, and O's rest without the items after n_1."""
        lengths = data.draw(st.lists(st.integers(1, len(ranked)), min_size=1, max_size=3))
        s = dict(enumerate([*observed, *ranked, rest], start=1))
        own, listed = range(1, len(observed) + 1), range(len(observed) + 1, len(s))
        expected = naive_fine(s, list(own), list(listed), {*listed, len(s)}, lengths)
        rows = [torch.tensor([row], dtype=torch.float64) for row in (observed, ranked)]
        assert fine(*rows, torch.tensor([rest]).double(), lengths).tolist() == pytest.approx([expected])

    @pytest.mark.parametrize("rank_weighting", [RankWeighting(), RankWeighting("exponential", decay=3.0)])
    @pytest.mark.parametrize("phase", [1, 2])
    @pytest.mark.parametrize("fused", [True, False])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"observed": 0, "fine": "whole"},
            {"trajectory": False, "observed": 30},
            {"fine": "none"},
            {"k": 33, "top_n": 40, "fine": "parts"},
        ],
    )
    def test_reference_forward(
        self, world: World, options: dict[str, Any], fused: bool, phase: int, rank_weighting: RankWeighting
    ) -> None:
        """Rankings of the snapshots that users stand at, short histories and short rankings."""
        world.knowledge.rank_weighting = rank_weighting
        distiller = build(world, fused=fused, phase=phase, **options)
        if phase == 1 and distiller.options.trajectory:
            distiller.snapshot[2, 0], distiller.snapshot[7, 2] = 2, 1
            distiller.load_state_dict(distiller.state_dict())
        assert distiller.in_fine_order == (options.get("fine") != "none" and (phase == 2 or "trajectory" in options))
        for batch in (self.batch, step([12, 2, 7, 1, 9], [], [], rows=3)):
            assert distiller(batch).item() == pytest.approx(naive_forward(distiller, world, batch), rel=1e-5)

    @pytest.mark.parametrize("phase", [1, 2])
    @pytest.mark.parametrize("block", [1, 100, 1 << 20])
    def test_reference_fused_gradients(
        self, world: World, monkeypatch: pytest.MonkeyPatch, block: int, phase: int
    ) -> None:
        """The block-wise gradients are autograd's of the readable formula, wherever the blocks end."""
        monkeypatch.setattr(catalogue_module, "_BLOCK_SCORES", block)
        monkeypatch.setattr(catalogue_module, "_FEWEST_USERS", 1)
        batch = step([12, 2, 7, 1, 9], [], [], rows=3)
        weights = list(world.student.model.parameters())
        found = []
        for fused in (True, False):
            loss = build(world, fused=fused, phase=phase)(batch)
            found.append([loss.detach(), *torch.autograd.grad(loss, weights)])
        for one, other in zip(*found):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("phase", [1, 2])
    def test_reference_student_without_vectors(self, world: World, monkeypatch: pytest.MonkeyPatch, phase: int) -> None:
        """A student behind its scores alone gives the same term and gradients, in blocks of two users."""
        batch = step([12, 2, 7, 1, 9], [], [], rows=3)
        weights = list(world.student.model.parameters())
        expected = build(world, phase=phase)(batch)
        gradients = torch.autograd.grad(expected, weights)
        monkeypatch.setattr(catalogue_module, "_BLOCK_SCORES", 82)
        monkeypatch.setattr(catalogue_module, "_FEWEST_USERS", 1)
        bare = dataclasses.replace(world, student=ScoresOnly(world.student))  # type: ignore[arg-type]
        loss = build(bare, phase=phase)(batch)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        for one, other in zip(torch.autograd.grad(3 * loss, weights), gradients):
            torch.testing.assert_close(one, 3 * other, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("variant", ["default", "first_release"])
    def test_reference_schedule(self, world: World, variant: str) -> None:
        """Epoch by epoch against the published pseudo-code on plain sorts, while the student changes."""
        distiller = build(world, variant=variant, interval=3, alpha=1.02)
        knowledge = world.knowledge
        assert isinstance(knowledge, SeveralTeachers)
        last = [len(own) - 1 for own in knowledge.loaders]
        snapshot = {(u, m): 0 for u in range(1, 13) for m in range(3)}
        kept: dict[tuple[int, int], float] = {}
        generator = torch.Generator().manual_seed(0)

        def distance(user: int, teacher: int, at: int) -> float:
            rest = unobserved(world, user)
            own = SeveralTeachers.order(knowledge, teacher, at, user, rest)[:6]
            with torch.no_grad():
                scores = world.student.score_all(torch.tensor([user]))[0].tolist()
            return naive_discrepancy(sorted(rest, key=lambda item: -scores[item])[:6], own)

        for epoch in range(0, 17):
            distiller.begin_epoch(epoch)
            past = epoch - 1
            if past >= 3 and past % 3 == 0:
                bar = threshold(1.02, past, 3)
                for (u, m), v in list(snapshot.items()):
                    d = distance(u, m, min(v + 1, last[m]))
                    if past == 3:
                        kept[u, m] = d
                        continue
                    further = variant == "default" and d > 0 and kept[u, m] / d < 1
                    if v < last[m] and (d == 0 or kept[u, m] / d > bar or further):
                        snapshot[u, m] = v + 1
                        kept[u, m] = distance(u, m, min(v + 2, last[m]))
            assert distiller.snapshot[1:].tolist() == [[snapshot[u, m] for m in range(3)] for u in range(1, 13)]
            assert bool(distiller.finished) == all(v == last[m] for (_, m), v in snapshot.items())
            for user in range(1, 13):
                assert [i for i in distiller.ranked[user].tolist() if i] == naive_lists(distiller, world, user)[1]
            if epoch % 3 == 2:
                world.student.model.items.weight.data += 0.2 * torch.randn(41, 4, generator=generator)
        assert any(snapshot.values())

    # Gradients

    def test_gradcheck_overall_relation(self) -> None:
        """Also where positions hold no item and where nothing is left."""
        held = torch.tensor([[True] * 5, [True, False, True, True, False], [True] * 5])
        rest = normal(2, seed=2).requires_grad_()

        def loss(scores: Tensor, rest: Tensor) -> Tensor:
            return overall_relation_loss(scores, held, torch.cat([rest, rest.new_tensor([LOWEST])]))

        assert torch.autograd.gradcheck(loss, (normal(3, 5, seed=1).requires_grad_(), rest))

    @pytest.mark.parametrize("lengths", [[4, 2], [6], [1], [3, 3, 5]])
    def test_gradcheck_fine_order(self, lengths: list[int]) -> None:
        """Also of rows that are short or empty, and where nothing is left."""
        own = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
        listed = torch.arange(6) < torch.tensor([[6], [3], [0], [6]])

        def loss(observed: Tensor, ranked: Tensor, rest: Tensor) -> Tensor:
            rest = torch.cat([rest, rest.new_tensor([LOWEST])])
            return fine_order_loss((observed, own), (ranked, listed), rest, lengths)

        inputs = (normal(4, 2, seed=1), normal(4, 6, seed=2), normal(3, seed=3))
        assert torch.autograd.gradcheck(loss, tuple(one.requires_grad_() for one in inputs))

    @pytest.mark.parametrize("phase", [1, 2])
    def test_gradcheck_blocks(self, monkeypatch: pytest.MonkeyPatch, phase: int) -> None:
        """The whole term by both embeddings, two users at a time."""
        monkeypatch.setattr(catalogue_module, "_BLOCK_SCORES", 14)
        monkeypatch.setattr(catalogue_module, "_FEWEST_USERS", 2)
        items = torch.tensor([[1, 0, 5, 6, 2], [2, 3, 4, 1, 0], [0, 0, 6, 5, 4]])

        def source(start: int, stop: int) -> ListedItems:
            part = items[start:stop]
            rows = torch.arange(len(part)).repeat_interleave(6)
            return ListedItems(part, (rows, torch.cat([part, torch.zeros_like(part[:, :1])], dim=1).reshape(-1)))

        def loss(scores: Tensor, held: Tensor, rest: Tensor) -> Tensor:
            if phase == 1:
                return overall_relation_loss(scores, held, rest)
            return fine_order_loss((scores[:, :2], held[:, :2]), (scores[:, 2:], held[:, 2:]), rest, [2, 1])

        embeddings = (normal(3, 2, seed=1).requires_grad_(), normal(7, 2, seed=2).requires_grad_())
        assert torch.autograd.gradcheck(lambda *both: partition_sum(*both, source, loss), embeddings)

    # Invariants

    @given(logits, st.randoms(use_true_random=False))
    @settings(max_examples=60, deadline=None)
    def test_invariant_phase_1_has_no_order_and_no_competition(self, row: list[float], random: Any) -> None:
        """Any order of O and P gives the same, and each item's part is its own whatever else is listed."""
        shuffled = random.sample(row, len(row))
        one, other = (torch.tensor([values], dtype=torch.float64) for values in (row, shuffled))
        rest = torch.tensor([0.3], dtype=torch.float64)
        torch.testing.assert_close(overall(one, rest), overall(other, rest))
        torch.testing.assert_close(overall(one, rest), overall(one[:, :1], rest) + overall(one[:, 1:], rest))

    @given(logits, logits, st.floats(-30, 30))
    @settings(max_examples=60, deadline=None)
    def test_invariant_shift(self, observed: list[float], ranked: list[float], shift: float) -> None:
        """A shift of all of a user's scores changes nothing."""
        own, listed = (torch.tensor([row], dtype=torch.float64) for row in (observed, ranked))
        rest = torch.tensor([1.0], dtype=torch.float64)
        torch.testing.assert_close(overall(own + shift, rest + shift), overall(own, rest))
        torch.testing.assert_close(
            fine(own + shift, listed + shift, rest + shift, [2, 1]), fine(own, listed, rest, [2, 1])
        )

    @given(logits)
    @settings(max_examples=60, deadline=None)
    def test_invariant_whole_list_is_relaxed_ranking(self, row: list[float]) -> None:
        """With n = K and no training items, L_F is RRD's loss with all other items for uninteresting ones."""
        ranked, others = torch.tensor([row], dtype=torch.float64), normal(1, 5, seed=1)
        found = fine(ranked[:, :0], ranked, others.logsumexp(dim=1), [len(row)])
        torch.testing.assert_close(found, relaxed_ranking_loss(ranked, others))

    @given(logits, st.randoms(use_true_random=False))
    @settings(max_examples=60, deadline=None)
    def test_invariant_order_beyond_the_fine_lists_is_free(self, row: list[float], random: Any) -> None:
        shuffled = [*row[:1], *random.sample(row[1:], len(row) - 1)]
        own, rest = normal(1, 2, seed=1), torch.tensor([0.3], dtype=torch.float64)
        one, other = (torch.tensor([values], dtype=torch.float64) for values in (row, shuffled))
        torch.testing.assert_close(fine(own, one, rest, [1]), fine(own, other, rest, [1]))
        # And within them it is not.
        if row[0] != pytest.approx(row[1], abs=1e-3):
            swapped = one[:, [1, 0, *range(2, len(row))]]
            assert not torch.allclose(fine(own, one, rest, [2, 1]), fine(own, swapped, rest, [2, 1]), rtol=1e-9)

    @pytest.mark.parametrize("size", [0.0, 7.0, -1e4, 1e4])
    def test_invariant_places_without_items_are_absent(self, size: float) -> None:
        """Whatever stands there: the padding item's score is not the user's business."""
        own, listed, rest = normal(2, 3, seed=1), normal(2, 5, seed=2), normal(2, seed=3)
        expected = fine(own[:, :2], listed[:, :4], rest, [3, 1])
        apart = overall(torch.cat([own[:, :2], listed[:, :4]], dim=1), rest)
        own[:, 2], listed[:, 4] = size, -size
        held = torch.arange(3) < torch.tensor([[2], [2]]), torch.arange(5) < torch.tensor([[4], [4]])
        torch.testing.assert_close(fine_order_loss((own, held[0]), (listed, held[1]), rest, [3, 1]), expected)
        found = overall_relation_loss(torch.cat([own, listed], dim=1), torch.cat(held, dim=1), rest)
        torch.testing.assert_close(found, apart)

    @pytest.mark.parametrize("phase", [1, 2])
    @pytest.mark.parametrize("fused", [True, False])
    def test_invariant_only_taught_training_items_matter(self, world: World, phase: int, fused: bool) -> None:
        """The scores of the padding item and of training items outside O change nothing."""
        user = max(range(1, 13), key=lambda one: len(world.seen(one)))
        distiller, batch = build(world, phase=phase, fused=fused), step([user], [], [])
        taught = set(distiller.observed[user].tolist())
        before = distiller(batch).item()
        with torch.no_grad():
            world.student.model.items.weight[[0, *(world.seen(user) - taught)]] += 3.0
        assert distiller(batch).item() == pytest.approx(before, rel=1e-5)
        with torch.no_grad():
            world.student.model.items.weight[list(taught)] += 3.0
        assert distiller(batch).item() != pytest.approx(before, rel=1e-3)

    @pytest.mark.parametrize("phase", [1, 2])
    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_invariant_huge_scores_stay_finite(self, world: World, size: float, phase: int) -> None:
        with torch.no_grad():
            world.student.model.users.weight.mul_(size)
        loss = build(world, phase=phase)(self.batch)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(world.student.model.items.weight.grad).all()

    @pytest.mark.parametrize("remainder", [0, 4])
    @pytest.mark.parametrize("fused", [True, False])
    @pytest.mark.parametrize("phase", [1, 2])
    def test_invariant_users_with_little_are_no_trouble(
        self, tmp_path: Path, phase: int, fused: bool, remainder: int
    ) -> None:
        """No training items, one, so many that P is all that is left or not even full, and all items there are."""
        rows = [[], [4], list(range(1, 23)), list(range(1, 28)), list(range(1, 31))]
        world = world_of(tmp_path, rows, n_items=31)
        distiller = build(world, phase=phase, fused=fused, remainder=remainder)
        held = [(distiller.observed[user] > 0).sum().item() for user in range(1, 6)]
        assert held == [0, 1, 2, 2, 2]
        assert [(distiller.ranked[user] > 0).sum().item() for user in range(1, 6)] == [8, 8, 8, 3, 0]
        loss = distiller(step([1, 2, 3, 4, 5], [], []))
        loss.backward()
        gradient = world.student.model.users.weight.grad
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
        assert (gradient[1:3] != 0).any(dim=1).all()
        # Nothing is left for their items to be above.
        assert phase == 2 or (gradient[3:] == 0).all()
        if not remainder:
            expected = naive_forward(distiller, world, step([1, 2, 3, 4, 5], [], []))
            assert loss.item() == pytest.approx(expected, rel=1e-5)
        for epoch in (11, 21, 31):
            distiller.begin_epoch(epoch)
        assert phase == 2 or distiller.snapshot[5].tolist() == [2, 0, 1]

    # Golden values

    @pytest.mark.parametrize(
        ("user", "observed", "ranked", "first", "second"),
        [
            (0, [0, 3], [5, 7, 1, 9, 10, 4], 15.600466, 8.999140),
            (1, [2, 5], [0, 8, 11, 3, 7, 9], 14.269556, 12.304843),
        ],
    )
    def test_golden_specification(
        self, user: int, observed: list[int], ranked: list[int], first: float, second: float
    ) -> None:
        """Origin: section 9 of this project's specification, of s_ui = sin((u + 1)(i + 1)), n_1 = 3, n_2 = 2."""
        s = ((torch.arange(12, dtype=torch.float64) + 1) * (user + 1)).sin().unsqueeze(0)
        rest = s[:, [item for item in range(12) if item not in observed + ranked]].logsumexp(dim=1)
        found = overall(s[:, observed + ranked], rest).item(), fine(s[:, observed], s[:, ranked], rest, [3, 2]).item()
        assert found == (pytest.approx(first, abs=5e-7), pytest.approx(second, abs=5e-7))

    def test_golden_equal_scores(self) -> None:
        """By hand: m items above r others are m ln(1 + r) in phase 1; in phase 2 each is the log of a count."""
        rest = torch.tensor([7.0]).double().log()
        zero = torch.zeros(1, 5, dtype=torch.float64)
        assert overall(zero, rest).item() == pytest.approx(5 * math.log(8))
        # P: 5 items above 7: counts 12, 11, 10 ...; O: 2 above 7 + 5 - 3.
        expected = (math.log(12) + math.log(11) + math.log(10) + math.log(12)) / 2 + math.log(11) + math.log(10)
        assert fine(zero[:, :2], zero, rest, [3, 1]).item() == pytest.approx(expected)

    @pytest.mark.parametrize("fused", [True, False])
    def test_golden_module_at_zero_scores(self, world: World, fused: bool) -> None:
        """Each listed item's ln(1 + what is left), over eight rows."""
        torch.nn.init.zeros_(world.student.model.items.weight)
        lengths = [len(world.seen(user)) for user in (1, 3, 4)]
        expected = sum((8 + min(2, length)) * math.log(1 + 40 - length - 8) for length in lengths) / 8
        assert build(world, fused=fused)(self.batch).item() == pytest.approx(expected, rel=1e-5)

    # Optimisation

    def trained(self, distiller: HeterogeneousDistillation, world: World, steps: int) -> list[float]:
        """Take steps on the term alone and return its values."""
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = distiller(step(range(1, 13), [], [], rows=12))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def test_optimisation_phase_1_lifts_the_lists(self, world: World) -> None:
        """P and O must rise above the rest."""
        distiller = build(world)

        def above() -> int:
            scores = world.student.score_all(torch.arange(1, 13))
            count = 0
            for user in range(1, 13):
                ranked = set(distiller.ranked[user].tolist())
                best = max(scores[user - 1, item].item() for item in unobserved(world, user) - ranked)
                taught = (ranked | set(distiller.observed[user].tolist())) - {0}
                count += sum(scores[user - 1, item].item() > best for item in taught)
            return count

        before = above()
        losses = self.trained(distiller, world, 30)
        assert all(later < earlier for earlier, later in zip(losses, losses[1:])) and above() > before + 25

    def test_optimisation_phase_2_learns_the_order(self, world: World) -> None:
        """The first two of P must come to stand in their order, above the other six."""
        distiller = build(world, phase=2)

        def agreement() -> int:
            scores = world.student.score_all(torch.arange(1, 13)).gather(1, distiller.ranked[1:].long())
            return int((scores[:, 0] > scores[:, 1]).sum() + (scores[:, 1:2] > scores[:, 2:]).sum())

        before = agreement()
        losses = self.trained(distiller, world, 60)
        assert all(later < earlier for earlier, later in zip(losses, losses[1:])) and agreement() > before + 20
