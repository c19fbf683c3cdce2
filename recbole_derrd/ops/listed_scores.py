r"""Scores of listed items as dot products, with gradients by sparse products: the cost of RRD's step.

Autograd would add one row of gradient for each listed item into a table the size of the catalogue, row after row. But
the rankings with their gradients g are a sparse matrix G [users x items], and both gradients are products with it:

    score_uj = <x_u, y_j>,    dx = G y,    dy = G^T x

Readable twin: a product of gathered rows, which ``EmbeddingAdapter.score`` has without ``kernels``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

#: Numbers that are gathered at once: 1 MB of float32.
_GATHERED = 1 << 18


class _ListedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(users, items, positions)
        # numpy's product of many small matrices with a vector each is several times faster than torch.bmm's.
        table, own, where = items.detach().numpy(), users.detach().unsqueeze(2).numpy(), positions.numpy()
        scores = np.empty((*positions.shape, 1), table.dtype)
        # Some users at a time, whose gathered rows stay in a core's cache until they are multiplied.
        at_once = max(1, _GATHERED // max(1, positions.shape[1] * items.shape[1]))
        for start in range(0, len(where), at_once):
            block = slice(start, start + at_once)
            np.matmul(np.take(table, where[block], axis=0), own[block], out=scores[block])
        return torch.from_numpy(scores).squeeze(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        # Detached: embedding_bag goes by what its table may ask for, and would prepare for gradients.
        users, items, positions = (part.detach() for part in ctx.saved_tensors)
        gradient = gradient.contiguous()
        d_users = functional.embedding_bag(positions, items, per_sample_weights=gradient, mode="sum")
        # The rankings read as columns: G^T without sorting anything.
        starts = np.arange(len(positions) + 1, dtype=np.int32) * np.int32(positions.shape[1])
        columns = (gradient.reshape(-1).numpy(), positions.reshape(-1).to(torch.int32).numpy(), starts)
        d_items = sparse.csc_matrix(columns, shape=(len(items), len(users))) @ users.numpy()
        return d_users, torch.from_numpy(d_items), None


def listed_products(users: Tensor, items: Tensor, positions: Tensor) -> Tensor:
    r"""Return <users[u], items[positions[u, k]]> on the CPU, in float32 or, where one of the two is, in float64.

    Differentiable once, by users and items.

    Args:
        users: [B, d].
        items: distinct embeddings [m, d].
        positions: row of each listed item in ``items`` [B, K], int64.

    Returns:
        [B, K].
    """
    # Half precision, which towers give under autocast, is no type of numpy's.
    kind = torch.promote_types(torch.promote_types(users.dtype, items.dtype), torch.float32)
    products: Tensor = _ListedProducts.apply(users.to(kind).contiguous(), items.to(kind).contiguous(), positions)
    return products


def distinct_positions(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the distinct ids, ascending, and each id's place among them: ``unique`` without sorting.

    Args:
        ids: int64, any shape, each in 0 .. size - 1.
        size: number of ids that there are.

    Returns:
        distinct ids [m] and positions, shaped as ``ids``; ``distinct[positions]`` equals ``ids``.
    """
    present = torch.zeros(size, dtype=torch.bool, device=ids.device)
    present[ids.reshape(-1)] = True
    distinct = present.nonzero().squeeze(1)
    place = torch.empty(size, dtype=torch.int64, device=ids.device)
    place[distinct] = torch.arange(len(distinct), device=ids.device)
    return distinct, place.index_select(0, ids.reshape(-1)).view_as(ids)
