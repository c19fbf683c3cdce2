r"""RRD with the item-side ranking as a regulariser (IR-RRD).

Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: "Item-side Ranking Regularized Distillation for Recommender
System", Information Sciences 2021. Besides each user's ranking of items (RRD, see ``rrd.py``) the student is taught
each item's ranking of users: K_I interesting users from the head of the teacher's list of users who have no training
interaction with the item, L_I uninteresting ones from the rest, both drawn once an epoch, with the same loss:

    L_IR-RRD = sum_{u in B} RRD(u) + lambda_I / lambda_U sum_{i in S_B} RRD(i)

over the batch's distinct users B and the distinct items S_B of all rankings, interesting and uninteresting, that these
users have drawn in this epoch: not the batch's own items. On CiteULike with batches of 1,024 these are three quarters
of the catalogue a step, hence ``ir_rrd_max_items``: so many of them are drawn, and their sum is multiplied by what
share they are, so that the expected term stays.

Paper and code: the paper's body was not accessible; this follows a description of the authors' program. The two
published weights, 0.001 and 0.0005, are here the term's weight and the item side's share of it, 0.5.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options import IRRRDOptions, RRDOptions
from recbole_derrd.data.prepare import History
from recbole_derrd.distillers.base import Distiller, Need, StepBatch, subsample
from recbole_derrd.distillers.negative_sampling import without_padding
from recbole_derrd.distillers.rrd import RelaxedRankingDistillation, relaxed_ranking_loss
from recbole_derrd.distillers.shortage import shortage
from recbole_derrd.teacher import Knowledge
from recbole_derrd.teacher.users import swapped

#: What sets the item side's draws apart from the user side's.
_ITEM_SIDE = 1_000_000_007
#: What an item has too few of.
_STRANGERS = "users who have not interacted with them"


def two_sided_ranking_loss(
    user_side: tuple[Tensor, Tensor], item_side: tuple[Tensor, Tensor], item_weight: float
) -> Tensor:
    r"""Return the readable formula: RRD summed over users, plus the weighted RRD summed over items.

    Args:
        user_side: logits of each user's interesting [n, K] and uninteresting items [n, L].
        item_side: logits of each item's interesting [m, K_I] and uninteresting users [m, L_I].
        item_weight: lambda_I / lambda_U.

    Returns:
        A scalar.
    """
    return relaxed_ranking_loss(*user_side).sum() + item_weight * relaxed_ranking_loss(*item_side).sum()


class _Swapped:
    """A student with the sides swapped: what RRD needs of one that ranks users for items."""

    def __init__(self, student: Adapter) -> None:
        self._student = student

    @property
    def device(self) -> torch.device:
        return self._student.device

    @property
    def fused(self) -> bool:
        return self._student.fused

    @fused.setter
    def fused(self, fused: bool) -> None:
        self._student.fused = fused

    def score(self, items: Tensor, users: Tensor) -> Tensor:
        return self._student.score_users(items, users)


class ItemSideRankingDistillation(Distiller):
    """IR-RRD as a loss term: RRD, and RRD with the roles of users and items swapped."""

    name = "ir_rrd"
    options_class = IRRRDOptions
    needs = frozenset({Need.TOP_ITEMS})

    def __init__(self, options: IRRRDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's rankings of items and of users.

        Raises:
            OptionError: nearly all users or items have too few of the other side left.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        shared: dict[str, Any] = {"interesting": options.interesting, "fused": options.fused}
        of_users = RRDOptions(k=options.k, l=options.l, top_n=options.top_n, decay=options.decay, **shared)
        self.user_side = RelaxedRankingDistillation(of_users, knowledge, student, seed)
        self.item_side: RelaxedRankingDistillation | None = None
        if options.item_weight > 0:
            of_items = RRDOptions(
                k=options.item_k,
                l=options.item_l,
                top_n=options.item_top_n,
                decay=options.item_decay,
                **shared,
            )
            mirrored: Any = SimpleNamespace(
                history=swapped(knowledge.history), n_users=knowledge.n_items, top_items=knowledge.top_users
            )
            swapped_student: Any = _Swapped(student)
            self.item_side = RelaxedRankingDistillation(of_items, mirrored, swapped_student, seed + _ITEM_SIDE)
            held = (self.item_side.rankings > 0).sum(dim=1)
            #: Items that the teacher ranks enough users for, which an ensemble of short rankings may not.
            self.ranked = (held >= options.item_k).to(student.device)
            self.item_side.ranking_lengths = torch.minimum(
                self.item_side.ranking_lengths, held.clamp(min=options.item_k)
            )

    @classmethod
    def check(cls, options: IRRRDOptions, history: History) -> None:
        """Refuse rankings that are longer than what nearly any user has not seen, or than who has not seen any item."""
        found = shortage(history, options.k + options.l, "ir_rrd_k + ir_rrd_l")
        found.refuse(f"ir_rrd_k and ir_rrd_l to {found.fitting} together")
        if options.item_weight > 0:
            found = shortage(swapped(history), options.item_k + options.item_l, "ir_rrd_item_k + ir_rrd_item_l")
            lower = f"ir_rrd_item_k and ir_rrd_item_l to {found.fitting} together"
            found.refuse(lower, "item", _STRANGERS, ", or take the item side out with ir_rrd_item_weight: 0")

    @classmethod
    def note(cls, options: IRRRDOptions, history: History) -> str | None:
        """Say how many users and items have shorter rankings."""
        found = shortage(history, options.k + options.l, "ir_rrd_k + ir_rrd_l")
        notes = [found.note("their rankings are as long as they can be")]
        if options.item_weight > 0:
            found = shortage(swapped(history), options.item_k + options.item_l, "ir_rrd_item_k + ir_rrd_item_l")
            shorter = "their rankings are as long as they can be, and left out below ir_rrd_item_k"
            notes.append(found.note(shorter, "item", _STRANGERS))
        return " ".join(filter(None, notes)) or None

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's items of all users, and users of all items."""
        self.user_side.begin_epoch(epoch)
        if self.item_side is not None:
            self.item_side.begin_epoch(epoch)

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_IR-RRD of the batch divided by its rows, in float32."""
        present = without_padding(batch.users)
        users, scale = subsample(present, self.options.sample, self.generator)
        loss = scale * self.user_side(StepBatch(users, None, None, batch.rows))
        if self.item_side is None:
            return loss
        items = self.items_of(present)
        if not len(items):
            return loss
        limit = self.options.max_items
        share = min(1.0, limit / len(items)) if limit else 1.0
        items, scale = subsample(items, share, self.generator)
        item_loss = self.item_side(StepBatch(items, None, None, batch.rows))
        return loss + self.options.item_weight * scale * item_loss

    def items_of(self, users: Tensor) -> Tensor:
        """Return the distinct items that these users have drawn and that the teacher ranks users for."""
        assert self.user_side.items is not None
        present = torch.zeros(self.knowledge.n_items, dtype=torch.bool, device=self.student.device)
        present[self.user_side.items.index_select(0, users).long().reshape(-1)] = True
        return (present & self.ranked).nonzero().squeeze(1)
