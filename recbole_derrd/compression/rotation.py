"""A random rotation: scores stay, and no dimension is larger than the others."""

from __future__ import annotations

import torch
from torch import Tensor


def random_rotation(size: int, seed: int) -> Tensor:
    """Return a random orthogonal matrix R [size, size], uniformly distributed: (U R)(V R)ᵀ = U Vᵀ.

    A row's quantisation has one scale, so it is best for dimensions of one size, and a random rotation makes them so.
    Both sides are turned once and stored turned: serving needs no rotation, and none is counted as bytes.

    Args:
        size: dimensions d.
        seed: seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    # QR alone is not uniform: LAPACK chooses the signs of R's diagonal.
    rotation: Tensor = (q * r.diagonal().sign()).float()
    return rotation
