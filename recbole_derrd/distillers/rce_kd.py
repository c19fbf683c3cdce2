r"""RCE-KD: cross-entropy with the teacher over the student's own best items, and over items drawn where both agree.

Rejuvenated cross-entropy, arXiv 2509.20989, 2025. Cross-entropy over some items of a user bounds NDCG only where these
hold the student's own best ones, which the teacher's best often are not. So there are two terms, H being that over a
set S of items:

    L = sum_u (1 - w_u) H_u(Q_S) + w_u H_u(A + (Q_T - Q_S)),    w_u = exp(-beta |Q_T and A| / K)
    H_u(S) = - sum_{i in S} q_i log p_i,    q = softmax(t_u / tau),    p = softmax(s_u / tau),    both over S

over the batch's distinct users, s and t being the student's and the teacher's logits. Q_T are the teacher's K best of
all items, training items among them; Q_S are the student's K best, found again in each epoch. A are L of the student's
m best, drawn in each epoch without replacement, position p of these with a weight of

    exp((min(n_p, 50) + 1) / T),    n_p the number of Q_T's items at position p or below

so that positions above the teacher's items are the likelier ones. The more of Q_T is in A, the less H_u(A + (Q_T -
Q_S)), which pulls up what the student does not rank yet, counts.

Paper and code: this is written from a description of the authors' code. By summaries of it, the paper takes all of the
student's Q_S in place of A in w_u, and draws from the items above those of Q_T that the student misses; the code, and
this, count all of Q_T and look at the student's m best alone. The code counts a user once for each row of the batch;
here a user counts once, and that variant is not offered, as a batch's distinct users are all that a method is given.
``rce_kd_weighting: rank`` is a variant of the code's, weights exp(-p / T).

A catalogue of fewer than K, L or m items has all of them in the set in question, and K in w_u is then its size. An item
that has no score of the teacher's, as those that are in no ranking of an ensemble, is not in Q_T and has no share of q;
H_u of a set of such items is 0.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import Options, option, published, share_of_users
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.listwise import cross_entropy
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.student_view import eval_mode, student_rankings
from recbole_derrd.distillers.subsampling import Work, epoch_seed, listed_work, ranking_work
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.sampling import sample_weighted_positions
from recbole_derrd.teacher import Knowledge
from recbole_derrd.teacher.exact import ExactSearch

#: The authors' code. T is 10 in all; trained with batches of 2,048.
_PRESETS = {
    "citeulike-bpr": {"weight": 500.0, "tau": 1.0, "k": 50, "l": 50, "m": 200, "beta": 3.0},
    "citeulike-bpr-from-lightgcn": {"weight": 100.0, "tau": 10.0, "k": 50, "l": 50, "m": 200, "beta": 5.0},
    "citeulike-lightgcn": {"weight": 500.0, "tau": 1.0, "k": 50, "l": 100, "m": 200, "beta": 10.0},
    "gowalla-bpr": {"weight": 10.0, "tau": 1.0, "k": 100, "l": 50, "m": 100, "beta": 5.0},
    "gowalla-bpr-from-lightgcn": {"weight": 10000.0, "tau": 1.0, "k": 100, "l": 100, "m": 200, "beta": 5.0},
    "gowalla-lightgcn": {"weight": 50.0, "tau": 1.0, "k": 100, "l": 100, "m": 200, "beta": 15.0},
    "yelp2018-bpr": {"weight": 10.0, "tau": 1.0, "k": 100, "l": 50, "m": 100, "beta": 5.0},
    "yelp2018-bpr-from-lightgcn": {"weight": 50.0, "tau": 1.0, "k": 100, "l": 100, "m": 500, "beta": 11.0},
    "yelp2018-lightgcn": {"weight": 10.0, "tau": 1.0, "k": 100, "l": 100, "m": 200, "beta": 10.0},
}


@dataclasses.dataclass(frozen=True)
class RCEKDOptions(Options):
    """Rejuvenated cross-entropy (arXiv 2509.20989)."""

    prefix: ClassVar[str] = "rce_kd_"

    preset: str | None = published(_PRESETS)
    # The least of the presets' weights, 10 to 10,000, which go by data set and not by model.
    weight: float = option(10.0, "Weight of the term in the loss.", low=0)
    k: int = option(50, "The teacher's and the student's best items of a user (K).", low=1)
    l: int = option(  # noqa: E741 (the paper's L)
        50, "Items drawn for each user and epoch from the student's best (L).", low=1
    )
    m: int = option(200, "The student's best items that these are drawn from (m).", low=1)
    tau: float = option(1.0, "Temperature of all softmaxes (tau).", above=0)
    beta: float = option(
        5.0, "How fast the second term loses weight to the first as the drawn items hold the teacher's best.", low=0
    )
    t: float = option(10.0, "Temperature of the draw (T); large draws uniformly.", above=0)
    weighting: str = option(
        "teacher",
        "Which positions of the student's ranking are more likely to be drawn: those with more of the teacher's best "
        "items from there on, exp((min(n_p, 50) + 1) / T), or the first ones, exp(-p / T).",
        choices=("teacher", "rank"),
    )
    sample: float | str = share_of_users(auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.l > self.m:
            raise OptionError(
                f"rce_kd_l = {self.l} is more than rce_kd_m = {self.m}: items are drawn from the student's m best. "
                "Raise rce_kd_m or lower rce_kd_l."
            )


#: Above this many of the teacher's items from a position on, more make it no likelier.
_MOST_COUNTED = 50
#: Entries of the rankings that are drawn from at once; bounds the memory of drawing to some 20 MB.
_DRAWN_AT_ONCE = 1 << 19


def contained(items: Tensor, others: Tensor) -> Tensor:
    """Return which items [n, a] are among the others [n, b] of their row; the padding item 0 is not."""
    ordered = others.sort(dim=1).values
    place = torch.searchsorted(ordered, items.contiguous()).clamp_(max=ordered.shape[1] - 1)
    return (ordered.gather(1, place) == items) & (items > 0)


def log_draw_weights(ranked: Tensor, best: Tensor, temperature: float) -> Tensor:
    """Return ln of each position's weight, (min(n_p, 50) + 1) / T.

    Args:
        ranked: the student's ranking [n, m], best first.
        best: the teacher's best items [n, K], in any order; 0 for none.
        temperature: T.

    Returns:
        [n, m], float64; n_p counts the teacher's items at a position or below.
    """
    below = contained(ranked, best).double().flip(1).cumsum(dim=1).flip(1)
    return (below.clamp(max=_MOST_COUNTED) + 1) / temperature


def mixing_weight(shared: Tensor, k: int, beta: float) -> Tensor:
    """Return w = exp(-beta |Q_T and A| / K) of these numbers of shared items [n], float32."""
    return (shared * (-beta / k)).exp()


def rejuvenated_loss(
    student: Tensor, teacher: Tensor, held: Tensor, k: int, mixing: Tensor, temperature: float
) -> Tensor:
    """Return each user's (1 - w) H(Q_S) + w H(A + (Q_T - Q_S)).

    Args:
        student: logits [n, K + L + K] of Q_S, of A, and of what is left of Q_T.
        teacher: the teacher's logits of these.
        held: which of them there are.
        k: K.
        mixing: w of each user [n].
        temperature: tau.

    Returns:
        Loss of each user [n].
    """
    own = cross_entropy(student[:, :k], teacher[:, :k], held[:, :k], temperature)
    drawn = cross_entropy(student[:, k:], teacher[:, k:], held[:, k:], temperature)
    return (1 - mixing) * own + mixing * drawn


class RejuvenatedCrossEntropy(Distiller[RCEKDOptions]):
    """RCE-KD as a loss term; see the file's head for the formula."""

    name = "rce_kd"
    options_class = RCEKDOptions
    needs = frozenset({Need.TOP_ITEMS, Need.SCORES})
    citation = "Rejuvenated cross-entropy (RCE-KD), arXiv 2509.20989, 2025"
    test_settings: ClassVar = {"k": 4, "l": 5, "m": 12, "beta": 2.0, "t": 3.0}
    # On CiteULike 184 users a step are behind all 736.
    fewest: ClassVar = 512

    def __init__(self, options: RCEKDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Rank the teacher's K best items of each user."""
        super().__init__(options, knowledge, student, seed)
        #: Q_T [n_users, K], 0 where the teacher has no more scores; on the CPU, where items are drawn.
        self.best = self._teachers_best(min(options.k, knowledge.n_items - 1))
        #: The teacher's logits of these, which stay as they are.
        self.best_logits = self._teachers_scores(self.best)
        #: Q_S, A and what is left of Q_T [n_users, K + L + K], drawn again in each epoch; 0 for none.
        self.items: Tensor | None = None
        #: The teacher's logits of these, and w of each user.
        self.logits: Tensor | None = None
        self.mixing: Tensor | None = None

    def _teachers_best(self, count: int) -> Tensor:
        """Return the teacher's best items of all, training items among them [n_users, count], int32."""
        knowledge = self.knowledge
        search = ExactSearch(knowledge.teacher, knowledge.history.without_items(), count)
        best = torch.zeros(knowledge.n_users, count, dtype=torch.int32)
        with torch.no_grad(), knowledge.teacher.shared():
            for start, stop in search.chunks():
                best[start:stop] = search.rankings(start, stop).cpu()
        return best.masked_fill_(self._teachers_scores(best) == -torch.inf, 0)

    def _teachers_scores(self, items: Tensor) -> Tensor:
        """Return the teacher's logits of items of all users [n_users, a], 0 for the padding user."""
        scores = torch.zeros(items.shape)
        scores[1:] = self.knowledge.scores(torch.arange(1, len(items)), items[1:].long())
        return scores

    def begin_epoch(self, epoch: int) -> None:
        """Rank the student's best items again, draw from them, and ask the teacher for the scores."""
        options, (n_users, k) = self.options, self.best.shape
        every, device = self.knowledge.n_items - 1, self.student.device
        # Drawn on the CPU, so that a GPU run draws the same items from the same rankings.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        search = ExactSearch(self.student, self.knowledge.history.without_items(), min(max(k, options.m), every))
        items = torch.zeros(n_users, k + min(options.l, every) + k, dtype=torch.int32)
        shared = torch.zeros(n_users)
        users_at_once = max(1, _DRAWN_AT_ONCE // search.count)
        with eval_mode(self.student), torch.autocast(device_type=device.type, enabled=False):
            for first, last in search.chunks():
                start = first
                for ranked in student_rankings(search, first, last).split(users_at_once):
                    stop = start + len(ranked)
                    items[start:stop], shared[start:stop] = self._drawn(ranked, self.best[start:stop], generator)
                    start = stop
            known = self.knowledge.known("item")
            if known is not None:
                items.masked_fill_(~torch.from_numpy(known)[items.long()], 0)
            # What is left of Q_T is in its own columns.
            logits = torch.cat([self._teachers_scores(items[:, :-k]), self.best_logits], dim=1)
        self.items, self.logits = items.to(device), logits.to(device)
        self.mixing = mixing_weight(shared, k, options.beta).to(device)

    def _drawn(self, ranked: Tensor, best: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return Q_S, A and what is left of Q_T of users with these rankings, and how many of Q_T are in A."""
        options = self.options
        own, pool = ranked[:, : best.shape[1]], ranked[:, : options.m]
        if options.weighting == "teacher":
            weights = log_draw_weights(pool, best, options.t)
        else:
            weights = (torch.arange(pool.shape[1], dtype=torch.float64) / -options.t).expand(pool.shape)
        positions = sample_weighted_positions(weights, min(options.l, pool.shape[1]), generator)
        drawn = pool.gather(1, positions)
        in_drawn = contained(best, drawn)
        left = best.masked_fill(in_drawn | contained(best, own), 0)
        return torch.cat([own, drawn, left], dim=1), in_drawn.sum(dim=1)

    def work(self) -> Work:
        """Return the work of a user's three sets of items, and of an epoch's rankings."""
        k, every = self.best.shape[1], self.knowledge.n_items - 1
        listed = listed_work(self.student, 2 * k + min(self.options.l, every), passes=24)
        return Work(listed, epoch=ranking_work(self.student))

    def forward(self, batch: StepBatch) -> Tensor:
        """Return the distinct users' loss divided by the batch's rows, in float32."""
        scores, scale, (items, logits, mixing) = self.drawn_scores(batch, self.items, self.logits, self.mixing)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            k, tau = self.best.shape[1], self.options.tau
            return scale * rejuvenated_loss(scores.float(), logits, items > 0, k, mixing, tau).sum() / batch.rows
