"""Distillation Experts: the formula as slow loops, its gradients, what it implies, known values, and training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.de import (
    DEOptions,
    DistillationExperts,
    ExpertBank,
    gating_weights,
    gumbel_noise,
    mixed_experts,
    reconstruction_errors,
    temperature,
)
from recbole_derrd.errors import OptionError
from recbole_derrd.testing import LossContract, World, make_world, some_rows, step


def seeded(seed: int) -> torch.Generator:
    """Return a generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return seeded normal numbers."""
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def naive_choice(logits: list[float], noise: list[float], tau: float) -> list[float]:
    """Return softmax((log alpha + g) / tau), alpha = softmax(logits), for one entity on plain floats."""
    total = sum(math.exp(value) for value in logits)
    keys = [(math.log(math.exp(value) / total) + g) / tau for value, g in zip(logits, noise)]
    highest = max(keys)
    powers = [math.exp(key - highest) for key in keys]
    return [power / sum(powers) for power in powers]


def experts_of(first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> list[Any]:
    """Return the stacked experts as M separate networks of nn.Linear."""
    n_experts, hidden = len(second_bias), len(first_bias) // len(second_bias)
    networks: list[Any] = []
    for m in range(n_experts):
        own = slice(m * hidden, (m + 1) * hidden)
        network: Any = nn.Sequential(
            nn.Linear(len(first), hidden), nn.ReLU(), nn.Linear(hidden, second.shape[1])
        ).double()
        with torch.no_grad():
            network[0].weight.copy_(first[:, own].T)
            network[0].bias.copy_(first_bias[own])
            network[2].weight.copy_(second[own].T)
            network[2].bias.copy_(second_bias[m])
        networks.append(network)
    return networks


def naive_error(teacher: list[float], outputs: list[list[float]], weights: list[float], norm: str) -> float:
    """Return the reconstruction error of one entity: weighted sum of experts, then squares summed one by one."""
    total = 0.0
    for dimension, wanted in enumerate(teacher):
        mixed = sum(weight * output[dimension] for weight, output in zip(weights, outputs))
        total += (wanted - mixed) ** 2
    return math.sqrt(total) if norm == "l2" else total


def naive_errors(bank: Any, student: Tensor, teacher: Tensor, noise: Tensor, tau: float, norm: str) -> list[float]:
    """Return the error of every entity, looping over entities and experts."""
    experts = experts_of(*(p.detach().double() for p in (bank.first, bank.first_bias, bank.second, bank.second_bias)))
    errors = []
    for vector, wanted, g in zip(student.detach().double(), teacher.double(), noise.double()):
        logits = (bank.select.detach().double().T @ wanted + bank.select_bias.detach().double()).tolist()
        weights = naive_choice(logits, g.tolist(), tau)
        with torch.no_grad():
            outputs = [expert(vector).tolist() for expert in experts]
        errors.append(naive_error(wanted.tolist(), outputs, weights, norm))
    return errors


def naive_loss(
    distiller: DistillationExperts, world: World, batch: StepBatch, seed: int, tau: float, layer: str = "embedding"
) -> float:
    """Return L_DE / rows from the formula; the noise is -log(-log(u)) of uniform numbers of the same seed."""
    assert batch.positives is not None and batch.negatives is not None
    generator, gumbel = seeded(seed), distiller.options.gating == "gumbel"
    n_experts, norm = distiller.options.num_experts, distiller.options.norm
    n_items = len(batch.positives) + len(batch.negatives)
    scale = 2 if layer == "twice" else 1

    def noise(count: int) -> Tensor:
        drawn = -torch.log(-torch.log(torch.rand(count, n_experts, generator=generator)))
        return drawn if gumbel else torch.zeros(count, n_experts)

    banks = distiller.banks[distiller.layers.index(layer)]
    student, teacher = world.student.model, world.teacher.model
    total = sum(
        naive_errors(
            banks["user"],
            scale * student.users.weight[batch.users],
            scale * teacher.users.weight.detach()[batch.users],
            noise(len(batch.users)),
            tau,
            norm,
        )
    )
    item_noise = noise(n_items)
    for items, g in (
        (batch.positives, item_noise[: len(batch.positives)]),
        (batch.negatives, item_noise[len(batch.positives) :]),
    ):
        embeddings, wanted = scale * student.items.weight[items], scale * teacher.items.weight.detach()[items]
        total += sum(naive_errors(banks["item"], embeddings, wanted, g, tau, norm)) / 2
    return total / batch.rows


def parts(
    n: int = 5, d_s: int = 3, d_t: int = 4, experts: int = 3, hidden: int = 2, seed: int = 0
) -> dict[str, Tensor]:
    """Return random arguments of mixed_experts, its weights as logits."""
    return {
        "embeddings": normal(n, d_s, seed=seed + 1),
        "logits": normal(n, experts, seed=seed + 2),
        "first": normal(d_s, experts * hidden, seed=seed + 3),
        "first_bias": normal(experts * hidden, seed=seed + 4),
        "second": normal(experts * hidden, d_t, seed=seed + 5),
        "second_bias": normal(experts, d_t, seed=seed + 6),
    }


def finite_rows(width: int, low: float = -20, high: float = 20) -> Any:
    """Return a strategy for one to four rows of floats."""
    number = st.floats(low, high, allow_nan=False, width=32)
    return st.lists(st.lists(number, min_size=width, max_size=width), min_size=1, max_size=4)


class TestDE(LossContract):
    """The five kinds of test for DE."""

    method = "de"

    # Reference loops

    @pytest.mark.parametrize("tau", [1.0, 0.3, 0.01])
    def test_reference_selection_weights(self, tau: float) -> None:
        """Prevents a temperature applied to the noise or to the logits only."""
        logits, noise = normal(6, 4, seed=1), normal(6, 4, seed=2)
        expected = [naive_choice(row, g, tau) for row, g in zip(logits.tolist(), noise.tolist())]
        torch.testing.assert_close(gating_weights(logits, tau, noise), torch.tensor(expected, dtype=torch.float64))

    def test_reference_mixed_experts(self) -> None:
        """Prevents mixed-up columns of the stacked experts, whose shapes would still fit."""
        given_parts = parts()
        weights = given_parts.pop("logits").softmax(dim=1)
        embeddings = given_parts.pop("embeddings")
        experts = experts_of(**given_parts)
        with torch.no_grad():
            expected = torch.stack(
                [sum(w * expert(vector) for w, expert in zip(row, experts)) for vector, row in zip(embeddings, weights)]
            )
        torch.testing.assert_close(mixed_experts(embeddings, weights, **given_parts), expected)

    @pytest.mark.parametrize("norm", ["squared", "l2"])
    def test_reference_reconstruction_errors(self, norm: str) -> None:
        """Prevents a mean over dimensions in place of the sum, and a norm that the option did not ask for."""
        teacher, built = normal(5, 7, seed=1), normal(5, 7, seed=2)
        expected = [naive_error(t, [b], [1.0], norm) for t, b in zip(teacher.tolist(), built.tolist())]
        torch.testing.assert_close(reconstruction_errors(teacher, built, norm), torch.tensor(expected).double())
        assert (
            reconstruction_errors(teacher, built).tolist() == reconstruction_errors(teacher, built, "squared").tolist()
        )

    @pytest.mark.parametrize("norm", ["squared", "l2"])
    @pytest.mark.parametrize("gating", ["gumbel", "attention"])
    def test_reference_forward(self, world: World, gating: str, norm: str) -> None:
        """Prevents a lost 1/2, swapped banks or targets, and noise shared between entities."""
        distiller = self.distiller(world, gating=gating, norm=norm)
        distiller.tau = 0.3
        distiller.generator.manual_seed(11)
        tau = 1.0 if gating == "attention" else 0.3
        expected = naive_loss(distiller, world, self.batch, seed=11, tau=tau)
        assert distiller(self.batch).item() == pytest.approx(expected, rel=1e-4)

    def test_reference_second_step_draws_fresh_noise(self, world: World) -> None:
        """Prevents noise drawn once and kept: each entity would then keep its first random expert."""
        distiller = self.distiller(world)
        first, second = distiller(self.batch).item(), distiller(self.batch).item()
        assert first != pytest.approx(second, rel=1e-3)

    @pytest.mark.parametrize("hint", ["embedding+twice", "twice + embedding"])
    def test_reference_several_hint_layers_add_up(self, world: World, hint: str) -> None:
        """Prevents a second layer that reuses the first one's bank, targets or embeddings."""
        distiller = self.distiller(world, gating="attention", hint=hint)
        assert len(distiller.banks) == 2
        expected = sum(
            naive_loss(distiller, world, self.batch, seed=0, tau=1.0, layer=layer) for layer in ("embedding", "twice")
        )
        assert distiller(self.batch).item() == pytest.approx(expected, rel=1e-4)

    # Gradients

    @pytest.mark.parametrize("norm", ["squared", "l2"])
    @pytest.mark.parametrize("noisy", [True, False])
    def test_gradcheck_whole_formula(self, norm: str, noisy: bool) -> None:
        """Prevents a detach on the way: the selection network would never learn, in silence."""
        given_parts = {name: part.requires_grad_() for name, part in parts().items()}
        teacher, noise = normal(5, 4, seed=8), normal(5, 3, seed=9) if noisy else None

        def loss(logits: Tensor, embeddings: Tensor, *experts: Tensor) -> Tensor:
            weights = gating_weights(logits, 0.7, noise)
            return reconstruction_errors(teacher, mixed_experts(embeddings, weights, *experts), norm)

        order = ("logits", "embeddings", "first", "first_bias", "second", "second_bias")
        assert torch.autograd.gradcheck(loss, [given_parts[name] for name in order])

    def test_gradcheck_every_part_of_the_module_learns(self, world: World) -> None:
        """Prevents experts or selection networks that are left out of the graph."""
        distiller = self.distiller(world)
        distiller(self.batch).backward()
        gradients = {name: parameter.grad for name, parameter in distiller.named_parameters()}
        assert len(gradients) == 12
        assert [name for name, grad in gradients.items() if grad is None or not (grad != 0).any()] == []

    # Invariants

    @given(finite_rows(3), st.sampled_from([1.0, 0.1, 1e-3, 1e-10]))
    @settings(max_examples=50, deadline=None)
    def test_invariant_rows_sum_to_one(self, rows: list[list[float]], tau: float) -> None:
        """Prevents a softmax over entities instead of over experts."""
        weights = gating_weights(torch.tensor(rows), tau, normal(len(rows), 3, seed=1, dtype=torch.float32))
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(rows)))

    @given(finite_rows(4), st.integers(0, 10_000))
    @settings(max_examples=50, deadline=None)
    def test_invariant_cold_choice_is_one_expert(self, rows: list[list[float]], seed: int) -> None:
        """Prevents entities that never come to share an expert: at tau -> 0 the noisy best expert has all weight."""
        logits, noise = torch.tensor(rows), gumbel_noise((len(rows), 4), seeded(seed))
        weights = gating_weights(logits, 1e-10, noise)
        best = torch.nn.functional.one_hot((logits + noise).argmax(dim=1), 4).float()
        # Float32 sums may tie exactly; then the tied experts share.
        top = (logits + noise).topk(2, dim=1).values
        clear = top[:, 0] > top[:, 1]
        assert torch.equal(weights[clear], best[clear])

    @given(finite_rows(3), st.floats(-50, 50, width=32))
    @settings(max_examples=50, deadline=None)
    def test_invariant_choice_ignores_a_shift_of_the_logits(self, rows: list[list[float]], shift: float) -> None:
        """The inner softmax's normaliser cancels: what the short form in the code rests on."""
        logits = torch.tensor(rows, dtype=torch.float64)
        noise = normal(len(rows), 3, seed=3)
        torch.testing.assert_close(
            gating_weights(logits + shift, 0.5, noise), gating_weights(logits, 0.5, noise), rtol=1e-6, atol=1e-9
        )

    @given(st.integers(0, 10_000))
    @settings(max_examples=25, deadline=None)
    def test_invariant_single_expert_is_a_regression(self, seed: int) -> None:
        """With M = 1 selection, noise and temperature must not matter: plain two-layer regression is left."""
        given_parts = parts(experts=1, seed=seed)
        embeddings, teacher = given_parts["embeddings"], normal(5, 4, seed=seed)
        weights = gating_weights(given_parts["logits"], 0.01, normal(5, 1, seed=seed + 9))
        experts = [given_parts[name] for name in ("first", "first_bias", "second", "second_bias")]
        plain = (embeddings @ experts[0] + experts[1]).clamp(min=0) @ experts[2] + experts[3]
        torch.testing.assert_close(
            reconstruction_errors(teacher, mixed_experts(embeddings, weights, *experts)),
            torch.nn.functional.mse_loss(plain, teacher, reduction="none").sum(dim=1),
        )

    @given(st.integers(0, 10_000))
    @settings(max_examples=25, deadline=None)
    def test_invariant_order_of_experts_is_free(self, seed: int) -> None:
        """Prevents an expert whose hidden units are weighted by its neighbour's weight."""
        given_parts = parts(seed=seed)
        weights = given_parts.pop("logits").softmax(dim=1)
        order, units = [2, 0, 1], [4, 5, 0, 1, 2, 3]
        moved = {
            "first": given_parts["first"][:, units],
            "first_bias": given_parts["first_bias"][units],
            "second": given_parts["second"][units],
            "second_bias": given_parts["second_bias"][order],
        }
        torch.testing.assert_close(
            mixed_experts(given_parts["embeddings"], weights[:, order], **moved),
            mixed_experts(weights=weights, **given_parts),
        )

    @pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2], [2, 1, 0]])
    def test_invariant_order_of_users_and_items_is_free(self, world: World, order: list[int]) -> None:
        """Prevents targets that are read by position in the batch instead of by id."""
        distiller = self.distiller(world, gating="attention")
        users, positives, negatives = [1, 3, 4], [2, 7, 9], [5, 6, 8]
        moved = step(*[[ids[i] for i in order] for ids in (users, positives, negatives)])  # type: ignore[arg-type]
        torch.testing.assert_close(distiller(step(users, positives, negatives)), distiller(moved))

    def test_invariant_item_on_both_sides_weighs_one(self, world: World) -> None:
        """An item that is positive and negative counts 1, any other 1/2 (the authors' code), and a user 1."""
        distiller = self.distiller(world, gating="attention")
        zeros = torch.zeros(2, 3)
        user_error, other_user = naive_errors(
            distiller.banks[0]["user"],
            world.student.model.users.weight[[1, 2]],
            world.teacher.model.users.weight.detach()[[1, 2]],
            zeros,
            1.0,
            "squared",
        )
        both, other = naive_errors(
            distiller.banks[0]["item"],
            world.student.model.items.weight[[7, 5]],
            world.teacher.model.items.weight.detach()[[7, 5]],
            zeros,
            1.0,
            "squared",
        )
        loss = lambda *ids: distiller(step(*ids)).item()  # noqa: E731
        assert loss([1], [7], [7]) == pytest.approx(user_error + both, rel=1e-4)
        assert loss([1], [7], [5]) == pytest.approx(user_error + both / 2 + other / 2, rel=1e-4)
        assert loss([1], [7], []) == pytest.approx(user_error + both / 2, rel=1e-4)
        assert loss([1], [], [7]) == pytest.approx(user_error + both / 2, rel=1e-4)
        assert loss([1, 2], [7], []) == pytest.approx(user_error + other_user + both / 2, rel=1e-4)

    def test_invariant_attention_ignores_noise_and_epoch(self, world: World) -> None:
        """The ablation is a plain softmax; a falling temperature would turn it into DE by and by."""
        distiller = self.distiller(world, gating="attention")
        first = distiller(self.batch)
        state = distiller.generator.get_state()
        distiller.begin_epoch(900)
        assert torch.equal(distiller(self.batch), first)
        assert torch.equal(distiller.generator.get_state(), state)

    def test_invariant_attention_weights_are_the_softmax(self) -> None:
        logits = normal(4, 3, seed=1)
        torch.testing.assert_close(gating_weights(logits, 1.0), logits.softmax(dim=1))

    def test_invariant_targets_get_no_gradient(self, world: World) -> None:
        """Prevents the easy way to a small loss: moving the teacher towards the student."""
        distiller = self.distiller(world)
        before = {side: target.clone() for side, target in distiller.targets[0].items()}
        distiller(self.batch).backward()
        for side, target in distiller.targets[0].items():
            assert not target.requires_grad and target.grad is None
            assert torch.equal(target, before[side])
        names = [name for name, _ in distiller.named_parameters()]
        assert list(distiller.state_dict()) == names and len(names) == 12

    @given(st.integers(0, 3000), st.integers(0, 3000), st.floats(1e-12, 0.9), st.integers(1, 1500))
    @settings(max_examples=100, deadline=None)
    def test_invariant_temperature_falls_to_its_floor(self, one: int, other: int, end: float, epochs: int) -> None:
        """Prevents a schedule that rises, starts late or falls below its end."""
        early, late = sorted([one, other])
        values = [temperature(epoch, 1.0, end, epochs) for epoch in (early, late)]
        assert 1.0 >= values[0] >= values[1] >= end * (1 - 1e-12)
        assert temperature(epochs + 1 + early, 1.0, end, epochs) == pytest.approx(end, rel=1e-12)

    # Golden values

    def test_golden_hand_computed_error(self) -> None:
        """By hand: expert 1 gives 2 relu(1 + 2) + 1 = 7, expert 2 gives 4 relu(-1 + 2 + 1/2) - 2 = 4; teacher 5.

        Logits 0 and ln 3 weigh them 1/4 and 3/4 at tau = 1: (5 - 4.75)^2; 1/10 and 9/10 at tau = 1/2: (5 - 4.3)^2.
        """
        experts = (
            torch.tensor([[1.0, -1.0], [1.0, 1.0]]),
            torch.tensor([0.0, 0.5]),
            torch.tensor([[2.0], [4.0]]),
            torch.tensor([[1.0], [-2.0]]),
        )
        for tau, squared, l2 in ((1.0, 0.0625, 0.25), (0.5, 0.49, 0.7)):
            weights = gating_weights(torch.tensor([[0.0, math.log(3)]]), tau)
            built = mixed_experts(torch.tensor([[1.0, 2.0]]), weights, *experts)
            assert reconstruction_errors(torch.tensor([[5.0]]), built).item() == pytest.approx(squared, rel=1e-5)
            assert reconstruction_errors(torch.tensor([[5.0]]), built, "l2").item() == pytest.approx(l2, rel=1e-5)

    @pytest.mark.parametrize(
        ("epoch", "value"), [(0, 1.0), (1, 1.0), (100, 0.10), (176, 0.018), (253, 0.0030), (1001, 1e-10), (5000, 1e-10)]
    )
    def test_golden_temperature(self, epoch: int, value: float) -> None:
        """Origin: algorithms_de_rrd.md 2.3, from the authors' training log (two digits)."""
        assert temperature(epoch, 1.0, 1e-10, 1000) == pytest.approx(value, rel=0.03)

    def test_golden_temperature_exact(self) -> None:
        """The exponent is (epoch - 1) / epochs: epochs 2, 101 and 501 of 1000, and a start other than 1."""
        assert temperature(2, 1.0, 1e-10, 1000) == pytest.approx(10**-0.01)
        assert temperature(101, 1.0, 1e-10, 1000) == pytest.approx(0.1)
        assert temperature(501, 1.0, 1e-10, 1000) == pytest.approx(1e-5)
        assert temperature(3, 8.0, 2.0, 4) == pytest.approx(4.0)

    def test_golden_parameter_count(self, tmp_path: Path) -> None:
        """Origin: the authors' log for d_s = 20, d_t = 200, M = 30 counts 1,470,600 and 12,060 parameters."""
        world = make_world(tmp_path, some_rows(3, 5, 1), n_items=5, student_size=20, teacher_size=200)
        distiller = DistillationExperts(DEOptions(), world.knowledge, world.student, seed=0)
        gates = sum(p.numel() for name, p in distiller.named_parameters() if "select" in name)
        assert gates == 12_060
        assert sum(p.numel() for p in distiller.parameters()) - gates == 1_470_600

    # Optimisation

    def test_optimisation_adam_lowers_the_loss(self, world: World) -> None:
        """Prevents a sign slip: experts and student together must come closer to the teacher."""
        distiller = self.distiller(world, gating="attention")
        student = list(world.student.model.parameters())
        before = [parameter.detach().clone() for parameter in student]
        optimizer = torch.optim.Adam([*student, *distiller.parameters()], lr=0.02)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = distiller(self.batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert all(later < earlier for earlier, later in zip(losses, losses[1:]))
        users, items = (parameter.detach() for parameter in student)
        entered = torch.cat([self.batch.positives, self.batch.negatives])  # type: ignore[list-item]
        assert (users[self.batch.users] != before[0][self.batch.users]).any(dim=1).all()
        assert (items[entered] != before[1][entered]).any(dim=1).all()

    def test_optimisation_student_alone_comes_closer(self, world: World) -> None:
        """Experts that do all the work would leave the student as it was: with frozen experts it must still learn."""
        distiller = self.distiller(world)
        distiller.begin_epoch(300)
        optimizer = torch.optim.Adam(world.student.model.parameters(), lr=0.05)
        losses = []
        for _ in range(10):
            distiller.generator.manual_seed(1)
            optimizer.zero_grad()
            loss = distiller(self.batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.97 * losses[0]


def test_noise_is_standard_gumbel() -> None:
    """Prevents a lost minus sign: exponential noise in logs looks like Gumbel noise, mirrored."""
    noise = gumbel_noise((40, 100), seeded(0))
    assert noise.shape == (40, 100) and torch.isfinite(noise).all()
    assert stats.kstest(noise.flatten().numpy(), stats.gumbel_r.cdf).pvalue > 0.01


def test_cold_noisy_choice_follows_the_selection_network() -> None:
    """Gumbel-max: at tau -> 0 an expert is chosen as often as the selection network says."""
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    noise = gumbel_noise((5000, 4), seeded(1))
    chosen = gating_weights(shares.log().float().expand(5000, 4), 1e-10, noise).argmax(dim=1)
    assert stats.chisquare(np.bincount(chosen.numpy(), minlength=4), 5000 * shares.numpy()).pvalue > 0.01


@pytest.mark.parametrize("size", [1.0, 1e3, 1e30])
def test_coldest_temperature_stays_finite_in_float32(size: float) -> None:
    """(logit + noise) / 1e-10 must not reach inf - inf: one NaN would end the training."""
    logits = (size * normal(50, 6, seed=1)).float().requires_grad_()
    weights = gating_weights(logits, 1e-10, gumbel_noise((50, 6), seeded(2)))
    assert torch.isfinite(weights).all()
    (weights * torch.arange(6.0)).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_module_at_the_coldest_temperature(tmp_path: Path) -> None:
    """The last epochs of the schedule must train as well as the first."""
    world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
    distiller = DistillationExperts(DEOptions(num_experts=4), world.knowledge, world.student, seed=3)
    distiller.begin_epoch(1001)
    assert distiller.tau == pytest.approx(1e-10)
    loss = distiller(step([1, 2, 3], [4, 5], [6], rows=3))
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in [*distiller.parameters(), *world.student.model.parameters()]]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in gradients)


def test_autocast_computes_everything_in_float32(tmp_path: Path) -> None:
    """Under bfloat16 the loss must be the very same number, or the experts were computed in half precision."""
    world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
    batch = step([1, 2, 3], [4, 5], [6], rows=3)
    losses = []
    for enabled in (False, True):
        distiller = DistillationExperts(DEOptions(num_experts=4), world.knowledge, world.student, seed=3)
        distiller.begin_epoch(400)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses.append(distiller(batch))
    assert losses[1].dtype == torch.float32
    assert torch.equal(*losses)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_first_weights_are_not_the_random_numbers_of_the_noise(seed: int, tmp_path: Path) -> None:
    world = make_world(tmp_path, some_rows(3, 9, 2), n_items=9)
    options = DEOptions(num_experts=2)
    distiller = DistillationExperts(options, world.knowledge, world.student, seed=seed)
    (bank,) = distiller.banks
    of_noise = ExpertBank(*bank["user"].sizes, options, torch.Generator().manual_seed(seed))
    assert not torch.isclose(bank["user"].first, of_noise.first).any()


def test_epoch_sets_the_temperature(tmp_path: Path) -> None:
    """Prevents options that are read in another order than the schedule takes them."""
    world = make_world(tmp_path, some_rows(3, 9, 2), n_items=9)
    options = DEOptions(num_experts=2, temperature_start=8.0, temperature_end=2.0, temperature_epochs=4)
    distiller = DistillationExperts(options, world.knowledge, world.student, seed=0)
    assert distiller.tau == 8.0
    for epoch, tau in ((0, 8.0), (1, 8.0), (3, 4.0), (5, 2.0), (50, 2.0)):
        distiller.begin_epoch(epoch)
        assert distiller.tau == pytest.approx(tau)


@pytest.mark.parametrize(
    ("d_s", "d_t", "hidden_size", "hidden"),
    [(20, 200, None, 110), (4, 7, None, 5), (6, 6, None, 3), (1, 1, None, 1), (4, 7, 9, 9)],
)
def test_hidden_units(d_s: int, d_t: int, hidden_size: int | None, hidden: int) -> None:
    """floor((d_s + d_t) / 2); half of d_s where both are the same (self-distillation); or what the option says."""
    bank = ExpertBank(d_s, d_t, DEOptions(num_experts=2, hidden_size=hidden_size), seeded(0))
    assert bank.first.shape == (d_s, 2 * hidden) and bank.second.shape == (2 * hidden, d_t)
    assert bank.first_bias.shape == (2 * hidden,) and bank.second_bias.shape == (2, d_t)
    assert bank.select.shape == (d_t, 2) and bank.select_bias.shape == (2,)


def test_initial_weights_are_those_of_linear_layers() -> None:
    """Stacked experts must start as M separate nn.Linear would: the bound is that of one layer's fan-in."""
    bank = ExpertBank(16, 64, DEOptions(num_experts=10, hidden_size=25), seeded(0))
    for parameter, fan_in in (
        (bank.first, 16), (bank.first_bias, 16), (bank.second, 25), (bank.second_bias, 25), (bank.select, 64),
    ):  # fmt: skip
        bound = 1 / math.sqrt(fan_in)
        largest, mean = parameter.abs().max().item(), parameter.mean().item()
        assert 0.95 * bound < largest <= bound and abs(mean) < 0.1 * bound


def test_user_and_item_banks_start_differently(tmp_path: Path) -> None:
    """One generator reseeded for each bank would start users and items with the same experts."""
    world = make_world(tmp_path, some_rows(3, 9, 2), n_items=9)
    banks = DistillationExperts(DEOptions(num_experts=2), world.knowledge, world.student, seed=0).banks[0]
    assert not torch.equal(banks["user"].first, banks["item"].first)


def test_initial_weights_leave_the_global_generator_alone(tmp_path: Path) -> None:
    """The student's random stream must be that of the plain model."""
    world = make_world(tmp_path, some_rows(3, 9, 2), n_items=9)
    state = torch.get_rng_state()
    distiller = DistillationExperts(DEOptions(num_experts=2), world.knowledge, world.student, seed=0)
    distiller(step([1], [2], [3]))
    assert torch.equal(torch.get_rng_state(), state)


def test_teacher_s_hint_layer(tmp_path: Path) -> None:
    """The same layer where the teacher has it, its first otherwise, and another where the option names one."""
    rows = some_rows(3, 9, 2)

    def target(folder: str, hints: tuple[str, ...], **changes: Any) -> Tensor:
        world = make_world(tmp_path / folder, rows, n_items=9, teacher_hints=hints)
        options = DEOptions(num_experts=2, **changes)
        return DistillationExperts(options, world.knowledge, world.student, seed=0).targets[0]["item"]

    embedding = make_world(tmp_path, rows, n_items=9).teacher.model.items.weight.detach()
    assert torch.equal(target("same", ("embedding", "twice"), hint="twice"), 2 * embedding)
    assert torch.equal(target("first", ("embedding",), hint="twice"), embedding)
    assert torch.equal(target("named", ("embedding", "twice"), teacher_hint="twice"), 2 * embedding)
    assert torch.equal(target("default", ("embedding", "twice")), embedding)


def test_batch_of_users_only_is_refused(tmp_path: Path) -> None:
    """A silent loss over users alone would be half a DE."""
    world = make_world(tmp_path, some_rows(3, 9, 2), n_items=9)
    distiller = DistillationExperts(DEOptions(num_experts=2), world.knowledge, world.student, seed=0)
    some = torch.tensor([1])
    for items in ((None, None), (some, None), (None, some)):
        with pytest.raises(OptionError, match="needs the items"):
            distiller(StepBatch(some, *items, rows=1))


@pytest.mark.parametrize("gating", ["gumbel", "attention"])
@pytest.mark.parametrize("tau", [1.0, 0.1, 1e-3])
def test_fused_is_the_same_within_rounding(tmp_path: Path, tau: float, gating: str) -> None:
    """Same loss and gradients of the student, the experts and the selection network, at every temperature."""
    world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
    results = []
    for fused in (True, False):
        world.student.fused = fused
        options = DEOptions(num_experts=4, hidden_size=5, gating=gating)
        distiller = DistillationExperts(options, world.knowledge, world.student, seed=3)
        distiller.tau = tau
        loss = distiller(step([1, 3, 4], [2, 7, 9], [5, 7], rows=8))
        leaves = [*world.student.model.parameters(), *distiller.parameters()]
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*results):
        assert (one - other).abs().max() <= 1e-4 * (1 + other.abs().max())


class TestSample:
    """de_sample: fewer entities a step, the same term on average."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give twelve users and forty items."""
        return make_world(tmp_path / "knowledge", some_rows(12, 41, 10), n_items=41)

    @staticmethod
    def build(world: World, **options: Any) -> DistillationExperts:
        """Build the method without noise, so that what is drawn is all that changes."""
        given = {"num_experts": 3, "hidden_size": 5, "gating": "attention", **options}
        return DistillationExperts(DEOptions(**given), world.knowledge, world.student, seed=5)

    def test_unbiased_over_all_draws(self, world: World) -> None:
        """One user of three and one item of four: the loss is one of twelve, whose mean is the whole term."""
        whole, part = self.build(world), self.build(world, sample=0.3)
        users, positives, negatives = [1, 3, 4], [2, 7], [5, 9]
        by_user = [3 * whole(step([user], [], [], rows=8)).item() for user in users]
        by_item = [4 * whole(step([], [item], [], rows=8)).item() for item in positives + negatives]
        possible = [one + other for one in by_user for other in by_item]
        batch = step(users, positives, negatives, rows=8)
        assert np.mean(possible) == pytest.approx(whole(batch).item(), rel=1e-5)
        with torch.no_grad():
            losses = [part(batch).item() for _ in range(1200)]
        which = [int(np.abs(np.array(possible) - loss).argmin()) for loss in losses]
        assert losses == pytest.approx([possible[one] for one in which], rel=1e-4)
        assert stats.chisquare(np.bincount(which, minlength=12)).pvalue > 0.01

    def test_unbiased_with_noise(self, world: World) -> None:
        """The mean of many steps is that of the whole term within four standard errors, noise included."""
        batch = step([1, 3, 4, 6], [2, 7, 9, 11], [5, 8], rows=8)
        draws = []
        # A share of the batch varies more than the noise does.
        for share, steps in ((1.0, 200), (0.5, 600)):
            distiller = self.build(world, gating="gumbel", sample=share)
            with torch.no_grad():
                draws.append(np.array([distiller(batch).item() for _ in range(steps)]))
        error = math.sqrt(sum(one.var() / len(one) for one in draws))
        assert abs(draws[0].mean() - draws[1].mean()) < 4 * error < 0.05 * draws[0].mean()

    def test_the_whole_batch_draws_nothing_but_noise(self, world: World) -> None:
        """At 1 the generator gives the noise alone: the stream of a run without the option."""
        distiller = self.build(world, sample=1.0)
        state = distiller.generator.get_state()
        distiller(step([1, 3, 4], [2, 7], [5, 9]))
        assert torch.equal(distiller.generator.get_state(), state)

    def test_drawing_goes_on_from_a_saved_state(self, world: World) -> None:
        """What a training checkpoint keeps of the method is its generator's state."""
        first, second = (self.build(world, sample=0.5) for _ in range(2))
        second.load_state_dict(first.state_dict())
        batch = step([1, 3, 4, 6], [2, 7, 9], [5, 8])
        for _ in range(5):
            first(batch)
        second.generator.set_state(first.generator.get_state())
        assert [first(batch).item() for _ in range(5)] == [second(batch).item() for _ in range(5)]


def test_noise_of_the_smallest_uniform_number_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform number of 0 comes once in 17 million draws, hundreds of times in a training."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    assert torch.isfinite(gumbel_noise((3, 2), seeded(0))).all()
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 1 - 2**-24))
    assert torch.isfinite(gumbel_noise((3, 2), seeded(0))).all()


def test_diagnostics_are_the_mean_choice_of_groups_of_like_activity(tmp_path: Path) -> None:
    """By plain loops, of the first hint layer."""
    world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41)
    options = DEOptions(num_experts=4, hidden_size=5, hint="twice+embedding")
    distiller = DistillationExperts(options, world.knowledge, world.student, seed=3)
    activity = world.history.lengths
    found = distiller.diagnostics(activity)["expert_utilisation"]
    users = sorted(range(1, 13), key=lambda user: (activity[user], user))
    groups = [users[:3], users[3:6], users[6:8], users[8:10], users[10:]]
    assert found["side"] == "user"
    assert found["activity"] == [[activity[group[0]], activity[group[-1]]] for group in groups]
    bank, teacher = distiller.banks[0]["user"], 2 * world.teacher.model.users.weight
    chosen = (teacher @ bank.select + bank.select_bias).softmax(dim=1).detach()
    for group, shares in zip(groups, found["mean_utilisation"]):
        assert shares == pytest.approx(chosen[group].mean(dim=0).tolist(), abs=1e-6)
