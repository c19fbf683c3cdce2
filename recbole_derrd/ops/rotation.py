"""Rotations: scores stay, and few bits a dimension hold more of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from recbole_derrd.ops.quantize import best_steps, encode, levels

#: Alternations of codes and rotation, of the search for a good one; more change little.
_ROUNDS = 50
#: Rows that the search looks at; a rotation has d² numbers, which these determine well.
_MOST_ROWS = 5_000


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


def learned_rotation(rows: Tensor, bits: int, seed: int, rounds: int = _ROUNDS) -> Tensor:
    r"""Return the rotation R [d, d] for which rows of unit length lose little when they are quantised.

    Iterative quantisation ("Iterative Quantization: A Procrustean Approach to Learning Binary Codes", Gong and
    Lazebnik, CVPR 2011, section 3), for any number of bits: with X the rows at unit length, each round takes

        B = Q(X R),      R = argmin ||X R - B||² = U Vᵀ   for the singular value decomposition Xᵀ B = U Σ Vᵀ

    Q being each row's nearest levels with its own best step. Each round's error is at most the round's before.

    Args:
        rows: [n, d]; rows of zeros take no part.
        bits: 1 to 8.
        seed: seed of the rotation that the search begins with, and of the rows that it looks at.
        rounds: alternations.
    """
    rotation = random_rotation(rows.shape[1], seed).to(rows.dtype)
    norms = rows.norm(dim=1)
    known = (norms > 0).nonzero().squeeze(1)
    if not len(known):
        return rotation
    if len(known) > _MOST_ROWS:
        generator = torch.Generator().manual_seed(seed)
        known = known[torch.randperm(len(known), generator=generator)[:_MOST_ROWS]]
    unit = rows[known] / norms[known].unsqueeze(1)
    with _one_thread():
        return _alternated(unit, rotation, bits, rounds)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Bind torch to one thread: the tables are small, and threads would wait for each other at each of many steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _alternated(unit: Tensor, rotation: Tensor, bits: int, rounds: int) -> Tensor:
    for _ in range(rounds):
        turned = unit @ rotation
        steps = best_steps(turned, bits)
        coded = levels(encode(turned, steps, bits), bits).to(unit.dtype) * steps.unsqueeze(1)
        left, _, right = torch.linalg.svd((unit.T @ coded).double())
        rotation = (left @ right).to(unit.dtype)
    return rotation
