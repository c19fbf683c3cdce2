r"""Collaborative Distillation (CD).

Jae-woong Lee, Minjin Choi, Jongwuk Lee, Hyunjung Shim: "Collaborative Distillation for Top-N Recommendation", ICDM
2019. Some unobserved items S_u of each user are drawn, the better their rank the likelier, and the student is taught
the teacher's soft labels for them, item by item:

    L_CD = - sum_u sum_{i in S_u} [ q_ui log p_ui + (1 - q_ui) log(1 - p_ui) ]
    q_ui = sigmoid((t_ui + T2) / T1),    p_ui = sigmoid(s_ui)

over the batch's distinct users, s and t being the student's and the teacher's logits. The items are drawn once an epoch
for all users, with probability proportional to 1 - rank(i) / |unobserved|, the rank being the student's (CD-SG, the
default) or the teacher's (CD-TG); or uniformly (CD-Base).

Linear probabilities need no ranking: of two items drawn uniformly, the one with the higher score has rank r with
probability 2 (n - r) / (n (n - 1)), which is exactly that. So twice the items are drawn, without repetition, and of
each pair the guide takes the better one. With ``cd_top_n`` the same is done with the positions of the guide's ranking.

Paper and code: in the paper only observed items enter the base loss and unobserved ones are CD's alone; here, as in
later work's comparisons, CD is added to the student's own base loss. The sign of the paper's shift T2 could not be
verified; this one is that of published re-implementations, whose sums run over the batch's rows, not its distinct
users. The paper's exponential probabilities are not offered. Drawing without repetition leaves each item's probability
of being a pair's winner as it is.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters import Adapter, RowAdapter
from recbole_derrd.config.options.schema import Options, option, published, share_of_users
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.negative_sampling import NegativeSampler
from recbole_derrd.distillers.preconditions import LEFT_OUT, Requirement, require_unobserved, short_users
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.student_view import STUDENT_DIVERGED, eval_mode, student_rankings
from recbole_derrd.distillers.subsampling import Work, epoch_seed, listed_work, ranking_work
from recbole_derrd.errors import DataError, OptionError, TrainingError
from recbole_derrd.teacher import Knowledge
from recbole_derrd.teacher.exact import ExactSearch

#: KDs has the same values throughout.
_OF_KDS = {"weight": 0.5, "n_distill": 2, "t1": 2.0, "t2": 0.0, "guide": "student", "top_n": 3000}
_PRESETS = {
    "citeulike-bpr-kds": _OF_KDS,
    "citeulike-lightgcn-kds": _OF_KDS,
    "gowalla-bpr-kds": _OF_KDS,
    "yelp2018-bpr-kds": _OF_KDS,
    "yelp2018-lightgcn-kds": _OF_KDS,
}


@dataclasses.dataclass(frozen=True)
class CDOptions(Options):
    """Collaborative Distillation (ICDM 2019)."""

    prefix: ClassVar[str] = "cd_"

    preset: str | None = published(_PRESETS)
    # Published re-implementations draw 2 items at weight 0.5 on three data sets, 50 on others; the paper draws half of
    # all. On ml-100k, one seed, 2 at this weight were worse than none and 50 better than the plain student.
    weight: float = option(0.5, "Weight of the term in the loss (lambda).", low=0)
    n_distill: int = option(50, "Unobserved items drawn for each user and epoch.", low=1)
    t1: float = option(2.0, "Scale of the soft labels sigmoid((t + T2) / T1).", above=0)
    t2: float = option(0.0, "Shift of the soft labels (T2).")
    guide: str = option(
        "student",
        "Whose ranks make an item more likely to be drawn: the student's, anew in each epoch; the teacher's; or none "
        "(uniform).",
        choices=("student", "teacher", "uniform"),
    )
    top_n: int = option(
        0,
        "Items are drawn from the guide's N best unobserved ones only; 0 draws from all unobserved items, as the paper "
        "does, and ranks nothing.",
        low=0,
    )
    sample: float | str = share_of_users(auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.top_n and self.guide == "uniform":
            raise OptionError("cd_guide: uniform has no best items: take out cd_top_n, or choose student or teacher.")
        if 0 < self.top_n < self.drawn:
            raise OptionError(
                f"cd_top_n = {self.top_n} is too short for cd_n_distill = {self.n_distill}: {self.drawn} items are "
                "drawn from it, two for each that is taken. Raise cd_top_n or lower cd_n_distill."
            )

    @property
    def drawn(self) -> int:
        """Items that are drawn for each user: two for each that is taken, unless drawing is uniform."""
        return self.n_distill if self.guide == "uniform" else 2 * self.n_distill


#: A score whose cross-entropy with a label of 0 is 0 to the bit, with a gradient of 0.
_NOTHING = -1e4
#: Numbers that one chunk of the student's scores may pass through (64 MB of float32).
_CHUNK_NUMBERS = 1 << 24


def soft_labels(teacher: Tensor, t1: float, t2: float) -> Tensor:
    """Return q = sigmoid((t + T2) / T1) of logits of any shape."""
    return ((teacher + t2) / t1).sigmoid()


def collaborative_loss(student: Tensor, labels: Tensor) -> Tensor:
    r"""Return each user's binary cross-entropy with soft labels, from logits and so without overflow.

    Args:
        student: logits s [n, m].
        labels: soft labels q [n, m], in [0, 1].

    Returns:
        Loss of each user [n]; at best the entropy of the labels, m ln 2 where all logits are 0.
    """
    return functional.binary_cross_entropy_with_logits(student, labels, reduction="none").sum(dim=1)


def better_of_pairs(drawn: Tensor, scores: Tensor) -> Tensor:
    """Return of each pair the one with the higher score; of equals the first.

    Args:
        drawn: [n, 2 m], the first m paired with the last m.
        scores: what they are compared by [n, 2 m].

    Returns:
        [n, m].
    """
    first, second = drawn.chunk(2, dim=1)
    one, other = scores.chunk(2, dim=1)
    return torch.where(other > one, second, first)


class CollaborativeDistillation(Distiller[CDOptions]):
    """CD as a loss term; see the file's head for the formula."""

    name = "cd"
    options_class = CDOptions
    needs = frozenset({Need.TOP_ITEMS, Need.SCORES})
    citation = (
        "Jae-woong Lee, Minjin Choi, Jongwuk Lee, Hyunjung Shim: Collaborative Distillation for Top-N Recommendation, "
        "ICDM 2019"
    )
    test_settings: ClassVar = {"n_distill": 5}

    def __init__(self, options: CDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Leave out users who have too few unobserved items.

        Raises:
            OptionError: nearly all users have.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        self.leave_out(short_users(knowledge.history, options.drawn))
        self.unobserved = NegativeSampler(knowledge.history)
        #: Items of each user [n_users, n_distill] and their soft labels, drawn again in each epoch; an item that the
        #: teacher does not know has a label of -1.
        self.items: Tensor | None = None
        self.labels: Tensor | None = None

    @classmethod
    def requirements(cls, options: CDOptions, history: History) -> list[Requirement]:
        """Ask for as many unobserved items of each user as are drawn."""
        each = 1 if options.guide == "uniform" else 2
        asked = "cd_n_distill" if each == 1 else "2 x cd_n_distill"
        return [require_unobserved(history, options.drawn, asked, "cd_n_distill to {}", LEFT_OUT, each=each)]

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's items for all users, and ask the teacher for their labels."""
        options, n_users = self.options, self.knowledge.n_users
        # Drawn on the CPU, so that a GPU run draws the same items.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        items = torch.empty(n_users, options.n_distill, dtype=torch.int32)
        items[0] = 0
        with eval_mode(self.student):
            draw = self._draw if options.top_n == 0 else self._listed()
            for start, stop in self.unobserved.blocks(options.drawn):
                items[start:stop] = draw(start, stop, generator).to(torch.int32)
            scores = torch.zeros(items.shape)
            scores[1:] = self.knowledge.scores(torch.arange(1, n_users), items[1:].long())
        if scores.isnan().any():
            raise DataError("The teacher's scores hold NaN; train the teacher again with a lower learning_rate.")
        self.items = items.to(self.student.device)
        labels = soft_labels(scores, options.t1, options.t2)
        known = self.knowledge.known("item")
        if known is not None:
            labels.masked_fill_(~torch.from_numpy(known)[items.long()], -1)
        self.labels = labels.to(self.student.device)

    def _draw(self, start: int, stop: int, generator: torch.Generator) -> Tensor:
        """Draw from all unobserved items of users start .. stop - 1."""
        drawn = self.unobserved.distinct(start, stop, self.options.drawn, generator)
        if self.options.guide == "uniform":
            return drawn
        # The draw's own order is not random, and pairs must be.
        drawn = shuffled(drawn, generator)
        users = torch.arange(start, stop)
        scores = self.knowledge.scores(users, drawn) if self.options.guide == "teacher" else self._own(users, drawn)
        return better_of_pairs(drawn, scores)

    def _own(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the student's scores of listed items, in chunks of users."""
        whole_rows = self.student.n_items if isinstance(self.student, RowAdapter) else 1
        rows = max(1, _CHUNK_NUMBERS // max(16 * items.shape[1], whole_rows))
        device = self.student.device
        chunks = zip(users.to(device).split(rows), items.to(device).split(rows))
        scores = torch.cat([self.student.score(*chunk).float().cpu() for chunk in chunks])
        if scores.isnan().any():
            raise TrainingError(STUDENT_DIVERGED)
        return scores

    def _listed(self) -> Callable[[int, int, torch.Generator], Tensor]:
        """Return what draws from the guide's rankings."""
        options, history = self.options, self.knowledge.history
        width = min(options.top_n, history.n_items - 1)
        search = ExactSearch(self.student, history, width)

        def rankings(start: int, stop: int) -> Tensor:
            if options.guide == "teacher":
                return torch.from_numpy(self.knowledge.top_items(width)[start:stop])
            return student_rankings(search, start, stop)

        def draw(start: int, stop: int, generator: torch.Generator) -> Tensor:
            positions = shuffled(self.unobserved.positions(start, stop, width, options.drawn, generator), generator)
            positions = better_of_pairs(positions, -positions)
            # One chunk's rankings at a time: those of all users are not kept.
            chunks = [(low, min(low + search.chunk, stop)) for low in range(start, stop, search.chunk)]
            return torch.cat(
                [rankings(low, high).gather(1, positions[low - start : high - start]) for low, high in chunks]
            )

        return draw

    def work(self) -> Work:
        """Return the work of a user's drawn items, and of an epoch's rankings where the student guides the draw."""
        ranks = self.options.top_n and self.options.guide == "student"
        epoch = ranking_work(self.student) if ranks else 0.0
        return Work(listed_work(self.student, self.options.n_distill, passes=16), epoch=epoch)

    def forward(self, batch: StepBatch) -> Tensor:
        """Return the distinct users' L_CD divided by the batch's rows, in float32."""
        scores, scale, (_, labels) = self.drawn_scores(batch, self.items, self.labels)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            if self.knowledge.known("item") is not None:
                # Of an item that takes no part, score and label are such that it adds 0.
                scores = scores.float().masked_fill(labels < 0, _NOTHING)
            return scale * collaborative_loss(scores.float(), labels.clamp(min=0)).sum() / batch.rows


def shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return each row in a random order."""
    return rows.gather(1, torch.rand(rows.shape, generator=generator).argsort(dim=1))
