"""Nearest neighbours among a teacher's users or items: each is compared with all others, some at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_derrd.ops.top_k import top_scores
from recbole_derrd.teacher.exact import _CPU_SCORES, _FEWEST_USERS, _SCORES

#: Embeddings that are converted to double precision at once.
_ROWS_AT_ONCE = 1 << 16


def principal_components(embeddings: Tensor, count: int) -> Tensor:
    """Return the first principal components of embeddings [n, d] less their mean: [n, min(count, d)], float32.

    As many components as dimensions only rotate the embeddings, so the embeddings themselves are returned.
    """
    if count >= embeddings.shape[1]:
        return embeddings
    mean = embeddings.mean(dim=0, dtype=torch.float64)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=embeddings.device)
    for part in embeddings.split(_ROWS_AT_ONCE):
        centred = part.double() - mean
        scatter.addmm_(centred.T, centred)
    # Eigenvectors come in ascending order of the variance that they explain.
    directions = torch.linalg.eigh(scatter).eigenvectors[:, -count:].float()
    components: Tensor = (embeddings - mean.float()) @ directions
    return components


def entities_at_once(count: int, device: torch.device) -> int:
    """Return how many of so many entities are compared with all others at once."""
    return max(_FEWEST_USERS, (_CPU_SCORES if device.type == "cpu" else _SCORES) // count)


def nearest(embeddings: Tensor, start: int, stop: int, count: int, squares: Tensor) -> Tensor:
    """Return the ``count`` rows that are nearest to each of the rows start .. stop - 1, by Euclidean distance.

    |x - y|^2 = |x|^2 - 2 (<x, y> - |y|^2 / 2), so the nearest row has the largest bracket. A row is not its own
    neighbour. Of several rows at one distance, within float32's rounding, any may be returned.

    Args:
        embeddings: [n, d], float32.
        start: the first row.
        stop: behind the last.
        count: below n.
        squares: |y|^2 of all rows [n].

    Returns:
        Rows [stop - start, count], nearest first, int64.
    """
    closeness = torch.addmm(squares, embeddings[start:stop], embeddings.T, beta=-0.5)
    rows = torch.arange(stop - start, device=embeddings.device)
    closeness[rows, rows + start] = -torch.inf
    return top_scores(closeness, count)[1]
