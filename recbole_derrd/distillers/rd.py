r"""Ranking Distillation (RD).

Jiaxi Tang, Ke Wang: "Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender
System", KDD 2018. The teacher's K best unobserved items pi_0 .. pi_{K-1} of a user are taken for positives:

    L_RD = - sum_u sum_{r=0}^{K-1} w_r log sigmoid(s(u, pi_r))

over the batch's distinct users, s being the student's logits. The weights carry no gradient:

    position  a_r = e^{-r / lambda} / sum_k e^{-k / lambda}
    dynamic   b_r = tanh(max(mu (rhat_r - r), 0)),    rhat_r = floor((I - 1) c_r / Q)
    hybrid    w_r = a_r b_r / sum_k a_k b_k

where c_r counts, of Q unobserved items drawn for the user, those that the student scores above pi_r: rhat_r estimates
the rank that the student gives pi_r, from 0, among the I items of the catalogue. Items that it has in place already
weigh nothing; a user who has all of them in place has no term. Before the epoch ``rd_start_epoch`` w = a. The Q items
are drawn once an epoch for all users, each draw on its own. A drawn item that is one of the K has that item's score to
the bit, so that it is never above itself.

Paper and code: the paper weighs the terms (1 - alpha) L_base + alpha L_RD, the code L_base + alpha L_RD, and so does
this. The paper normalises the product a b, the code leaves that switch off, re-implementations have it on; so it is on
here (``rd_normalise``). Ranks are from 0 on both sides, as in the code; some re-implementations add 1 to rhat_r alone.
The code's rank is floor(I' c_r / Q), where I' counts the padding item too; here it is floor((I - 1) c_r / Q).
The code's sum is a mean over the batch's rows; this one is over its distinct users, divided by its rows.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import Options, option, share_of_users
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.negative_sampling import NegativeSampler
from recbole_derrd.distillers.preconditions import LEFT_OUT, Requirement, left_out_by_rankings, require_unobserved
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import Work, epoch_seed, listed_work, subsample
from recbole_derrd.teacher import Knowledge


@dataclasses.dataclass(frozen=True)
class RDOptions(Options):
    """Ranking Distillation (KDD 2018)."""

    prefix: ClassVar[str] = "rd_"

    # The authors' code adds alpha = 1 times the sum over K, a mean over rows, to the base loss.
    weight: float = option(1.0, "Weight of the term in the loss (alpha).", low=0)
    k: int = option(10, "The teacher's best unobserved items that are taken for positives (K).", low=1)
    position_lambda: float = option(
        1.0, "Rank r has position weight exp(-r / lambda), normalised; large weighs all ranks alike.", above=0
    )
    mu: float = option(0.1, "Sharpness of the dynamic weights tanh(max(mu * (estimated rank - r), 0)).", above=0)
    negatives: int = option(
        100, "Unobserved items that estimate the student's ranks, drawn again in each epoch (Q).", low=1
    )
    start_epoch: int = option(10, "First epoch with dynamic weights; before it position weights alone.", low=0)
    # The paper normalises the product and so do re-implementations; the authors' code has the switch off.
    normalise: bool = option(
        True, "Whether a user's hybrid weights are made to sum to 1 (the paper), or left as they are (the code)."
    )
    sample: float | str = share_of_users(auto=True)


def weighted_positive_loss(scores: Tensor, weights: Tensor) -> Tensor:
    r"""Return each user's -sum_r w_r log sigmoid(s_r).

    Args:
        scores: logits of the teacher's items [n, K], best first.
        weights: w [n, K] or [K]; no gradient goes to them.

    Returns:
        Loss of each user [n]; 0 at best, ln 2 times the sum of the weights where all logits are 0.
    """
    return -(weights.detach() * functional.logsigmoid(scores)).sum(dim=1)


def position_weights(count: int, position_lambda: float) -> Tensor:
    """Return a_r = exp(-r / lambda) over their sum [count], float32."""
    # A softmax neither underflows nor divides by 0, however small lambda is.
    return (-torch.arange(count, dtype=torch.float64) / position_lambda).softmax(dim=0).float()


def estimated_ranks(scores: Tensor, negatives: Tensor, n_items: int) -> Tensor:
    """Return rhat_r = floor((I - 1) c_r / Q), from 0.

    Args:
        scores: the student's logits of the teacher's items [n, K].
        negatives: its logits of unobserved items [n, Q].
        n_items: I, items of the catalogue without the padding item.

    Returns:
        [n, K], of the logits' type.
    """
    # Sorted, so that [n, K, Q] comparisons are never made: those above are those after the last that is not.
    ordered = negatives.sort(dim=1).values
    count = negatives.shape[1]
    above = count - torch.searchsorted(ordered, scores.contiguous(), right=True)
    return torch.div((n_items - 1) * above, count, rounding_mode="floor").to(scores.dtype)


def positions_in_rankings(rankings: Tensor, drawn: Tensor) -> Tensor:
    """Return the position of each drawn item in its row's ranking, -1 where it is not in it.

    Args:
        rankings: distinct items [n, K].
        drawn: items [n, Q], of the rankings' type.

    Returns:
        [n, Q] int16 up to K = 32,767, else int64.
    """
    ordered, order = rankings.sort(dim=1)
    at = torch.searchsorted(ordered, drawn.contiguous()).clamp(max=rankings.shape[1] - 1)
    positions = order.gather(1, at).masked_fill(ordered.gather(1, at) != drawn, -1)
    return positions.to(torch.int16) if rankings.shape[1] <= torch.iinfo(torch.int16).max else positions


def dynamic_weights(ranks: Tensor, mu: float) -> Tensor:
    """Return b_r = tanh(max(mu (rhat_r - r), 0)) of estimated ranks [n, K]."""
    gap = ranks - torch.arange(ranks.shape[1], dtype=ranks.dtype, device=ranks.device)
    return (mu * gap).clamp(min=0).tanh()


def hybrid_weights(position: Tensor, dynamic: Tensor, normalise: bool) -> Tensor:
    """Return w = a b [n, K], each row made to sum to 1 where that is asked for and anything weighs something."""
    product = position * dynamic
    if not normalise:
        return product
    return product / product.sum(dim=1, keepdim=True).clamp(min=torch.finfo(product.dtype).tiny)


class RankingDistillation(Distiller[RDOptions]):
    """RD as a loss term; see the file's head for the formula."""

    name = "rd"
    options_class = RDOptions
    needs = frozenset({Need.TOP_ITEMS})
    citation = "Jiaxi Tang, Ke Wang: Ranking Distillation, KDD 2018"
    test_settings: ClassVar = {"k": 4, "negatives": 20, "start_epoch": 0, "position_lambda": 3.0}

    def __init__(self, options: RDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's rankings, and leave out users whom the teacher ranks fewer than K unobserved items for.

        Raises:
            OptionError: nearly all users have.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        self.rankings = torch.from_numpy(knowledge.top_items(options.k)).to(student.device)
        self.leave_out(left_out_by_rankings(self.rankings, "rd_k", options.k, knowledge.history))
        self.position = position_weights(options.k, options.position_lambda).to(student.device)
        self.unobserved = NegativeSampler(knowledge.history)
        #: Unobserved items of each user [n_users, Q], drawn again in each epoch with dynamic weights; None before.
        self.negatives: Tensor | None = None
        #: Where these are in the user's ranking [n_users, Q], -1 where they are not.
        self.positions: Tensor | None = None

    @classmethod
    def listed(cls, options: RDOptions) -> tuple[int, str]:
        """Return K: the items whose place is taught."""
        return options.k, "rd_k"

    @classmethod
    def requirements(cls, options: RDOptions, history: History) -> list[Requirement]:
        """Ask for K unobserved items of each user."""
        return [require_unobserved(history, options.k, "rd_k", "rd_k to {}", LEFT_OUT)]

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's unobserved items for all users."""
        if epoch < self.options.start_epoch:
            self.negatives = self.positions = None
            return
        # Drawn on the CPU, so that a GPU run draws the same items.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        count = self.options.negatives
        items = torch.zeros(self.knowledge.n_users, count, dtype=torch.int32)
        for start, stop in self.unobserved.blocks(count):
            items[start:stop] = self.unobserved.independent(start, stop, count, generator).to(torch.int32)
        self.negatives = items.to(self.student.device)
        # Some users at a time: positions are found in int64, in several tables.
        self.positions = torch.cat(
            [
                positions_in_rankings(self.rankings[start:stop], self.negatives[start:stop])
                for start, stop in [(0, 1), *self.unobserved.blocks(count)]
            ]
        )

    @torch.no_grad()
    def _weights(self, users: Tensor, scores: Tensor) -> Tensor:
        if self.negatives is None or self.positions is None:
            return self.position
        negatives = self.student.score(users, self.negatives.index_select(0, users).long()).float()
        # Two products of different shapes round differently: of an item in both, one score counts.
        positions = self.positions.index_select(0, users).long()
        negatives = torch.where(positions < 0, negatives, scores.detach().gather(1, positions.clamp(min=0)))
        ranks = estimated_ranks(scores.detach(), negatives, self.knowledge.history.n_items - 1)
        return hybrid_weights(self.position, dynamic_weights(ranks, self.options.mu), self.options.normalise)

    def work(self) -> Work:
        """Return the work of a user's K items and of those that estimate their ranks."""
        options = self.options
        return Work(listed_work(self.student, options.k + options.negatives, passes=32))

    def forward(self, batch: StepBatch) -> Tensor:
        """Return the distinct users' L_RD divided by the batch's rows, in float32."""
        users = self.taught(batch.users)
        users, scale = subsample(users, self.share(len(users), batch.rows), self.generator)
        scores = self.student.score(users, self.rankings.index_select(0, users).long())
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            scores = scores.float()
            return scale * weighted_positive_loss(scores, self._weights(users, scores)).sum() / batch.rows
