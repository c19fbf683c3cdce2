r"""Dual Correction Distillation (DCD).

Youngjune Lee, Kee-Eung Kim: "Dual Correction Strategy for Ranking Distillation in Top-N Recommender System", CIKM 2021,
arXiv 2109.03459. RRD draws the items that are distilled from the teacher's ranking alone; DCD from where the student is
wrong. Each epoch the student ranks the catalogue, and for each of the teacher's N best unobserved items of a user

    d_i = rank_S(i) - rank_T(i),    w+_i = max(tanh(max(d_i / T, 0)), 1e-5),    w-_i = max(tanh(max(-d_i / T, 0)), 1e-5)

with ranks from 0. K under-estimated items pi_1 .. pi_K are drawn without replacement with probability proportional to
w+, K over-estimated ones z_1 .. z_K with w-. The student is asked to rank the first in the order in which they were
drawn, and above the second, in whatever order these are (RRD's loss, see ``rrd.py``):

    L_DCD = - sum_u sum_{k=1..K} log( exp(s_{pi_k}) / (sum_{i=k..K} exp(s_{pi_i}) + sum_{j=1..K} exp(s_{z_j})) )

over the batch's distinct users, s being the student's logits.

The student's rank is the number of items with a higher score, of all items but the padding one: training items count.
The teacher's is that in its ranking of unobserved items. A student with the teacher's order therefore has d_i >= 0, the
number of training items that it puts above i; with ``dcd_student_ranks: unobserved`` they do not count, and d_i is 0.
The two draws do not know of each other, and where fewer than K items are over-estimated others take their places, so an
item may be in both sets. Ranks are counted as far as N + 20 T: beyond, w+ is 1 in double precision. A user with fewer
than K unobserved items has shorter sets: all of them, twice.

With ``dcd_item_weight`` each item's ranking of users is corrected as well, of the batch's distinct positive items, by
the same formulas with the sides swapped, K, N and T alike:

    L = L_DCD + lambda_I / lambda_U L_DCD of the items

Paper and code: this follows a description of a public re-implementation, whose student ranks the whole catalogue; the
unobserved items alone are our option. The item side is the paper's and not the re-implementation's; its weight is not
known to us, so that it is left out unless it is asked for. The authors' partial code compares ranks within the N items
alone, in every third epoch, draws again in each batch, and puts the under-estimated back into the teacher's order.
HetComp's authors report that the K items with the largest weights are better than a draw (``dcd_interesting: topk``);
of equal weights the teacher's better one is taken, and the order is that of the weights.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, cast

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter, EmbeddingAdapter
from recbole_derrd.config.options.schema import Options, option, published, share_of_users
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.preconditions import SHORTER, Requirement, require_unobserved
from recbole_derrd.distillers.rrd import PASSES, relaxed_ranking_loss
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.student_view import STUDENT_DIVERGED, eval_mode
from recbole_derrd.distillers.subsampling import Work, epoch_seed, listed_work, ranking_work
from recbole_derrd.distillers.swapped import ITEM_SIDE, SwappedStudent, swapped_knowledge
from recbole_derrd.errors import OptionError, TrainingError
from recbole_derrd.ops.top_k import ranks_in_rows, top_scores
from recbole_derrd.teacher import Knowledge
from recbole_derrd.teacher.exact import ExactSearch, hidden_entries, users_in_cache
from recbole_derrd.teacher.users import swapped

#: The authors publish no values; these are KDs'.
_PRESETS = {"citeulike-bpr-kds": {"weight": 0.01, "k": 100, "t": 10.0, "top_n": 500}}


@dataclasses.dataclass(frozen=True)
class DCDOptions(Options):
    """Dual Correction Distillation (CIKM 2021)."""

    prefix: ClassVar[str] = "dcd_"

    preset: str | None = published(_PRESETS)
    weight: float = option(0.01, "Weight of the term in the loss.", low=0)
    item_weight: float = option(
        0.0,
        "Weight of the item side (each item's ranking of users) in units of the user side's; 0 leaves it out.",
        low=0,
    )
    k: int = option(100, "Under-estimated items a user, and as many over-estimated ones (K).", low=1)
    t: float = option(
        10.0,
        "Scale of the differences of ranks (T): far above it, a larger one hardly makes an item more likely.",
        above=0,
    )
    top_n: int = option(500, "Length of the teacher's ranking that both are drawn from (N).", low=1)
    interesting: str = option(
        "sampled",
        "Items: drawn by their weights in each epoch, or the K with the largest weights.",
        choices=("sampled", "topk"),
    )
    student_ranks: str = option(
        "all",
        "Items that the student's ranks count: all, as in the public code, or those without a training interaction "
        "(unobserved), as the teacher's ranking does.",
        choices=("all", "unobserved"),
    )
    sample: float | str = share_of_users(auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.top_n < self.k:
            raise OptionError(
                f"dcd_top_n = {self.top_n} is shorter than dcd_k = {self.k}: the items are drawn from that ranking. "
                "Raise dcd_top_n or lower dcd_k."
            )


#: Weight of an item that is not under-estimated, or not over-estimated.
_LEAST = 1e-5
#: tanh is 1 from here on, in double precision.
_SATURATED = 20.0
#: Entries of the rankings that are drawn from at once; bounds the memory of drawing to some 20 MB.
_DRAWN_AT_ONCE = 1 << 19


def ranks_of(scores: Tensor, items: Tensor, depth: int) -> Tensor:
    """Return how many items have a higher score than these, counted as far as ``depth``; the padding item is none.

    Args:
        scores: of the whole catalogue [n, n_items].
        items: [n, m], int64.
        depth: at most n_items - 1.

    Returns:
        Ranks from 0 [n, m], int64; ``depth`` where there are more.

    Raises:
        TrainingError: a score is NaN, which has no rank.
    """
    scores = scores.detach()
    every, wanted = scores[:, 1:], scores.gather(1, items)
    # The maximum of what holds NaN is NaN.
    if every.amax().isnan():
        raise TrainingError(STUDENT_DIVERGED)
    if scores.device.type == "cpu":
        return ranks_in_rows(every, wanted, depth)
    best = top_scores(every, depth)[0].flip(1).contiguous()
    return depth - torch.searchsorted(best, wanted, right=True)


def discrepancies(ranks: Tensor) -> Tensor:
    """Return d_i, the student's ranks [n, N] of the teacher's ranking less the teacher's own, 0 .. N - 1."""
    return ranks - torch.arange(ranks.shape[1], device=ranks.device)


def correction_weights(differences: Tensor, t: float) -> Tensor:
    """Return w of d_i of any shape, in double precision: w+ of d, w- of -d."""
    return (differences.double() / t).clamp(min=0).tanh().clamp(min=_LEAST)


def drawn_in_order(weights: Tensor, uniform: Tensor, count: int) -> Tensor:
    """Return positions drawn without replacement in proportion to weights, in the order in which they are drawn.

    Each position arrives after an exponential time with its weight as rate; the first to arrive are drawn.

    Args:
        weights: [n, N], float64; positions of weight 0 come last, in no particular order.
        uniform: random numbers in [0, 1), [n, N], float64.
        count: at most N.

    Returns:
        [n, count], int64.
    """
    return (-uniform.log() / weights).topk(count, dim=1, largest=False, sorted=True).indices


def largest_in_order(weights: Tensor, count: int) -> Tensor:
    """Return the positions of each row's ``count`` largest weights, the largest first, of equal ones the first."""
    return weights.sort(dim=1, descending=True, stable=True).indices[:, :count]


class DualCorrectionDistillation(Distiller[DCDOptions]):
    """DCD as a loss term; see the file's head for the formula."""

    name = "dcd"
    options_class = DCDOptions
    needs = frozenset({Need.TOP_ITEMS})
    citation = (
        "Youngjune Lee, Kee-Eung Kim: Dual Correction Strategy for Ranking Distillation in Top-N Recommender System, "
        "CIKM 2021"
    )
    test_settings: ClassVar = {"k": 4, "t": 3.0, "top_n": 12}
    # On CiteULike a student of 64 users a step is as good as one of all 736.
    fewest: ClassVar = 64

    def __init__(self, options: DCDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's rankings.

        Raises:
            OptionError: nearly all users have fewer than K unobserved items.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        self.rankings = torch.from_numpy(knowledge.top_items(options.top_n))
        #: Whether every user has K items.
        self.all_full = bool((self.rankings[1:, options.k - 1] > 0).all())
        self.item_side: DualCorrectionDistillation | None = None
        if options.item_weight > 0:
            if not isinstance(student, EmbeddingAdapter):
                raise OptionError(
                    "dcd_item_weight ranks all users for each item, which only students with embeddings of users and "
                    "items can in good time. Take it out for this student, or use ir_rrd."
                )
            own = dataclasses.replace(options, item_weight=0.0, sample=1.0)
            swapped_student = cast(Adapter, SwappedStudent(student))
            self.item_side = type(self)(own, swapped_knowledge(knowledge), swapped_student, seed + ITEM_SIDE)
            # One stream of random numbers, whose state a training checkpoint keeps.
            self.item_side.share_of, self.item_side.generator = self.share, self.generator
        # One row a user: K under-estimated items in the order of the draw, then K over-estimated ones; 0 for positions
        # without.
        self.items: Tensor | None = None

    @classmethod
    def requirements(cls, options: DCDOptions, history: History) -> list[Requirement]:
        """Ask for K unobserved items of each user."""
        found = [require_unobserved(history, options.k, "dcd_k", "dcd_k to {}", SHORTER)]
        if options.item_weight > 0:
            found.append(
                require_unobserved(
                    swapped(history),
                    options.k,
                    "dcd_k",
                    "dcd_k to {}",
                    SHORTER,
                    side="item",
                    reason="users who have not interacted with them",
                    more=", or take the item side out with dcd_item_weight: 0",
                )
            )
        return found

    def begin_epoch(self, epoch: int) -> None:
        """Compare the student's ranks with the teacher's, and draw the epoch's items for all users."""
        # Drawn on the CPU, so that a GPU run draws by the same random numbers.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        n_users, width = self.rankings.shape
        items = torch.zeros(n_users, 2 * self.options.k, dtype=torch.int32)
        fitting = ExactSearch(self.student, self.knowledge.history, width).chunk
        users_at_once = max(1, min(fitting, _DRAWN_AT_ONCE // width))
        with eval_mode(self.student):
            for start in range(1, n_users, users_at_once):
                stop = min(start + users_at_once, n_users)
                items[start:stop] = self._draw(start, stop, generator)
        self.items = items.to(self.student.device)
        if self.item_side is not None:
            self.item_side.begin_epoch(epoch)

    def _draw(self, start: int, stop: int, generator: torch.Generator) -> Tensor:
        options, rankings = self.options, self.rankings[start:stop]
        differences = discrepancies(self._student_ranks(start, stop))
        weights = [
            # A ranking ends in zeros where there are no more items: these come last.
            correction_weights(one, options.t).masked_fill(rankings == 0, 0)
            for one in (differences, -differences)
        ]
        if options.interesting == "topk":
            positions = [largest_in_order(one, options.k) for one in weights]
        else:
            # In one call, so that the draw does not depend on how many users are drawn for at once.
            uniform = torch.rand(len(rankings), 2, rankings.shape[1], dtype=torch.float64, generator=generator)
            positions = [drawn_in_order(one, uniform[:, side], options.k) for side, one in enumerate(weights)]
        return rankings.gather(1, torch.cat(positions, dim=1))

    def _student_ranks(self, start: int, stop: int) -> Tensor:
        """Return the student's ranks of the teacher's ranking of users start .. stop - 1, on the CPU."""
        blocks = users_in_cache(self.student.device, self.knowledge.n_items, start, stop)
        return torch.cat([self._ranks_of_block(*block) for block in blocks])

    def _ranks_of_block(self, start: int, stop: int) -> Tensor:
        device, options = self.student.device, self.options
        depth = min(self.knowledge.n_items - 1, self.rankings.shape[1] + math.ceil(_SATURATED * options.t))
        scores = self.student.score_all(torch.arange(start, stop, device=device)).float()
        if options.student_ranks == "unobserved":
            # A copy: the scores may lie in the student's own memory.
            scores = scores.clone()
            scores[hidden_entries(self.knowledge.history, start, stop, device)] = -torch.inf
        return ranks_of(scores, self.rankings[start:stop].long().to(device), depth).cpu()

    def work(self) -> Work:
        """Return the work of a user's 2 K items and of an epoch's rankings; doubled with an item side."""
        both = 1 if self.item_side is None else 2
        return Work(
            both * listed_work(self.student, 2 * self.options.k, PASSES), epoch=both * ranking_work(self.student)
        )

    def _one_side(self, batch: StepBatch) -> Tensor:
        """Return the sum over the batch's users divided by its rows."""
        scores, scale, (items,) = self.drawn_scores(batch, self.items)
        held = None if self.all_full else items > 0
        k = self.options.k
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            scores = scores.float()
            return scale * relaxed_ranking_loss(scores[:, :k], scores[:, k:], held).sum() / batch.rows

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_DCD of the batch divided by its rows.

        Under mixed precision the scores come as the student gives them; the loss is float32.

        Raises:
            OptionError: the item side is asked for, and the batch has users only.
        """
        loss = self._one_side(batch)
        if self.item_side is None:
            return loss
        if batch.positives is None:
            raise OptionError(
                "dcd_item_weight needs the items of a batch, and this model is trained on whole users. Take it out."
            )
        if not len(batch.positives):
            return loss
        of_items = self.item_side._one_side(StepBatch(batch.positives, None, None, batch.rows))
        return loss + self.options.item_weight * of_items
