"""Drawing a share of a batch's entities: how many, how likely, and what their sum is multiplied by."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies
from scipy import stats

from recbole_derrd.adapters import RowAdapter
from recbole_derrd.distillers import Need, StepBatch, subsampling
from recbole_derrd.distillers.de import DEOptions, experts_work
from recbole_derrd.distillers.projector import networks_work
from recbole_derrd.distillers.rrd import RRDOptions
from recbole_derrd.distillers.subsampling import (
    MULTIPLE,
    Work,
    automatic_share,
    catalogue_work,
    distinct_entities,
    epoch_seed,
    listed_work,
    ranking_work,
    student_step,
    subsample,
    subsampled_entities,
)
from recbole_derrd.errors import OptionError
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.testing.world import TEACHERS, make_world, some_rows, step


@pytest.mark.parametrize(
    ("size", "share", "count"),
    [(10, 0.5, 5), (10, 0.24, 2), (10, 0.26, 3), (3, 0.01, 1), (1, 0.5, 1), (7, 0.99, 7), (900, 0.25, 225)],
)
def test_count_and_scale(size: int, share: float, count: int) -> None:
    ids = torch.arange(100, 100 + size)
    chosen, scale = subsample(ids, share, torch.Generator().manual_seed(0))
    assert len(chosen) == count == len(chosen.unique()) and scale == size / count
    assert set(chosen.tolist()) <= set(ids.tolist())


def test_every_subset_as_often_as_any_other() -> None:
    ids, generator = torch.tensor([3, 8, 9, 11, 20]), torch.Generator().manual_seed(1)
    seen = Counter(tuple(sorted(subsample(ids, 0.4, generator)[0].tolist())) for _ in range(5000))
    assert set(seen) == set(combinations(ids.tolist(), 2))
    assert stats.chisquare(list(seen.values())).pvalue > 0.01


@pytest.mark.parametrize(("size", "share"), [(10, 1.0), (0, 1.0), (0, 0.3)])
def test_nothing_to_choose_draws_nothing(size: int, share: float) -> None:
    generator = torch.Generator().manual_seed(2)
    state, ids = generator.get_state(), torch.arange(size)
    chosen, scale = subsample(ids, share, generator)
    assert chosen is ids and scale == 1 and torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("options", [DEOptions, RRDOptions])
@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_limits(options: type[DEOptions] | type[RRDOptions], share: float) -> None:
    assert options().sample == "auto" and options(sample=1).sample == 1
    with pytest.raises(OptionError, match="sample"):
        options(sample=share)


def test_a_share_is_a_number_or_auto() -> None:
    with pytest.raises(OptionError, match="a number or one of: auto"):
        DEOptions(sample="automatic")


_AMOUNTS = strategies.floats(1, 1e12)


@given(
    _AMOUNTS,
    strategies.floats(0, 1e12),
    strategies.floats(0, 1e9),
    strategies.floats(0, 1e12),
    strategies.floats(1, 1e6),
    strategies.integers(0, 10**6),
    _AMOUNTS,
    strategies.integers(1, 1000),
)
def test_invariant_an_automatic_share_keeps_within_its_multiple(
    entity: float, fixed: float, every: float, epoch: float, steps: float, entities: int, step: float, fewest: int
) -> None:
    """A share, of at least the fewest entities, that costs no more than it may: neither more nor less than that."""
    share = automatic_share(Work(entity, fixed, every, epoch), entities, step, fewest, steps)
    looked_at = share * entities
    cost = fixed + every * entities + epoch / steps + looked_at * entity
    assert 0 < share <= 1 and looked_at >= min(fewest, entities) * (1 - 1e-9)
    assert cost <= MULTIPLE * step * (1 + 1e-9) or looked_at <= fewest * (1 + 1e-9)
    assert share == 1 or cost >= MULTIPLE * step * (1 - 1e-9)


def test_an_automatic_term_costs_three_of_the_students_steps() -> None:
    """As the options' help and the pages say."""
    assert automatic_share(Work(entity=1000.0), entities=100, step=15_000.0) == pytest.approx(0.45)
    assert automatic_share(Work(entity=1000.0, step=20_000.0), entities=100, step=15_000.0) == pytest.approx(0.25)


def test_a_share_of_few_or_no_entities() -> None:
    """Of a batch without any it is a share all the same."""
    assert automatic_share(Work(entity=1e9), entities=100, step=1.0) == pytest.approx(0.16)
    assert automatic_share(Work(entity=2.0), entities=1, step=0.25, fewest=0) == pytest.approx(0.375)
    assert automatic_share(Work(entity=1e9), entities=0, step=1.0) == 1.0


def test_work_is_counted_in_multiply_adds() -> None:
    """Of models that score whole rows, a list costs three passes of the model."""
    model = torch.nn.Linear(10, 4)
    model.n_items = 41
    row = RowAdapter(model)
    assert row.parameter_count() == 44
    assert listed_work(row, 5) == 3 * 44 and listed_work(row, 5, 7) == 3 * 44 + 16 * 7 * 5
    assert catalogue_work(row, 6, 12) == 3 * 44 + 41 * (6 + 16 * 12)
    # Ranked for the users of a model that scores whole rows, the padding user left out: a pass each, and the search.
    model.n_users = 7
    assert ranking_work(row) == 6 * (44 + 41 * 16 * 12)
    assert student_step(1000, 10) == 32 * 1000 + 2**15 * 10 + 2**24
    assert student_step(1000, 10, 5) == 32 * 1000 + 2**15 * 10 + 16 * 5 + 2**24


def test_entities_of_users_alone_are_refused() -> None:
    """Half of the items is no batch of both sides."""
    users, items = torch.tensor([1, 2]), torch.tensor([3])
    for positives, negatives in ((items, None), (None, items), (None, None)):
        batch = StepBatch(users, positives, negatives, 2)
        for look in (distinct_entities, lambda *of: subsampled_entities(*of, 1.0, torch.Generator())):
            with pytest.raises(OptionError, match="NKD needs the items"):
                look("NKD", batch)


@pytest.mark.parametrize(("name", "fewest"), [("cpd", 160), ("dcd", 64), ("rce_kd", 512), ("rrd", 16)])
def test_some_look_at_more_than_their_cost_allows(
    name: str, fewest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 entities a step, as of most methods, teach CPD nothing, and RCE-KD less."""
    monkeypatch.setattr(subsampling, "MULTIPLE", 0.0)
    kind = method_class(name)
    world = make_world(tmp_path, some_rows(30, 61, 9), 61)
    built = kind(kind.options_class(**kind.test_settings), world.knowledge, world.student, 7)
    assert built.share(100_000, 1) == pytest.approx(fewest / 100_000)


@pytest.mark.parametrize("rows", [10, 30, 10_000])
def test_the_work_of_an_epoch_is_spread_over_its_steps(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as its batches: at least one."""
    kind, world = method_class("dcd"), make_world(tmp_path, some_rows(30, 61, 9), 61)
    built: Any = kind(kind.options_class(**kind.test_settings), world.knowledge, world.student, 7)
    steps = max(1.0, len(world.knowledge.history.items) / rows)
    monkeypatch.setattr(built, "step_work", lambda rows: 1e6)
    monkeypatch.setattr(kind, "fewest", 0)
    per_user, ranking = 2 * 4 * (3 * 4 + 640 + 16 * 24), 30 * 61 * (4 + 16 * 12)
    assert 0 < built.share(100_000, rows) * 100_000 == pytest.approx((3e6 - ranking / steps) / per_user)


def test_models_of_whole_users_have_as_many_rows_as_users(tmp_path: Path) -> None:
    world = make_world(tmp_path, some_rows(30, 61, 9), 61)
    built: Any = method_class("dcd")(method_class("dcd").options_class(k=4), world.knowledge, world.student, 7)
    assert built._rows_per_epoch() == len(world.knowledge.history.items)
    built.student = RowAdapter(torch.nn.Linear(2, 2))
    assert built._rows_per_epoch() == world.knowledge.n_users - 1


def test_work_grows_with_every_size() -> None:
    sizes = (20, 200, 30, 110)
    of_experts, of_networks = experts_work(*sizes), networks_work(*sizes, dropout=False)
    for index in range(4):
        doubled = [size * (1 + (place == index)) for place, size in enumerate(sizes)]
        for more, less in (
            (experts_work(*doubled), of_experts),
            (networks_work(*doubled, dropout=False), of_networks),
        ):
            assert more.entity > less.entity and more.step > less.step
    # Three products of each layer, in multiply-adds.
    assert 3 * 3300 * 220 < of_experts.entity < 1.5 * 3 * 3300 * 220
    assert networks_work(*sizes, dropout=True).entity > of_networks.entity
    assert student_step(1000, 10) < student_step(2000, 10) < student_step(2000, 20) < student_step(2000, 20, 5)


_WITH_SHARES = [name for name in METHODS if hasattr(method_class(name).options_class(), "sample")]


@pytest.mark.parametrize("name", _WITH_SHARES)
def test_every_method_takes_the_share_that_auto_finds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same loss as with that share given, of which each method's own test shows that it is unbiased."""
    kind = method_class(name)
    monkeypatch.setattr(kind, "fewest", 4)
    monkeypatch.setattr(subsampling, "MULTIPLE", 0.0)
    caplog.set_level("INFO")
    world = make_world(tmp_path, some_rows(30, 61, 9), 61, teachers=TEACHERS if Need.TRAJECTORY in kind.needs else None)
    batch = step(users=[*range(1, 13)], positives=[*range(1, 13)], negatives=[*range(13, 25)], rows=12)

    def losses(share: float | str) -> tuple[Any, list[float]]:
        built = kind(kind.options_class(**{**kind.test_settings, "sample": share}), world.knowledge, world.student, 7)
        built.begin_epoch(0)
        return built, [built(batch).item() for _ in range(3)]

    assert kind.options_class().sample == "auto"
    built, found = losses("auto")
    # Of the users, or of the users and the items.
    assert built.found_share == pytest.approx(4 / (36 if Need.EMBEDDINGS in kind.needs else 12))
    assert "sample: auto" in caplog.text
    assert found == losses(built.found_share)[1] != losses(1.0)[1]
    assert caplog.text.count("sample: auto") == 1


def test_students_say_what_they_cost(tmp_path: Path) -> None:
    """A distiller that is attached is not the student's own."""
    student = make_world(tmp_path, some_rows(12, 41, 10), 41).student
    own = sum(one.numel() for one in student.model.parameters())
    student.model.distillers = torch.nn.Linear(3, 5)
    assert student.parameter_count() == own and student.propagated_numbers() == 0
    assert student.logit_work() == student.item_embeddings(torch.tensor([1])).shape[1]


@pytest.mark.parametrize(
    ("seed", "epoch", "expected"),
    [
        (0, -1, 7919),
        (1, 0, 1015841),
        (2020, 3, 2020045655),
        (2**62, 5, 4611686018427943338),
        (2**62 + 12345, 7, 4611686030772996211),
    ],
)
def test_seeds_of_epochs_stay_what_they_were(seed: int, epoch: int, expected: int) -> None:
    """With others a training that is resumed by a later release would draw other items."""
    assert epoch_seed(seed, epoch) == expected


def test_a_seed_of_each_epoch_is_one_that_generators_take() -> None:
    """Large seeds and long trainings too; no two epochs of a training share one."""
    for seed in (0, 1, 2020, 2**32 - 1, 2**62):
        seeds = [epoch_seed(seed, epoch) for epoch in (-1, 0, 1, 2, 10_000)]
        assert len(set(seeds)) == 5 and all(0 <= one < 2**63 for one in seeds)
        torch.Generator().manual_seed(max(seeds))


def test_the_items_of_ir_rrd_are_half_of_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item's five users cost what five items of a user do, and the item side may cost half of the term."""
    kind, world = method_class("ir_rrd"), make_world(tmp_path, some_rows(30, 61, 9), 61)
    built: Any = kind(kind.options_class(**kind.test_settings), world.knowledge, world.student, 7)
    monkeypatch.setattr(built, "step_work", lambda rows: 1e6 * rows)
    assert built._item_share(100_000, 10) == pytest.approx(3 * 1e7 / (2 * 5 * (3 * 4 + 640 + 16 * 24)) / 100_000)


def test_the_items_of_ir_rrd_are_as_many_as_they_may_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_class("ir_rrd"), "fewest", 4)
    monkeypatch.setattr(subsampling, "MULTIPLE", 0.0)
    kind, world = method_class("ir_rrd"), make_world(tmp_path, some_rows(30, 61, 9), 61)
    batch = step(users=[*range(1, 13)], positives=[*range(1, 13)], negatives=[*range(13, 25)], rows=12)
    ranked = {}
    for most in ("auto", 5, 0):
        options = kind.options_class(**{**kind.test_settings, "max_items": most})
        built: Any = kind(options, world.knowledge, world.student, 7)
        built.begin_epoch(0)
        own = built.item_side.forward
        counted = ranked.setdefault(most, [])
        monkeypatch.setattr(built.item_side, "forward", lambda one, own=own, to=counted: to.append(one) or own(one))
        built(batch)
    assert [len(ranked[most][0].users) for most in ("auto", 5)] == [4, 5] and len(ranked[0][0].users) > 20
