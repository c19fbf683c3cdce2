r"""Neighbourhood Knowledge Distillation (NKD): MKD's input layer.

Zhangchi Zhu, Wei Zhang: "From Input to Output: A Multi-layer Knowledge Distillation Framework for Compressing
Recommendation Models", arXiv 2311.04549, 2023. The teacher's K nearest entities of each entity e are its neighbours,
the same in the whole training. In each step e is mixed with one of them, b, in the student and in the teacher alike,
and the student's mixture, mapped to the teacher's width by P, is to point where the teacher's does:

    s~ = r_s * h_s(e) + (1 - r_s) * h_s(b),    t~ = r_t * h_t(e) + (1 - r_t) * h_t(b),    b drawn from the K
    l(e) = 1 - cos(P(s~), t~)
    L_NKD = sum_{users} l(u) + 1/2 (sum_{positives} l(i) + sum_{negatives} l(j))       over a batch's distinct entities

with a P for users and one for items, and shares r_s, r_t drawn again for each entity and step (``nkd_mixing``).
Neighbours are nearest by Euclidean distance, in the teacher's first principal components where its embeddings are
wider.

Paper and code: the paper's equations were not accessible; this is the code that its authors published later, which has
the method alone and never as a part of MKD. It reads LightGCN's propagated embeddings, where the paper speaks of the
input
layer: here the tables are the default, of a graph teacher as well (``nkd_hint: final``, ``nkd_teacher_hint: final`` for
the former). Its ways of mixing by one share for a whole step, for a dimension, or both, are left out.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import option, published, share_of_entities
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.hint_embeddings import SIDES, HintEmbeddings, HintOptions
from recbole_derrd.distillers.projector import projectors_of
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import DRAWN, NUMBER, Work, subsampled_entities
from recbole_derrd.errors import OptionError
from recbole_derrd.teacher import Knowledge

#: KDs is the authors' own code here, with the same values throughout.
_PUBLISHED = {"weight": 0.5, "own_share": 0.5, "neighbours": 5, "num_experts": 5, "dropout": 0.1}
_PRESETS = {"citeulike-bpr": _PUBLISHED, "gowalla-bpr": _PUBLISHED, "gowalla-lightgcn": _PUBLISHED}


@dataclasses.dataclass(frozen=True)
class NKDOptions(HintOptions):
    """Neighbourhood Knowledge Distillation, the input layer of MKD (2023)."""

    prefix: ClassVar[str] = "nkd_"

    preset: str | None = published(_PRESETS)
    weight: float = option(0.5, "Weight of the term in the loss.", low=0)
    neighbours: int = option(5, "Nearest neighbours of an entity, of which one is drawn each step (K).", low=1)
    components: int = option(
        150, "Principal components of the teacher's embeddings that neighbours are found in.", low=1
    )
    mixing: str = option(
        "soft",
        "How an entity is mixed with its neighbour: shares drawn for each number from U(0, 2 a) (soft), the one or the "
        "other for each number (hard), one share from U(0, 1) an entity (entity), or always a (constant).",
        choices=("soft", "hard", "entity", "constant"),
    )
    own_share: float = option(
        0.5,
        "Share of the entity itself, on average (a); mixing: entity has 0.5.",
        low=0,
        high=1,
        idle=("mixing", "entity"),
    )
    num_experts: int = option(
        5, "Small networks whose mean maps the student's embeddings to the teacher's (E).", low=1, high=1000
    )
    hidden_size: int | None = option(
        None, "Hidden units of such a network; half the teacher's size if none.", low=1, kind=(int, type(None))
    )
    dropout: float = option(0.1, "Dropout before each of its layers.", low=0, high=0.9)
    sample: float | str = share_of_entities(auto=True)


def mixed(own: Tensor, neighbours: Tensor, share: Tensor) -> Tensor:
    """Return r * own + (1 - r) * neighbours of embeddings [n, d], for shares r [n, d], [n, 1] or a number."""
    return neighbours + share * (own - neighbours)


def drawn_mixing(mixing: str, own_share: float, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw the entity's own share r of each mixture, on the generator's device.

    Args:
        mixing: "soft": U(0, 2 a) for each number, which may be above 1; "hard": 1 with probability a, else 0, for each
            number; "entity": U(0, 1), one an entity; "constant": a.
        own_share: a.
        shape: of the embeddings (n, d).
        generator: source of randomness; "constant" draws nothing.

    Returns:
        [n, d], [n, 1] or [].
    """
    if mixing == "constant":
        return torch.tensor(own_share, device=generator.device)
    wanted = (shape[0], 1) if mixing == "entity" else shape
    uniform = torch.rand(wanted, generator=generator, device=generator.device)
    if mixing == "hard":
        return (uniform < own_share).float()
    return uniform if mixing == "entity" else 2 * own_share * uniform


def direction_errors(projected: Tensor, targets: Tensor) -> Tensor:
    r"""Return each row's 1 - cos(x, t) [n]: 0 where they point the same way, 2 at worst, 1 where one of them is 0.

    Args:
        projected: x [n, d].
        targets: t [n, d].
    """
    return 1 - functional.cosine_similarity(projected, targets, dim=1)


class NeighbourhoodDistillation(Distiller[NKDOptions]):
    """NKD as a loss term; see the file's head for the formula."""

    name = "nkd"
    options_class = NKDOptions
    needs = frozenset({Need.EMBEDDINGS})
    citation = (
        "Zhangchi Zhu, Wei Zhang: From Input to Output: A Multi-layer Knowledge Distillation Framework for Compressing "
        "Recommendation Models, 2023"
    )
    test_settings: ClassVar = {"neighbours": 3, "num_experts": 2, "dropout": 0.0}

    def __init__(self, options: NKDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's embeddings and neighbours, and make a map for the users and one for the items.

        Raises:
            OptionError: a hint layer is unknown, or there are fewer entities than neighbours.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        # The method is about the input layer.
        self.hints = HintEmbeddings.of_tables(student, knowledge, options)
        self.neighbours: dict[str, Tensor] = {}
        for side in SIDES:
            found = knowledge.neighbours(side, options.neighbours, options.components, self.hints.teacher_layer)
            self.neighbours[side] = torch.from_numpy(found).to(student.device)
        self.projectors: Any = projectors_of(self.hints, options, seed, lambda _, teacher: teacher // 2)
        self.to(student.device)

    @classmethod
    def check(cls, options: NKDOptions, history: History) -> None:
        """Refuse more neighbours than there are others."""
        for side, count in (("users", history.n_users - 1), ("items", history.n_items - 1)):
            if options.neighbours > count - 1:
                raise OptionError(
                    f"nkd_neighbours = {options.neighbours} is more than the data have: of {count} {side} each has "
                    f"{count - 1} others. Lower it, or use more data."
                )

    def work(self) -> Work:
        """Return the work of an entity, its mixtures with a neighbour drawn on both sides."""
        networks, numbers = self.projectors["user"].work(), sum(self.projectors["user"].sizes)
        return Work(networks.entity + (DRAWN + 8 * NUMBER) * numbers, networks.step)

    def _error_sum(self, side: str, ids: Tensor) -> Tensor:
        options, targets = self.options, self.hints.targets[side]
        others = self.neighbours[side].index_select(0, ids)
        column = torch.randint(others.shape[1], (len(ids), 1), generator=self.generator, device=ids.device)
        other = others.gather(1, column).squeeze(1).long()

        def mixture(own: Tensor, neighbours: Tensor) -> Tensor:
            share = drawn_mixing(options.mixing, options.own_share, (len(own), own.shape[1]), self.generator)
            return mixed(own, neighbours, share)

        embeddings = mixture(self.hints.embeddings(side, ids), self.hints.embeddings(side, other))
        projected = self.projectors[side](embeddings, self.generator)
        wanted = mixture(targets.index_select(0, ids), targets.index_select(0, other))
        return direction_errors(projected, wanted).sum()

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_NKD of the batch divided by its rows; float32 under mixed precision as well."""
        total = torch.zeros((), device=self.student.device)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            share = self.share(batch.entities, batch.rows)
            for side, ids, weight in subsampled_entities("NKD", batch, share, self.generator):
                total = total + weight * self._error_sum(side, ids)
        return total / batch.rows
