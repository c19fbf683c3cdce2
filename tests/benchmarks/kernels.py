"""What each kernel of ops/ earns: its time against that of its readable twin, on one core, forward and backward.

    python tests/benchmarks/kernels.py                        # a minute
    python tests/benchmarks/kernels.py --out=kernels.json     # the numbers as well

Both are given the same tensors and gradients, of CiteULike's size: 5,219 users, 25,181 items, a batch of 1,000 users,
student and teacher of 20 and 200 dimensions. They take turns, and the median of each counts: what else the machine does
falls on both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable

import torch
from tabulate import tabulate
from torch import Tensor

from recbole_derrd.distillers.de import gating_weights, mixed_experts, reconstruction_errors
from recbole_derrd.distillers.ftd import topology_loss, unit_rows
from recbole_derrd.distillers.hetcomp.losses import overall_relation_loss
from recbole_derrd.distillers.hetcomp.partition import ListedItems, log_partition, partition_sum
from recbole_derrd.distillers.htd import grouped_loss
from recbole_derrd.distillers.listwise import listwise_loss
from recbole_derrd.ops.experts import expert_error_sum
from recbole_derrd.ops.full_softmax import Targets, cross_entropy_sum
from recbole_derrd.ops.listed_scores import listed_products
from recbole_derrd.ops.propagation import propagate, to_csr
from recbole_derrd.ops.sampling import sample_top_positions
from recbole_derrd.ops.top_k import top_scores
from recbole_derrd.ops.topology import gram_distance, grouped_distance
from recbole_derrd.report.environment import versions

USERS, ITEMS, BATCH, SMALL, LARGE = 5_219, 25_181, 1_000, 20, 200
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def normal(*shape: int, seed: int = 1, leaf: bool = True) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(leaf)


def backward(loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Return what computes a loss and its gradients."""
    return lambda: loss().sum().backward()


def experts(tau: float) -> Pair:
    """DE's reconstruction errors: at first, and when most rows have one expert left."""
    hidden, count = (SMALL + LARGE) // 2, 30
    student, teacher = normal(BATCH, SMALL), normal(BATCH, LARGE, seed=2, leaf=False)
    layers = [
        (0.1 * normal(*shape, seed=3, leaf=False)).requires_grad_()
        for shape in ((SMALL, count * hidden), (count * hidden,), (count * hidden, LARGE), (count, LARGE))
    ]
    weights = gating_weights(normal(BATCH, count, seed=4, leaf=False), tau).requires_grad_()
    return (
        backward(lambda: expert_error_sum(student, weights, teacher, *layers, "squared")),
        backward(lambda: reconstruction_errors(teacher, mixed_experts(student, weights, *layers))),
    )


def cross_entropy() -> Pair:
    """List-wise distillation over the whole catalogue."""
    users, items = normal(BATCH, SMALL), normal(ITEMS, SMALL, seed=2)
    targets = (3 * normal(BATCH, ITEMS, seed=3, leaf=False)).softmax(dim=1)
    padding = torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.int64)

    def source(start: int, stop: int) -> Targets:
        return Targets(targets[start:stop], None, (padding[0][: stop - start], padding[1][: stop - start]))

    return (
        backward(lambda: cross_entropy_sum(users, items, source, 1.0)),
        backward(lambda: listwise_loss(users @ items.T, targets, 1.0)),
    )


def partition() -> Pair:
    """HetComp's loss, whose partition term is a sum over the whole catalogue."""
    users, items = normal(BATCH, SMALL), normal(ITEMS, SMALL, seed=2)
    ranked = torch.randint(1, ITEMS, (BATCH, 100), generator=torch.Generator().manual_seed(3))

    def source(start: int, stop: int) -> ListedItems:
        rows = torch.arange(stop - start).repeat_interleave(ranked.shape[1])
        return ListedItems(ranked[start:stop], (rows, ranked[start:stop].reshape(-1)))

    def readable() -> Tensor:
        scores = users @ items.T
        return overall_relation_loss(
            scores.gather(1, ranked), ranked > 0, log_partition(scores, source(0, BATCH).hidden)
        )

    return backward(lambda: partition_sum(users, items, source, overall_relation_loss)), backward(readable)


def listed() -> Pair:
    """RRD's scores of 80 items a user."""
    users, items = normal(BATCH, SMALL), normal(ITEMS, SMALL, seed=2)
    positions = torch.randint(0, ITEMS, (BATCH, 80), generator=torch.Generator().manual_seed(3))
    return (
        backward(lambda: listed_products(users, items, positions)),
        backward(lambda: torch.bmm(items[positions], users.unsqueeze(2)).squeeze(2)),
    )


def largest() -> Pair:
    """The teacher's top 500 of each user."""
    scores = normal(200, ITEMS, leaf=False)
    return lambda: top_scores(scores, 500), lambda: scores.topk(500)


def positions() -> Pair:
    """RRD's interesting items of all users: without the ranks that cannot win, and with all of them."""
    lengths = torch.full((USERS,), 500)

    def readable() -> Tensor:
        generator = torch.Generator().manual_seed(1)
        times = torch.rand(USERS, 500, dtype=torch.float64, generator=generator).log().neg().log()
        return (times + torch.arange(1, 501) / 10).topk(40, largest=False).indices.sort().values

    return lambda: sample_top_positions(lengths, 40, 10.0, 500, torch.Generator().manual_seed(1)), readable


def propagation() -> Pair:
    """LightGCN's three layers, as one sparse product each, and as RecBole stacks them."""
    generator = torch.Generator().manual_seed(1)
    pairs = torch.stack([torch.randint(high, (115_142,), generator=generator) for high in (USERS, ITEMS)])
    pairs[1] += USERS
    both = torch.cat([pairs, pairs.flip(0)], dim=1)
    size = USERS + ITEMS
    adjacency = torch.sparse_coo_tensor(both, torch.full((both.shape[1],), 0.05), (size, size)).coalesce()
    by_rows, table = to_csr(adjacency), normal(size, SMALL, seed=2)

    def readable() -> Tensor:
        layers = [table]
        for _ in range(3):
            layers.append(torch.sparse.mm(adjacency, layers[-1]))
        return torch.stack(layers, dim=1).mean(dim=1)

    return backward(lambda: propagate(by_rows, table, 3)), backward(readable)


def topology(grouped: bool) -> Pair:
    """FTD's sum over all pairs of a batch's users and items, and HTD's over pairs of one of 60 groups."""
    student, teacher = normal(3 * BATCH, SMALL), unit_rows(normal(3 * BATCH, LARGE, seed=2, leaf=False))
    if not grouped:
        return (
            backward(lambda: gram_distance(unit_rows(student), teacher)),
            backward(lambda: topology_loss(unit_rows(student), teacher)),
        )
    groups = torch.randint(0, 60, (3 * BATCH,), generator=torch.Generator().manual_seed(3))
    weights = torch.ones(60)
    return (
        backward(lambda: grouped_distance(unit_rows(student), teacher, groups, weights)),
        backward(lambda: grouped_loss(unit_rows(student), teacher, groups, weights)),
    )


KERNELS: dict[str, tuple[str, Callable[[], Pair]]] = {
    "ops/experts.py, first epochs": ("de.mixed_experts, de.reconstruction_errors", lambda: experts(1.0)),
    "ops/sparse_experts.py, late epochs": ("de.mixed_experts, de.reconstruction_errors", lambda: experts(1e-3)),
    "ops/full_softmax.py, cross-entropy": ("listwise.listwise_loss", cross_entropy),
    "ops/full_softmax.py, partition term": ("hetcomp.partition.log_partition", partition),
    "ops/listed_scores.py": ("a product of gathered rows", listed),
    "ops/top_k.py": ("torch.topk", largest),
    "ops/sampling.py": ("Gumbel's top-k over all ranks", positions),
    "ops/topology.py, all pairs": ("ftd.topology_loss", lambda: topology(False)),
    "ops/topology.py, pairs of a group": ("htd.grouped_loss", lambda: topology(True)),
    "ops/propagation.py": ("RecBole's layers, stacked", propagation),
}


def measured(pair: Pair, seconds: float) -> tuple[float, float]:
    """Return the median milliseconds of a kernel and of its twin, which take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    for one in pair:
        one()
    while time.perf_counter() < until or len(times[0]) < 5:
        for one, taken in zip(pair, times):
            started = time.perf_counter()
            one()
            taken.append(1000 * (time.perf_counter() - started))
    kernel, twin = (statistics.median(taken) for taken in times)
    return kernel, twin


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each pair")
    parser.add_argument("--out", type=Path, help="a file for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (twin, build) in KERNELS.items():
        kernel, readable = measured(build(), options.seconds)
        rows.append(
            {"kernel": name, "twin": twin, "kernel_ms": kernel, "twin_ms": readable, "ratio": readable / kernel}
        )
    shown = [
        [row["kernel"], row["twin"], f"{row['kernel_ms']:.1f}", f"{row['twin_ms']:.1f}", f"{row['ratio']:.1f}"]
        for row in rows
    ]
    print(tabulate(shown, headers=["kernel", "readable twin", "kernel (ms)", "twin (ms)", "times"], tablefmt="github"))
    if options.out:
        options.out.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
