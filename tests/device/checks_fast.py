"""The quick ways and what they are made of, on the device against the CPU: each function is one check."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Callable
from unittest import mock

import torch
from torch import Tensor

import recbole_derrd.ops.experts as experts_module
import recbole_derrd.ops.full_softmax as catalogue
from device.plan import Bench, Check, FailedError, equal, relative_error, within
from recbole_derrd.compression import compress
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.distillers.de import gumbel_noise, mixed_experts, reconstruction_errors
from recbole_derrd.distillers.hetcomp import overall_relation_loss
from recbole_derrd.distillers.hetcomp.discrepancy import discrepancy
from recbole_derrd.distillers.hetcomp.partition import ListedItems, partition_sum, sampled_partition
from recbole_derrd.distillers.listwise import listwise_loss
from recbole_derrd.evaluation.collector import _best_items
from recbole_derrd.evaluation.latency import measure_latency
from recbole_derrd.ops.experts import expert_error_sum
from recbole_derrd.ops.full_softmax import LOWEST, Targets, cross_entropy_sum, hidden_pairs
from recbole_derrd.ops.listed_scores import distinct_positions
from recbole_derrd.ops.packing import pack, unpack
from recbole_derrd.ops.propagation import layer_mean, propagate, to_csr
from recbole_derrd.ops.sampling import allowed_items, exclusion_keys, sample_subsets
from recbole_derrd.ops.svd import score_factors
from recbole_derrd.ops.top_k import top_scores
from recbole_derrd.runtime.randomness import kept_random_state, random_state, set_random_state
from recbole_derrd.teacher.exact import ExactSearch, best_unseen
from recbole_derrd.teacher.neighbours import nearest, principal_components
from recbole_derrd.teacher.users import UserSearch, swapped
from recbole_derrd.testing import TinyAdapter, TinyModel, history_of, some_rows
from recbole_derrd.training.optimizer import quick_adam

#: Errors as shares of the largest number, float32.
ROUNDING = 2e-5


def fast_checks(bench: Bench) -> Iterator[Check]:
    """Yield the checks."""
    for run in (
        top_n, sampling, rest_of_the_catalogue, full_softmax, remainder, experts, distinct, graph, factors, adam,
        packing, few_bytes, search, users_of_items, neighbours, curriculum, noise, random_states, latency,
    ):  # fmt: skip
        yield Check(f"fast/{run.__name__}", 2, functools.partial(run, bench))


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Draw normal numbers on the CPU."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def differentiated(value: Callable[..., Tensor], *parts: Tensor) -> list[Tensor]:
    """Return a scalar of some tensors and its gradients by them."""
    leaves = [part.detach().requires_grad_() for part in parts]
    result = value(*leaves)
    return [result, *torch.autograd.grad(result, leaves)]


def compared(found: list[Tensor], wanted: list[Tensor], bound: float = ROUNDING) -> dict[str, float]:
    """Compare a value and its gradients."""
    numbers = {
        "value": relative_error(found[0], wanted[0]),
        "gradient": max(relative_error(*pair) for pair in zip(found[1:], wanted[1:])),
    }
    within(numbers, {"value": bound, "gradient": 10 * bound})
    return numbers


def top_n(bench: Bench) -> dict[str, Any]:
    """The largest scores, with ties and infinities: the values are exact, and the positions lead to them."""
    for seed, (rows, width, count) in enumerate([(40, 6000, 50), (7, 100, 100), (30, 9001, 500)]):
        for scores in (normal(rows, width, seed=seed), (normal(rows, width, seed=seed) * 2).round()):
            scores[:, ::7] = -torch.inf
            wanted = scores.topk(count, dim=1).values
            values, positions = top_scores(scores.to(bench.device), count)
            equal(values, wanted, "values")
            equal(scores.gather(1, positions.cpu()), wanted, "positions")
            best = _best_items(scores.to(bench.device), min(count, 99)).cpu()
            equal(scores.gather(1, best), wanted[:, : best.shape[1]], "positions for metrics")
    return {}


def _excluded(n_rows: int, n_items: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(n_rows, (20 * n_rows,), generator=generator)
    return rows, torch.randint(n_items, (20 * n_rows,), generator=generator)


def sampling(bench: Bench) -> dict[str, Any]:
    """Which items are allowed, found by a binary search: exact."""
    rows, items = _excluded(50, 300)
    keys, offsets = exclusion_keys(rows, items, 50, 300)
    own_keys, own_offsets = exclusion_keys(rows.to(bench.device), items.to(bench.device), 50, 300)
    equal(own_keys, keys, "keys")
    equal(own_offsets, offsets, "offsets")
    ranks = sample_subsets(299 - offsets.diff(), 40, torch.Generator().manual_seed(2))
    wanted = allowed_items(ranks, keys, offsets, 300)
    equal(allowed_items(ranks.to(bench.device), own_keys, own_offsets, 300), wanted, "items")
    return {}


def rest_of_the_catalogue(bench: Bench) -> dict[str, Any]:
    """Items drawn from what is not hidden: the CPU's, with the CPU's random numbers."""
    hidden = _excluded(50, 300)
    drawn = []
    for device in (torch.device("cpu"), bench.device):
        with bench.noise_of_the_cpu():
            generator = torch.Generator(device=device).manual_seed(4)
            there = (hidden[0].to(device), hidden[1].to(device))
            drawn.append(sampled_partition(there, 50, 300, 20, generator))
    for found, wanted in zip(drawn[1], drawn[0]):
        equal(found, wanted, "drawn items")
    return {}


def _catalogue(bench: Bench) -> tuple[Any, list[Tensor], tuple[Tensor, Tensor], Any]:
    """Return a history, users' and items' embeddings, hidden pairs on the CPU, and what moves to the device."""
    n_users, n_items = (60, 5_001) if bench.small else (200, 30_001)
    history = history_of(some_rows(n_users, n_items, 40), n_items)
    users = torch.arange(1, n_users + 1)
    indptr, seen = torch.from_numpy(history.indptr), torch.from_numpy(history.items)
    hidden = hidden_pairs(users, indptr, seen)
    there = hidden_pairs(*(part.to(bench.device) for part in (users, indptr, seen)))
    for found, wanted in zip(there, hidden):
        equal(found, wanted, "hidden pairs")
    return history, [normal(n_users, 20, seed=1), normal(n_items, 20, seed=2)], hidden, there


def full_softmax(bench: Bench) -> dict[str, Any]:
    """The cross-entropy over the whole catalogue, in blocks of users, against autograd on the CPU."""
    _, embeddings, hidden, there = _catalogue(bench)
    mass = (
        (2 * normal(len(embeddings[0]), len(embeddings[1]), seed=3))
        .index_put(hidden, torch.tensor(LOWEST))
        .softmax(dim=1)
    )

    def readable(users: Tensor, items: Tensor) -> Tensor:
        scores = (users @ items.T).index_put(hidden, torch.tensor(LOWEST))
        return listwise_loss(scores, mass, 2.0).sum()

    def blocks(users: Tensor, items: Tensor) -> Tensor:
        def source(start: int, stop: int) -> Targets:
            own = (there[0] >= start) & (there[0] < stop)
            part = mass[start:stop].to(users.device)
            return Targets(part, None, (there[0][own] - start, there[1][own]))

        return cross_entropy_sum(users, items, source, 2.0)

    wanted, numbers = differentiated(readable, *embeddings), []
    for scores in (catalogue._ACCELERATOR_SCORES, 1 << 17):
        with mock.patch.object(catalogue, "_ACCELERATOR_SCORES", scores):
            numbers.append(compared(differentiated(blocks, *(part.to(bench.device) for part in embeddings)), wanted))
    return {name: max(one[name] for one in numbers) for name in numbers[0]}


def remainder(bench: Bench) -> dict[str, Any]:
    """Losses of picked scores and of the rest of the catalogue, in blocks, against the same on the CPU."""
    _, embeddings, _, _ = _catalogue(bench)
    shape = (len(embeddings[0]), len(embeddings[1]) - 1)
    picked = torch.rand(shape, generator=torch.Generator().manual_seed(5)).topk(30, dim=1).indices + 1

    def blocks(users: Tensor, items: Tensor) -> Tensor:
        def source(start: int, stop: int) -> ListedItems:
            own = picked[start:stop].to(users.device)
            rows = torch.arange(stop - start, device=users.device)
            every = torch.cat([rows, rows.repeat_interleave(own.shape[1])])
            return ListedItems(own, (every, torch.cat([torch.zeros_like(rows), own.reshape(-1)])))

        return partition_sum(users, items, source, overall_relation_loss)

    found = differentiated(blocks, *(part.to(bench.device) for part in embeddings))
    return compared(found, differentiated(blocks, *embeddings))


def experts(bench: Bench) -> dict[str, Any]:
    """The experts' errors in blocks of rows, undecided and decided, against autograd on the CPU."""
    n_experts, hidden, sizes, worst = 10, 24, (20, 60), {"value": 0.0, "gradient": 0.0}
    embeddings, teacher = normal(700, sizes[0], seed=1), normal(700, sizes[1], seed=2)
    layers = [
        0.2 * normal(sizes[0], n_experts * hidden, seed=3), 0.2 * normal(n_experts * hidden, seed=4),
        0.2 * normal(n_experts * hidden, sizes[1], seed=5), 0.2 * normal(n_experts, sizes[1], seed=6),
    ]  # fmt: skip
    parts = (embeddings, normal(700, n_experts, seed=7), *layers)
    for tau in (1.0, 0.05):
        for norm in ("squared", "l2"):
            # By the logits: a weight that is taken for 0 has no gradient by itself.
            def blocks(
                embeddings: Tensor, logits: Tensor, *layers: Tensor, tau: float = tau, norm: str = norm
            ) -> Tensor:
                weights = (logits / tau).softmax(dim=1)
                return expert_error_sum(embeddings, weights, teacher.to(embeddings.device), *layers, norm)

            def readable(
                embeddings: Tensor, logits: Tensor, *layers: Tensor, tau: float = tau, norm: str = norm
            ) -> Tensor:
                mixed = mixed_experts(embeddings, (logits / tau).softmax(dim=1), *layers)
                return reconstruction_errors(teacher, mixed, norm).sum()

            # Several blocks of rows, also on a card.
            with mock.patch.object(experts_module, "_BLOCK_UNITS", 200 * n_experts * hidden):
                found = differentiated(blocks, *(part.to(bench.device) for part in parts))
            numbers = compared(found, differentiated(readable, *parts))
            worst = {name: max(worst[name], numbers[name]) for name in worst}
    return worst


def distinct(bench: Bench) -> dict[str, Any]:
    """Distinct ids and their positions: exact."""
    ids = torch.randint(500, (40, 30), generator=torch.Generator().manual_seed(1))
    for found, wanted in zip(distinct_positions(ids.to(bench.device), 500), distinct_positions(ids, 500)):
        equal(found, wanted, "distinct ids")
    return {}


def graph(bench: Bench) -> dict[str, Any]:
    """Propagation over a graph by rows, value and gradient; the device may call its sparse format what it likes."""
    if bench.kind == "pretend":
        return {"note": "sparse tensors are not pretended"}
    generator = torch.Generator().manual_seed(1)
    ends = torch.randint(400, (2, 3000), generator=generator)
    both = torch.cat([ends, ends.flip(0)], dim=1)
    adjacency = torch.sparse_coo_tensor(both, torch.full((6000,), 0.03), (400, 400)).coalesce()
    embeddings, gradient = normal(400, 20), normal(400, 20, seed=2)
    found = differentiated(
        lambda x: (propagate(to_csr(adjacency.to(bench.device)), x, 3) * gradient.to(x.device)).sum(),
        embeddings.to(bench.device),
    )
    dense = adjacency.to_dense()
    return compared(found, differentiated(lambda x: (layer_mean(dense, x, 3) * gradient).sum(), embeddings))


def factors(bench: Bench) -> dict[str, Any]:
    """The best approximation in fewer dimensions: its scores, as signs of factors are free."""
    users, items = normal(300, 40, seed=1), normal(500, 40, seed=2)
    found = score_factors(users.to(bench.device), items.to(bench.device), 10)
    wanted = score_factors(users, items, 10)
    numbers = {"scores": relative_error(found[0] @ found[1].T, wanted[0] @ wanted[1].T)}
    within(numbers, {"scores": 10 * ROUNDING})
    return numbers


def adam(bench: Bench) -> dict[str, Any]:
    """Fused Adam and AdamW on the device, interrupted and gone on with, against stock ones on the CPU."""
    worst = 0.0
    for kind in (torch.optim.Adam, torch.optim.AdamW):
        tables = []
        for quick in (False, True):
            device = bench.device if quick else torch.device("cpu")
            table = torch.nn.Parameter(normal(50, 8).to(device))
            optimizer: Any = kind([table], lr=0.01, weight_decay=0.01)
            optimizer = quick_adam(optimizer) if quick else optimizer
            for step in range(6):
                if quick and step == 3:
                    state = optimizer.state_dict()
                    optimizer = quick_adam(kind([table], lr=0.01, weight_decay=0.01))
                    optimizer.load_state_dict(state)
                table.grad = normal(50, 8, seed=step).to(device)
                optimizer.step()
            tables.append(table)
        worst = max(worst, relative_error(tables[1], tables[0]))
    within({"weights": worst}, {"weights": ROUNDING})
    return {"weights": worst, "fused": bool(optimizer.defaults.get("fused"))}


def packing(bench: Bench) -> dict[str, Any]:
    """Codes of few bits in bytes: exact."""
    for bits in (1, 2, 3, 4, 8):
        codes = torch.randint(2**bits, (20, 13), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
        packed = pack(codes.to(bench.device), bits)
        equal(packed, pack(codes, bits), f"{bits} bits")
        equal(unpack(packed, bits, 13), codes, f"{bits} bits, unpacked")
    return {}


def few_bytes(bench: Bench) -> dict[str, Any]:
    """A teacher's embeddings in few bytes: the same tables from the device as from the CPU."""
    for options in (
        {"method": "svd", "size": 8}, {"method": "quantized", "bits": 4}, {"method": "quantized", "bits": 1, "size": 8},
    ):  # fmt: skip
        tables = [compress(side, CompressOptions(**options), seed=3) for side in _teachers(bench)]
        for side in ("users", "items"):
            for (name, found), wanted in zip(
                getattr(tables[1], side).arrays().items(), getattr(tables[0], side).arrays().values()
            ):
                equal(found, wanted, f"{options}: {side}, {name}")
    return {}


def _teachers(bench: Bench, n_users: int = 121, n_items: int = 5001) -> list[TinyAdapter]:
    """Return one teacher on the CPU and one on the device."""
    sides = [TinyAdapter(TinyModel(n_users, n_items, 12, seed=2)) for _ in range(2)]
    sides[1].model.to(bench.device)
    sides[1].model.device = bench.device
    return sides


def places_moved(found: Tensor, wanted: Tensor, scores: Tensor) -> dict[str, float]:
    """Compare rankings by the CPU's scores: ties may lie otherwise, better items may not be missing."""
    found, wanted = found.cpu().long(), wanted.cpu().long()
    difference = (scores.gather(1, wanted) - scores.gather(1, found)).abs().max() / scores.abs().max()
    repeated = sum(len(set(row)) < len(row) for row in found.tolist())
    numbers = {"score": float(difference), "positions moved": float((found != wanted).double().mean())}
    if repeated:
        raise FailedError(f"{repeated} rankings hold an item twice", numbers)
    within(numbers, {"score": ROUNDING})
    return numbers


def search(bench: Bench) -> dict[str, Any]:
    """Rankings of items: the CPU's but for ties, without what users know, with teachers' own infinities."""
    history = history_of(some_rows(120, 5001, 40), 5001)
    rankings = []
    with torch.no_grad():
        for side in _teachers(bench):
            own = ExactSearch(side, history, 100)
            rankings.append(own.rankings(1, 121))
        numbers = places_moved(rankings[1], rankings[0], _teachers(bench)[0].score_all(torch.arange(1, 121)))
    scores = normal(5, 60)
    scores[:, ::2] = -torch.inf
    hidden = (torch.arange(5).repeat_interleave(2), torch.tensor([0, 3] * 5))
    there = (hidden[0].to(bench.device), hidden[1].to(bench.device))
    found = best_unseen(scores.to(bench.device), there, 59).cpu().long()
    if not all(sorted(row[row > 0].tolist()) == [one for one in range(1, 60) if one != 3] for row in found):
        raise FailedError("rankings with scores of -inf are not whole")
    return numbers


def users_of_items(bench: Bench) -> dict[str, Any]:
    """Rankings of users of each item, by embeddings and by whole rows."""
    history = swapped(history_of(some_rows(120, 401, 40), 401))
    sides = _teachers(bench, 121, 401)
    with torch.no_grad():
        rankings = [UserSearch(side, history, 50).rankings(1, 401) for side in sides]
        rows = [UserSearch(_by_rows(side), history, 50).rankings(1, 401) for side in sides]
        scores = sides[0].score_all(torch.arange(121)).T[1:]
    places_moved(rows[1], rows[0], scores)
    return places_moved(rankings[1], rankings[0], scores)


def _by_rows(side: TinyAdapter) -> Any:
    return SimpleNamespace(device=side.device, score_all=side.score_all, once=side.once)


def neighbours(bench: Bench) -> dict[str, Any]:
    """Nearest neighbours in principal components."""
    embeddings = normal(400, 20, seed=1) * torch.linspace(1, 3, 20)
    found, distances = [], torch.empty(0)
    for device in (torch.device("cpu"), bench.device):
        real = principal_components(embeddings.to(device), 8)
        real = real - real.mean(dim=0)
        found.append(nearest(real, 0, 400, 10, real.square().sum(dim=1)))
        distances = -torch.cdist(real.cpu(), real.cpu()) if device.type == "cpu" else distances
    return places_moved(found[1], found[0], distances)


def curriculum(bench: Bench) -> dict[str, Any]:
    """How far rankings are apart."""
    generator = torch.Generator().manual_seed(1)
    rankings = [torch.rand(30, 99, generator=generator).argsort(dim=1)[:, :20] + 1 for _ in range(2)]
    wanted = discrepancy(*rankings, 10)
    found = discrepancy(*(one.to(bench.device) for one in rankings), 10)
    within({"difference": relative_error(found, wanted)}, {"difference": 1e-12})
    return {}


def noise(bench: Bench) -> dict[str, Any]:
    """Gumbel noise of the device's own generator: finite, and of the right mean."""
    drawn = gumbel_noise((1000, 1000), torch.Generator(device=bench.device).manual_seed(1)).cpu()
    numbers = {"mean off": abs(float(drawn.double().mean()) - 0.5772), "infinite": float((~drawn.isfinite()).sum())}
    within(numbers, {"mean off": 0.01, "infinite": 0})
    return numbers


def random_states(bench: Bench) -> dict[str, Any]:
    """Random states are kept and put back, the device's own too."""
    torch.manual_seed(3)
    with kept_random_state():
        first = torch.rand(5, device=bench.device)
    equal(torch.rand(5, device=bench.device), first, "after a block")
    state = random_state()
    first = torch.rand(5, device=bench.device)
    set_random_state(state)
    equal(torch.rand(5, device=bench.device), first, "put back")
    own = torch.Generator(device=bench.device).manual_seed(1)
    kept = own.get_state()
    first = torch.rand(5, generator=own, device=bench.device)
    own.set_state(kept.cpu())
    equal(torch.rand(5, generator=own, device=bench.device), first, "a method's generator")
    return {}


def latency(bench: Bench) -> dict[str, Any]:
    """Timing of single rankings."""
    side = _teachers(bench)[1]
    type(side.model).own_adapter = TinyAdapter
    try:
        found = measure_latency(side.model, 5, seed=1)
    finally:
        del type(side.model).own_adapter
    assert found is not None
    return {"p50 ms": found.p50_ms}
