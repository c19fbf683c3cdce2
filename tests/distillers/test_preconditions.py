"""Users with fewer unobserved items than a method asks of each: taught less or left out, and all others as before."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest
import torch
from torch import Tensor

from recbole_derrd import registry
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.history import History
from recbole_derrd.distillers.preconditions import (
    LEFT_OUT,
    Requirement,
    left_out_by_rankings,
    require_unobserved,
    short_rankings,
    short_users,
)
from recbole_derrd.distillers.rrd import RelaxedRankingDistillation, relaxed_ranking_loss
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment.preflight import check_data
from recbole_derrd.registry import method_class
from recbole_derrd.testing import World, history_of, make_world, step

N_ITEMS = 31
#: The first of the users, whom a count that starts one too late would pass over.
BUSY = 1
#: Options beside a method's ``test_settings``.
MORE: dict[str, dict[str, Any]] = {
    # With its item side every user counts for every other.
    "ir_rrd": {"item_weight": 0.0},
    # Which items are popular is every user's business.
    "unkd": {"groups": 1},
}


def requirements_of(name: str) -> tuple[dict[str, Any], int]:
    """Return a method's options, and how many unobserved items they ask of a user; 0 if they ask for none."""
    kind = method_class(name)
    options = {**kind.test_settings, **MORE.get(name, {})}
    found = kind.requirements(kind.options_class(**options), history_of([[], [1]], n_items=N_ITEMS))
    return options, max((one.wanted for one in found if one.side == "user"), default=0)


#: Options of each method that asks for unobserved items, and how many it asks for; of methods to come as well.
METHODS = {name: found for name in registry.METHODS for found in [requirements_of(name)] if found[1]}


def test_what_methods_ask_for() -> None:
    """K + L items, two for each that is kept, K, Q, or any."""
    wanted = {"rrd": 10, "ir_rrd": 10, "sld": 10, "cd": 10, "rd": 4, "dcd": 4, "unkd": 2, "cpd": 4, "listwise": 1}
    assert wanted.items() <= {name: count for name, (_, count) in METHODS.items()}.items()


def world_with_busy_user(folder: Path, unobserved: int) -> World:
    """Give four users, of whom number 1 has this many unobserved items."""
    return make_world(folder, [list(range(1, N_ITEMS - unobserved)), [1, 2], [30], [5, 9]], n_items=N_ITEMS)


def built(method: str, world: World, epoch: int = 0, fused: bool = True, **more: Any) -> Any:
    """Build a method and draw an epoch."""
    world.student.fused = fused
    options = method_class(method).options_class(**{**METHODS[method][0], **more})
    distiller = method_class(method)(options, world.knowledge, world.student, 5)
    distiller.begin_epoch(epoch)
    return distiller


def loss_and_gradients(distiller: Any, world: World, users: list[int]) -> list[Tensor]:
    """Return a batch's loss and what it does to the student."""
    world.student.model.zero_grad()
    loss = distiller(step(users, [2, 7], [5], rows=4))
    loss.backward()
    return [loss.detach(), *(weight.grad.clone() for weight in world.student.model.parameters())]


@pytest.mark.parametrize("method", METHODS)
def test_all_other_users_are_taught_as_before(tmp_path: Path, method: str) -> None:
    """To the bit, whatever the user who is short has left: with just enough nobody is short."""
    wanted = METHODS[method][1]
    enough = world_with_busy_user(tmp_path / "enough", wanted)
    expected = [loss_and_gradients(built(method, enough, epoch), enough, [2, 3, 4]) for epoch in range(2)]
    for unobserved in {wanted - 1, 0}:
        world = world_with_busy_user(tmp_path / str(unobserved), unobserved)
        for epoch, before in enumerate(expected):
            found = loss_and_gradients(built(method, world, epoch), world, [2, 3, 4])
            assert all(torch.equal(one, other) for one, other in zip(found, before))


@pytest.mark.parametrize("method", ["cd", "rd", "listwise", "cpd"])
@pytest.mark.parametrize("top_n", [0, 12])
def test_who_is_left_out_adds_nothing(tmp_path: Path, method: str, top_n: int) -> None:
    if top_n and method == "rd":
        pytest.skip("has no such option")
    world = world_with_busy_user(tmp_path, METHODS[method][1] - 1)
    more = {"top_n": top_n} if top_n else {}
    both, without = (loss_and_gradients(built(method, world, **more), world, users) for users in ([BUSY, 2, 3], [2, 3]))
    if method == "cpd":
        # Its maps take embeddings, of which every user has one.
        both[0] = built(method, world)._inconsistency_sum(built(method, world).taught(torch.tensor([BUSY, 2, 3])))
        without[0] = built(method, world)._inconsistency_sum(torch.tensor([2, 3]))
        assert torch.equal(both[0], without[0])
        return
    assert all(torch.equal(one, other) for one, other in zip(both, without))
    assert loss_and_gradients(built(method, world, **more), world, [BUSY])[0] == 0


# RRD: shorter rankings


def expected_loss(scores: list[float], interesting: int) -> float:
    """Return the paper's loss of one user, interesting items first."""
    return -sum(math.log(math.exp(scores[place]) / sum(map(math.exp, scores[place:]))) for place in range(interesting))


def scores_of(world: World, items: list[int]) -> list[float]:
    """Return the student's scores of the busy user's items."""
    model = world.student.model
    return (model.items.weight[items] @ model.users.weight[BUSY]).detach().double().tolist()


@pytest.mark.parametrize("unobserved", range(10))
@pytest.mark.parametrize(("interesting", "fused"), [("sampled", True), ("topk", False)])
def test_rrd_takes_what_there_is(tmp_path: Path, unobserved: int, interesting: str, fused: bool) -> None:
    """The K best, or all but one, above all others; against the formula on plain floats."""
    world = world_with_busy_user(tmp_path, unobserved)
    distiller = built("rrd", world, interesting=interesting, fused=fused)
    order = world.teacher_order(BUSY)
    best = order[: min(4, max(0, unobserved - 1))]
    row = distiller.items[BUSY].tolist()
    assert [item for item in row[:4] if item] == best
    assert sorted(item for item in row[4:] if item) == sorted(order[len(best) :])
    held = [item for item in row if item]
    loss, users, items = loss_and_gradients(distiller, world, [BUSY])
    assert loss.item() == pytest.approx(expected_loss(scores_of(world, held), len(best)) / 4, rel=1e-5, abs=1e-7)
    assert torch.isfinite(users).all() and torch.isfinite(items).all() and (items[0] == 0).all()


def test_rrd_without_uninteresting_items(tmp_path: Path) -> None:
    world = world_with_busy_user(tmp_path, 3)
    for fused in (True, False):
        distiller = built("rrd", world, l=0, fused=fused)
        assert distiller.items[BUSY].tolist() == [*world.teacher_order(BUSY), 0]
        expected = expected_loss(scores_of(world, world.teacher_order(BUSY)), 3) / 4
        assert loss_and_gradients(distiller, world, [BUSY])[0].item() == pytest.approx(expected, rel=1e-5)


def test_rrd_in_full_order(tmp_path: Path) -> None:
    """The ablation ranks the uninteresting items as well: here all that there are."""
    world = world_with_busy_user(tmp_path, 7)
    distiller = built("rrd", world, ranking="full")
    order = world.teacher_order(BUSY)
    assert [item for item in distiller.items[BUSY].tolist() if item] == order
    expected = expected_loss(scores_of(world, order), 7) / 4
    assert loss_and_gradients(distiller, world, [BUSY])[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize("l", [0, 5])
def test_positions_without_an_item_take_no_part(scale: float, l: int) -> None:  # noqa: E741
    """Values and gradients; positions that hold nothing get none, whatever stands there. Rows without any are 0."""
    generator = torch.Generator().manual_seed(3)
    scores = (scale * torch.randn(6, 4 + l, generator=generator, dtype=torch.float64)).requires_grad_()
    held = torch.rand(6, 4 + l, generator=generator) < 0.6
    held[0], held[1] = False, True
    # Interesting positions are filled from the left.
    held[:, :4] = held[:, :4].sort(dim=1, descending=True).values
    if l:
        held[2:, -1] = True
    losses = relaxed_ranking_loss(scores[:, :4], scores[:, 4:], held)
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    expected = [
        expected_loss([score for score, one in zip(row, positions) if one], int(positions[:4].sum()))
        for row, positions in zip(scores.detach().tolist(), held)
    ]
    torch.testing.assert_close(losses.detach(), torch.tensor(expected, dtype=torch.float64))
    assert (gradient[~held] == 0).all()


def test_all_places_held_is_as_before() -> None:
    """To the bit, so that one user who is short changes nothing for the others."""
    scores = torch.randn(5, 9, generator=torch.Generator().manual_seed(1))
    held = torch.ones_like(scores, dtype=torch.bool)
    parts = scores[:, :4], scores[:, 4:]
    assert torch.equal(relaxed_ranking_loss(*parts, held), relaxed_ranking_loss(*parts))


def test_sld_labels_what_there_is(tmp_path: Path) -> None:
    """A softmax over the items that are left, by hand."""
    world = world_with_busy_user(tmp_path, 7)
    order = world.teacher_order(BUSY)
    teacher = world.teacher.model
    labels = (teacher.items.weight[order] @ teacher.users.weight[BUSY]).softmax(dim=0)
    scores = torch.tensor(scores_of(world, order))
    distiller = built("sld", world, temperature=1.0)
    expected = -(labels * scores.log_softmax(dim=0)).sum().item() / 4
    assert loss_and_gradients(distiller, world, [BUSY])[0].item() == pytest.approx(expected, rel=1e-5)


def test_ir_rrd_of_an_item_that_nearly_everybody_knows(tmp_path: Path) -> None:
    """Its ranking of users is shorter: here two strangers, one above the other."""
    rows = [[1] if user < 10 else [2] for user in range(12)]
    world = make_world(tmp_path, rows, n_items=N_ITEMS)
    sizes = {"item_k": 2, "item_l": 3, "item_top_n": 6, "item_weight": 1.0, "k": 29, "l": 0, "top_n": 30}
    distiller = built("ir_rrd", world, **sizes)
    side = distiller.item_side
    assert sorted(side.items[1].tolist()) == [0, 0, 0, 11, 12]
    assert side.items[3].all()
    model, (first, other) = world.student.model, [user for user in side.items[1].tolist() if user]
    scores = (model.users.weight[[first, other]] @ model.items.weight[1]).tolist()
    found = side(step([1], [], [], rows=1))
    assert found.item() == pytest.approx(expected_loss(scores, 1), rel=1e-5, abs=1e-6)
    assert torch.isfinite(distiller(step([1, 11], [], [])))


# What is said and what is refused


def required(history: History, wanted: int, asked: str, lower: str = "") -> Requirement:
    return require_unobserved(history, wanted, asked, lower, LEFT_OUT)


def test_how_many_are_short() -> None:
    history = history_of([[], list(range(1, 30)), [1], list(range(1, 31))], n_items=N_ITEMS)
    found = required(history, 5, "a + b")
    assert (found.users, found.short, found.fewest, found.fitting) == (4, 2, 0, 0)
    assert found.note() == f"2 of 4 users have fewer than a + b = 5 unobserved items: {LEFT_OUT}."
    assert required(history, 1, "a").note() == f"1 of 4 users have no unobserved items: {LEFT_OUT}."
    assert required(history, 2, "a").note() == f"2 of 4 users have fewer than a = 2 unobserved items: {LEFT_OUT}."
    short = short_users(history, 5)
    assert short is not None and short.tolist() == [False, False, True, False, True]
    assert short_users(history, 0) is None and required(history, 0, "a").note() is None


def test_rankings_that_are_short() -> None:
    """The padding user's row is empty, and short of nothing."""
    rankings = torch.tensor([[0, 0, 0], [4, 1, 0], [1, 2, 3], [5, 0, 0]])
    short = short_rankings(rankings, 2)
    assert short is not None and short.tolist() == [False, False, False, True]
    assert short_rankings(rankings, 1) is None and short_rankings(rankings[:1], 3) is None


def test_users_whom_only_the_teacher_is_short_of_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """Of the other, who has seen nearly all, the data are to blame."""
    rankings = torch.tensor([[0, 0, 0], [4, 1, 0], [1, 2, 3], [5, 0, 0], [9, 0, 0]])
    history = history_of([[1], [], [2, 3], list(range(1, 30))], n_items=N_ITEMS)
    left = left_out_by_rankings(rankings, "rd_k", 2, history)
    assert left is not None and left.tolist() == [False, False, False, True, True]
    assert "fewer than rd_k = 2 unobserved items for 1 of 4 users: they have no part" in caplog.text
    caplog.clear()
    assert left_out_by_rankings(rankings, "rd_k", 1, history) is None and not caplog.text


def test_a_tenth_of_the_users_may_have_less_than_fits() -> None:
    seen = [list(range(1, 31 - left)) for left in range(1, 21)]
    assert required(history_of(seen, N_ITEMS), 5, "a").fitting == 3


def test_only_nearly_all_are_a_mistake() -> None:
    few, many = ([[]] * fine + [list(range(1, 29))] * (20 - fine) for fine in (2, 1))
    required(history_of(few, N_ITEMS), 5, "a", "a to {}").refuse()
    with pytest.raises(
        OptionError, match=r"a = 5 is more than .*: 19 of 20 users have fewer, .*only 2 .* Lower a to 2"
    ):
        required(history_of(many, N_ITEMS), 5, "a", "a to {}").refuse()
    halved = require_unobserved(history_of(many, N_ITEMS), 5, "2 x a", "a to {}", LEFT_OUT, each=2)
    with pytest.raises(OptionError, match="Lower a to 1,"):
        halved.refuse()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_says_how_many(
    tiny_settings: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture, method: str, tmp_path: Path
) -> None:
    """Once, before anything is trained, and nothing where nobody is short."""
    options, wanted = METHODS[method]
    prefix = method_class(method).options_class.prefix
    given = {f"{prefix}{key}": value for key, value in options.items()}
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", distillers=[method], **given))
    for unobserved, messages in ((wanted, 0), (wanted - 1, 1)):
        caplog.clear()
        world = world_with_busy_user(tmp_path / str(unobserved), unobserved)
        data: Any = SimpleNamespace(history=world.history, dataset=SimpleNamespace(field2type={}))
        with caplog.at_level(logging.WARNING):
            check_data(config, data)
        assert len(caplog.records) == messages
    assert caplog.records[0].getMessage().startswith(f"{method}: 1 of 4 users have ")


def test_all_places_of_others_stay_full(tmp_path: Path) -> None:
    world = world_with_busy_user(tmp_path, 3)
    distiller = built("rrd", world)
    assert isinstance(distiller, RelaxedRankingDistillation) and distiller.items is not None
    assert (distiller.items[[2, 3, 4]] > 0).all()
