r"""A new user's vector from the vectors of the user's items, by least squares.

Items that the user has should score 1, and every item a little of 0, or the vector would point to what is popular:

    u = argmin_u  1/|S| Σ_{i ∈ S} (1 − ⟨u, v_i⟩)²  +  1/|I| Σ_{j ∈ I} ⟨u, v_j⟩²  +  λ |u|²
      = ( 1/|S| Σ_S v_i v_iᵀ + 1/|I| Σ_I v_j v_jᵀ + λ 1 )⁻¹  1/|S| Σ_S v_i,

λ = 10 · tr(1/|I| Σ_I v_j v_jᵀ) / d. It is the users' half step of implicit alternating least squares (Hu, Koren and
Volinsky, 2008), whatever the items were trained by. Rankings do not depend on the scale of the vectors.
The strong λ keeps short histories near their mean; it was chosen on ml-100k (docs/serving.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

_RIDGE = 10.0


def folded_in(own: np.ndarray[Any, Any], gram: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the vector [d] of a user, float32.

    Args:
        own: vectors of the user's items [n, d].
        gram: 1/|I| Σ_I v_j v_jᵀ [d, d].
    """
    own = own.astype(np.float64)
    size = len(gram)
    ridge = max(_RIDGE * float(np.trace(gram)) / size, 1e-12)
    left = own.T @ own / len(own) + gram + ridge * np.eye(size)
    solution: np.ndarray[Any, Any] = np.linalg.solve(left, own.mean(axis=0)).astype(np.float32)
    return solution
