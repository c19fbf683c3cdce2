r"""Consistent Preference Distillation (CPD): MKD's middle layer, and Preference-Consistent KD (PCKD) after it.

Zhangchi Zhu, Wei Zhang: "From Input to Output: A Multi-layer Knowledge Distillation Framework for Compressing
Recommendation Models", arXiv 2311.04549, 2023, and its second snapshot, "Preference-Consistent Knowledge Distillation
for Recommender System", TKDE 37(4), 2025. A map P of the student's embeddings to the teacher's that is learned beside
the student may put a user's items into another order than the student has them in; what is learned behind it then does
not come back. So P is asked to keep the order of some items A_u of each user's list of the teacher's, drawn once an
epoch:
    pre_ui = <h_s(u), h_s(i)>,  post_ui = <P_U(h_s(u)), P_I(h_s(i))>,      the student's embeddings without a gradient
    R_list = sum_u H(softmax(pre_uA / tau), softmax(post_uA / tau)),       H(q, p) = - sum_i q_i log p_i
    R_pair = sum_u -log sigmoid((post_ui - post_uj) (pre_ui - pre_uj)),    i, j the two best ranked of A_u
    L_CPD = L_feature + alpha_list R_list + alpha_pair R_pair

over the batch's distinct users; the regularisers teach P alone. L_feature is DE's (``cpd_feature: experts``, the later
code), or the sum of 1 - cos(P(h_s), h_t) over a batch's entities as NKD has it, P then the mean of small networks
scaled to length 1 (``cosine``, the first code).

Paper and code: the papers' equations were not accessible; this is the code that the authors published, early and late.
In the first code R_pair is max(0, -(post_ui - post_uj) (pre_ui - pre_uj)) (``cpd_pairs: hinge``), of an observed and a
negative item. The later code takes a user once for each row of the batch, and leaves training items in the rankings;
here a batch's users count once, as in every method of this plugin, and rankings hold unobserved items. R_pair of that
code takes the first two drawn items, not the two best ranked, and its temperature in epoch e of P has the exponent e /
P where this has (e - 1) / P. That code can draw A_u from the student's own ranking, uniformly, or from the batch
instead; these are left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options import CPDOptions
from recbole_derrd.data.prepare import History
from recbole_derrd.distillers.base import Distiller, Need, StepBatch, epoch_seed, subsample, subsampled_entities
from recbole_derrd.distillers.de import DistillationExperts, gumbel_noise
from recbole_derrd.distillers.hint_embeddings import HintEmbeddings
from recbole_derrd.distillers.listwise import listwise_loss, target_probabilities
from recbole_derrd.distillers.negative_sampling import without_padding
from recbole_derrd.distillers.nkd import direction_errors
from recbole_derrd.distillers.projector import projectors_of
from recbole_derrd.distillers.shortage import short_users, shortage
from recbole_derrd.ops.sampling import sample_top_positions
from recbole_derrd.teacher import Knowledge

#: Entries of the rankings that are drawn from at once; bounds the memory of drawing to some 20 MB.
_DRAWN_AT_ONCE = 1 << 19


def ranking_inconsistency(before: Tensor, after: Tensor, tau: float) -> Tensor:
    r"""Return each user's H(softmax(pre / tau), softmax(post / tau)).

    Args:
        before: pre [n, Q]; no gradient goes to it.
        after: post [n, Q].
        tau: temperature.

    Returns:
        [n]; at best the entropy of softmax(pre / tau).
    """
    return listwise_loss(after, target_probabilities(before.detach(), tau), tau)


def pair_inconsistency(before: Tensor, after: Tensor, form: str = "logistic") -> Tensor:
    r"""Return each user's loss of one pair, of d = (post_i - post_j) (pre_i - pre_j): below 0 where P turns it.

    Args:
        before: pre of two items [n, 2]; no gradient goes to it.
        after: post of the same [n, 2].
        form: "logistic": -log sigmoid(d); "hinge": max(0, -d).

    Returns:
        [n], at least 0.
    """
    products = (after[:, 0] - after[:, 1]) * (before[:, 0] - before[:, 1]).detach()
    return (-products).relu() if form == "hinge" else -functional.logsigmoid(products)


class _Experts(DistillationExperts):
    """DE, whose maps are looked at from outside as well."""

    def embeddings(self, side: str, ids: Tensor) -> Tensor:
        return self.hints[0].embeddings(side, ids)

    def mapped(self, side: str, ids: Tensor, embeddings: Tensor) -> Tensor:
        bank, teacher = self.banks[0][side], self.targets[0][side].index_select(0, ids)
        noise = gumbel_noise((len(ids), self.options.num_experts), self.generator)
        mapped: Tensor = bank(embeddings, bank.choose(teacher, self.tau, noise, self.options.fused))
        return mapped


class _Directions(Distiller):
    """The sum of 1 - cos(P(h_s), h_t) over a batch's entities."""

    def __init__(self, options: CPDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        super().__init__(options, knowledge, student, seed)
        self.hints = HintEmbeddings(student, knowledge, student.layer(options.hint), options.teacher_hint)
        self.embeddings = self.hints.embeddings
        self.projectors: Any = projectors_of(self.hints, options, seed, lambda mine, theirs: (mine + theirs) // 2)
        self.to(student.device)

    def mapped(self, side: str, ids: Tensor, embeddings: Tensor) -> Tensor:
        return functional.normalize(self.projectors[side](embeddings, self.generator), dim=1)

    def _error_sum(self, side: str, ids: Tensor) -> Tensor:
        projected = self.projectors[side](self.embeddings(side, ids), self.generator)
        return direction_errors(projected, self.hints.targets[side].index_select(0, ids)).sum()

    def forward(self, batch: StepBatch) -> Tensor:
        total = torch.zeros((), device=self.student.device)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            for side, ids, weight in subsampled_entities("CPD", batch, self.options.sample, self.generator):
                total = total + weight * self._error_sum(side, ids)
        return total / batch.rows


class ConsistentPreferenceDistillation(Distiller):
    """CPD as a loss term; see the file's head for the formula."""

    name = "cpd"
    options_class = CPDOptions
    needs = frozenset({Need.EMBEDDINGS, Need.TOP_ITEMS})

    def __init__(self, options: CPDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's rankings and embeddings, and make the maps.

        Raises:
            OptionError: a hint layer is unknown, or nearly all users have too few unobserved items.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        self.leave_out(short_users(knowledge.history, options.q))
        self.maps: Any = (
            _Experts(options.of_experts(), knowledge, student, seed)
            if options.feature == "experts"
            else _Directions(options, knowledge, student, seed)
        )
        # One stream of noise, whose state a training checkpoint keeps.
        self.maps.generator = self.generator
        self.rankings = torch.from_numpy(knowledge.top_items(options.top_n))
        unobserved = knowledge.history.n_items - 1 - torch.from_numpy(knowledge.history.lengths)
        self.ranking_lengths = unobserved.clamp(max=self.rankings.shape[1])
        #: Items of each user whose order is to be kept [n_users, Q], anew in each epoch.
        self.items: Tensor | None = None

    @classmethod
    def check(cls, options: CPDOptions, history: History) -> None:
        """Refuse to draw more items than nearly any user has not seen."""
        found = shortage(history, options.q, "cpd_q")
        found.refuse(f"cpd_q to {found.fitting}")

    @classmethod
    def note(cls, options: CPDOptions, history: History) -> str | None:
        """Say how many users' inconsistency is not looked at."""
        return shortage(history, options.q, "cpd_q").note("the order of their items is not looked at")

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's items for all users, and set the temperature."""
        self.maps.begin_epoch(epoch)
        if self.items is not None and not self._regularised:
            return
        # Drawn on the CPU, so that a GPU run draws the same items.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        q, (n_users, width) = self.options.q, self.rankings.shape
        items = torch.zeros(n_users, q, dtype=torch.int32)
        at_once = max(1, _DRAWN_AT_ONCE // width)
        for start in range(1, n_users, at_once):
            rows = slice(start, min(start + at_once, n_users))
            positions = sample_top_positions(self.ranking_lengths[rows], q, self.options.decay, width, generator)
            items[rows] = self.rankings[rows].gather(1, positions)
        self.items = items.to(self.student.device)

    @property
    def _regularised(self) -> bool:
        return bool(self.options.ranking_weight or self.options.pair_weight)

    def _inconsistency_sum(self, users: Tensor) -> Tensor:
        options = self.options
        assert self.items is not None
        # An item that many users have drawn is mapped once.
        items, positions = self.items.index_select(0, users).long().unique(return_inverse=True)
        with torch.no_grad():
            own_users, own_items = self.maps.embeddings("user", users), self.maps.embeddings("item", items)
            before = torch.bmm(own_items[positions], own_users.unsqueeze(2)).squeeze(2)
        mapped_users = self.maps.mapped("user", users, own_users)
        mapped_items = self.maps.mapped("item", items, own_items)
        after = torch.bmm(mapped_items[positions], mapped_users.unsqueeze(2)).squeeze(2)
        total = torch.zeros((), device=self.student.device)
        if options.ranking_weight:
            total = total + options.ranking_weight * ranking_inconsistency(before, after, options.tau).sum()
        if options.pair_weight:
            pairs = pair_inconsistency(before[:, :2], after[:, :2], options.pairs)
            total = total + options.pair_weight * pairs.sum()
        return total

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_CPD of the batch divided by its rows; float32 under mixed precision as well."""
        if self.items is None:
            raise RuntimeError("begin_epoch must come before the first batch: it draws the items.")
        loss: Tensor = self.maps(batch)
        if not self._regularised:
            return loss
        users, scale = subsample(self.taught(without_padding(batch.users)), self.options.sample, self.generator)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            return loss + scale * self._inconsistency_sum(users) / batch.rows
