r"""Soft Label Distillation (SLD): MKD's output layer, a reconstruction.

Zhangchi Zhu, Wei Zhang: "From Input to Output: A Multi-layer Knowledge Distillation Framework for Compressing
Recommendation Models", arXiv 2311.04549, 2023: soft labels for the student that consider the predictions of both. K
interesting items of each user are drawn from the teacher's ranking and L from the rest of the catalogue, once an epoch,
as RRD draws them; over these K + L items A

    q = softmax(((1 - w) t_A + w s_A) / tau),    without a gradient
    L_SLD = - sum_u sum_{i in A} q_i log softmax(s_A / tau)_i

over the batch's distinct users, s and t being the student's and the teacher's logits.

Paper and code: the paper's formula was not accessible. w = 0 (``sld_student_share``, the default) is what the authors'
later code has as a comment; what it runs is the Plackett-Luce likelihood of the K items alone, which is RRD with
``rrd_l: 0`` (and ``rrd_k: 100``). w > 0 is our reading of "both".
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import Options, option, published, share_of_users
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.listwise import listwise_loss
from recbole_derrd.distillers.preconditions import SHORTER, Requirement, require_unobserved, short_users
from recbole_derrd.distillers.rrd import RelaxedRankingDistillation, RRDOptions
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import Work, listed_work
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.ops.full_softmax import LOWEST
from recbole_derrd.teacher import Knowledge

#: KDs is the authors' own code here.
_BESIDE = {"k": 100, "l": 200, "top_n": 500, "decay": 10.0, "temperature": 0.1}
_PRESETS = {"citeulike-bpr": {"weight": 0.001, **_BESIDE}, "citeulike-bpr-from-lightgcn": {"weight": 0.05, **_BESIDE}}


@dataclasses.dataclass(frozen=True)
class SLDOptions(Options):
    """Soft Label Distillation, the output layer of MKD (2023); a reconstruction."""

    prefix: ClassVar[str] = "sld_"

    preset: str | None = published(_PRESETS)
    weight: float = option(0.001, "Weight of the term in the loss.", low=0)
    k: int = option(100, "Interesting items a user, from the teacher's ranking (K).", low=1)
    l: int = option(200, "Uninteresting items a user, from the rest of the catalogue (L).", low=0)  # noqa: E741
    top_n: int = option(500, "Length of the teacher's ranking that interesting items are drawn from (N).", low=1)
    decay: float = option(10.0, "Rank k is drawn with probability proportional to exp(-k / decay) (T).", above=0)
    temperature: float = option(0.1, "Temperature of both softmaxes (tau).", above=0)
    student_share: float = option(
        0.0, "Share of the student's own logits in the soft labels (w); 0 is the teacher alone.", low=0, high=0.99
    )
    sample: float | str = share_of_users(auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.top_n < self.k:
            raise OptionError(
                f"sld_top_n = {self.top_n} is shorter than sld_k = {self.k}: interesting items are drawn from that "
                "ranking. Raise sld_top_n or lower sld_k."
            )


#: Labels that the teacher is asked for at once; bounds the memory of asking to some 50 MB.
_LABELS_AT_ONCE = 1 << 21


def soft_labels(teacher: Tensor, student: Tensor, student_share: float, temperature: float) -> Tensor:
    r"""Return q = softmax(((1 - w) t + w s) / tau) of logits [n, m], without a gradient.

    Args:
        teacher: logits t; -inf for items that the teacher ranks behind all others, which get no label.
        student: logits s.
        student_share: w, below 1.
        temperature: tau.
    """
    mixture = (1 - student_share) * teacher.detach() + student_share * student.detach()
    return (mixture / temperature).softmax(dim=1)


class SoftLabelDistillation(Distiller[SLDOptions]):
    """SLD as a loss term; see the file's head for the formula."""

    name = "sld"
    options_class = SLDOptions
    needs = frozenset({Need.TOP_ITEMS, Need.SCORES})
    citation = (
        "Zhangchi Zhu, Wei Zhang: From Input to Output: A Multi-layer Knowledge Distillation Framework for Compressing "
        "Recommendation Models, 2023"
    )
    test_settings: ClassVar = {"k": 4, "l": 6, "top_n": 10, "decay": 3.0, "temperature": 0.7}

    def __init__(self, options: SLDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's rankings and check that every user has enough items.

        Raises:
            OptionError: nearly all users have fewer than K + L unobserved items.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        # A ranking of one item has no order, and none has no softmax.
        self.leave_out(short_users(knowledge.history, min(2, options.k + options.l)))
        same: dict[str, Any] = {key: getattr(options, key) for key in ("k", "l", "top_n", "decay")}
        # Only its draws are wanted.
        self.drawing = RelaxedRankingDistillation(RRDOptions(sample=1.0, **same), knowledge, student, seed)
        #: The teacher's logits of each user's drawn items [n_users, K + L], drawn again in each epoch.
        self.logits: Tensor | None = None

    @classmethod
    def requirements(cls, options: SLDOptions, history: History) -> list[Requirement]:
        """Ask for K + L unobserved items of each user."""
        lower = "sld_k and sld_l to {} together"
        return [require_unobserved(history, options.k + options.l, "sld_k + sld_l", lower, SHORTER)]

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's items for all users, and ask the teacher for their scores."""
        self.drawing.begin_epoch(epoch)
        assert self.drawing.items is not None
        items, n_users = self.drawing.items.cpu(), self.knowledge.n_users
        logits = torch.zeros(items.shape)
        at_once = max(1, _LABELS_AT_ONCE // items.shape[1])
        for start in range(1, n_users, at_once):
            stop = min(start + at_once, n_users)
            logits[start:stop] = self.knowledge.scores(torch.arange(start, stop), items[start:stop].long())
        if self.drawing.has_gaps:
            logits.masked_fill_(items == 0, LOWEST)
        if (logits.isnan() | logits.isposinf()).any():
            raise DataError("The teacher's scores hold NaN or inf; train the teacher again with a lower learning_rate.")
        self.logits = logits.to(self.student.device)

    def work(self) -> Work:
        """Return the work of a user's K + L items."""
        options = self.options
        return Work(listed_work(self.student, options.k + options.l, passes=16))

    def forward(self, batch: StepBatch) -> Tensor:
        """Return the distinct users' L_SLD divided by the batch's rows, in float32."""
        scores, scale, (items, teacher) = self.drawn_scores(batch, self.drawing.items, self.logits)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            scores, temperature = scores.float(), self.options.temperature
            if self.drawing.has_gaps:
                scores = scores.masked_fill(items == 0, LOWEST)
            labels = soft_labels(teacher, scores, self.options.student_share, temperature)
            return scale * listwise_loss(scores, labels, temperature).sum() / batch.rows
