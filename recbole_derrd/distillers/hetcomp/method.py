"""HetComp as a loss term: where the users stand, and which of the two losses they are taught by."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.full_catalogue import full_softmax_sum
from recbole_derrd.distillers.hetcomp.curriculum import advance, is_finished, is_step, threshold
from recbole_derrd.distillers.hetcomp.discrepancy import discrepancy
from recbole_derrd.distillers.hetcomp.losses import fine_order_loss, overall_relation_loss
from recbole_derrd.distillers.hetcomp.options import HetCompOptions
from recbole_derrd.distillers.hetcomp.partition import (
    ListedItems,
    estimated_log_partition,
    log_partition,
    partition_sum,
    sampled_partition,
)
from recbole_derrd.distillers.hetcomp.rank_fusion import fused_history, fused_rankings
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.student_view import eval_mode, student_rankings
from recbole_derrd.distillers.subsampling import Work, catalogue_work, listed_work, subsample
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.full_softmax import hidden_pairs
from recbole_derrd.runtime.processes import gather_rows, shard_range
from recbole_derrd.teacher import Knowledge
from recbole_derrd.teacher.exact import ExactSearch

#: Entries of the teachers' rankings that are merged at once; bounds the memory of merging to some 30 MB.
_FUSED_AT_ONCE = 1 << 19


class HeterogeneousDistillation(Distiller[HetCompOptions]):
    """HetComp as a loss term; see the package's head for the formulas.

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
        #: The ensemble's ranking of each user, P [n_users, K].
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
        """Refuse a K that leaves no user any other items."""
        most = history.n_items - 1 - int(history.lengths[1:].min())
        if most <= options.k:
            raise OptionError(
                f"hetcomp_k = {options.k} leaves nothing for its items to be above: no user has more than {most} "
                f"unobserved items. Set hetcomp_k to {max(1, most // 10)} or so."
            )

    def _observed(self) -> Tensor:
        """Return O of all users [n_users, o]: the order of the teachers' last snapshots, whichever the users are at."""
        options, history = self.options, self.knowledge.history
        weights = self.knowledge.rank_weighting.of_ranking(max(1, int(history.lengths.max())))
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
        """Return the share of users at each snapshot, as ``teacher0/snapshot0`` ..., and whether phase 2 may begin."""
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
        weights = self.knowledge.rank_weighting.of_ranking(length)
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

    def _listed(self, users: Tensor) -> ListedItems:
        """Return O and P side by side, and what is not in R: these and the training items."""
        ranked = self.ranked[users].long()
        rows, items = hidden_pairs(users, self._indptr, self._seen)
        ranked_rows = torch.arange(len(users), device=users.device).repeat_interleave(ranked.shape[1])
        hidden = torch.cat([rows, ranked_rows]), torch.cat([items, ranked.reshape(-1)])
        return ListedItems(torch.cat([self.observed[users].long(), ranked], dim=1), hidden)

    def _readable(self, users: Tensor) -> Tensor:
        """Return the users' summed loss over the whole catalogue, by autograd."""
        scores = self.student.score_all(users)
        with torch.autocast(device_type=scores.device.type, enabled=False):
            scores, listed = scores.float(), self._listed(users)
            log_partition_term = log_partition(scores, listed.hidden)
            return self._losses(scores.gather(1, listed.items), listed.items > 0, log_partition_term).sum()

    def _estimated(self, users: Tensor) -> Tensor:
        """Return the users' summed loss with some items drawn for the rest of the catalogue."""
        listed, count = self._listed(users), self.options.remainder
        drawn, sizes = sampled_partition(listed.hidden, len(users), self.student.n_items, count, self.generator)
        scores = self.student.score(users, torch.cat([listed.items, drawn], dim=1))
        with torch.autocast(device_type=scores.device.type, enabled=False):
            chosen, others = scores.float().split([listed.items.shape[1], count], dim=1)
            return self._losses(chosen, listed.items > 0, estimated_log_partition(others, sizes)).sum()

    def _sum(self, users: Tensor) -> Tensor:
        if self.options.remainder:
            return self._estimated(users)
        if not self.student.fused:
            return self._readable(users)

        def by_embeddings(own: Tensor, every: Tensor) -> Tensor:
            return partition_sum(own, every, lambda low, high: self._listed(users[low:high]), self._losses)

        return full_softmax_sum(self.student, users, self._readable, by_embeddings)

    def work(self) -> Work:
        """Return the work of a user's softmaxes: over the catalogue, or over what stands for it."""
        options = self.options
        listed = listed_work(self.student, options.observed + options.k + options.remainder, passes=64)
        return Work(listed if options.remainder else listed + catalogue_work(self.student, 0, passes=12))

    def forward(self, batch: StepBatch) -> Tensor:
        """Return the distinct users' summed L_O or L_F divided by the batch's rows, in float32."""
        self._catch_up()
        users = batch.users
        users, scale = subsample(users, self.share(len(users), batch.rows), self.generator)
        return scale * self._sum(users) / batch.rows
