r"""A method of one's own: the teacher's best items above sampled ones, by a margin.

Of each user u, i_1 .. i_K are the K best unobserved items by the teacher, and j_1 .. j_L are drawn anew each epoch from
all items that the user has no training interaction with:

    L = sum_u 1 / (K L) sum_k sum_l [j_l is none of the i] max(0, m - (s_{u, i_k} - s_{u, j_l}))

over the batch's distinct users, s being the student's logits and m the margin: the hinge of Ralf Herbrich, Thore
Graepel, Klaus Obermayer: "Large Margin Rank Boundaries for Ordinal Regression", 2000, with the teacher's ranking in
place of labels. The order among the best items is not taught; RRD teaches it.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from recbole_derrd import Knowledge
from recbole_derrd.adapters import Adapter
from recbole_derrd.data.history import History
from recbole_derrd.distillers import (
    LEFT_OUT,
    Distiller,
    Need,
    NegativeSampler,
    Options,
    Requirement,
    StepBatch,
    epoch_seed,
    option,
    require_unobserved,
    short_users,
)


@dataclasses.dataclass(frozen=True)
class HingeOptions(Options):
    """The teacher's best items above sampled ones, by a margin."""

    prefix: ClassVar[str] = "hinge_"

    weight: float = option(0.5, "Weight of the term in the loss.", low=0)
    k: int = option(10, "The teacher's best unobserved items of a user (K).", low=1)
    l: int = option(20, "Unobserved items of a user, drawn anew each epoch (L).", low=1)  # noqa: E741
    margin: float = option(1.0, "How far above a sampled item a best one shall be (m).", above=0)


def hinge_loss(best: Tensor, sampled: Tensor, counts: Tensor, margin: float) -> Tensor:
    """Return each user's mean hinge over all pairs of a best and a sampled item.

    Args:
        best: logits [n, K].
        sampled: logits [n, L].
        counts: 1 for sampled items that take part [n, L], 0 for the others.
        margin: m.

    Returns:
        [n].
    """
    gaps = best.unsqueeze(2) - sampled.unsqueeze(1)
    return ((margin - gaps).clamp(min=0) * counts.unsqueeze(1)).mean(dim=(1, 2))


class HingeDistillation(Distiller):
    """The hinge as a loss term; see the file's head for the formula."""

    name = "hinge"
    options_class = HingeOptions
    needs = frozenset({Need.TOP_ITEMS})
    # Small enough for a catalogue of forty items: what the tests are run with.
    test_settings: ClassVar = {"k": 4, "l": 6}

    def __init__(self, options: HingeOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's best items, and leave out users who have fewer than K + L unobserved ones."""
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        self.leave_out(short_users(knowledge.history, options.k + options.l))
        self.best = torch.from_numpy(knowledge.top_items(options.k)).to(student.device)
        self.sampler = NegativeSampler(knowledge.history)
        #: The epoch's items of all users [n_users, L].
        self.sampled: Tensor | None = None

    @classmethod
    def requirements(cls, options: HingeOptions, history: History) -> list[Requirement]:
        """Ask for K + L unobserved items of each user; the run says how many users have fewer."""
        wanted, lower = options.k + options.l, "hinge_k and hinge_l to {} together"
        return [require_unobserved(history, wanted, "hinge_k + hinge_l", lower, LEFT_OUT)]

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's items: of the seed and the epoch alone, so that a resumed run draws the same ones."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        sampled = torch.zeros(self.knowledge.n_users, self.options.l, dtype=torch.int32)
        for start, stop in self.sampler.blocks(self.options.l):
            sampled[start:stop] = self.sampler.distinct(start, stop, self.options.l, generator).to(torch.int32)
        self.sampled = sampled.to(self.student.device)

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L of the batch divided by its rows, as every method does; float32 under mixed precision as well."""
        if self.sampled is None:
            raise RuntimeError("begin_epoch must come before the first batch: it draws the items.")
        users, k = self.taught(batch.users), self.options.k
        best, sampled = self.best[users].long(), self.sampled[users].long()
        counts = (sampled.unsqueeze(2) != best.unsqueeze(1)).all(dim=2)
        scores = self.student.score(users, torch.cat([best, sampled], dim=1))
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            scores = scores.float()
            losses = hinge_loss(scores[:, :k], scores[:, k:], counts.float(), self.options.margin)
            return losses.sum() / batch.rows
