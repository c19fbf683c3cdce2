r"""The sum of users' softmax cross-entropies over the whole catalogue with its gradients, some users at a time.

With autograd [users, items] would be kept several times over. The term is a sum over users, so its gradients are known
as soon as a block of users is through: their scores live in one reused buffer, and the backward pass only scales what
the forward pass has found. With student embeddings x_u and y_i, s = <x_u, y_i> / T, p the student's softmax and q the
teacher's:

    H_u = log sum_i e^{s_i} - sum_i q_i s_i,    dH_u / ds_i = p_i - q_i,
    dx_u = 1/T sum_i (p_i - q_i) y_i,           dy_i = 1/T sum_u (p_i - q_i) x_u

Readable twins: ``listwise_loss`` in ``distillers/listwise.py``, and ``log_partition`` in
``distillers/hetcomp/partition.py``.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Scores of one block of users: 4 MB of float32, which stay in a CPU's cache; 64 MB on an accelerator, where every
#: small product is a call. With fewer users than the fewest a product is slower a user.
_BLOCK_SCORES, _ACCELERATOR_SCORES, _FEWEST_USERS = 1 << 20, 1 << 24, 16
#: What stands for minus infinity: its exponential is 0 as well, and 0 times it is 0 and not NaN.
LOWEST = -1e30


#: By what gradients that are found in the forward pass are raised: mixed precision's own scale comes too late for
#: half-precision gradients as small as a softmax's. A power of 2 leaves float32 as it is.
_LOSS_SCALE = 1024.0


class Targets(NamedTuple):
    """The teacher's softmax of some users.

    Attributes:
        mass: q, [n, n_items] over the catalogue, or [n, N] of the listed items.
        items: the listed items [n, N], int64; None for the whole catalogue.
        hidden: rows and items that take no part, the padding item among them.
        labels: rows and items that are right answers of themselves; none where there are none.
    """

    mass: Tensor
    items: Tensor | None
    hidden: tuple[Tensor, Tensor]
    labels: tuple[Tensor, Tensor] | None = None


#: Gives the targets of users start .. stop - 1 of those in question.
Source = Callable[[int, int], Targets]
#: Gives, of users start .. stop - 1 and their scores [n, n_items], the summed loss, float64, and its gradient by each
#: score, which may lie where the scores lay.
Block = Callable[[int, int, Tensor], tuple[Tensor, Tensor]]


def users_at_once(n_items: int, device: torch.device) -> int:
    """Return how many users' scores make a block on a device."""
    return max(_FEWEST_USERS, (_BLOCK_SCORES if device.type == "cpu" else _ACCELERATOR_SCORES) // n_items)


def hidden_pairs(users: Tensor, indptr: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and items of the padding item and of these users' training items, row for row of ``users``.

    Args:
        users: ids [n], int64.
        indptr: where each user's training items start in ``seen`` [n_users + 1].
        seen: training items of all users, int64.

    Returns:
        Two tensors [n + training items of these users], int64.
    """
    rows = torch.arange(len(users), device=users.device)
    starts = indptr[users]
    lengths = indptr[users + 1] - starts
    seen_rows = rows.repeat_interleave(lengths)
    # The k-th training item of a row: counted from where the row starts in this block, and in the history.
    before = (lengths.cumsum(0) - lengths)[seen_rows]
    positions = torch.arange(len(seen_rows), device=users.device) - before + starts[seen_rows]
    return torch.cat([rows, seen_rows]), torch.cat([torch.zeros_like(rows), seen[positions]])


class _ProductSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, block: Block) -> Tensor:
        d_users, d_items = torch.empty_like(users), torch.zeros_like(items)
        at_once = users_at_once(len(items), users.device)
        buffer = users.new_empty(min(at_once, len(users)), len(items))
        total = torch.zeros((), dtype=torch.float64, device=users.device)
        for start in range(0, len(users), at_once):
            stop = min(start + at_once, len(users))
            scores = torch.mm(users[start:stop], items.T, out=buffer[: stop - start])
            part, gradient = block(start, stop, scores)
            total += part
            torch.mm(gradient, items, out=d_users[start:stop])
            d_items.addmm_(gradient.T, users[start:stop])
        ctx.save_for_backward(d_users, d_items)
        return total.to(users.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:
        d_users, d_items = ctx.saved_tensors
        return scale * d_users, scale * d_items, None


def product_sum(users: Tensor, items: Tensor, block: Block) -> Tensor:
    """Return the sum over users of a loss of their scores <x_u, y> of all items.

    Differentiable once, by both embeddings.

    Args:
        users: the users' embeddings x [n, d].
        items: all items' embeddings y [n_items, d].
        block: gives the loss of a block of these users and its gradient by their scores.
    """
    total: Tensor = _ProductSum.apply(users.contiguous(), items.contiguous(), block)
    return total


def label_sum(scores: Tensor, labels: tuple[Tensor, Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """Return - sum log softmax(T s)_i over the labels, float64, and its gradient by the scores s.

    The softmax is over the whole catalogue without the padding item. Readable twin: ``label_loss`` in
    ``distillers/listwise.py``.

    Args:
        scores: logits divided by T, s [n, n_items]; left as they are.
        labels: rows and items.
        temperature: T.
    """
    rows, items = labels
    logits = scores * temperature
    logits[:, 0] = LOWEST
    logits -= logits.amax(dim=1, keepdim=True)
    counts = rows.bincount(minlength=len(scores)).to(scores.dtype).unsqueeze(1)
    chosen = logits[rows, items].sum(dtype=torch.float64)
    sums = logits.exp_().sum(dim=1, keepdim=True)
    part = (counts * sums.log()).sum(dtype=torch.float64) - chosen
    gradient = logits.mul_(temperature * counts / sums)
    gradient.index_put_((rows, items), gradient.new_tensor(-temperature), accumulate=True)
    return part, gradient


def cross_entropy_sum(
    users: Tensor, items: Tensor, source: Source, temperature: float, label_weight: float = 0.0
) -> Tensor:
    """Return sum_u H(q_u, softmax(<x_u, y> / T)): what ``listwise_loss`` gives for these embeddings' products, summed.

    Differentiable once, by both embeddings.

    Args:
        users: the users' embeddings x [n, d].
        items: all items' embeddings y [n_items, d].
        source: gives the teacher's softmax of a block of these users, and their labels.
        temperature: T.
        label_weight: what :func:`label_sum` of the labels is added with.
    """

    def block(start: int, stop: int, scores: Tensor) -> tuple[Tensor, Tensor]:
        targets = source(start, stop)
        labelled = None if targets.labels is None else label_sum(scores, targets.labels, temperature)
        scores[targets.hidden] = LOWEST
        scores -= scores.amax(dim=1, keepdim=True)
        if targets.items is None:
            expected = torch.linalg.vecdot(targets.mass, scores)
        else:
            expected = torch.linalg.vecdot(targets.mass, scores.gather(1, targets.items))
        sums = scores.exp_().sum(dim=1, keepdim=True)
        part = (sums.log().squeeze(1) - expected).sum(dtype=torch.float64)
        gradient = scores.div_(sums)
        if targets.items is None:
            gradient -= targets.mass
        else:
            gradient.scatter_add_(1, targets.items, -targets.mass)
        if labelled is not None:
            part += label_weight * labelled[0]
            gradient.add_(labelled[1], alpha=label_weight)
        return part, gradient

    return product_sum(users / temperature, items, block)


class _SumByBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Callable[[int, int], Tensor], starts: range, stop: int, *weights: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=weights[0].device)
        sums: list[Tensor | None] = [None] * len(weights)
        for start in starts:
            with torch.enable_grad():
                part = block(start, min(start + starts.step, stop))
                raised = _LOSS_SCALE * part
            total += part.detach()
            # What blocks share (an item side, a propagation) is not to be freed with the first.
            found = torch.autograd.grad(raised, weights, retain_graph=True, allow_unused=True)
            # Before the next block's graph is built.
            del part, raised
            for index, gradient in enumerate(found):
                if gradient is not None:
                    gradient = (gradient.to_dense() if gradient.is_sparse else gradient) / _LOSS_SCALE
                    known = sums[index]
                    sums[index] = gradient if known is None else known + gradient
        ctx.known = [gradient is not None for gradient in sums]
        ctx.save_for_backward(*(gradient for gradient in sums if gradient is not None))
        return total.to(weights[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:
        found = iter(ctx.saved_tensors)
        return (None, None, None, *(scale * next(found) if known else None for known in ctx.known))


def sum_by_blocks(block: Callable[[int, int], Tensor], count: int, at_once: int, weights: list[Tensor]) -> Tensor:
    """Return ``block(0, at_once) + block(at_once, 2 * at_once) + ...`` with one block's graph in memory at a time.

    Differentiable once, by the weights.

    Args:
        block: gives a scalar, by any differentiable way.
        count: where the last block ends.
        at_once: length of a block.
        weights: the leaves that gradients go to.
    """
    total: Tensor = _SumByBlocks.apply(block, range(0, count, at_once), count, *weights)
    return total
