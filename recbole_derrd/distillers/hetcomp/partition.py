r"""A sum over users of losses of some listed scores and of a partition term over all others, with its gradients.

A user's loss l(s_1 .. s_m, log R) looks at the scores of m listed items and, of all others, only at the partition term
R = sum_j e^{s_j}. With s = <x_u, y> its gradients are known as soon as a block of users is through, as in
``ops/full_softmax.py``: the block's scores lie in one reused buffer, autograd sees the listed scores and log R, and

    dl / ds_j = dl / dlog R * e^{s_j} / R    for each j of the partition.

R is a sum of exponentials, never a difference: nothing cancels. Where no other item is left, log R is -1e30.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple

import torch
from torch import Tensor

from recbole_derrd.ops.full_softmax import LOWEST, product_sum
from recbole_derrd.ops.sampling import allowed_items, exclusion_keys


class ListedItems(NamedTuple):
    """What some users' losses look at.

    Attributes:
        items: the listed items [n, m], int64; 0 for positions that hold none.
        hidden: rows and items outside the partition: the listed ones, the padding item and what takes no part.
    """

    items: Tensor
    hidden: tuple[Tensor, Tensor]


#: Gives the listed items of users start .. stop - 1 of those in question.
Source = Callable[[int, int], ListedItems]
#: Gives the losses [n] of the listed items' scores [n, m], of which positions hold an item [n, m], and of log R [n].
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def partition_sum(users: Tensor, items: Tensor, source: Source, loss: Loss) -> Tensor:
    """Return the sum over users of ``loss`` of their listed scores and of log R, scores being <x_u, y>.

    Differentiable once, by both embeddings.

    Args:
        users: the users' embeddings x [n, d].
        items: all items' embeddings y [n_items, d].
        source: gives the listed items of a block of these users.
        loss: gives each user's loss, differentiable by the listed scores and by log R.
    """

    def block(start: int, stop: int, scores: Tensor) -> tuple[Tensor, Tensor]:
        listed = source(start, stop)
        chosen = scores.gather(1, listed.items).requires_grad_()
        scores[listed.hidden] = LOWEST
        largest = scores.amax(dim=1, keepdim=True)
        sums = scores.sub_(largest).exp_().sum(dim=1, keepdim=True)
        log_partition_term = (largest + sums.log()).squeeze(1).requires_grad_()
        with torch.enable_grad():
            part = loss(chosen, listed.items > 0, log_partition_term).sum(dtype=torch.float64)
        d_chosen, d_partition = torch.autograd.grad(part, (chosen, log_partition_term))
        # Where nothing is left, the sum is that of the hidden items.
        d_partition = d_partition.unsqueeze(1).masked_fill(largest <= LOWEST / 2, 0)
        gradient = scores.mul_(d_partition / sums)
        return part.detach(), gradient.scatter_add_(1, listed.items, d_chosen)

    return product_sum(users, items, block)


def log_partition(scores: Tensor, hidden: tuple[Tensor, Tensor]) -> Tensor:
    """Return log R of each row [n] of scores of the whole catalogue [n, n_items], by autograd; -1e30 for none."""
    return scores.index_put(hidden, scores.new_tensor(LOWEST)).logsumexp(dim=1)


def sampled_partition(
    hidden: tuple[Tensor, Tensor], n_rows: int, n_items: int, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw ``count`` items of each row's partition, uniformly and each draw on its own.

    Args:
        hidden: rows and items outside the partition, in any order.
        n_rows: number of rows.
        n_items: number of items, padding included.
        count: how many.
        generator: source of randomness, on the device of ``hidden``.

    Returns:
        Items [n_rows, count], int64, 0 where the partition is empty, and its size [n_rows].
    """
    keys, offsets = exclusion_keys(*hidden, n_rows, n_items)
    sizes = n_items - 1 - (offsets[1:] - offsets[:-1])
    uniform = torch.rand(n_rows, count, dtype=torch.float64, generator=generator, device=generator.device)
    items = allowed_items((uniform * sizes.unsqueeze(1)).long(), keys, offsets, n_items)
    return items.masked_fill_((sizes == 0).unsqueeze(1), 0), sizes


def estimated_log_partition(scores: Tensor, sizes: Tensor) -> Tensor:
    r"""Return the logarithm of (size / L) sum_l e^{s_l}, which estimates R from L scores drawn from the partition.

    The estimate of R has no bias. Its logarithm is too low on average (Jensen), by about Var / (2 R^2), which falls
    with 1 / L: for normal scores of standard deviation 1 by some 0.07 with 10 items and 0.008 with 100.

    Args:
        scores: scores of the drawn items [n, L].
        sizes: size of the partition [n].

    Returns:
        [n]; -1e30 where the partition is empty.
    """
    logarithm = scores.logsumexp(dim=1) + (sizes.clamp(min=1).to(scores.dtype).log() - math.log(scores.shape[1]))
    return torch.where(sizes > 0, logarithm, LOWEST)
