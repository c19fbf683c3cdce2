"""Consistent Preference Distillation: formula on plain floats, gradients, what it implies, known values, training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recbole_derrd.distillers.cpd as cpd_module
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.cpd import (
    ConsistentPreferenceDistillation,
    CPDOptions,
    pair_inconsistency,
    ranking_inconsistency,
)
from recbole_derrd.distillers.de import DistillationExperts, gating_weights, gumbel_noise, mixed_experts
from recbole_derrd.distillers.subsampling import MULTIPLE
from recbole_derrd.errors import OptionError
from recbole_derrd.testing import LossContract, World, assert_share_is_unbiased, make_world, some_rows, step

SIZES = ConsistentPreferenceDistillation.test_settings


def build(world: World, seed: int = 5, epoch: int = 0, **options: Any) -> ConsistentPreferenceDistillation:
    """Build the method with small sizes."""
    distiller = ConsistentPreferenceDistillation(
        CPDOptions(**{**SIZES, **options}), world.knowledge, world.student, seed
    )
    distiller.begin_epoch(epoch)
    return distiller


def naive_list(before: list[float], after: list[float], tau: float) -> float:
    """Return H(softmax(before / tau), softmax(after / tau)) of plain floats."""

    def softmax(values: list[float]) -> list[float]:
        powers = [math.exp((value - max(values)) / tau) for value in values]
        return [power / sum(powers) for power in powers]

    return -sum(q * math.log(p) for q, p in zip(softmax(before), softmax(after)))


def naive_pair(before: list[float], after: list[float], form: str) -> float:
    """Return the loss of the first two of plain floats."""
    product = (after[0] - after[1]) * (before[0] - before[1])
    return max(0.0, -product) if form == "hinge" else math.log(1 + math.exp(-product))


def naive_regulariser(distiller: ConsistentPreferenceDistillation, world: World, users: list[int]) -> float:
    """Return what is added to the feature loss of these users, user by user and item by item."""
    options, maps, total = distiller.options, distiller.maps, 0.0
    assert distiller.items is not None
    for user in users:
        listed = distiller.items[user].tolist()
        before, after = [], []
        with torch.no_grad():
            own = world.student.model.users.weight[[user]]
            mapped = maps.mapped("user", torch.tensor([user]), own)
            for item in listed:
                other = world.student.model.items.weight[[item]]
                before.append((own @ other.T).item())
                after.append((mapped @ maps.mapped("item", torch.tensor([item]), other).T).item())
        total += options.ranking_weight * naive_list(before, after, options.tau)
        total += options.pair_weight * naive_pair(before, after, options.pairs)
    return total


class _Contract(LossContract):
    """What both kinds of feature loss owe."""

    method = "cpd"


class TestCPD(_Contract):
    """The five kinds of test for CPD."""

    # Reference loops

    @pytest.mark.parametrize(
        "options",
        [
            {"ranking_weight": 0.7},
            {"ranking_weight": 0.0, "pair_weight": 0.4},
            {"ranking_weight": 0.0, "pair_weight": 0.4, "pairs": "hinge"},
            {"ranking_weight": 0.3, "pair_weight": 0.2, "tau": 2.0},
        ],
    )
    def test_reference_regulariser(self, world: World, options: dict[str, Any]) -> None:
        """Prevents items of another user, maps of the wrong side, and pairs that are not the first two.

        Without noise: DE's choice by noise is tested with DE, and here an item that two users drew has one choice.
        """
        for feature in ("cosine", "experts"):
            distiller = build(world, epoch=1, feature=feature, num_experts=1, **options)
            plain = build(world, epoch=1, feature=feature, num_experts=1, ranking_weight=0.0, pair_weight=0.0)
            plain.load_state_dict(distiller.state_dict())
            for batch in (self.batch, step([12, 2, 7], [3], [4], rows=3)):
                expected = naive_regulariser(distiller, world, batch.users.tolist()) / batch.rows
                assert (distiller(batch) - plain(batch)).item() == pytest.approx(expected, rel=1e-4)

    def test_reference_feature_losses(self, world: World) -> None:
        """With experts it is DE's term, of the same seed; with cosine the mean of the entities' directions."""
        nothing = {"ranking_weight": 0.0, "pair_weight": 0.0}
        distiller = build(world, **nothing)
        experts = DistillationExperts(distiller.options.of_experts(), world.knowledge, world.student, 5)
        experts.begin_epoch(0)
        assert torch.equal(distiller(self.batch), experts(self.batch))
        directions = build(world, feature="cosine", **nothing)
        total = 0.0
        for side, weight, ids in (("user", 1.0, [1, 3, 4]), ("item", 0.5, [2, 7, 9, 5, 7])):
            mine, theirs = (getattr(one.model, f"{side}s").weight for one in (world.student, world.teacher))
            for entity in ids:
                mapped = directions.maps.mapped(side, torch.tensor([entity]), mine[[entity]])
                total += weight * (1 - torch.cosine_similarity(mapped, theirs[[entity]]).item())
        assert directions(self.batch).item() == pytest.approx(total / 8, rel=1e-4)

    def test_reference_the_map_is_the_expert_that_is_chosen_now(self, world: World) -> None:
        """By the entity's own teacher's vector, with noise, at the temperature of the epoch."""
        distiller = build(world, epoch=6, temperature_epochs=10, temperature_end=0.01)
        maps, users = distiller.maps, torch.tensor([7, 2, 11])
        assert maps.tau == pytest.approx(0.1)
        bank, own = maps.banks[0]["user"], world.student.model.users.weight[users]
        generator = torch.Generator()
        generator.set_state(distiller.generator.get_state())
        noise = gumbel_noise((3, 3), generator)
        weights = gating_weights(bank.logits(world.teacher.model.users.weight[users]), 0.1, noise)
        layers = (bank.first, bank.first_bias, bank.second, bank.second_bias)
        torch.testing.assert_close(maps.mapped("user", users, own), mixed_experts(own, weights, *layers))

    # Gradients

    @pytest.mark.parametrize("form", ["list", "logistic", "hinge"])
    def test_gradcheck_what_is_mapped(self, form: str) -> None:
        generator = torch.Generator().manual_seed(2)
        before, after = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
        before.requires_grad_()

        def loss(after: torch.Tensor) -> torch.Tensor:
            if form == "list":
                return ranking_inconsistency(before, after, 0.7)
            return pair_inconsistency(before, after, form)

        assert torch.autograd.gradcheck(loss, (after.requires_grad_(),))
        loss(after).sum().backward()
        assert before.grad is None, "the order that is to be kept is no variable"

    @pytest.mark.parametrize("feature", ["experts", "cosine"])
    def test_gradcheck_regulariser_teaches_the_map_alone(self, world: World, feature: str) -> None:
        """A student that could move its embeddings would do that instead of keeping the map in order."""
        whole = build(world, feature=feature, ranking_weight=1.0, pair_weight=1.0, num_experts=1)
        plain = build(world, feature=feature, ranking_weight=0.0, pair_weight=0.0, num_experts=1)
        plain.load_state_dict(whole.state_dict())
        found = []
        for distiller in (plain, whole):
            world.student.model.zero_grad()
            distiller.zero_grad()
            distiller(self.batch).backward()
            tables = [table.weight.grad.clone() for table in (world.student.model.users, world.student.model.items)]
            found.append((tables, [part.grad.clone() for part in distiller.parameters() if part.grad is not None]))
        for one, other in zip(found[0][0], found[1][0]):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)
        assert any(not torch.allclose(one, other) for one, other in zip(found[0][1], found[1][1]))

    # Invariants

    @given(st.lists(st.floats(-9, 9), min_size=2, max_size=6), st.floats(0.05, 5), st.floats(-5, 5))
    @settings(max_examples=60, deadline=None)
    def test_invariant_shifts_change_nothing_and_the_same_order_is_best(
        self, row: list[float], tau: float, shift: float
    ) -> None:
        before = torch.tensor([row], dtype=torch.float64)
        after = before.flip(1)
        loss = ranking_inconsistency(before, after, tau)
        torch.testing.assert_close(ranking_inconsistency(before, after + shift, tau), loss, rtol=1e-6, atol=1e-6)
        assert (ranking_inconsistency(before, before, tau) <= loss + 1e-9).all()

    @given(st.floats(-9, 9), st.floats(-9, 9))
    @settings(max_examples=60, deadline=None)
    def test_invariant_a_turned_pair_costs_more(self, before: float, after: float) -> None:
        """And a pair costs the same whichever of the two comes first."""
        one, other = (
            torch.tensor([[before, 0.0]], dtype=torch.float64),
            torch.tensor([[after, 0.0]], dtype=torch.float64),
        )
        for form in ("logistic", "hinge"):
            loss, turned = pair_inconsistency(one, other, form), pair_inconsistency(one, -other, form)
            assert loss >= 0 and ((turned >= loss) if before * after >= 0 else (loss >= turned))
            torch.testing.assert_close(pair_inconsistency(one.flip(1), other.flip(1), form), loss)

    def test_invariant_huge_scores_stay_finite(self) -> None:
        before, after = torch.tensor([[1e3, -1e3]]), torch.tensor([[-1e3, 1e3]]).requires_grad_()
        loss = ranking_inconsistency(before, after, 0.01) + pair_inconsistency(before, after)
        loss.sum().backward()
        assert torch.isfinite(loss).all() and after.grad is not None and torch.isfinite(after.grad).all()

    # Golden values

    def test_golden_equal_scores(self) -> None:
        """Origin: a map that tells nothing apart costs ln Q a list and ln 2 a pair; the hinge costs nothing."""
        before = torch.tensor([[3.0, 1.0, 2.0, 0.0, 5.0]])
        assert ranking_inconsistency(before, torch.zeros(1, 5), 0.1).item() == pytest.approx(math.log(5))
        assert pair_inconsistency(before[:, :2], torch.zeros(1, 2)).item() == pytest.approx(math.log(2))
        assert pair_inconsistency(before[:, :2], torch.zeros(1, 2), "hinge").item() == 0

    def test_golden_pairs_by_hand(self) -> None:
        """By hand: differences 2 and -3: the product is -6, the hinge 6, the logistic ln(1 + e^6) = 6.002476."""
        before, after = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 3.0]])
        assert pair_inconsistency(before, after, "hinge").item() == 6
        assert pair_inconsistency(before, after).item() == pytest.approx(6.002476, abs=1e-5)

    def test_golden_list_by_hand(self) -> None:
        """By hand: of (1, 0) the softmax is (e, 1)/(1+e); after it is turned: ln(1+e) - 1/(1+e) = 1.044320."""
        loss = ranking_inconsistency(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1.0)
        assert loss.item() == pytest.approx(1.044320, abs=1e-6)

    # Optimisation

    @pytest.mark.parametrize("feature", ["experts", "cosine"])
    @pytest.mark.parametrize("options", [{"ranking_weight": 5.0}, {"ranking_weight": 0.0, "pair_weight": 5.0}], ids=str)
    def test_optimisation_the_map_keeps_the_order(self, world: World, feature: str, options: dict[str, Any]) -> None:
        """Without the regulariser the same steps leave more than twice as many pairs turned."""
        turned = []
        for chosen in ({"ranking_weight": 0.0}, options):
            distiller = build(world, feature=feature, num_experts=1, **chosen)
            users = torch.arange(1, 13)
            batch = step(users.tolist(), list(range(1, 41)), [], rows=12)
            optimizer = torch.optim.Adam(distiller.parameters(), lr=0.02)
            for _ in range(60):
                optimizer.zero_grad()
                distiller(batch).backward()
                optimizer.step()
            maps, items = distiller.maps, torch.arange(1, 41)
            with torch.no_grad():
                own, other = (table.weight[1:] for table in (world.student.model.users, world.student.model.items))
                before = own @ other.T
                after = maps.mapped("user", users, own) @ maps.mapped("item", items, other).T
            listed = distiller.items[1:].long() - 1  # type: ignore[index]
            pairs = [part.gather(1, listed)[:, :2].diff(dim=1) for part in (before, after)]
            turned.append((pairs[0] * pairs[1] < 0).float().mean().item())
        assert turned[1] < turned[0] / 2


class TestCPDByDirections(_Contract):
    """The contract with the first code's feature loss."""

    base_options: ClassVar[dict[str, Any]] = {**SIZES, "feature": "cosine", "pair_weight": 0.1, "dropout": 0.1}


class TestDrawing:
    """The epoch's items of all users."""

    @pytest.mark.parametrize("at_once", [1 << 19, 1])
    def test_items_are_of_the_teachers_list(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
    ) -> None:
        monkeypatch.setattr(cpd_module, "_DRAWN_AT_ONCE", at_once)
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        items = build(world).items
        assert items is not None
        for user in range(1, 13):
            drawn, order = items[user].tolist(), world.teacher_order(user)[:10]
            positions = [order.index(item) for item in drawn]
            assert positions == sorted(set(positions))

    def test_each_user_is_drawn_for_once_in_blocks_of_bounded_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks: list[int] = []

        def spied(lengths: torch.Tensor, *others: Any) -> torch.Tensor:
            blocks.append(len(lengths))
            return draw(lengths, *others)

        draw = cpd_module.sample_top_positions
        monkeypatch.setattr(cpd_module, "sample_top_positions", spied)
        monkeypatch.setattr(cpd_module, "_DRAWN_AT_ONCE", 50)
        build(make_world(tmp_path, some_rows(12, 41, 10), n_items=41), top_n=10)
        assert blocks == [5, 5, 2], "50 entries are five users' rankings of 10"

    def test_users_with_short_lists_draw_no_padding(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, [[1, 2], list(range(1, 30)), [3]], n_items=41)
        for epoch in range(5):
            items = build(world, epoch=epoch, top_n=30, decay=1000.0).items
            assert items is not None and (items[1:] > 0).all() and not items[0].any()
            assert not set(items[2].tolist()) & world.seen(2)

    @pytest.mark.parametrize("feature", ["experts", "cosine"])
    def test_a_share_of_users_is_unbiased(self, tmp_path: Path, feature: str) -> None:
        """Of the feature loss, of either side, and of the regulariser."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        for batch, weight in (
            (step([1, 3, 4], [], []), 0.0),
            (step([], [2, 7], [5]), 0.0),
            (step([1, 3], [], []), 50.0),
        ):
            chosen = {"feature": feature, "num_experts": 1, "ranking_weight": weight}
            whole, part = (build(world, sample=share, **chosen) for share in (1.0, 0.34))
            assert_share_is_unbiased(whole, part, batch)

    @pytest.mark.parametrize(("maps", "wanted"), [(0, 2), (20, 4), (1000, 10)])
    def test_by_itself_it_regularises_what_the_features_leave_time_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maps: int, wanted: int
    ) -> None:
        """Of 20 users and items at least 10 maps, those of 2 users and their 4 items; a share is unbiased."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        whole, auto = (build(world, sample=share, num_experts=1) for share in (1.0, "auto"))
        features = auto.maps.work()
        budget = features.step + 20 * features.entity + maps * auto._map_work()
        monkeypatch.setattr(auto, "step_work", lambda rows: budget / MULTIPLE)
        seen: list[int] = []
        real = auto._inconsistency_sum
        monkeypatch.setattr(auto, "_inconsistency_sum", lambda users: seen.append(len(users)) or real(users))
        auto(step(list(range(1, 11)), [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]))
        assert seen == [wanted]
        assert_share_is_unbiased(whole, auto, step(list(range(1, 5)), [], []))

    @pytest.mark.parametrize("feature", ["experts", "cosine"])
    def test_layers(self, tmp_path: Path, feature: str) -> None:
        """Those of student and teacher that were asked for, by the loss and by what is mapped."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        users = torch.tensor([3, 5])
        usual, twice, other = (
            build(world, feature=feature, **options) for options in ({}, {"hint": "twice"}, {"teacher_hint": "twice"})
        )
        found = usual.maps.embeddings("user", users)
        assert torch.equal(twice.maps.embeddings("user", users), 2 * found)
        assert torch.equal(other.maps.embeddings("user", users), found)
        targets = [
            built.maps.targets[0]["item"] if feature == "experts" else built.maps.hints.targets["item"]
            for built in (usual, twice, other)
        ]
        assert torch.equal(targets[1], 2 * targets[0]) and torch.equal(targets[2], 2 * targets[0])

    def test_directions_are_mapped_to_length_one(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        maps = build(world, feature="cosine").maps
        assert maps.projectors["user"].first.shape == (3, 4, 5), "(4 + 6) // 2 units"
        mapped = maps.mapped("user", torch.tensor([1, 2]), torch.randn(2, 4))
        torch.testing.assert_close(mapped.norm(dim=1), torch.ones(2))

    def test_without_regularisers_nothing_is_drawn_again(self, tmp_path: Path) -> None:
        distiller = build(make_world(tmp_path, some_rows(12, 41, 10), n_items=41), ranking_weight=0.0, pair_weight=0.0)
        before = distiller.items
        distiller.begin_epoch(3)
        assert distiller.items is before and distiller.maps.tau < 1

    def test_resumed_run_draws_what_an_uninterrupted_one_draws(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        through = build(world)
        for epoch in range(1, 4):
            through.begin_epoch(epoch)
        assert torch.equal(through.items, build(world, epoch=3).items)  # type: ignore[arg-type]
        assert not torch.equal(through.items, build(world, epoch=2).items)  # type: ignore[arg-type]
        assert through.maps.tau == build(world, epoch=3).maps.tau < 1

    @pytest.mark.parametrize("feature", ["experts", "cosine"])
    def test_its_noise_is_in_the_state_that_a_checkpoint_keeps(self, tmp_path: Path, feature: str) -> None:
        """The student keeps the state of the method's own generator; the maps draw from no other."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        distiller = build(world, feature=feature, dropout=0.2, sample=0.5)
        distiller(_Contract.batch)
        state = distiller.generator.get_state()
        first = distiller(_Contract.batch).item()
        again = build(world, feature=feature, dropout=0.2, sample=0.5, seed=6)
        again.load_state_dict(distiller.state_dict())
        again.items = distiller.items
        again.generator.set_state(state)
        assert again(_Contract.batch).item() == first

    @pytest.mark.parametrize(("unobserved", "words"), [(3, "cpd_q = 4 is more.*Lower cpd_q to 3"), (0, "too few")])
    def test_too_few_is_refused(self, tmp_path: Path, unobserved: int, words: str) -> None:
        world = make_world(tmp_path, [list(range(1, 31 - unobserved))] * 2, n_items=31)
        with pytest.raises(OptionError, match=words):
            build(world)

    def test_options_against_each_other(self) -> None:
        with pytest.raises(OptionError, match="cpd_top_n = 3 is shorter than cpd_q = 5"):
            CPDOptions(top_n=3)
        assert CPDOptions(top_n=5).q == 5
        assert CPDOptions(temperature_start=0.5, temperature_end=0.5).temperature_end == 0.5
        with pytest.raises(OptionError, match="the temperature falls"):
            CPDOptions(temperature_start=0.1, temperature_end=0.2)

    def test_a_model_of_whole_users_is_refused(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        with pytest.raises(OptionError, match="trained on whole users"):
            build(world)(StepBatch(torch.tensor([1]), None, None, 1))
