r"""RRD with the item-side ranking as a regulariser (IR-RRD).

Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: "Item-side Ranking Regularized Distillation for Recommender
System", Information Sciences 2021. Besides each user's ranking of items (RRD, see ``rrd.py``) the student is taught
each item's ranking of users: K_I interesting users from the head of the teacher's ranking of users who have no training
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

import dataclasses
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import AUTO, Options, option, published, share
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.preconditions import SHORTER, Requirement, require_unobserved
from recbole_derrd.distillers.rrd import PASSES, RelaxedRankingDistillation, RRDOptions, relaxed_ranking_loss
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import Work, automatic_share, listed_work, subsample
from recbole_derrd.distillers.swapped import ITEM_SIDE, SwappedStudent, swapped_knowledge
from recbole_derrd.errors import OptionError
from recbole_derrd.teacher import Knowledge
from recbole_derrd.teacher.users import swapped

#: The authors' code.
_PRESETS = {
    "citeulike-bpr": {
        "weight": 0.001, "item_weight": 0.5, "k": 40, "l": 40, "top_n": 500, "decay": 10.0,
        "item_k": 20, "item_l": 20, "item_top_n": 500, "item_decay": 10.0,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class IRRRDOptions(Options):
    """Item-side ranking regularised distillation (Information Sciences 2021)."""

    prefix: ClassVar[str] = "ir_rrd_"

    preset: str | None = published(_PRESETS)
    weight: float = option(0.001, "Weight of the term in the loss (the user side's, lambda_U).", low=0)
    item_weight: float = option(
        0.5, "Weight of the item side in units of the user side's (lambda_I / lambda_U); 0 is RRD.", low=0
    )
    k: int = option(40, "Interesting items a user (K).", low=1)
    l: int = option(40, "Uninteresting items a user (L).", low=0)  # noqa: E741 (the paper's L)
    top_n: int = option(
        500, "Length of the teacher's ranking of items that interesting ones are drawn from (N).", low=1
    )
    decay: float = option(
        10.0, "Items of rank k are drawn with probability proportional to exp(-k / decay) (T).", above=0
    )
    item_k: int = option(20, "Interesting users an item (K_I).", low=1, idle=("item_weight", 0))
    item_l: int = option(20, "Uninteresting users an item (L_I).", low=0, idle=("item_weight", 0))
    item_top_n: int = option(
        500, "Length of the teacher's ranking of users that interesting ones are drawn from.", low=1
    )
    item_decay: float = option(
        10.0, "Users of rank k are drawn with probability proportional to exp(-k / decay) (T_I).", above=0
    )
    interesting: str = option(
        "sampled",
        "Interesting items and users: drawn again in each epoch, or always the first of the ranking.",
        choices=("sampled", "topk"),
    )
    max_items: int | str = option(
        AUTO,
        "Largest number of items whose users are ranked in a step, drawn again in each: fewer are faster, "
        "with the same term on average. auto takes as many as cost what ir_rrd_sample: auto allows; 0 takes all items "
        "drawn for the batch's users.",
        low=0,
        choices=(AUTO,),
        kind=(int, str),
    )
    sample: float | str = share(
        "a batch's distinct users whose items are ranked (the item side has ir_rrd_max_items)", auto=True
    )

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        for side, top_n, k in (("", self.top_n, self.k), ("item_", self.item_top_n, self.item_k)):
            if top_n < k:
                raise OptionError(
                    f"ir_rrd_{side}top_n = {top_n} is shorter than ir_rrd_{side}k = {k}: the interesting ones are "
                    f"drawn from that ranking. Raise ir_rrd_{side}top_n or lower ir_rrd_{side}k."
                )


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


class ItemSideRankingDistillation(Distiller[IRRRDOptions]):
    """IR-RRD as a loss term: RRD, and RRD with the roles of users and items swapped."""

    name = "ir_rrd"
    options_class = IRRRDOptions
    needs = frozenset({Need.TOP_ITEMS})
    citation = (
        "Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: Item-side Ranking Regularized Distillation for "
        "Recommender System, Information Sciences 2021"
    )
    student_defaults: ClassVar = {"NeuMF": {"weight": 0.1}}
    test_settings: ClassVar = {
        "k": 4, "l": 6, "top_n": 12, "decay": 3.0,
        "item_k": 2, "item_l": 3, "item_top_n": 4, "item_decay": 2.0,
    }  # fmt: skip

    def __init__(self, options: IRRRDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's rankings of items and of users.

        Raises:
            OptionError: nearly all users or items have too few of the other side left.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        shared: dict[str, Any] = {"interesting": options.interesting, "sample": 1.0}
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
            mirrored, swapped_student = swapped_knowledge(knowledge), cast(Adapter, SwappedStudent(student))
            self.item_side = RelaxedRankingDistillation(of_items, mirrored, swapped_student, seed + ITEM_SIDE)
            held = (self.item_side.rankings > 0).sum(dim=1)
            #: Items that the teacher ranks enough users for, which an ensemble of short rankings may not.
            self.ranked = (held >= options.item_k).to(student.device)
            self.item_side.ranking_lengths = torch.minimum(
                self.item_side.ranking_lengths, held.clamp(min=options.item_k)
            )

    @classmethod
    def requirements(cls, options: IRRRDOptions, history: History) -> list[Requirement]:
        """Ask for K + L unobserved items of each user, and as many users who have not seen it of each item."""
        lower = "ir_rrd_k and ir_rrd_l to {} together"
        found = [require_unobserved(history, options.k + options.l, "ir_rrd_k + ir_rrd_l", lower, SHORTER)]
        if options.item_weight > 0:
            found.append(
                require_unobserved(
                    swapped(history),
                    options.item_k + options.item_l,
                    "ir_rrd_item_k + ir_rrd_item_l",
                    "ir_rrd_item_k and ir_rrd_item_l to {} together",
                    f"{SHORTER}, and left out below ir_rrd_item_k",
                    side="item",
                    reason="users who have not interacted with them",
                    more=", or take the item side out with ir_rrd_item_weight: 0",
                )
            )
        return found

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's items of all users, and users of all items."""
        self.user_side.begin_epoch(epoch)
        if self.item_side is not None:
            self.item_side.begin_epoch(epoch)

    def work(self) -> Work:
        """Return the work of a user's K + L items, doubled where half of the term is the items'."""
        options = self.options
        both = 1 if self.item_side is None else 2
        return Work(both * listed_work(self.student, options.k + options.l, PASSES))

    def _item_share(self, items: int, rows: int) -> float:
        """Return the share of these items whose users are ranked."""
        options = self.options
        if options.max_items == AUTO:
            users = listed_work(self.student, options.item_k + options.item_l, PASSES)
            return automatic_share(Work(2 * users), items, self.step_work(rows), self.fewest)
        return min(1.0, int(options.max_items) / items) if options.max_items else 1.0

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_IR-RRD of the batch divided by its rows, in float32."""
        present = batch.users
        users, scale = subsample(present, self.share(len(present), batch.rows), self.generator)
        loss: Tensor = scale * self.user_side(StepBatch(users, None, None, batch.rows))
        if self.item_side is None:
            return loss
        items = self.items_of(present)
        if not len(items):
            return loss
        items, scale = subsample(items, self._item_share(len(items), batch.rows), self.generator)
        item_loss = self.item_side(StepBatch(items, None, None, batch.rows))
        loss = loss + self.options.item_weight * scale * item_loss
        return loss

    def items_of(self, users: Tensor) -> Tensor:
        """Return the distinct items that these users have drawn and that the teacher ranks users for."""
        if self.user_side.items is None:
            raise RuntimeError("begin_epoch must come before the first batch: it draws the items.")
        present = torch.zeros(self.knowledge.n_items, dtype=torch.bool, device=self.student.device)
        present[self.user_side.items.index_select(0, users).long().reshape(-1)] = True
        return (present & self.ranked).nonzero().squeeze(1)
