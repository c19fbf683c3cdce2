"""The best approximation of a teacher's score matrix in fewer dimensions, without the matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def score_factors(users: Tensor, items: Tensor, size: int) -> tuple[Tensor, Tensor]:
    r"""Return the factors of the best approximation of rank ``size`` (Eckart and Young, 1936) of S = U Vᵀ.

    With U = Q_u R_u and V = Q_v R_v it is S = Q_u (R_u R_vᵀ) Q_vᵀ, and the small core R_u R_vᵀ = X diag(σ) Yᵀ has the
    singular values of S. The factors are A = Q_u X_k diag(√σ_k) and B = Q_v Y_k diag(√σ_k): exact up to rounding.

    Half of each σ goes to either side because that is best for what comes after. Let A's columns have norms a_k and B's
    σ_k / a_k. Once rotated, B's quantisation errs alike in every dimension, by e² ∝ Σ (σ_k / a_k)², and the
    scores err by e² Σ a_k². By Cauchy and Schwarz that is at least (Σ σ_k)², which a_k² = σ_k attains.

    Args:
        users: U [n_users, d].
        items: V [n_items, d].
        size: wanted rank k; at most min(n_users, n_items, d) are given.

    Returns:
        A [n_users, k] and B [n_items, k].

    Example:
        >>> users, items = torch.eye(3), torch.diag(torch.tensor([4.0, 1.0, 0.0]))
        >>> a, b = score_factors(users, items, 2)
        >>> torch.allclose(a @ b.T, users @ items.T, atol=1e-5)
        True
    """
    q_users, r_users = torch.linalg.qr(users)
    q_items, r_items = torch.linalg.qr(items)
    # d x d, so double precision costs nothing and small singular values keep their digits.
    core = r_users.double() @ r_items.double().T
    left, values, right = torch.linalg.svd(core, full_matrices=False)
    kept = min(size, len(values))
    root = values[:kept].sqrt()
    return (
        q_users @ (left[:, :kept] * root).to(q_users.dtype),
        q_items @ (right[:kept].T * root).to(q_items.dtype),
    )
