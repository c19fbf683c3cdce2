r"""HetComp: one ranking of several teachers, easy snapshots of it first, its order last.

SeongKu Kang, Wonbin Kweon, Dongha Lee, Jianxun Lian, Xing Xie, Hwanjo Yu: "Distillation from Heterogeneous Models for
Top-K Recommendation", WWW 2023. A user u is taught two rankings: P_u, K unobserved items, the best of an ensemble of
the teachers' rankings (``rank_fusion.py``), and O_u, the teachers' best of the user's training items. The ensemble
takes each teacher at the snapshot that u has come to (``curriculum.py``), from early and easy ones to the last. With s
the student's logits, N_u the user's unobserved items and R_u = sum_{j in N_u \ P_u} e^{s_j}, phase 1 asks that both
rankings are above the rest, in whatever order:

    L_O = - sum_u sum_{i in O_u, P_u} log( e^{s_i} / (e^{s_i} + R_u) )

Once all users have come to the last snapshots, phase 2 asks for the order:

    L_F = sum_u LM(O_u, |O_u|, R_u(n_1)) + mean over n of { LM(P_u, n, R_u(n)) },    n = n_1, n_2 = K / 2, K / 10
    LM(pi, n, R) = - sum_{l=1..n} log( e^{s_{pi_l}} / (sum_{q=l..n} e^{s_{pi_q}} + R) )
    R_u(n) = sum over N_u without P_u's first n items of e^{s_j}

over the batch's distinct users. sum_{q=l..n} e^{s_{P_q}} + R_u(n) is the same for every n, so one pass over P_u does.

Paper and code: the paper's equations were not accessible; this follows descriptions of the authors' program, whose
weights are 0.01 L_O and 0.005 L_F (its first release: 1 and 1, with n = K alone). There the term is the whole loss;
here it is added to the student's own. The code finds R by subtraction and clamps it and the scores; here R is a sum of
what is in it. What else differs is said in ``curriculum.py``, ``discrepancy.py`` and ``rank_fusion.py``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import Options, option, share_of_users
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need, StepBatch, eval_mode, student_rankings, subsample
from recbole_derrd.distillers.curriculum import advance, is_finished, is_step, threshold
from recbole_derrd.distillers.discrepancy import discrepancy
from recbole_derrd.distillers.full_catalogue import full_softmax_sum
from recbole_derrd.distillers.partition import (
    SparseScores,
    estimated_log_partition,
    log_partition,
    partition_sum,
    sampled_partition,
)
from recbole_derrd.distillers.rank_fusion import fused_history, fused_rankings
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.full_softmax import LOWEST, hidden_pairs
from recbole_derrd.runtime.processes import gather_rows, shard_range
from recbole_derrd.teacher import Knowledge
from recbole_derrd.teacher.exact import ExactSearch


@dataclasses.dataclass(frozen=True)
class HetCompOptions(Options):
    """HetComp: easy rankings first, whole ensembles of teachers (WWW 2023)."""

    prefix: ClassVar[str] = "hetcomp_"

    weight: float = option(
        0.01, "Weight of the term while the rankings still change (phase 1); 0 takes the whole method out.", low=0
    )
    fine_weight: float = option(0.005, "Weight of the term once they are the teachers' last (phase 2).", low=0)
    k: int = option(100, "Length of the ranking that a user is taught (K).", low=1)
    observed: int = option(10, "Training items a user that are taught as well, the teachers' best (K/10).", low=0)
    top_n: int = option(100, "Length of the lists that are kept of each snapshot of each teacher (N).", low=1)
    trajectory: bool = option(
        True, "Whether teaching begins with earlier snapshots of the teachers; False is the ablation without them."
    )
    fine: str = option(
        "parts",
        "Phase 2 teaches the order of K/2 and of K/10 items, on average (parts, the published code), or of all K "
        "(whole, its first release); none stays with the losses of phase 1, as an ablation.",
        choices=("parts", "whole", "none"),
    )
    interval: int = option(10, "The student is compared with the teachers' next snapshots every so many epochs.", low=1)
    alpha: float = option(
        1.05,
        "A user goes on to a teacher's next snapshot once the discrepancy to it has shrunk by this factor, which falls "
        "by 0.5 % each time.",
        above=0,
    )
    variant: str = option(
        "default",
        "Who goes on, and when phase 2 begins. default: users who have come closer or gone further; once all are at "
        "the last snapshots. published: once each teacher's mean snapshot is the last to two decimals. first_release: "
        "only users who have come closer go on.",
        choices=("default", "published", "first_release"),
    )
    discrepancy_k: int = option(50, "Length of the lists that are compared (k).", low=1)
    remainder: int = option(
        0,
        "Items outside the K that stand for the rest of the catalogue, drawn anew for each user and step; 0 is all of "
        "them, exactly.",
        low=0,
    )
    sample: float = share_of_users()

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        for name in ("k", "discrepancy_k"):
            if self.top_n < getattr(self, name):
                raise OptionError(
                    f"hetcomp_top_n = {self.top_n} is shorter than hetcomp_{name} = {getattr(self, name)}, which "
                    f"is taken from these lists. Raise hetcomp_top_n or lower hetcomp_{name}."
                )

    @property
    def fine_lengths(self) -> list[int]:
        """How many of the K items phase 2 ranks; it averages over these lengths."""
        return [self.k] if self.fine == "whole" else [max(1, self.k // 2), max(1, self.k // 10)]

    @property
    def move(self) -> str:
        """Who goes on to the next snapshot, see :func:`~recbole_derrd.distillers.curriculum.ready`."""
        return "closer" if self.variant == "first_release" else "closer_or_further"

    @property
    def finish(self) -> str:
        """When phase 2 begins, see :func:`~recbole_derrd.distillers.curriculum.is_finished`."""
        return "rounded" if self.variant == "published" else "all"


#: Entries of the teachers' rankings that are merged at once; bounds the memory of merging to some 30 MB.
_FUSED_AT_ONCE = 1 << 19


def overall_relation_loss(scores: Tensor, held: Tensor, log_partition_term: Tensor) -> Tensor:
    r"""Return each user's -sum_i log(e^{s_i} / (e^{s_i} + R)) over the items of O and P, which do not compete.

    Args:
        scores: logits of O's and P's items [n, m], in any order.
        held: which positions hold an item [n, m]; the others' scores are any finite numbers and take no part.
        log_partition_term: log R [n]; -1e30 where no other item is left, which makes the loss 0.

    Returns:
        Loss of each user [n]; 0 at best, m log(1 + r) where all logits are equal and r items are left.
    """
    return -functional.logsigmoid(scores - log_partition_term.unsqueeze(1)).masked_fill(~held, 0).sum(dim=1)


def _log_tails(scores: Tensor, held: Tensor, log_partition_term: Tensor) -> Tensor:
    """Return log(sum_{q >= l} e^{s_q} + R) of each place l [n, m]; held positions come first in their rows."""
    tails = scores.masked_fill(~held, LOWEST).flip(1).logcumsumexp(dim=1).flip(1)
    return torch.logaddexp(tails, log_partition_term.unsqueeze(1))


def fine_order_loss(
    observed: tuple[Tensor, Tensor], ranked: tuple[Tensor, Tensor], log_partition_term: Tensor, lengths: list[int]
) -> Tensor:
    r"""Return each user's LM(O, |O|, R(n_1)) + mean over n of LM(P, n, R(n)).

    Args:
        observed: logits of O's items [n, o], in the teachers' order, and which positions hold one; these come first.
        ranked: the same of P's items [n, K].
        log_partition_term: log of R = sum e^{s_j} over the unobserved items outside P [n]; -1e30 where there are none.
        lengths: the n of the mean, each from 1 to K; n_1 is the largest.

    Returns:
        Loss of each user [n]; at best near 0.
    """
    scores, held = ranked
    longest = max(lengths)
    place = torch.arange(scores.shape[1], device=scores.device)
    share = sum((place < length).to(scores.dtype) for length in lengths) / len(lengths)
    losses = (share * (_log_tails(scores, held, log_partition_term) - scores)).masked_fill(~held, 0).sum(dim=1)
    below = log_partition_term
    if longest < scores.shape[1]:
        later = scores[:, longest:].masked_fill(~held[:, longest:], LOWEST)
        below = torch.logaddexp(log_partition_term, later.logsumexp(dim=1))
    scores, held = observed
    return losses + (_log_tails(scores, held, below) - scores).masked_fill(~held, 0).sum(dim=1)


class HeterogeneousDistillation(Distiller):
    """HetComp as a loss term; see the file's head for the formula.

    Its buffers are where the users stand. They are in the training checkpoint, so that a resumed run goes on from
    there, and not in the student's.
    """

    name = "hetcomp"
    options_class = HetCompOptions
    needs = frozenset({Need.TRAJECTORY})
    citation = (
        "SeongKu Kang, Wonbin Kweon, Dongha Lee, Jianxun Lian, Xing Xie, Hwanjo Yu: Distillation from Heterogeneous "
        "Models for Top-K Recommendation, WWW 2023"
    )
    test_settings: ClassVar = {"k": 8, "observed": 2, "top_n": 12, "discrepancy_k": 6}

    snapshot: Tensor
    kept: Tensor
    stepped: Tensor
    finished: Tensor

    def __init__(self, options: HetCompOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teachers' rankings of every snapshot, and rank the training items.

        Raises:
            OptionError: no user has more than K unobserved items.
        """
        super().__init__(options, knowledge, student, seed)
        history, device = knowledge.history, student.device
        self.check(options, history)
        trajectories = knowledge.trajectories(options.top_n)
        #: Rankings of each teacher [V_m, n_users, N].
        self.rankings = trajectories if options.trajectory else [rankings[-1:] for rankings in trajectories]
        self.counts = torch.tensor([len(rankings) for rankings in self.rankings])
        self.observed = self._observed().to(device)
        #: The ensemble's list of each user, P [n_users, K].
        self.ranked = torch.zeros(history.n_users, options.k, dtype=torch.int32, device=device)
        self._seen = torch.from_numpy(history.items).to(device)
        self._indptr = torch.from_numpy(history.indptr).to(device)
        # int32: not every backend of several processes knows shorter numbers.
        start = torch.zeros(history.n_users, len(self.rankings), dtype=torch.int32)
        #: Snapshots that ``ranked`` was merged from; -1 is none yet.
        self._fused = torch.full_like(start, -1)
        self._finished = is_finished(start[1:], self.counts)
        self.register_buffer("snapshot", start.to(device))
        self.register_buffer("kept", torch.zeros(start.shape, device=device))
        #: The epoch after which snapshots were looked at last; -1 is never.
        self.register_buffer("stepped", torch.tensor(-1, device=device))
        self.register_buffer("finished", torch.tensor(self._finished, device=device))
        self._behind = True

    @classmethod
    def check(cls, options: HetCompOptions, history: History) -> None:
        """Refuse a K that leaves nobody any other items."""
        most = history.n_items - 1 - int(history.lengths[1:].min())
        if most <= options.k:
            raise OptionError(
                f"hetcomp_k = {options.k} leaves nothing for its items to be above: no user has more than {most} "
                f"unobserved items. Set hetcomp_k to {max(1, most // 10)} or so."
            )

    def _observed(self) -> Tensor:
        """Return O of all users [n_users, o]: the order of the teachers' last snapshots, whichever the users are at."""
        options, history = self.options, self.knowledge.history
        weights = self.knowledge.importance.of_list(max(1, int(history.lengths.max())))
        ranks = self.knowledge.observed_ranks()
        return fused_history(ranks, history.indptr, history.items, weights, options.observed)

    # -- where the users stand

    @property
    def in_fine_order(self) -> bool:
        """Whether the term is L_F (phase 2)."""
        return self.options.fine != "none" and self._finished

    @property
    def weight(self) -> float:
        """Weight of the present phase's term; with hetcomp_weight: 0 there is none in either."""
        options = self.options
        return float(options.fine_weight if options.weight and self.in_fine_order else options.weight)

    def progress(self) -> dict[str, float]:
        """Return the share of users at each snapshot, as ``teacher0/version0`` ..., and whether phase 2 may begin."""
        snapshot = self.snapshot[1:].long().cpu()
        shares = {
            f"teacher{teacher}/snapshot{index}": float(share)
            for teacher, count in enumerate(self.counts.tolist())
            for index, share in enumerate(snapshot[:, teacher].bincount(minlength=count).double() / len(snapshot))
        }
        return {**shares, "finished": float(self._finished)}

    def progress_note(self, finished: bool) -> str | None:
        """Return when all users have arrived, or that they have not."""
        if finished:
            return "all users are at the teachers' last snapshots"
        return (
            "the training ended before all users had come to the teachers' last snapshots. More epochs or a shorter "
            "hetcomp_interval give the schedule time to end"
        )

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        # Kept beside the buffer: asking an accelerator in each step would stop its queue of work.
        self._finished = bool(self.finished)
        self._behind = True

    def begin_epoch(self, epoch: int) -> None:
        """Take the schedule's step after the epoch before this one, where there is one, and merge what has moved."""
        past = epoch - 1
        if not self._finished and is_step(past, self.options.interval) and past != int(self.stepped):
            self._step(past)
        self._catch_up()

    def _step(self, epoch: int) -> None:
        """Compare the student's rankings of all users with the teachers' next snapshots, each process some users'."""
        options = self.options
        bar = None if int(self.stepped) < 0 else threshold(options.alpha, epoch, options.interval)
        low, high = (bound + 1 for bound in shard_range(self.knowledge.n_users - 1))
        snapshot, kept = self.snapshot[low:high].cpu().long(), self.kept[low:high].cpu().clone()
        width = min(options.discrepancy_k, self.rankings[0].shape[2])
        search = ExactSearch(self.student, self.knowledge.history, width)
        with eval_mode(self.student):
            for start in range(low, high, search.chunk):
                stop = min(start + search.chunk, high)
                own = student_rankings(search, start, stop)
                users = torch.arange(start, stop)

                def distance(snapshots: Tensor, own: Tensor = own, users: Tensor = users) -> Tensor:
                    rankings = self._rankings(users, snapshots)
                    parts = [discrepancy(own, theirs, width) for theirs in rankings.unbind(1)]
                    return torch.stack(parts, dim=1)

                rows = slice(start - low, stop - low)
                snapshot[rows], kept[rows] = advance(
                    snapshot[rows], kept[rows], self.counts, distance, bar, options.move
                )
        device = self.snapshot.device
        self.snapshot[1:] = gather_rows(snapshot.int().to(device))
        self.kept[1:] = gather_rows(kept.to(device))
        self.stepped.fill_(epoch)
        self._finished = is_finished(self.snapshot[1:].cpu(), self.counts, options.finish)
        self.finished.fill_(self._finished)
        self._behind = True

    def _rankings(self, users: Tensor, snapshots: Tensor) -> Tensor:
        """Return the teachers' rankings [n, M, N] of users [n] at snapshots [n, M]."""
        chosen = [
            torch.from_numpy(rankings[snapshots[:, teacher].numpy(), users.numpy()])
            for teacher, rankings in enumerate(self.rankings)
        ]
        return torch.stack(chosen, dim=1)

    def _catch_up(self) -> None:
        """Merge the rankings of users whose snapshots are not those that they were merged from."""
        if not self._behind:
            return
        snapshot = self.snapshot.cpu()
        moved = (snapshot != self._fused).any(dim=1)
        moved[0] = False
        length = self.rankings[0].shape[2]
        weights = self.knowledge.importance.of_list(length)
        for users in moved.nonzero().squeeze(1).split(max(1, _FUSED_AT_ONCE // (len(self.rankings) * length))):
            ids, _ = fused_rankings(self._rankings(users, snapshot[users].long()), weights, self.options.k)
            self.ranked[users.to(self.ranked.device)] = ids.int().to(self.ranked.device)
        # On a CPU that was the buffer itself.
        self._fused = snapshot.clone()
        self._behind = False

    # -- the loss

    def _losses(self, scores: Tensor, held: Tensor, log_partition_term: Tensor) -> Tensor:
        if not self.in_fine_order:
            return overall_relation_loss(scores, held, log_partition_term)
        o = self.options.observed
        observed, ranked = (scores[:, :o], held[:, :o]), (scores[:, o:], held[:, o:])
        return fine_order_loss(observed, ranked, log_partition_term, self.options.fine_lengths)

    def _sparse(self, users: Tensor) -> SparseScores:
        """Return O and P side by side, and what is not in R: these and the training items."""
        ranked = self.ranked[users].long()
        rows, items = hidden_pairs(users, self._indptr, self._seen)
        ranked_rows = torch.arange(len(users), device=users.device).repeat_interleave(ranked.shape[1])
        hidden = torch.cat([rows, ranked_rows]), torch.cat([items, ranked.reshape(-1)])
        return SparseScores(torch.cat([self.observed[users].long(), ranked], dim=1), hidden)

    def _readable(self, users: Tensor) -> Tensor:
        """Return the users' summed loss over the whole catalogue, by autograd."""
        scores = self.student.score_all(users)
        with torch.autocast(device_type=scores.device.type, enabled=False):
            scores, picked = scores.float(), self._sparse(users)
            log_partition_term = log_partition(scores, picked.hidden)
            return self._losses(scores.gather(1, picked.items), picked.items > 0, log_partition_term).sum()

    def _estimated(self, users: Tensor) -> Tensor:
        """Return the users' summed loss with some items drawn for the rest of the catalogue."""
        picked, count = self._sparse(users), self.options.remainder
        drawn, sizes = sampled_partition(picked.hidden, len(users), self.student.n_items, count, self.generator)
        scores = self.student.score(users, torch.cat([picked.items, drawn], dim=1))
        with torch.autocast(device_type=scores.device.type, enabled=False):
            chosen, others = scores.float().split([picked.items.shape[1], count], dim=1)
            return self._losses(chosen, picked.items > 0, estimated_log_partition(others, sizes)).sum()

    def _sum(self, users: Tensor) -> Tensor:
        if self.options.remainder:
            return self._estimated(users)
        if not self.student.fused:
            return self._readable(users)

        def by_embeddings(own: Tensor, every: Tensor) -> Tensor:
            return partition_sum(own, every, lambda low, high: self._sparse(users[low:high]), self._losses)

        return full_softmax_sum(self.student, users, self._readable, by_embeddings)

    def forward(self, batch: StepBatch) -> Tensor:
        """Return the distinct users' summed L_O or L_F divided by the batch's rows, in float32."""
        self._catch_up()
        users, scale = subsample(batch.users, self.options.sample, self.generator)
        return scale * self._sum(users) / batch.rows
