r"""Consistent Preference Distillation (CPD): MKD's middle layer, and Preference-Consistent KD (PCKD) after it.

Zhangchi Zhu, Wei Zhang: "From Input to Output: A Multi-layer Knowledge Distillation Framework for Compressing
Recommendation Models", arXiv 2311.04549, 2023, and its second version, "Preference-Consistent Knowledge Distillation
for Recommender System", TKDE 37(4), 2025. A map P of the student's embeddings to the teacher's that is learned beside
the student may put a user's items into another order than the student has them in; what is learned behind it then does
not come back. So P is asked to keep the order of some items A_u of each user's ranking of the teacher's, drawn once an
epoch:
    pre_ui = <h_s(u), h_s(i)>,  post_ui = <P_U(h_s(u)), P_I(h_s(i))>,      the student's embeddings without a gradient
    R_ranking = sum_u H(softmax(pre_uA / tau), softmax(post_uA / tau)),       H(q, p) = - sum_i q_i log p_i
    R_pair = sum_u -log sigmoid((post_ui - post_uj) (pre_ui - pre_uj)),    i, j the two best ranked of A_u
    L_CPD = L_feature + alpha_ranking R_ranking + alpha_pair R_pair

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

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import AUTO, option, published, share_of_entities
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.de import DEOptions, DistillationExperts, gating_weights, gumbel_noise
from recbole_derrd.distillers.hint_embeddings import HintEmbeddings, HintOptions
from recbole_derrd.distillers.listwise import listwise_loss, target_probabilities
from recbole_derrd.distillers.nkd import direction_errors
from recbole_derrd.distillers.preconditions import Requirement, left_out_by_rankings, require_unobserved
from recbole_derrd.distillers.projector import projectors_of
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import (
    LISTED,
    Work,
    automatic_share,
    epoch_seed,
    subsample,
    subsampled_entities,
)
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.sampling import sample_top_positions
from recbole_derrd.teacher import Knowledge

#: KDs is the authors' own code here; the decay is 10 in all.
_PRESETS = {
    name: {"weight": weight, "num_experts": experts, "ranking_weight": share, "q": q, "top_n": top_n, "tau": tau}
    for name, weight, experts, share, q, top_n, tau in (
        ("citeulike-bpr", 0.05, 30, 0.1, 5, 100, 0.1),
        ("citeulike-lightgcn", 0.005, 20, 0.05, 5, 500, 0.01),
        ("gowalla-bpr", 0.005, 5, 0.5, 10, 100, 0.01),
        ("gowalla-lightgcn", 0.005, 5, 0.5, 5, 100, 0.1),
        ("yelp2018-bpr", 0.005, 5, 0.5, 5, 100, 0.1),
    )
}


@dataclasses.dataclass(frozen=True)
class CPDOptions(HintOptions):
    """Consistent Preference Distillation, the middle layer of MKD (2023), and Preference-Consistent KD (2025)."""

    prefix: ClassVar[str] = "cpd_"

    preset: str | None = published(_PRESETS)
    weight: float = option(0.05, "Weight of the term in the loss.", low=0)
    feature: str = option(
        "experts",
        "What is regularised: DE's experts and their squared error, or the mean of small networks and 1 - cosine.",
        choices=("experts", "cosine"),
    )
    ranking_weight: float = option(0.1, "Weight of the regulariser by rankings beside the feature loss.", low=0)
    pair_weight: float = option(0.0, "Weight of the regulariser by pairs beside the feature loss.", low=0)
    pairs: str = option(
        "logistic",
        "Regulariser by pairs: -log sigmoid of the product of the differences (later code), or how far the product "
        "is below 0 (hinge, first code).",
        choices=("logistic", "hinge"),
        idle=("pair_weight", 0),
    )
    q: int = option(5, "Items a user whose order is to be kept, drawn again in each epoch (Q).", low=2)
    top_n: int = option(100, "Length of the teacher's ranking that they are drawn from.", low=2)
    decay: float = option(10.0, "Rank k is drawn with probability proportional to exp(-k / decay).", above=0)
    tau: float = option(0.1, "Temperature of the rankings' softmaxes.", above=0)
    num_experts: int = option(30, "Experts for users, and as many for items (E).", low=1, high=1000)
    hidden_size: int | None = option(
        None,
        "Hidden units of an expert; (student size + teacher size) // 2 if none.",
        low=1,
        kind=(int, type(None)),
    )
    dropout: float = option(0.1, "Dropout before each layer of the small networks (feature: cosine).", low=0, high=0.9)
    temperature_start: float = option(
        1.0, "Temperature of the experts' choice at the first epoch (feature: experts).", above=0
    )
    temperature_end: float = option(1e-10, "Temperature that the schedule falls to.", above=0)
    temperature_epochs: int = option(1000, "Epochs of the geometric fall, whatever `epochs` is.", low=1)
    sample: float | str = share_of_entities(auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.top_n < self.q:
            raise OptionError(
                f"cpd_top_n = {self.top_n} is shorter than cpd_q = {self.q}: the items are drawn from that ranking. "
                "Raise cpd_top_n or lower cpd_q."
            )
        if self.temperature_end > self.temperature_start:
            raise OptionError("cpd_temperature_end must not be above cpd_temperature_start: the temperature falls.")

    def of_experts(self) -> DEOptions:
        """Return the options of the experts that are regularised."""
        same = ("num_experts", "hidden_size", "temperature_start", "temperature_end", "temperature_epochs", "sample")
        return DEOptions(hint=self.hint, teacher_hint=self.teacher_hint, **{key: getattr(self, key) for key in same})


#: Entries of the rankings that are drawn from at once; bounds the memory of drawing to some 20 MB.
_DRAWN_AT_ONCE = 1 << 19
#: Maps of users and their items that ``auto`` regularises at least, to those whose features it compares: four times as
#: many make a student on CiteULike no better.
_REGULARISED = 0.5


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
        before: pre of each user's items, of which the first two are the pair [n, at least 2]; no gradient goes to it.
        after: post of the same.
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
        mapped: Tensor = bank(embeddings, gating_weights(bank.logits(teacher), self.tau, noise))
        return mapped


class _Directions(Distiller[CPDOptions]):
    """The sum of 1 - cos(P(h_s), h_t) over a batch's entities."""

    def __init__(self, options: CPDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        super().__init__(options, knowledge, student, seed)
        self.hints = HintEmbeddings(student, knowledge, student.layer(options.hint), options.teacher_hint)
        self.embeddings = self.hints.embeddings
        self.projectors: Any = projectors_of(self.hints, options, seed, lambda mine, theirs: (mine + theirs) // 2)
        self.to(student.device)

    def work(self) -> Work:
        found: Work = self.projectors["user"].work()
        return found

    def mapped(self, side: str, ids: Tensor, embeddings: Tensor) -> Tensor:
        return functional.normalize(self.projectors[side](embeddings, self.generator), dim=1)

    def _error_sum(self, side: str, ids: Tensor) -> Tensor:
        projected = self.projectors[side](self.embeddings(side, ids), self.generator)
        return direction_errors(projected, self.hints.targets[side].index_select(0, ids)).sum()

    def forward(self, batch: StepBatch) -> Tensor:
        total = torch.zeros((), device=self.student.device)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            share = self.share(batch.entities, batch.rows)
            for side, ids, weight in subsampled_entities("CPD", batch, share, self.generator):
                total = total + weight * self._error_sum(side, ids)
        return total / batch.rows


class ConsistentPreferenceDistillation(Distiller[CPDOptions]):
    """CPD as a loss term; see the file's head for the formula."""

    name = "cpd"
    options_class = CPDOptions
    needs = frozenset({Need.EMBEDDINGS, Need.TOP_ITEMS})
    citation = "Zhangchi Zhu, Wei Zhang: Preference-Consistent Knowledge Distillation for Recommender System, TKDE 2025"
    student_defaults: ClassVar = {
        # The authors' code on CiteULike.
        "LightGCN": {"weight": 0.005, "ranking_weight": 0.05, "num_experts": 20, "top_n": 500, "tau": 0.01}
    }
    # With FEWEST a student on CiteULike is no better than one without a teacher (docs/results/citeulike-auto.md).
    fewest: ClassVar = 160
    test_settings: ClassVar = {"q": 4, "top_n": 10, "decay": 3.0, "tau": 0.7, "num_experts": 3, "dropout": 0.0}

    def __init__(self, options: CPDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's rankings and embeddings, and make the maps.

        Raises:
            OptionError: a hint layer is unknown, or nearly all users have too few unobserved items.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        self.maps: Any = (
            _Experts(options.of_experts(), knowledge, student, seed)
            if options.feature == "experts"
            else _Directions(options, knowledge, student, seed)
        )
        # One stream of noise, whose state a training checkpoint keeps.
        self.maps.generator = self.generator
        self.maps.share_of = self.share
        self.rankings = torch.from_numpy(knowledge.top_items(options.top_n))
        self.ranking_lengths = (self.rankings > 0).sum(dim=1)
        self.leave_out(left_out_by_rankings(self.rankings, "cpd_q", options.q, knowledge.history))
        #: Items of each user whose order is to be kept [n_users, Q], drawn again in each epoch.
        self.items: Tensor | None = None

    @classmethod
    def requirements(cls, options: CPDOptions, history: History) -> list[Requirement]:
        """Ask for Q unobserved items of each user."""
        effect = "the order of their items is not regularised"
        return [require_unobserved(history, options.q, "cpd_q", "cpd_q to {}", effect)]

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

    def work(self) -> Work:
        """Return the work of an entity's map; where rankings are regularised, of half a map as well."""
        own = self.maps.work()
        return Work(own.entity + _REGULARISED * self._map_work(), own.step) if self._regularised else own

    def _map_work(self) -> float:
        """Return the work of a map that is regularised: autograd takes half as long again as the features' kernel."""
        return 1.5 * float(self.maps.work().entity) + LISTED

    def _regularised_share(self, batch: StepBatch) -> float:
        """Return the share of the users: the features' own; with ``auto``, as many as these leave time for."""
        share = self.share(batch.entities, batch.rows)
        if self.options.sample != AUTO:
            return share
        own, compared, maps = self.maps.work(), share * batch.entities, 1 + self.options.q
        of_user = Work(maps * self._map_work(), own.step + own.entity * compared)
        step, fewest = self.step_work(batch.rows), _REGULARISED * compared / maps
        return min(share, automatic_share(of_user, len(batch.users), step, fewest))

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
            pairs = pair_inconsistency(before, after, options.pairs)
            total = total + options.pair_weight * pairs.sum()
        return total

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_CPD of the batch divided by its rows; float32 under mixed precision as well."""
        if self.items is None:
            raise RuntimeError("begin_epoch must come before the first batch: it draws the items.")
        loss: Tensor = self.maps(batch)
        if not self._regularised:
            return loss
        users, scale = subsample(self.taught(batch.users), self._regularised_share(batch), self.generator)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            return loss + scale * self._inconsistency_sum(users) / batch.rows
