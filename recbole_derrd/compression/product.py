"""Product quantisation (Jégou et al., 2011) with faiss: each part of a vector is one of a few centres."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.errors import OptionError
from recbole_derrd.ops.rotation import random_rotation

#: Centres of a part, so that a code is a byte.
CENTRES = 256
#: Rounds of k-means, as in faiss's own product quantiser.
_ROUNDS = 25


def faiss_or_refuse() -> Any:
    """Return the package faiss.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise OptionError(
            "compress_method: product needs the package faiss. Run: pip install 'recbole_derrd[ann]', or use "
            "compress_method: quantized."
        ) from error


def part_of_dimension(size: int, parts: int) -> Tensor:
    """Return which part each dimension belongs to, int64 [size]: neighbours, in parts as equal as can be."""
    return torch.repeat_interleave(
        torch.arange(parts), torch.tensor([len(part) for part in torch.arange(size).tensor_split(parts)])
    )


def product_codes(rows: Tensor, parts: int, seed: int) -> tuple[Tensor, Tensor]:
    r"""Find the centres of each part by k-means and each row's nearest ones.

    faiss's own ``ProductQuantizer`` is this loop for parts of equal size; written out, 200 dimensions may be 80 bytes.

    Args:
        rows: float32 [n, d].
        parts: parts of a vector, one byte each; at most d.
        seed: seed of k-means.

    Returns:
        codes uint8 [n, 1, parts] and centres float32 [1, min(256, n), d], the columns of a part being that part's.
    """
    faiss = faiss_or_refuse()
    # Sums of several threads come in any order, and k-means makes other centres of their rounding.
    faiss.omp_set_num_threads(1)
    owner = part_of_dimension(rows.shape[1], parts)
    centres = torch.zeros(min(CENTRES, len(rows)), rows.shape[1])
    codes = torch.zeros(len(rows), parts, dtype=torch.uint8)
    for part in range(parts):
        columns = owner == part
        piece = rows[:, columns].contiguous().numpy()
        kmeans = faiss.Kmeans(piece.shape[1], len(centres), niter=_ROUNDS, seed=seed + part, min_points_per_centroid=1)
        kmeans.train(piece)
        centres[:, columns] = torch.from_numpy(kmeans.centroids)
        codes[:, part] = torch.from_numpy(kmeans.index.search(piece, 1)[1][:, 0]).to(torch.uint8)
    return codes.unsqueeze(1), centres.unsqueeze(0)


def product_rotation(rows: Tensor, parts: int, seed: int) -> Tensor:
    r"""Return the rotation R [d, d] after which product quantisation loses little: optimised product quantisation.

    "Optimized Product Quantization" (Ge, He, Ke and Sun, TPAMI 2014, the non-parametric solution) by faiss:
    codes of X R, and R = argmin ||X R − decoded||, take turns. It begins with a random rotation of ours, because faiss
    draws its own from one seed.

    Args:
        rows: float32 [n, d]; d is a multiple of ``parts``.
        parts: parts of a vector.
        seed: seed of the first rotation and of k-means.
    """
    faiss = faiss_or_refuse()
    faiss.omp_set_num_threads(1)
    size = rows.shape[1]
    begun = random_rotation(size, seed)
    found = faiss.OPQMatrix(size, parts)
    codes = faiss.ProductQuantizer(size, parts, 8)
    codes.cp.seed, codes.cp.min_points_per_centroid = seed, 1
    found.pq = codes
    turned = (rows @ begun).numpy()
    # faiss asks for as many examples as there are centres; repeated ones change no mean.
    found.train(np.resize(turned, (max(len(turned), CENTRES), size)))
    own = torch.from_numpy(faiss.vector_to_array(found.A).reshape(size, size).copy())
    return begun @ own.T
