r"""Light graph convolution: the mean of the layers of a symmetric graph, in half the passes.

LightGCN's output is (x + A x + ... + A^L x) / (L + 1). By Horner's rule that is y <- x + A y, L times from y = x, each
step one fused sparse product. A is symmetric, so the operator is its own adjoint: the gradient is the same function of
the gradient, where autograd would transpose A anew for each layer. Readable twin: RecBole's own ``LightGCN.forward``.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def layer_mean(adjacency: Tensor, embeddings: Tensor, n_layers: int) -> Tensor:
    """Return (x + A x + ... + A^L x) / (L + 1).

    Args:
        adjacency: symmetric A [n, n], sparse CSR.
        embeddings: x [n, d].
        n_layers: L.
    """
    result = embeddings
    for _ in range(n_layers):
        result = torch.addmm(embeddings, adjacency, result)
    return result / (n_layers + 1)


class _LayerMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, adjacency: Tensor, n_layers: int) -> Tensor:
        ctx.adjacency, ctx.n_layers = adjacency, n_layers
        return layer_mean(adjacency, embeddings, n_layers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return layer_mean(ctx.adjacency, gradient.contiguous(), ctx.n_layers), None, None


def propagate(adjacency: Tensor, embeddings: Tensor, n_layers: int) -> Tensor:
    """Return :func:`layer_mean`, differentiable once by the embeddings; float32 under mixed precision as well."""
    with torch.autocast(device_type=embeddings.device.type, enabled=False):
        result: Tensor = _LayerMean.apply(embeddings.to(adjacency.dtype), adjacency, n_layers)
    return result


def to_csr(adjacency: Tensor) -> Tensor:
    """Return a sparse matrix by rows; with 32-bit indices where the library behind the product takes them."""
    with warnings.catch_warnings():
        # torch calls the layout a beta at its first use.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        by_rows = adjacency.coalesce().to_sparse_csr()
        if by_rows.device.type == "cpu" and not torch.backends.mkl.is_available():
            return by_rows
        rows, columns = by_rows.crow_indices().int(), by_rows.col_indices().int()
        return torch.sparse_csr_tensor(rows, columns, by_rows.values(), by_rows.shape, check_invariants=False)
