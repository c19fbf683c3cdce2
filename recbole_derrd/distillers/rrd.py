r"""Relaxed Ranking Distillation (RRD).

Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: "DE-RRD: A Knowledge Distillation Framework for Recommender
System", CIKM 2020, section 3.2.

For each user, K interesting items pi_1 .. pi_K are drawn from the teacher's top-N ranking, the better their rank the
likelier, and kept in the teacher's order; L uninteresting items are drawn from those that are neither training items
nor in that ranking. The student is asked for the detailed order of the interesting ones, and to keep the uninteresting
ones below them in whatever order:

    L_RRD = - sum_u sum_{k=1..K} log( exp(r_{pi_k}) / (sum_{i=k..K} exp(r_{pi_i}) + sum_{j=1..L} exp(r_{z_j})) )

over the batch's distinct users, r being the student's logits. Both sets are drawn once an epoch for all users.

A user with fewer than K + L unobserved items has shorter sets: the K best of them, or all but one, and the others.

Paper and code: as printed, the sum over uninteresting items starts one index early; the code counts the uninteresting
ones only, and so does this. The authors later found that always taking the first K is better than drawing
(``rrd_interesting: topk``).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import Options, option, published, share
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.preconditions import SHORTER, Requirement, require_unobserved, short_users
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import Work, epoch_seed, listed_work
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.full_softmax import LOWEST
from recbole_derrd.ops.sampling import exclusion_keys, sample_outside, sample_top_positions
from recbole_derrd.teacher import Knowledge

#: The authors' code (CiteULike), the best weights of the paper's grid for DE-RRD (Foursquare), and KDs.
_PRESETS = {
    "citeulike-bpr": {"weight": 0.001, "k": 40, "l": 40, "top_n": 500, "decay": 10.0},
    "foursquare-bpr": {"weight": 0.001},
    "foursquare-neumf": {"weight": 0.1},
    "citeulike-bpr-kds": {"weight": 0.1, "k": 100, "l": 200, "top_n": 500, "decay": 10.0},
    "citeulike-bpr-from-lightgcn-kds": {"weight": 0.05, "k": 100, "l": 200, "top_n": 500, "decay": 10.0},
    "citeulike-lightgcn-kds": {"weight": 0.01, "k": 50, "l": 100, "top_n": 500, "decay": 10.0},
    "gowalla-bpr-kds": {"weight": 0.005, "k": 100, "l": 200, "top_n": 500, "decay": 100.0},
    "gowalla-bpr-from-lightgcn-kds": {"weight": 0.1, "k": 200, "l": 100, "top_n": 200, "decay": 10.0},
    "gowalla-lightgcn-kds": {"weight": 0.01, "k": 50, "l": 100, "top_n": 500, "decay": 10.0},
    "yelp2018-bpr-kds": {"weight": 0.005, "k": 100, "l": 200, "top_n": 500, "decay": 100.0},
    "yelp2018-bpr-from-lightgcn-kds": {"weight": 0.1, "k": 200, "l": 100, "top_n": 200, "decay": 10.0},
    "yelp2018-lightgcn-kds": {"weight": 0.5, "k": 200, "l": 100, "top_n": 500, "decay": 10.0},
}


@dataclasses.dataclass(frozen=True)
class RRDOptions(Options):
    """Relaxed Ranking Distillation (CIKM 2020, section 3.2)."""

    prefix: ClassVar[str] = "rrd_"

    preset: str | None = published(_PRESETS)
    weight: float = option(0.001, "Weight of the term in the loss (lambda_RRD).", low=0)
    k: int = option(40, "Interesting items a user (K).", low=1)
    l: int = option(  # noqa: E741 (the paper's L)
        40, "Uninteresting items a user (L); 0 ranks the interesting items alone.", low=0
    )
    top_n: int = option(500, "Length of the teacher's ranking that interesting items are drawn from (N).", low=1)
    decay: float = option(
        10.0,
        "Rank k is drawn with probability proportional to exp(-k / decay) (T).",
        above=0,
        idle=("interesting", "topk"),
    )
    interesting: str = option(
        "sampled",
        "Interesting items: drawn again in each epoch, or always the first K of the ranking.",
        choices=("sampled", "topk"),
    )
    ranking: str = option(
        "relaxed",
        "Order of the uninteresting items: ignored (relaxed), or the teacher's as well (full, the paper's ablation).",
        choices=("relaxed", "full"),
    )
    sample: float | str = share("a batch's distinct users whose items are ranked", auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.top_n < self.k:
            raise OptionError(
                f"rrd_top_n = {self.top_n} is shorter than rrd_k = {self.k}: interesting items are drawn from that "
                "ranking. Raise rrd_top_n or lower rrd_k."
            )


#: Operations of the loss on each item, in double precision.
PASSES = 24
#: A sum of exponentials beside the largest one of 1 that double precision still holds with all its digits.
_LEAST_SUM = 1e-280
#: Entries of the rankings that are drawn from at once; bounds the memory of drawing to some 20 MB.
_DRAWN_AT_ONCE = 1 << 19
#: Excluded (user, item) pairs up to which they are kept from epoch to epoch (64 MB) instead of being sorted again.
_KEPT_PAIRS = 1 << 24


def relaxed_ranking_loss(interesting: Tensor, uninteresting: Tensor, held: Tensor | None = None) -> Tensor:
    r"""Return each user's negative log-likelihood of the relaxed ranking.

    Each sum of exponentials is taken relative to the user's largest one, in double precision, by one cumulative sum: it
    neither overflows nor needs clipping. Where a sum would vanish beside the largest logit, some 640 above it, and on
    other devices than the CPU, it is sum_k logaddexp(logsumexp(r_{pi_k} .. r_{pi_K}), logsumexp(r_z)) - r_{pi_k}, which
    takes four times as long there. With no uninteresting items it is the Plackett-Luce likelihood of the interesting
    ones.

    Args:
        interesting: logits [n, K], in the teacher's order.
        uninteresting: logits [n, L], in any order; L may be 0.
        held: which positions of both hold an item [n, K + L]; all of them if None.

    Returns:
        Loss of each user [n]; 0 at best, ln((K + L)! / L!) where all logits are equal.

    Example:
        >>> equal = torch.zeros(1, 2)
        >>> loss = relaxed_ranking_loss(equal, equal)  # ln(4! / 2!)
        >>> round(loss.exp().item(), 3)
        12.0
    """
    k = interesting.shape[1]
    if held is not None:
        interesting = interesting.masked_fill(~held[:, :k], LOWEST)
        uninteresting = uninteresting.masked_fill(~held[:, k:], LOWEST)
    rest = _log_sums(interesting, uninteresting, held)
    terms = rest - interesting
    return (terms if held is None else terms.masked_fill(~held[:, :k], 0)).sum(dim=1)


def _log_sums(interesting: Tensor, uninteresting: Tensor, held: Tensor | None) -> Tensor:
    """Return ln of each position's sum: of the exponentials of the interesting from there on and all uninteresting."""
    k = interesting.shape[1]
    if interesting.device.type == "cpu":
        scores = torch.cat([interesting, uninteresting], dim=1).double()
        largest = scores.detach().amax(dim=1, keepdim=True)
        shares = (scores - largest).exp()
        sums = shares[:, :k].flip(1).cumsum(dim=1).flip(1) + shares[:, k:].sum(dim=1, keepdim=True)
        wanted = sums if held is None else sums.masked_fill(~held[:, :k], 1)
        if bool((wanted > _LEAST_SUM).all()):
            return (wanted.log() + largest).to(interesting.dtype)
    rest = interesting.flip(1).logcumsumexp(dim=1).flip(1)
    if uninteresting.shape[1]:
        rest = torch.logaddexp(rest, uninteresting.logsumexp(dim=1, keepdim=True))
    return rest


class RelaxedRankingDistillation(Distiller[RRDOptions]):
    """RRD as a loss term; see the file's head for the formula."""

    name = "rrd"
    options_class = RRDOptions
    # Scores for the ablation with full ranking only; any teacher gives both.
    needs = frozenset({Need.TOP_ITEMS, Need.SCORES})
    citation = (
        "Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: DE-RRD: A Knowledge Distillation Framework for "
        "Recommender System, CIKM 2020"
    )
    # The best of the paper's grid, as is the default, BPR's: a pointwise base loss needs a strong term.
    student_defaults: ClassVar = {"NeuMF": {"weight": 0.1}}
    test_settings: ClassVar = {"k": 4, "l": 6, "top_n": 12, "decay": 3.0}

    def __init__(self, options: RRDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's rankings.

        Raises:
            OptionError: nearly all users have fewer than K + L unobserved items.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        unobserved = knowledge.history.n_items - 1 - torch.from_numpy(knowledge.history.lengths)
        self.rankings = torch.from_numpy(knowledge.top_items(options.top_n))
        # Users with few unobserved items: a shorter ranking leaves L items to be uninteresting.
        self.ranking_lengths = torch.minimum(unobserved - options.l, torch.tensor(self.rankings.shape[1]))
        #: Who has fewer than K + L unobserved items, and so a shorter ranking; None where all have enough.
        self.short = short_users(knowledge.history, options.k + options.l)
        if self.short is not None:
            left = (unobserved - min(options.l, 1)).clamp(min=0, max=options.k)
            self.ranking_lengths = torch.where(self.short, left, self.ranking_lengths)
        # A teacher may rank fewer items than there are, or not know all.
        held = (self.rankings > 0).sum(dim=1)
        self.ranking_lengths = torch.minimum(self.ranking_lengths, held)
        unknown = knowledge.known("item")
        self._unknown = None if unknown is None else torch.from_numpy(~unknown)
        #: Whether a position may hold no item.
        self.has_gaps = self.short is not None or unknown is not None or bool((held[1:] < options.k).any())
        # One row a user: K interesting items in the teacher's order, then L uninteresting ones; 0 for positions
        # without.
        self.items: Tensor | None = None
        self._excluded: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def needed(cls, options: RRDOptions) -> frozenset[Need]:
        """Scores are needed for the full ranking alone."""
        return cls.needs if options.ranking == "full" else cls.needs - {Need.SCORES}

    @classmethod
    def requirements(cls, options: RRDOptions, history: History) -> list[Requirement]:
        """Ask for K + L unobserved items of each user."""
        lower = "rrd_k and rrd_l to {} together"
        return [require_unobserved(history, options.k + options.l, "rrd_k + rrd_l", lower, SHORTER)]

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's items for all users."""
        options = self.options
        if self.items is not None and options.interesting == "topk" and options.l == 0:
            return
        # Drawn on the CPU, so that a GPU run draws the same items.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        n_users = self.knowledge.n_users
        items = torch.empty(n_users, options.k + options.l, dtype=torch.int32)
        users_at_once = max(1, _DRAWN_AT_ONCE // self.rankings.shape[1])
        for start in range(0, n_users, users_at_once):
            stop = min(start + users_at_once, n_users)
            items[start:stop] = self._draw(start, stop, generator).to(torch.int32)
        if options.ranking == "full" and options.l:
            items = self._in_teacher_order(items)
        self.items = items.to(self.student.device)

    def _draw(self, start: int, stop: int, generator: torch.Generator) -> Tensor:
        options = self.options
        lengths, rankings = self.ranking_lengths[start:stop], self.rankings[start:stop]
        if options.interesting == "topk":
            interesting = rankings[:, : options.k].long()
        else:
            positions = sample_top_positions(lengths, options.k, options.decay, rankings.shape[1], generator)
            interesting = rankings.gather(1, positions).long()
        if self.has_gaps:
            interesting = interesting.masked_fill(torch.arange(options.k) >= lengths.unsqueeze(1), 0)
        if options.l == 0:
            return interesting
        keys, offsets = self._excluded.get(start) or self._exclude(start, stop)
        outside = sample_outside(keys, offsets, self.knowledge.history.n_items, options.l, generator)
        if self._unknown is not None:
            # That the teacher does not know an item says nothing against it.
            outside = outside.masked_fill(self._unknown[outside], 0)
        return torch.cat([interesting, outside], dim=1)

    def _exclude(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Sort what cannot be uninteresting for these users, in every epoch: training items and the ranking."""
        history = self.knowledge.history
        lengths, rankings = self.ranking_lengths[start:stop], self.rankings[start:stop]
        seen = torch.from_numpy(history.items[history.indptr[start] : history.indptr[stop]])
        seen_rows = torch.arange(stop - start).repeat_interleave(torch.from_numpy(history.lengths[start:stop]))
        listed = torch.arange(rankings.shape[1]) < lengths.unsqueeze(1)
        ranking_rows = torch.arange(stop - start).unsqueeze(1).expand_as(listed)[listed]
        excluded = exclusion_keys(
            torch.cat([seen_rows, ranking_rows]),
            torch.cat([seen, rankings[listed].long()]),
            stop - start,
            history.n_items,
        )
        if len(history.items) + self.rankings.numel() <= _KEPT_PAIRS:
            self._excluded[start] = excluded
        return excluded

    def _in_teacher_order(self, items: Tensor) -> Tensor:
        k = self.options.k
        uninteresting = items[1:, k:].long()
        scores = self.knowledge.scores(torch.arange(1, len(items)), uninteresting)
        if self.has_gaps:
            scores = scores.masked_fill(uninteresting == 0, -torch.inf)
        items[1:, k:] = uninteresting.gather(1, scores.argsort(dim=1, descending=True)).to(torch.int32)
        return items

    def work(self) -> Work:
        """Return the work of a user's K + L items."""
        options = self.options
        return Work(listed_work(self.student, options.k + options.l, PASSES))

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_RRD of the batch divided by its rows.

        Under mixed precision the scores come as the student gives them; the loss is float32.
        """
        scores, scale, (items,) = self.drawn_scores(batch, self.items)
        held = items > 0 if self.has_gaps else None
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            scores = scores.float()
            ordered = scores.shape[1] if self.options.ranking == "full" else self.options.k
            losses = relaxed_ranking_loss(scores[:, :ordered], scores[:, ordered:], held)
            return scale * losses.sum() / batch.rows
