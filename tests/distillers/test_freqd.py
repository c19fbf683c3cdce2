"""FreqD: the filter and the term on plain floats, gradients, what they imply, known values, training, planted data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from recbole_derrd.data.co_occurrence import CoOccurrence, co_occurrence_graph
from recbole_derrd.distillers import StepBatch
from recbole_derrd.distillers.freqd import (
    Edges,
    FreqDOptions,
    FrequencyDistillation,
    Graph,
    errors,
    filtered,
    kept_edges,
)
from recbole_derrd.distillers.projector import mean_of_networks
from recbole_derrd.errors import OptionError
from recbole_derrd.testing import (
    LossContract,
    TinyAdapter,
    World,
    assert_share_is_unbiased,
    make_world,
    some_rows,
    step,
)

SIZES = FrequencyDistillation.test_settings
#: Section 7 of the facts, entities from 0: edges, f(S) and T.
EDGES = ((0, 1), (0, 2), (1, 2), (2, 3))
MAPPED, TARGETS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (2.0, -1.0)), ((0.0, 1.0), (1.0, 1.0), (1.0, 0.0), (1.0, 1.0))


def build(world: World, seed: int = 5, **options: Any) -> FrequencyDistillation:
    """Build the method with small sizes."""
    distiller = FrequencyDistillation(FreqDOptions(**{**SIZES, **options}), world.knowledge, world.student, seed)
    distiller.begin_epoch(0)
    return distiller


def naive_adjacency(pairs: Sequence[tuple[int, int]], size: int) -> list[list[float]]:
    """Return D^-1/2 A D^-1/2, where an edge that is given in both directions weighs twice one that is given in one."""
    plain = [[((a, b) in pairs) / 2 + ((b, a) in pairs) / 2 for b in range(size)] for a in range(size)]
    degrees = [sum(row) for row in plain]
    return [
        [one / math.sqrt(degrees[a] * degrees[b]) if one else 0.0 for b, one in enumerate(row)]
        for a, row in enumerate(plain)
    ]


def naive_strongest(world: World, side: str, count: int) -> list[list[float]]:
    """Return the normalised adjacency of a world's users or items, by counting what each two share."""
    owned = [world.seen(user) if user else set() for user in range(world.history.n_users)]
    if side == "item":
        owned = [{user for user, items in enumerate(owned) if item in items} for item in range(world.history.n_items)]
    pairs = []
    for one, own in enumerate(owned):
        shared = {other: len(own & theirs) for other, theirs in enumerate(owned) if other != one and own & theirs}
        pairs += [(one, other) for other in sorted(shared, key=lambda other: (-shared[other], other))[:count]]
    return naive_adjacency(pairs, len(owned))


def naive_filter(adjacency: list[list[float]], table: list[list[float]], row: int, alpha: float) -> list[float]:
    """Return one row of (alpha A + (1 - alpha) I) X, number by number."""
    return [
        alpha * sum(weight * other[place] for weight, other in zip(adjacency[row], table))
        + (1 - alpha) * table[row][place]
        for place in range(len(table[0]))
    ]


def naive_error(one: list[float], other: list[float], norm: str) -> float:
    """Return 1 - cos or the squared distance of two vectors of plain floats."""
    if norm == "squared":
        return math.dist(one, other) ** 2
    return 1 - sum(x * y for x, y in zip(one, other)) / (math.hypot(*one) * math.hypot(*other))


def naive_forward(distiller: FrequencyDistillation, world: World) -> float:
    """Return L_FreqD / rows of the contract's batch, from whole tables."""
    options, total = distiller.options, 0.0
    for side, weight, ids in (("user", 1.0, [1, 3, 4]), ("item", 0.5, [2, 7, 9, 5, 7])):
        student, teacher = (
            getattr(one.model, f"{side}s").weight.detach().double() for one in (world.student, world.teacher)
        )
        parts = [part.detach().double() for part in distiller.projectors[side].parameters()]
        mapped = mean_of_networks(student.expand(len(parts[0]), *student.shape), *parts).tolist()
        adjacency = naive_strongest(world, side, options.neighbours)
        for entity in ids:
            pair = [naive_filter(adjacency, table, entity, options.alpha) for table in (mapped, teacher.tolist())]
            total += weight * naive_error(*pair, options.norm)
    return total / 8


def edges_of(adjacency: list[list[float]], rows: Sequence[int]) -> Edges:
    """Return these rows of a matrix."""
    entries = [[(place, weight) for place, weight in enumerate(adjacency[row]) if weight] for row in rows]
    flat = [entry for row in entries for entry in row]
    others, weights = [place for place, _ in flat], [weight for _, weight in flat]
    return Edges(
        torch.tensor([len(row) for row in entries]),
        torch.tensor(others, dtype=torch.int64),
        torch.tensor(weights, dtype=torch.float64),
    )


def normal(*shape: int, seed: int) -> Tensor:
    """Return seeded normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


some_edges = st.sets(
    st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: pair[0] != pair[1]), max_size=12
)


class TestFreqD(LossContract):
    """The five kinds of test for FreqD."""

    method = "freqd"
    # Neighbours need not be in the batch.
    reaches_other_users: ClassVar[bool] = True
    random_options: ClassVar[dict[str, Any]] = {"keep": 0.5, "dropout": 0.2}

    # Reference loops

    @pytest.mark.parametrize(
        "options",
        [
            {}, {"norm": "squared"}, {"alpha": 0.0}, {"alpha": 0.9, "neighbours": 1}, {"alpha": 0.3, "neighbours": 50},
            {"num_experts": 1, "hidden_size": 3, "norm": "squared"},
        ],
    )  # fmt: skip
    def test_reference_forward(self, world: World, options: dict[str, Any]) -> None:
        """From whole tables and dense graphs; prevents neighbours read by position, and an item that counts once."""
        distiller = build(world, **options)
        assert distiller(self.batch).item() == pytest.approx(naive_forward(distiller, world), rel=1e-4)

    @given(some_edges, st.lists(st.integers(0, 5), min_size=1, max_size=6), st.floats(0, 1))
    @settings(max_examples=80, deadline=None)
    def test_reference_filter(self, pairs: set[tuple[int, int]], rows: list[int], alpha: float) -> None:
        """Rows without edges among them, and rows that come twice."""
        adjacency, table = naive_adjacency(sorted(pairs), 6), normal(6, 3, seed=1)
        found = filtered(table, torch.tensor(rows), edges_of(adjacency, rows), alpha)
        for row, one in zip(rows, found):
            assert one.tolist() == pytest.approx(naive_filter(adjacency, table.tolist(), row, alpha))

    def test_reference_rows_of_the_graph(self, world: World) -> None:
        graph = Graph(co_occurrence_graph(world.history, "item", 3), torch.device("cpu"))
        adjacency = naive_strongest(world, "item", 3)
        rows = [40, 3, 17, 17, 1]
        found, expected = graph.edges(torch.tensor(rows)), edges_of(adjacency, rows)
        assert torch.equal(found.counts, expected.counts) and torch.equal(found.others, expected.others)
        torch.testing.assert_close(found.weights.double(), expected.weights)

    # Gradients

    @pytest.mark.parametrize("norm", ["cosine", "squared"])
    def test_gradcheck_filter_and_error(self, norm: str) -> None:
        """Through the entities and their neighbours; row 3 has no edge, row 4 is only a neighbour."""
        adjacency = naive_adjacency([(0, 1), (0, 4), (1, 2)], 5)
        own, targets = torch.tensor([0, 1, 3]), normal(3, 3, seed=2)

        def loss(table: Tensor) -> Tensor:
            return errors(filtered(table, own, edges_of(adjacency, own.tolist()), 0.6), targets, norm)

        assert torch.autograd.gradcheck(loss, (normal(5, 3, seed=1).requires_grad_(),))

    def test_gradcheck_neighbours_learn_too(self, world: World) -> None:
        """By their edges; without a share in the filter they do not."""
        for alpha in (0.5, 0.0):
            world.student.model.zero_grad()
            build(world, alpha=alpha)(step([4], [], [])).backward()
            gradient = world.student.model.users.weight.grad
            moved = set(gradient.abs().sum(dim=1).nonzero().squeeze(1).tolist())
            row = naive_strongest(world, "user", 3)[4]
            assert moved == {4, *(other for other, weight in enumerate(row) if weight and alpha)}

    # Invariants

    @given(some_edges, st.floats(0, 1))
    @settings(max_examples=60, deadline=None)
    def test_invariant_filter_is_linear_and_symmetric(self, pairs: set[tuple[int, int]], alpha: float) -> None:
        rows = list(range(6))
        edges, own = edges_of(naive_adjacency(sorted(pairs), 6), rows), torch.tensor(rows)
        one, other = normal(6, 3, seed=3), normal(6, 3, seed=4)
        left, right = (filtered(table, own, edges, alpha) for table in (one, other))
        torch.testing.assert_close(filtered(one + 2 * other, own, edges, alpha), left + 2 * right)
        torch.testing.assert_close((left * other).sum(), (one * right).sum())
        # Eigenvalues of a normalised graph are at most 1.
        assert left.norm() <= one.norm() * (1 + 1e-9)

    @given(st.floats(0.05, 1), st.integers(0, 99))
    @settings(max_examples=40, deadline=None)
    def test_invariant_dropping_keeps_the_filter_on_average(self, keep: float, seed: int) -> None:
        """Entries are kept or not, each on its own, and the rows they are in stay what they are."""
        counts = torch.tensor([0, 300, 0, 500, 200])
        edges = Edges(counts, torch.arange(1000), torch.full((1000,), 2.0))
        kept = kept_edges(edges, keep, torch.Generator().manual_seed(seed))
        assert len(kept.others) == len(kept.weights) == int(kept.counts.sum())
        assert kept.counts.tolist() == [int(((kept.others >= low) & (kept.others < high)).sum()) for low, high in
                                        ((0, 0), (0, 300), (300, 300), (300, 800), (800, 1000))]  # fmt: skip
        assert kept.weights.tolist() == pytest.approx([2 / keep] * len(kept.weights))
        assert stats.binomtest(len(kept.others), 1000, keep).pvalue > 1e-5

    def test_invariant_all_kept_draws_nothing(self) -> None:
        edges, generator = Edges(torch.tensor([1]), torch.tensor([0]), torch.ones(1)), torch.Generator()
        state = generator.get_state()
        assert kept_edges(edges, 1.0, generator) is edges and torch.equal(generator.get_state(), state)

    def test_invariant_student_and_teacher_have_the_same_edges(self, world: World) -> None:
        """A student who is the teacher, with a map that changes nothing, has no error, whatever is dropped."""
        same = make_world(world.knowledge.folder.parent / "same", some_rows(12, 41, 10), 41, student_size=6)
        same.student.model.load_state_dict(same.teacher.model.state_dict())
        distiller = build(same, keep=0.4, num_experts=1, hidden_size=12, norm="squared")
        identity = torch.eye(6)
        with torch.no_grad():
            for side in ("user", "item"):
                projector = distiller.projectors[side]
                projector.first.copy_(torch.cat([identity, -identity], dim=1)[None])
                projector.second.copy_(torch.cat([identity, -identity], dim=0)[None])
                projector.first_bias.zero_()
                projector.second_bias.zero_()
        assert distiller(self.batch).item() == pytest.approx(0, abs=1e-8)
        with torch.no_grad():
            same.student.model.users.weight[3] += 1
        assert distiller(self.batch).item() > 0.01

    @pytest.mark.parametrize("alpha", [0.5, 1.0])
    @pytest.mark.parametrize("norm", ["cosine", "squared"])
    def test_invariant_without_neighbours(self, tmp_path: Path, alpha: float, norm: str) -> None:
        """Users who share nothing: their own embeddings alone, or nothing at all, which is a number too."""
        world = make_world(tmp_path, [[1], [2], [], [3]], n_items=5)
        loss = build(world, alpha=alpha, norm=norm)(step([1, 2, 3, 4], [1, 4], [2]))
        loss.backward()
        gradient = world.student.model.users.weight.grad
        assert torch.isfinite(loss) and torch.isfinite(gradient).all() and bool(gradient.any()) is (alpha < 1)

    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_invariant_huge_embeddings_stay_finite(self, world: World, size: float) -> None:
        with torch.no_grad():
            world.student.model.users.weight.mul_(size)
        loss = build(world)(self.batch)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(world.student.model.users.weight.grad).all()

    # Golden values

    @pytest.mark.parametrize(
        ("norm", "expected"),
        [
            ("cosine", (0.10109268056801968, 0.016343682449730945, 0.04423534467490631, 0.2532049220010355)),
            ("squared", (0.15004252143473523, 0.06460459405070096, 0.16256117930729194, 0.7559830641437076)),
        ],
    )
    def test_golden_errors(self, norm: str, expected: tuple[float, ...]) -> None:
        """Origin: algorithms_more.md, section 7, by independent code in float64; f is the identity."""
        edges, own = edges_of(naive_adjacency(EDGES, 4), range(4)), torch.arange(4)
        tables = [filtered(torch.tensor(one, dtype=torch.float64), own, edges, 0.5) for one in (MAPPED, TARGETS)]
        assert errors(*tables, norm).tolist() == pytest.approx(expected, rel=1e-12)

    def test_golden_graph_of_interactions(self, tmp_path: Path) -> None:
        """The facts' edges, from users 1 to 4: 1, 2 and 3 share an item with each other, 4 one with 3, which has two
        stronger ones: so it weighs half, and the sums of A's rows are 2, 2, 2.5 and 0.5."""
        world = make_world(tmp_path, [[1], [1], [1, 2], [2]], n_items=3)
        graph: CoOccurrence = co_occurrence_graph(world.history, "user", 2)
        assert graph.indptr.tolist() == [0, 0, 2, 4, 7, 8]
        assert graph.neighbours.tolist() == [2, 3, 1, 3, 1, 2, 4, 3]
        half, mutual, single = 0.5, 1 / math.sqrt(2 * 2.5), 0.5 / math.sqrt(2.5 * 0.5)
        expected = [half, mutual, half, mutual, mutual, mutual, single, single]
        assert graph.weights.tolist() == pytest.approx(expected)

    # Optimisation

    @pytest.mark.parametrize("norm", ["cosine", "squared"])
    def test_optimisation_nears_the_filtered_teacher(self, world: World, norm: str) -> None:
        distiller = build(world, keep=0.7, dropout=0.1, norm=norm)
        batch = step(list(range(1, 13)), list(range(1, 41)), [], rows=12)
        trained = [*world.student.model.parameters(), *distiller.parameters()]
        optimizer = torch.optim.Adam(trained, lr=0.02)
        losses = []
        for _ in range(150):
            optimizer.zero_grad()
            loss = distiller(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


class GraphAdapter(TinyAdapter):
    """Calls its layers as graph models do."""

    hints = ("final", "ego")


class TestKnowing:
    """What is read, reported and refused."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """Give twelve users and forty items."""
        return make_world(tmp_path, some_rows(12, 41, 10), n_items=41)

    def test_only_what_the_batch_touches_is_read(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        distiller, read = build(world), []
        embeddings = distiller.hints.embeddings

        def watched(side: str, ids: Tensor) -> Tensor:
            read.append((side, ids.tolist()))
            return embeddings(side, ids)

        monkeypatch.setattr(distiller.hints, "embeddings", watched)
        distiller(step([4], [9], [9, 7]))
        for (side, ids), own in zip(read, ([4], [7, 9])):
            adjacency = naive_strongest(world, side, 3)
            around = {other for one in own for other, weight in enumerate(adjacency[one]) if weight}
            assert ids == sorted({*own, *around})

    def test_networks_have_the_sizes_and_the_dropout_that_were_asked_for(self, world: World) -> None:
        usual, wide = build(world).projectors["user"], build(world, hidden_size=7, num_experts=3).projectors["item"]
        assert usual.first.shape == (2, 4, 6) and usual.second.shape == (2, 6, 6), "the teacher's 6 between"
        assert wide.first.shape == (3, 4, 7) and wide.second.shape == (3, 7, 6)
        still, moving = build(world), build(world, dropout=0.4)
        assert still(LossContract.batch) == still(LossContract.batch)
        assert moving(LossContract.batch) != moving(LossContract.batch)

    def test_edges_are_dropped_anew_in_each_step(self, world: World) -> None:
        distiller = build(world, keep=0.5)
        assert len({distiller(LossContract.batch).item() for _ in range(5)}) > 1

    def test_a_share_of_both_sides_is_unbiased(self, world: World) -> None:
        for batch in (step([1, 3, 4], [], []), step([], [2, 7, 9], [5, 7])):
            assert_share_is_unbiased(build(world), build(world, sample=0.34), batch)

    def test_the_layers_are_the_tables(self, tmp_path: Path) -> None:
        """Of a graph model too, as student and as teacher."""
        world = make_world(tmp_path, some_rows(12, 41, 10), n_items=41, teacher_hints=GraphAdapter.hints)
        world.student.__class__ = world.teacher.__class__ = GraphAdapter
        usual, other = build(world), build(world, hint="final", teacher_hint="final")
        assert (usual.hints.layer, usual.hints.teacher_layer) == ("ego", "ego")
        assert (other.hints.layer, other.hints.teacher_layer) == ("final", "final")
        with pytest.raises(OptionError, match="no hint layer 'once'"):
            build(world, hint="once")

    def test_diagnostics_count_neighbours(self, tmp_path: Path) -> None:
        world = make_world(tmp_path, [[1], [1], [1, 2], [2], [3]], n_items=4)
        assert build(world, neighbours=2).diagnostics(world.history.lengths)["co_occurrence_graph"] == {
            "user": {"entities": 5, "with_neighbours": 4, "mean_neighbours": 2.0},
            "item": {"entities": 3, "with_neighbours": 2, "mean_neighbours": 1.0},
        }
        chain = make_world(tmp_path / "chain", [[1], [1, 2], [2]], n_items=3)
        found = build(chain, neighbours=2).diagnostics(chain.history.lengths)["co_occurrence_graph"]
        assert found["user"] == {"entities": 3, "with_neighbours": 3, "mean_neighbours": 1.333333}

    def test_batches_of_users_only_are_refused(self, world: World) -> None:
        with pytest.raises(OptionError, match="FreqD needs the items of a batch"):
            build(world)(StepBatch(torch.tensor([1, 3]), None, None, 2))


# Planted data: the right answer is known


def test_planted_groups_are_learnt_although_the_teacher_is_noisy(tmp_path: Path) -> None:
    """Users of a group share items. A teacher's embedding is the group's and more noise, for which a small student has
    no room: compared as they are, it learns some of both; after the filter, the group."""
    n_groups, size = 4, 10
    rows = [[1 + 6 * (user // size) + (user + place) % 6 for place in range(4)] for user in range(n_groups * size)]
    of_users = torch.tensor([user // size for user in range(n_groups * size)])

    def share_found(alpha: float) -> float:
        world = make_world(tmp_path / str(alpha), rows, n_items=25, student_size=n_groups, teacher_size=24)
        noise = torch.randn(len(rows) + 1, 24, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            # A start of noise would stay: what the filter takes out, no gradient reaches.
            world.student.model.users.weight.mul_(0.01)
            world.teacher.model.users.weight.copy_(0.5 * noise)
            world.teacher.model.users.weight[1:, :n_groups] += torch.eye(n_groups)[of_users]
        distiller = build(world, alpha=alpha, keep=0.8, neighbours=9, num_experts=2)
        optimizer = torch.optim.Adam([*world.student.model.parameters(), *distiller.parameters()], lr=0.02)
        for _ in range(200):
            optimizer.zero_grad()
            distiller(step(range(1, len(rows) + 1), [], [], rows=40)).backward()
            optimizer.step()
        with torch.no_grad():
            learnt = torch.nn.functional.normalize(world.student.model.users.weight[1:], dim=1)
        nearest = (learnt @ learnt.T).fill_diagonal_(-2).topk(size - 1, dim=1).indices
        return (of_users[nearest] == of_users[:, None]).float().mean().item()

    plain, smooth = share_found(0.0), share_found(0.8)
    assert smooth > plain + 0.15 and smooth > 0.7, (plain, smooth)
