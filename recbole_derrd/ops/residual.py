r"""Residual quantisation: a row as the sum of codewords, one of each codebook.

Yongjian Chen, Tao Guan and Cheng Wang: "Approximate Nearest Neighbor Search by Residual Vector Quantization", Sensors
2010. The codewords of codebook l are the centres, by k-means, of what the codebooks before it leave over:

    x ~ sum_l C_l[q_l],    C_l = centres of x - sum_{m < l} C_m[q_m].

Paper and this: the paper takes the nearest codeword of each codebook in turn. Here a row keeps the best few codes so
far (a beam, as in faiss), which leaves less over.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Codewords of a codebook, so that a code is a byte.
CODEWORDS = 256
#: Rounds of k-means; later ones move its centres little, and training moves them anyway.
_ROUNDS = 12
#: Codes of a row that are followed.
_BEAM = 5
#: Rows that codebooks are found from at most: 256 a codeword, as in faiss.
_MOST_ROWS = CODEWORDS * 256
#: Distances that are computed at once.
_DISTANCES_AT_ONCE = 1 << 22


def codeword_sums(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Return sum_l codebooks[l, codes[:, l]], with a gradient by the codebooks.

    Args:
        codes: [n, levels], any integer type.
        codebooks: [levels, codewords, d].

    Returns:
        Rows [n, d].

    Example:
        >>> codeword_sums(torch.tensor([[1, 0]]), torch.tensor([[[1.0], [2.0]], [[0.5], [0.25]]])).tolist()
        [[2.5]]
    """
    levels, codewords, size = codebooks.shape
    first = torch.arange(levels, device=codes.device) * codewords
    every = codebooks.reshape(levels * codewords, size)
    starts = torch.arange(len(codes), device=codes.device) * levels
    rows: Tensor = torch.nn.functional.embedding_bag((codes.long() + first).flatten(), every, starts, mode="sum")
    return rows


def residual_codes(rows: Tensor, levels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Find codebooks for rows, and the rows' codes.

    Args:
        rows: float32 [n, d], at least one, on the CPU.
        levels: codebooks, which are bytes of a code.
        seed: seed of k-means.

    Returns:
        codes uint8 [n, levels] and codebooks float32 [levels, min(256, n), d].
    """
    generator = torch.Generator().manual_seed(seed)
    sample = rows
    if len(rows) > _MOST_ROWS:
        sample = rows[torch.randperm(len(rows), generator=generator)[:_MOST_ROWS]]
    codebooks = rows.new_zeros(levels, min(CODEWORDS, len(rows)), rows.shape[1])
    codes, left = _nothing_coded(sample)
    for codebook in codebooks:
        codebook.copy_(centres_of(left[:, 0], len(codebook), generator))
        codes, left = _extended_in_blocks(codes, left, codebook)
    return codes_of(rows, codebooks), codebooks


def codes_of(rows: Tensor, codebooks: Tensor) -> Tensor:
    """Return codes of rows [n, d] under codebooks [levels, codewords, d]: uint8 [n, levels]."""
    found = torch.empty(len(rows), len(codebooks), dtype=torch.uint8)
    at_once = _rows_at_once(codebooks.shape[1])
    for start in range(0, len(rows), at_once):
        codes, left = _nothing_coded(rows[start : start + at_once])
        for codebook in codebooks:
            codes, left = _extended(codes, left, codebook)
        found[start : start + at_once] = codes[:, 0]
    return found


def centres_of(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the centres [count, d] of rows [n, d] by k-means; n is at least ``count``.

    It begins at distinct rows. A centre that is nearest to no row moves to a row that is drawn anew.
    """
    centres = rows[torch.randperm(len(rows), generator=generator)[:count]].clone()
    at_once = max(1, _DISTANCES_AT_ONCE // count)
    for _ in range(_ROUNDS):
        lengths = centres.square().sum(dim=1) / 2
        nearest = torch.cat([torch.addmm(-lengths, part, centres.T).argmax(dim=1) for part in rows.split(at_once)])
        members = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = sums / members.clamp(min=1).unsqueeze(1)
        empty = (members == 0).nonzero().squeeze(1)
        centres[empty] = rows[torch.randint(len(rows), (len(empty),), generator=generator)]
    return centres


def _nothing_coded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes [n, 1, 0] of no codeword, and the rows [n, 1, d], which are all that is left."""
    return torch.zeros(len(rows), 1, 0, dtype=torch.uint8), rows.unsqueeze(1)


def _rows_at_once(codewords: int) -> int:
    return max(1, _DISTANCES_AT_ONCE // (_BEAM * codewords))


def _extended_in_blocks(codes: Tensor, left: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    at_once = _rows_at_once(len(codebook))
    parts = [_extended(*part, codebook) for part in zip(codes.split(at_once), left.split(at_once))]
    return torch.cat([one for one, _ in parts]), torch.cat([rest for _, rest in parts])


def _extended(codes: Tensor, left: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Extend each row's codes [n, b, l], after which ``left`` [n, b, d] is left over, by a codeword; keep the best."""
    rows, followed, size = left.shape
    products = (left.reshape(rows * followed, size) @ codebook.T).view(rows, followed, len(codebook))
    distances = left.square().sum(dim=2, keepdim=True) + codebook.square().sum(dim=1) - 2 * products
    count = min(_BEAM, followed * len(codebook))
    best = distances.flatten(1).topk(count, dim=1, largest=False).indices
    before, word = best // len(codebook), best % len(codebook)
    each = torch.arange(rows).unsqueeze(1)
    extended = torch.cat([codes[each, before], word.to(torch.uint8).unsqueeze(2)], dim=2)
    return extended, left[each, before] - codebook[word]
