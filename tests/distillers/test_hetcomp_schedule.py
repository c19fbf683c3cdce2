"""HetComp's schedule: epochs, phases, resumption; and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_derrd.distillers.hetcomp import HetCompOptions, HeterogeneousDistillation
from recbole_derrd.errors import OptionError, TrainingError
from recbole_derrd.testing import LossContract, World, make_world, some_rows, step

from .hetcomp_world import build, world_of


class TestSchedule:
    """Epochs, phases, resumption."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return world_of(tmp_path, some_rows(12, 41, 10))

    def test_a_run_without_learning_has_arrived_by_epoch_120(self, tmp_path: Path) -> None:
        """With four snapshots, whatever the data: and phase and weight change then, not before."""
        world = world_of(tmp_path, some_rows(12, 41, 10), seeds=((5, 6, 7, 2), (8,)))
        distiller = build(world)
        for epoch in range(1, 122):
            distiller.begin_epoch(epoch)
            assert distiller.in_fine_order == bool(distiller.finished)
            assert distiller.weight == (0.005 if distiller.in_fine_order else 0.01)
            assert epoch < 121 or distiller.in_fine_order
            assert epoch >= 101 or not distiller.in_fine_order
        assert distiller.snapshot[1:].tolist() == [[3, 0]] * 12 and distiller.snapshot[0].tolist() == [0, 0]

    @pytest.mark.parametrize("stop", [0, 2, 4, 6, 12])
    @pytest.mark.parametrize("remainder", [0, 5])
    def test_resumed_run_goes_on_exactly(self, tmp_path: Path, stop: int, remainder: int) -> None:
        """State and generator of any moment, put into a fresh distiller, give the losses of an uninterrupted run."""

        def run(world: World, distiller: HeterogeneousDistillation, epochs: range) -> list[float]:
            losses = []
            for epoch in epochs:
                distiller.begin_epoch(epoch)
                loss = distiller(LossContract.batch)
                losses += [loss.item(), distiller.weight]
                grown = torch.autograd.grad(loss, list(world.student.model.parameters()))
                with torch.no_grad():
                    for weight, gradient in zip(world.student.model.parameters(), grown):
                        weight -= 0.05 * gradient
            return losses

        # The threshold is above 1 until epoch 8: up to there the kept discrepancies decide.
        options: dict[str, Any] = {"interval": 1, "alpha": 1.04, "remainder": remainder}
        world = world_of(tmp_path, some_rows(12, 41, 10))
        whole = build(world, **options)
        expected = run(world, whole, range(0, 14))
        assert len(set(expected[1::2])) == 2  # both phases

        world = world_of(tmp_path, some_rows(12, 41, 10))
        first = build(world, **options)
        losses = run(world, first, range(0, stop))
        second = build(world, **options, seed=99)
        second.load_state_dict(first.state_dict())
        second.generator.set_state(first.generator.get_state())
        assert losses + run(world, second, range(stop, 14)) == expected
        assert torch.equal(second.snapshot, whole.snapshot) and torch.equal(second.ranked, whole.ranked)

    def test_loaded_state_counts_before_the_next_epoch(self, world: World) -> None:
        """Rankings follow the snapshots that were loaded, in the very next step."""
        moved = build(world, phase=2, fine="none")
        fresh = build(world, fine="none")
        assert fresh(LossContract.batch).item() != pytest.approx(moved(LossContract.batch).item(), rel=1e-3)
        fresh.load_state_dict(moved.state_dict())
        assert torch.equal(fresh(LossContract.batch), moved(LossContract.batch))

    def test_an_epoch_begun_twice_moves_once(self, world: World) -> None:
        distiller = build(world)
        for epoch in (11, 101):
            distiller.begin_epoch(epoch)
        once = distiller.snapshot.clone()
        assert once.sum() > 0
        distiller.begin_epoch(101)
        assert torch.equal(distiller.snapshot, once)
        distiller.begin_epoch(111)
        assert not torch.equal(distiller.snapshot, once)

    def test_only_lists_of_users_that_moved_are_made_anew(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        distiller = build(world)
        merged: list[int] = []
        rankings = distiller._rankings
        monkeypatch.setattr(
            distiller, "_rankings", lambda users, at: merged.extend(users.tolist()) or rankings(users, at)
        )
        distiller.begin_epoch(1)
        assert merged == []
        distiller.snapshot[4, 0] = 1
        distiller.load_state_dict(distiller.state_dict())
        distiller.begin_epoch(2)
        assert merged == [4]

    def test_blocks_of_users_change_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """The student ranks, and the teachers' rankings are merged, for some users at a time."""
        whole = build(world)
        for epoch in (11, 101):
            whole.begin_epoch(epoch)
        monkeypatch.setattr("recbole_derrd.teacher.exact._FEWEST_USERS", 5)
        monkeypatch.setattr("recbole_derrd.teacher.exact._CPU_SCORES", 1)
        monkeypatch.setattr("recbole_derrd.distillers.hetcomp.method._FUSED_AT_ONCE", 5 * 2 * 12)
        parts = build(world)
        for epoch in (11, 101):
            parts.begin_epoch(epoch)
        assert whole.snapshot[1:].any(dim=1).sum() > 5
        assert torch.equal(parts.snapshot, whole.snapshot) and torch.equal(parts.ranked, whole.ranked)
        torch.testing.assert_close(parts.kept, whole.kept)

    def test_looking_at_the_student_leaves_no_trace(self, world: World) -> None:
        """Random states and training mode are as before; in evaluation mode the student is asked."""
        distiller, model = build(world), world.student.model
        seen = []
        score_all = world.student.score_all
        model.train()
        state = torch.get_rng_state()
        world.student.score_all = lambda users: (seen.append(model.training), torch.rand(3), score_all(users))[2]  # type: ignore
        distiller.begin_epoch(11)
        assert seen == [False] and model.training and torch.equal(torch.get_rng_state(), state)

    def test_student_that_has_diverged(self, world: World) -> None:
        distiller = build(world)
        world.student.model.items.weight.data[3] = torch.nan
        with pytest.raises(TrainingError, match="student's scores hold NaN; lower learning_rate"):
            distiller.begin_epoch(11)

    def test_one_teacher_with_one_version_begins_with_the_order(self, tmp_path: Path) -> None:
        """Any teacher teaches, also one that is not trained by epochs."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
        distiller = build(world)
        assert distiller.in_fine_order and distiller.weight == 0.005
        for user in range(1, 13):
            assert distiller.ranked[user].tolist() == world.teacher_order(user)[:8]
        assert torch.isfinite(distiller(LossContract.batch))
        assert distiller.progress() == {"teacher0/snapshot0": 1.0, "finished": 1.0}
        assert not build(world, fine="none").in_fine_order

    @pytest.mark.parametrize("variant", ["default", "published"])
    def test_when_phase_2_begins(self, tmp_path: Path, variant: str) -> None:
        """One of three hundred users a snapshot behind takes 0.003 off the mean: to two decimals nothing."""
        world = world_of(tmp_path, some_rows(300, 41, 10), seeds=((11, 12, 2),))
        distiller = build(world, variant=variant)
        distiller.snapshot[1:] = 2
        distiller.snapshot[7] = 1
        distiller.begin_epoch(11)  # the first look moves nobody
        assert distiller.snapshot[7].item() == 1 and distiller.in_fine_order == (variant == "published")

    def test_progress(self, world: World) -> None:
        distiller = build(world)
        distiller.snapshot[1:4, 0] = 1
        distiller.snapshot[7, 2] = 1
        shares = {
            "teacher0/snapshot0": 9 / 12, "teacher0/snapshot1": 3 / 12, "teacher0/snapshot2": 0.0,
            "teacher1/snapshot0": 1.0, "teacher2/snapshot0": 11 / 12, "teacher2/snapshot1": 1 / 12, "finished": 0.0,
        }  # fmt: skip
        assert distiller.progress() == pytest.approx(shares)

    def test_weights(self, world: World) -> None:
        """Weight 0 takes out both phases, so that a schedule that nobody advances does not wait for ever."""
        assert build(world, phase=2, weight=0).weight == 0 == build(world, weight=0).weight
        assert build(world, phase=2, fine="none").weight == 0.01
        assert build(world, phase=2, fine_weight=0.3).weight == 0.3

    @pytest.mark.parametrize("phase", [1, 2])
    def test_estimated_remainder_comes_close(self, world: World, phase: int) -> None:
        """With many draws the term is nearly the exact one, with few a little low on average, in either phase."""
        exact = build(world, phase=phase)(LossContract.batch).item()
        many, few = (build(world, phase=phase, remainder=count) for count in (2000, 5))
        assert many(LossContract.batch).item() == pytest.approx(exact, rel=0.01)
        mean = sum(few(LossContract.batch).item() for _ in range(200)) / 200
        assert 0.8 * exact < mean < 0.99 * exact


class TestOptionsAndData:
    """What is refused, in a sentence."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"fine": "half"}, "parts, whole, none"),
            ({"fine": True}, "must be str"),
            ({"variant": "paper"}, "default, published, first_release"),
            ({"top_n": 60}, "shorter than hetcomp_k = 100"),
            ({"discrepancy_k": 101}, "shorter than hetcomp_discrepancy_k = 101"),
            ({"variant": "publish"}, "Did you mean 'published'"),
        ],
    )
    def test_options_against_each_other(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(OptionError, match=words):
            HetCompOptions(**options)

    def test_the_user_with_the_fewest_items_counts_whoever_it_is(self, tmp_path: Path) -> None:
        for rows in ([[1], [2, 3]], [[2, 3], [1]]):
            world = make_world(tmp_path / str(len(rows[0])), rows, n_items=41)
            assert torch.isfinite(build(world, k=38, top_n=40)(step([1, 2], [], [])))

    @pytest.mark.parametrize(("k", "lengths"), [(1, [1, 1]), (2, [1, 1]), (5, [2, 1]), (25, [12, 2]), (100, [50, 10])])
    def test_lengths_of_phase_2(self, k: int, lengths: list[int]) -> None:
        assert HetCompOptions(k=k, top_n=100).fine_lengths == lengths
        assert HetCompOptions(k=k, top_n=100, fine="whole").fine_lengths == [k]

    def test_k_that_is_all_there_is(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, [[1, 2], [3]], n_items=41)
        with pytest.raises(OptionError, match=r"no user has more than 39 unobserved items\. Set hetcomp_k to 3 or so"):
            build(world, k=39, top_n=40)
        assert torch.isfinite(build(world, k=38, top_n=40)(step([1, 2], [], [])))

    def test_lists_longer_than_the_catalogue(self, tmp_path: Path) -> None:
        """The defaults of N and of the discrepancy's k are no trouble for small data."""
        world = world_of(tmp_path, some_rows(12, 41, 10))
        distiller = build(world, top_n=100, discrepancy_k=50)
        for epoch in (11, 21, 101, 111):
            distiller.begin_epoch(epoch)
        assert torch.isfinite(distiller(LossContract.batch)) and distiller.snapshot.sum() > 0
