r"""Sums of squared differences between two cosine matrices of n entities, without the n x n matrices: FTD and HTD.

Let T [n, d_t] and S [n, d_s] be the teacher's and the student's embeddings at length 1. All entries of T T^T - S S^T
together are

    ||T T^T - S S^T||^2 = ||T^T T||^2 - 2 ||T^T S||^2 + ||S^T S||^2          (Frobenius norms)

which needs d x d products only. Numbers of about n^2 cos^2 are subtracted from each other there, so that float32
leaves an error of some 1e-7 n^2, whatever the result: a mean difference of cosines below 0.001 is not resolved.

Where only pairs of one group count, and of these those with a positive cosine of the teacher's, each group is a block
of its own. The gradient by its rows of S, 4 D S with D the block's differences that count, is known as soon as D is.

Readable twins: ``topology_loss`` in ``distillers/ftd.py`` and ``grouped_loss`` in ``distillers/htd.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gram_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ||T T^T - S S^T||^2, what ``topology_loss`` returns, within rounding.

    Args:
        student: embeddings of length 1, S [n, d_s].
        teacher: T [n, d_t]; no gradient goes to it.

    Returns:
        A scalar.
    """
    with torch.no_grad():
        of_teacher = (teacher.T @ teacher).square().sum()
    across, of_student = teacher.detach().T @ student, student.T @ student
    total: Tensor = of_teacher - 2 * across.square().sum() + of_student.square().sum()
    # Rounding alone takes it below 0, where student and teacher are alike.
    return total.clamp(min=0)


class _GroupedDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
        order = groups.argsort()
        mine, theirs = student.index_select(0, order), teacher.index_select(0, order)
        gradient, sums, kept, start = torch.zeros_like(mine), [], [], 0
        for group, size in enumerate(torch.bincount(groups, minlength=len(weights)).tolist()):
            block = slice(start, start + size)
            start += size
            # The one entry of a single entity is 1 - 1.
            if size < 2:
                continue
            own, cosines = mine[block], theirs[block] @ theirs[block].T
            differences = torch.addmm(cosines, own, own.T, beta=-1)
            # 0 where the cosine is not above 0, in one pass.
            differences = torch.ops.aten.threshold_backward(differences, cosines, 0)
            flat = differences.view(-1)
            sums.append(flat.dot(flat))
            kept.append(group)
            torch.mm(differences, own, out=gradient[block])
        gradient *= 4 * weights[groups.index_select(0, order)].unsqueeze(1)
        ctx.save_for_backward(torch.empty_like(gradient).index_copy_(0, order, gradient))
        return weights[kept].dot(torch.stack(sums)) if kept else mine.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:
        return scale * ctx.saved_tensors[0], None, None, None


def grouped_distance(student: Tensor, teacher: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of (T T^T - S S^T)^2 over pairs of one group with T T^T > 0: that of ``grouped_loss``.

    Differentiable once, by the student's embeddings. Memory is that of the largest group's block.

    Args:
        student: embeddings of length 1, or of length 0, S [n, d_s].
        teacher: T [n, d_t].
        groups: group of each entity [n], from 0.
        weights: weight of each group's sum [n_groups].

    Returns:
        A scalar.
    """
    total: Tensor = _GroupedDistance.apply(student, teacher, groups, weights)
    return total
