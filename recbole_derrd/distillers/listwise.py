r"""Listwise distillation: softmax cross-entropy with the teacher over the whole catalogue.

Geoffrey Hinton, Oriol Vinyals, Jeff Dean: "Distilling the Knowledge in a Neural Network", 2015, section 2, with a
user's unobserved items as classes; as a ranking loss it is ListNet's top-one cross-entropy (Zhe Cao et al.: "Learning
to Rank: From Pairwise Approach to Listwise Approach", ICML 2007, section 4):

    L = sum_u H(softmax(t_u / T), softmax(s_u / T)),    H(q, p) = - sum_i q_i log p_i

over the batch's distinct users, s and t being the student's and the teacher's logits. Nothing is sampled: every item
of the catalogue is in both softmaxes, but for the padding item and, by default, the user's training items, whose scores
the base loss looks after and which would take most of the teacher's probability. ``listwise_top_n: N`` gives that
probability to the teacher's N best unobserved items alone; the student's normaliser stays that of the catalogue.

With ``listwise_items`` both softmaxes run over K items of each user alone, which is the plain KD of later comparisons:
the teacher's K best, or the student's own K best, found again in each epoch. Published code takes these from all items,
training items among them (``listwise_observed: True``), and counts a user once for each row of the batch.

``listwise_labels: w`` adds the paper's hard targets: the user's training items I_u, each a right answer of its own, in
a softmax over the whole catalogue at temperature 1,

    L = sum_u [ H(softmax(t_u / T), softmax(s_u / T)) - w sum_{i in I_u} log softmax(s_u)_i ]

With ``base_weight: 0`` it takes the place of the student's own loss, and each step sees all items.

Paper and this: Hinton et al. multiply by T^2, so that the gradients' size does not depend on T. Here the sum is **not**
multiplied by T^2, as in ListNet; the gradient by a logit is (p - q) / T.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter, EmbeddingAdapter
from recbole_derrd.config.options.schema import Options, option, published, share_of_users
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.full_catalogue import full_softmax_sum
from recbole_derrd.distillers.preconditions import LEFT_OUT, Requirement, require_unobserved, short_users
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.student_view import eval_mode, student_rankings
from recbole_derrd.distillers.subsampling import Work, catalogue_work, listed_work, ranking_work, subsample
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.ops.full_softmax import (
    LOWEST,
    Targets,
    cross_entropy_sum,
    hidden_pairs,
)
from recbole_derrd.teacher import Knowledge
from recbole_derrd.teacher.exact import ExactSearch

#: KDs' plain cross-entropy over the student's best items, which may be training items.
_PRESETS = {
    "citeulike-bpr-kds": {"weight": 1.0, "temperature": 1.0, "items": "student", "k": 50, "observed": True},
}


@dataclasses.dataclass(frozen=True)
class ListwiseOptions(Options):
    """Softmax cross-entropy with the teacher over the whole catalogue."""

    prefix: ClassVar[str] = "listwise_"

    preset: str | None = published(_PRESETS)
    # No published value. A user's gradient by its scores adds up to at most 2 * weight / temperature, here 0.4, a fifth
    # of what one row of BPR has at most.
    weight: float = option(0.1, "Weight of the term in the loss.", low=0)
    temperature: float = option(0.5, "Temperature of both softmaxes (T); small looks at the best items only.", above=0)
    items: str = option(
        "all",
        "Items that the softmaxes run over: the whole catalogue, the teacher's K best, or the student's K best, found "
        "anew in each epoch.",
        choices=("all", "teacher", "student"),
    )
    k: int = option(100, "Items a user with listwise_items: teacher or student (K).", low=2, idle=("items", "all"))
    observed: bool = option(False, "Whether a user's training items take part, in both softmaxes.")
    top_n: int = option(
        0,
        "The teacher's softmax runs over its N best unobserved items only, which are kept on disk with their scores: "
        "faster; 0 is the whole catalogue. The student's softmax is over the catalogue either way.",
        low=0,
    )
    labels: float = option(
        0.0,
        "Weight of the user's training items beside the teacher's softmax, each one's cross-entropy over the whole "
        "catalogue; 0 leaves them to the student's own loss.",
        low=0,
    )
    sample: float | str = share_of_users(auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.labels and self.items != "all":
            raise OptionError(
                f"listwise_labels needs the whole catalogue, and listwise_items: {self.items} looks at some items: "
                "take one of them out."
            )
        if self.observed and self.top_n:
            raise OptionError(
                "listwise_observed needs the whole catalogue, and the teacher's rankings hold unobserved items only: "
                "take out listwise_observed or listwise_top_n."
            )
        if self.items != "all" and self.top_n:
            raise OptionError(
                f"listwise_top_n is for softmaxes over the whole catalogue. With listwise_items: {self.items} set "
                "listwise_k instead."
            )


#: Operations on each score of the catalogue, half of them on the teacher's.
_PASSES = 24


def listwise_loss(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    r"""Return each user's H(q, softmax(s / T)).

    Args:
        student: logits s [n, m]; -1e30 or less for items that take no part.
        targets: the teacher's softmax q [n, m], 0 for items that take no part.
        temperature: T.

    Returns:
        Cross-entropy of each user [n]; at best the entropy of the teacher's softmax, ln m where all logits are equal.
    """
    return -(targets * (student / temperature).log_softmax(dim=1)).sum(dim=1)


def label_loss(student: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor:
    """Return - sum log softmax(s)_i over the labels.

    Args:
        student: logits s [n, m]; -1e30 or less for items that take no part.
        labels: rows and items.
    """
    return -student.log_softmax(dim=1)[labels].sum()


def target_probabilities(teacher: Tensor, temperature: float) -> Tensor:
    """Return softmax(t / T) of logits [n, m]."""
    return (teacher / temperature).softmax(dim=1)


def cross_entropy(student: Tensor, teacher: Tensor, held: Tensor, temperature: float) -> Tensor:
    r"""Return each user's H(softmax(t / tau), softmax(s / tau)) over the items that are held.

    Args:
        student: logits s [n, a].
        teacher: logits t [n, a]; -inf where the teacher has no score, as an ensemble for what no member lists.
        held: which entries take part [n, a]; at least one of each row.
        temperature: tau.

    Returns:
        Cross-entropy of each user [n]; 0 where the teacher has no score of any.
    """
    scored = held & (teacher > -torch.inf)
    mass = (teacher / temperature).masked_fill(~scored, LOWEST).softmax(dim=1).masked_fill(~scored, 0)
    log_shares = (student / temperature).masked_fill(~held, LOWEST).log_softmax(dim=1)
    return -(mass * log_shares).sum(dim=1)


class ListwiseDistillation(Distiller[ListwiseOptions]):
    """Listwise distillation as a loss term; see the file's head for the formula."""

    name = "listwise"
    options_class = ListwiseOptions
    needs = frozenset({Need.TOP_ITEMS, Need.SCORES})
    citation = "Geoffrey Hinton, Oriol Vinyals, Jeff Dean: Distilling the Knowledge in a Neural Network, 2015"
    test_settings: ClassVar = {"temperature": 0.7}

    def __init__(self, options: ListwiseOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read what is needed of the teacher: rankings with scores, or its embeddings; other teachers are asked each
        step.

        Raises:
            OptionError: nearly all users have no unobserved items.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        self.leave_out(None if options.observed else short_users(knowledge.history, 1))
        device = student.device
        self.rankings = self.ranking_scores = self.embeddings = None
        self._seen = torch.from_numpy(knowledge.history.items).to(device)
        self._indptr = torch.from_numpy(knowledge.history.indptr).to(device)
        #: With softmaxes over K items, these of each user [n_users, K] and the teacher's logits of them.
        self.items: Tensor | None = None
        self.logits: Tensor | None = None
        if options.items != "all":
            return
        if options.top_n:
            self.rankings = torch.from_numpy(knowledge.top_items(options.top_n)).to(device)
            self.ranking_scores = torch.from_numpy(knowledge.top_scores(options.top_n)).to(device)
        elif isinstance(knowledge.teacher, EmbeddingAdapter):
            users, items = (torch.from_numpy(table).to(device) for table in knowledge.score_embeddings())
            self.embeddings = (users, items)

    @classmethod
    def listed(cls, options: ListwiseOptions) -> tuple[int, str]:
        """Return K of the teacher's best items, or N of the teacher's probabilities."""
        return (options.k, "listwise_k") if options.items == "teacher" else super().listed(options)

    @classmethod
    def requirements(cls, options: ListwiseOptions, history: History) -> list[Requirement]:
        """Ask for one unobserved item of each user, unless training items take part as well."""
        if options.observed:
            return []
        more = ", or set listwise_observed: True"
        return [require_unobserved(history, 1, "the shortest ranking", "", LEFT_OUT, more=more)]

    def begin_epoch(self, epoch: int) -> None:
        """Rank the K items again where they are the student's, and ask the teacher for their scores."""
        if self.options.items == "all" or (self.options.items == "teacher" and self.items is not None):
            return
        knowledge, n_users = self.knowledge, self.knowledge.n_users
        items = torch.zeros(n_users, min(self.options.k, knowledge.n_items - 1), dtype=torch.int32)
        logits = torch.zeros(items.shape)
        for start, ranked in self._ranked(items.shape[1]):
            stop = start + len(ranked)
            items[start:stop] = ranked
            logits[start:stop] = knowledge.scores(torch.arange(start, stop), ranked.long())
        if logits[items > 0].isnan().any():
            raise DataError("The teacher's scores hold NaN; train the teacher again with a lower learning_rate.")
        known = knowledge.known("item")
        if known is not None:
            items.masked_fill_(~torch.from_numpy(known)[items.long()], 0)
        device = self.student.device
        self.items, self.logits = items.to(device), logits.masked_fill(items == 0, LOWEST).to(device)

    def _ranked(self, count: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the first user of a chunk and the chunk's rankings [n, K], of users from 1 on."""
        history = self.knowledge.history
        if self.options.observed:
            history = history.without_items()
        if self.options.items == "student":
            search = ExactSearch(self.student, history, count)
            with eval_mode(self.student):
                for start, stop in search.chunks():
                    yield start, student_rankings(search, start, stop)
        elif self.options.observed:
            search = ExactSearch(self.knowledge.teacher, history, count)
            with torch.no_grad(), self.knowledge.teacher.shared():
                for start, stop in search.chunks():
                    yield start, search.rankings(start, stop).cpu()
        else:
            yield 1, torch.from_numpy(self.knowledge.top_items(count)[1:])

    def _over_items(self, users: Tensor) -> Tensor:
        """Return the users' summed cross-entropy over K items each."""
        if self.items is None or self.logits is None:
            raise RuntimeError("begin_epoch must come before the first batch: it ranks the items.")
        items = self.items.index_select(0, users).long()
        scores = self.student.score(users, items)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            teacher = self.logits.index_select(0, users)
            return cross_entropy(scores.float(), teacher, items > 0, self.options.temperature).sum()

    def _hidden(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and items that take no part: the padding item, training items unless they are wanted, and items
        that the teacher does not know."""
        if self.options.observed:
            rows = torch.arange(len(users), device=users.device)
            hidden = rows, torch.zeros_like(rows)
        else:
            hidden = hidden_pairs(users, self._indptr, self._seen)
        known = self.known("item")
        if known is None:
            return hidden
        unknown = (~known).nonzero().squeeze(1)
        rows = torch.arange(len(users), device=users.device).repeat_interleave(len(unknown))
        return torch.cat([hidden[0], rows]), torch.cat([hidden[1], unknown.repeat(len(users))])

    def _labels(self, users: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return rows and items of these users' training items, if they are right answers of themselves."""
        if not self.options.labels:
            return None
        rows, items = hidden_pairs(users, self._indptr, self._seen)
        return rows[len(users) :], items[len(users) :]

    @torch.no_grad()
    def _targets(self, users: Tensor) -> Targets:
        """Return the teacher's softmax of these users, and their labels."""
        return self._soft_targets(users)._replace(labels=self._labels(users))

    def _soft_targets(self, users: Tensor) -> Targets:
        temperature, hidden = self.options.temperature, self._hidden(users)
        if self.rankings is not None and self.ranking_scores is not None:
            items, scores = self.rankings[users].long(), self.ranking_scores[users]
            return Targets(target_probabilities(scores.masked_fill(items == 0, LOWEST), temperature), items, hidden)
        if self.embeddings is not None:
            scores = self.embeddings[0][users] @ self.embeddings[1].T
        else:
            teacher = self.knowledge.teacher
            scores = teacher.score_all(users.to(teacher.device)).to(users.device, torch.float32, copy=True)
            scores *= self.knowledge.score_scale
        scores[hidden] = LOWEST
        return Targets(target_probabilities(scores, temperature), None, hidden)

    def _readable(self, users: Tensor) -> Tensor:
        """Return the users' summed loss by autograd."""
        scores = self.student.score_all(users)
        with torch.autocast(device_type=scores.device.type, enabled=False):
            scores = scores.float()
            mass, items, hidden, labels = self._targets(users)
            if items is not None:
                # Places of a ranking that is too short hold item 0, with probability 0.
                mass = torch.zeros_like(scores).scatter_add_(1, items, mass)
            own = scores.index_put(hidden, scores.new_tensor(LOWEST))
            total = listwise_loss(own, mass, self.options.temperature).sum()
            if labels is None:
                return total
            padding = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
            padding[0] = True
            return total + self.options.labels * label_loss(scores.masked_fill(padding, LOWEST), labels)

    def _sum(self, users: Tensor) -> Tensor:
        if not self.student.fused:
            return self._readable(users)

        def by_embeddings(own: Tensor, every: Tensor) -> Tensor:
            targets = lambda low, high: self._targets(users[low:high])  # noqa: E731
            return cross_entropy_sum(own, every, targets, self.options.temperature, self.options.labels)

        return full_softmax_sum(self.student, users, self._readable, by_embeddings)

    def work(self) -> Work:
        """Return the work of a user's softmaxes: over K items, or over the catalogue."""
        options = self.options
        if options.items != "all":
            ranked = ranking_work(self.student) if options.items == "student" else 0.0
            return Work(listed_work(self.student, options.k, passes=16), epoch=ranked)
        if options.top_n:
            return Work(catalogue_work(self.student, 0, _PASSES // 2))
        of_teacher = self.knowledge.teacher.logit_work() if self.embeddings is None else self.embeddings[1].shape[1]
        return Work(catalogue_work(self.student, of_teacher, _PASSES))

    def forward(self, batch: StepBatch) -> Tensor:
        """Return the distinct users' summed cross-entropy divided by the batch's rows, in float32."""
        users = self.taught(batch.users)
        users, scale = subsample(users, self.share(len(users), batch.rows), self.generator)
        total = self._sum(users) if self.options.items == "all" else self._over_items(users)
        return scale * total / batch.rows
