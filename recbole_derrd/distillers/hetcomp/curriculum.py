r"""From easy rankings to hard ones: which snapshot of each teacher a user is taught, and when that changes.

HetComp's dynamic knowledge construction, in the published code's form. Teacher m has passed through V_m snapshots; user
u starts at the first of each. After epoch e = p, 2p, 3p ... the student's ranking of u is compared with the *next*
snapshot's of each teacher. The first time, the discrepancy d is only kept. From then on u moves on by one snapshot
where

    d_kept / d > alpha 0.995^{e // p},    or, under the published rule, d_kept / d < 1

that is where learning the present snapshot has brought the student closer to the next one by a factor (or has taken it
further away), and after a move the discrepancy to the snapshot after that is kept. From e = 100 on alpha 0.995^{e // p}
is below 1 for the default alpha and p, so under the published rule every pair then moves each time.

Code and this: a student that has the next snapshot's items already (d = 0) moves on; where d_kept is 0 as well the code
divides 0 by 0 and that user stays for ever. The code counts the training as finished when each teacher's mean snapshot
is the last one to two decimals, so up to 0.5 % of the users may be left behind ("rounded"); here all must have arrived.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

#: What the factor is multiplied by at each step.
_DECAY = 0.995

#: Gives the discrepancy [n, M] of the students' rankings to these snapshots [n, M] of each teacher's.
Distance = Callable[[Tensor], Tensor]


def is_step(epoch: int, interval: int) -> bool:
    """Say whether snapshots are looked at after this epoch (from 0)."""
    return epoch >= interval and epoch % interval == 0


def threshold(alpha: float, epoch: int, interval: int) -> float:
    """Return alpha 0.995^{e // p}."""
    return float(alpha * _DECAY ** (epoch // interval))


def next_snapshots(snapshot: Tensor, counts: Tensor) -> Tensor:
    """Return the snapshot after each [n, M]; the last is its own next.

    Args:
        snapshot: snapshots from 0 [n, M].
        counts: V_m [M].
    """
    return torch.minimum(snapshot + 1, counts - 1)


def ready(kept: Tensor, current: Tensor, bar: float, move: str) -> Tensor:
    """Say for which pairs the discrepancy has changed enough, whether or not there is a snapshot left to go to.

    Args:
        kept: the discrepancy when it was last kept [n, M].
        current: the discrepancy now [n, M].
        bar: the threshold of the ratio kept / current.
        move: "closer_or_further" or "closer".
    """
    # Not divided, so that nothing is 0 / 0.
    moved = (kept > bar * current) | (current == 0)
    return moved | (kept < current) if move == "closer_or_further" else moved


def advance(
    snapshot: Tensor, kept: Tensor, counts: Tensor, distance: Distance, bar: float | None, move: str
) -> tuple[Tensor, Tensor]:
    """Take one step of the schedule.

    Args:
        snapshot: snapshot of each user and teacher, from 0 [n, M].
        kept: their kept discrepancies [n, M].
        counts: V_m [M].
        distance: gives the discrepancy to any snapshots.
        bar: the threshold; None for the first step, in which no user moves.
        move: see :func:`ready`.

    Returns:
        The new snapshots, by at most 1 larger, and the discrepancies to keep.
    """
    current = distance(next_snapshots(snapshot, counts)).to(kept.dtype)
    if bar is None:
        return snapshot, current
    moves = ready(kept, current, bar, move) & (snapshot < counts - 1)
    snapshot = snapshot + moves.to(snapshot.dtype)
    beyond = distance(next_snapshots(snapshot, counts)).to(kept.dtype)
    return snapshot, torch.where(moves, beyond, kept)


def is_finished(snapshot: Tensor, counts: Tensor, finish: str = "all") -> bool:
    """Say whether all users stand at every teacher's last snapshot.

    Args:
        snapshot: snapshots from 0 [n, M].
        counts: V_m [M].
        finish: "all"; "rounded" lets users be behind as long as the mean over them is the last to two decimals.
    """
    if finish == "rounded":
        means = (snapshot.double().mean(dim=0) * 100).round() / 100
        return bool((means == counts - 1).all())
    return bool((snapshot == counts - 1).all())
