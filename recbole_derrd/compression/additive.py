"""Codes of several codewords that are added up, with faiss: residual quantisation and local search."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.compression.product import CENTRES, faiss_or_refuse, part_of_dimension

#: Bits of a code: a byte.
_BITS = 8


def residual_codes(rows: Tensor, parts: int, levels: int, seed: int) -> tuple[Tensor, Tensor]:
    r"""Code each part of a row by ``levels`` codewords, each of which codes what those before it leave over.

    Residual quantisation ("Approximate Nearest Neighbor Search by Residual Vector Quantization", Chen, Guan and Wang,
    Sensors 2010) with faiss's beam of 5 codes; with several parts it is product-residual quantisation.

    Args:
        rows: float32 [n, d].
        parts: parts of neighbouring dimensions, as equal as can be.
        levels: codewords of a part.
        seed: seed of k-means.

    Returns:
        codes uint8 [n, levels, parts] and codebooks float32 [levels, 256, d], the columns of a part being that part's.
    """
    faiss = faiss_or_refuse()

    def quantizer(width: int, part: int) -> Any:
        made = faiss.ResidualQuantizer(width, levels, _BITS)
        made.cp.seed, made.cp.min_points_per_centroid = seed + part, 1
        return made

    return _coded(rows, parts, levels, quantizer)


def local_search_codes(rows: Tensor, levels: int, seed: int) -> tuple[Tensor, Tensor]:
    r"""Code each row by ``levels`` codewords at once, by iterated local search; codebooks are their least squares.

    "LSQ++: Lower Running Time and Higher Recall in Multi-codebook Quantization" (Martinez et al., ECCV 2018) with
    faiss's rounds. Its time grows with the square of ``levels``.

    Args and returns are those of :func:`residual_codes` with one part.
    """
    faiss = faiss_or_refuse()

    def quantizer(width: int, part: int) -> Any:
        made = faiss.LocalSearchQuantizer(width, levels, _BITS)
        made.random_seed = seed
        return made

    return _coded(rows, 1, levels, quantizer)


def _coded(rows: Tensor, parts: int, levels: int, quantizer: Any) -> tuple[Tensor, Tensor]:
    # Sums of several threads come in any order, and their rounding makes other codebooks.
    faiss_or_refuse().omp_set_num_threads(1)
    owner = part_of_dimension(rows.shape[1], parts)
    codes = torch.zeros(len(rows), levels, parts, dtype=torch.uint8)
    codebooks = torch.zeros(levels, CENTRES, rows.shape[1])
    for part in range(parts):
        columns = owner == part
        piece = rows[:, columns].contiguous().numpy()
        made = quantizer(piece.shape[1], part)
        # faiss asks for as many examples as a codebook has codewords; repeated ones change no mean.
        made.train(np.resize(piece, (max(len(piece), CENTRES), piece.shape[1])))
        codes[:, :, part] = torch.from_numpy(made.compute_codes(piece))
        flat = np.asarray(_faiss_array(made.codebooks))
        codebooks[:, :, columns] = torch.from_numpy(flat.reshape(levels, CENTRES, piece.shape[1]))
    return codes, codebooks


def _faiss_array(vector: Any) -> Any:
    return faiss_or_refuse().vector_to_array(vector)


def additive_rows(codes: Tensor, codebooks: Tensor, owner: Tensor) -> Tensor:
    r"""Return the embeddings [n, d] that codes stand for: x_j = Σ_l codebooks[l, codes[l, part of j], j].

    Args:
        codes: uint8 [n, levels, parts].
        codebooks: [levels, centres, d].
        owner: part of each dimension [d].
    """
    rows = torch.zeros(len(codes), codebooks.shape[2], dtype=codebooks.dtype)
    for level, codebook in enumerate(codebooks):
        rows += codebook.gather(0, codes[:, level].long()[:, owner])
    return rows
