r"""Hierarchical Topology Distillation (HTD).

Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: "Topology Distillation for Recommender System", KDD 2021. FTD
asks a small student for all relations of a large teacher. HTD asks for those that matter: an assignment network V,
which is learned, puts entities into groups by the teacher's embeddings, and the student is to keep how near the members
of a group are to each other, and where the groups are. E are a batch's distinct users and items, z(e) = argmax
V(h_t(e)) is the group of an entity, one of its own side's, and P(g) the mean of a group's members in the batch, without
a gradient:

    TD = sum_{e, f in E, z(e) = z(f), cos_t(e, f) > 0} (cos_s(e, f) - cos_t(e, f))^2
         + sum_g sum_{e in E} (cos(P_s(g), h_s(e)) - cos(P_t(g), h_t(e)))^2
    GA = sum_{e in E} || h_t(e) - sum_g w_g(e) F_g(h_s(e)) ||^2,   w(e) = softmax((log softmax V(h_t(e)) + noise) / tau)
    L_HTD = alpha TD + (1 - alpha) GA

GA is DE's loss, of a small network F_g for each group: it is what teaches V which entities belong together. The
temperature tau of its Gumbel-softmax falls with the epochs, as in DE. With ``htd_topology: groups`` the second sum of
TD is (cos(P_s(g), P_s(f)) - cos(P_t(g), P_t(f)))^2 over pairs of groups, as the paper's variant (P, P); since P has no
gradient, it is then a number without effect.

Paper and code: this is written from a description of the authors' code. An entity counts once in GA, where DE's items
count half. A group without members in the batch has no part in TD.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import option, published, share
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.de import DEOptions, DistillationExperts
from recbole_derrd.distillers.ftd import TopologyEmbeddings, unit_rows
from recbole_derrd.distillers.hint_embeddings import SIDES, HintOptions
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import NUMBER, Work, distinct_entities, subsample
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.topology import grouped_distance
from recbole_derrd.teacher import Knowledge

_OF_KDS = {"weight": 0.5, "alpha": 0.9, "num_groups": 30, "topology": "entities"}
#: The authors' code trains for 100 epochs.
_PRESETS = {
    "citeulike-bpr": {**_OF_KDS, "weight": 0.001, "alpha": 0.5, "temperature_epochs": 100},
    "citeulike-bpr-kds": _OF_KDS,
    "citeulike-lightgcn-kds": _OF_KDS,
    "gowalla-lightgcn-kds": _OF_KDS,
    "yelp2018-bpr-kds": _OF_KDS,
    "yelp2018-lightgcn-kds": _OF_KDS,
}


@dataclasses.dataclass(frozen=True)
class HTDOptions(HintOptions):
    """Hierarchical Topology Distillation (KDD 2021)."""

    prefix: ClassVar[str] = "htd_"

    preset: str | None = published(_PRESETS)
    weight: float = option(0.001, "Weight of the term in the loss (lambda).", low=0)
    alpha: float = option(
        0.5, "Share of the topology (TD) in the term; the rest is the assignment's (GA).", low=0, high=1
    )
    num_groups: int = option(30, "Groups of users, and as many of items (K).", low=1, high=1000)
    topology: str = option(
        "entities",
        "What groups are compared with, by their prototypes: all entities (the paper's (P, e)), or the other groups "
        "((P, P), whose part has no gradient).",
        choices=("entities", "groups"),
    )
    hidden_size: int | None = option(
        None,
        "Hidden units of a group's network; (student size + teacher size) // 2 if none.",
        low=1,
        kind=(int, type(None)),
    )
    temperature_start: float = option(1.0, "Temperature of the assignment at the first epoch.", above=0)
    temperature_end: float = option(1e-10, "Temperature that the schedule falls to.", above=0)
    temperature_epochs: int = option(1000, "Epochs of the geometric fall, whatever `epochs` is.", low=1)
    members: int | None = option(
        64,
        "Most members of a group that are compared with each other in a step. Those of a larger group are drawn again "
        "in each step, with the same term on average; all if none.",
        low=2,
        kind=(int, type(None)),
    )
    sample: float | str = share("a batch's distinct users and items that the assignment (GA) learns from", auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.temperature_end > self.temperature_start:
            raise OptionError("htd_temperature_end must not be above htd_temperature_start: the temperature falls.")

    def of_experts(self) -> DEOptions:
        """Return the options of the groups' networks and of the one that assigns entities to them."""
        same = ("hint", "teacher_hint", "hidden_size", "temperature_start", "temperature_end", "temperature_epochs")
        return DEOptions(num_experts=self.num_groups, **{key: getattr(self, key) for key in same})


#: Operations of the topology on each number of an entity: gathered, brought to length 1, summed, and back.
_PASSES = 8
#: Entities of which an accelerator makes whole cosine matrices (256 MB each), rather than wait for the groups' sizes.
_DENSE = 8192


def drawn_members(groups: Tensor, n_groups: int, most: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a few members of each group, and return what makes a sum over their pairs that over all pairs on average.

    Args:
        groups: group of each entity [n].
        n_groups: number of groups.
        most: members that are drawn of a larger group, at least 2; None for all, for which nothing is drawn.
        generator: source of randomness, on the groups' device.

    Returns:
        Positions of the drawn entities, and the weight of each group's sum [n_groups].
    """
    sizes = torch.bincount(groups, minlength=n_groups)
    if most is None:
        return torch.arange(len(groups), device=groups.device), torch.ones(n_groups, device=groups.device)
    order = torch.randperm(len(groups), generator=generator, device=groups.device)
    order = order[groups[order].argsort(stable=True)]
    position = torch.arange(len(groups), device=groups.device) - (sizes.cumsum(dim=0) - sizes)[groups[order]]
    drawn = sizes.clamp(max=most)
    return order[position < most], (sizes * (sizes - 1)).float() / (drawn * (drawn - 1)).clamp(min=1)


def grouped_loss(student: Tensor, teacher: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of squared differences of cosines over pairs of one group whose teacher's cosine is positive.

    Args:
        student: embeddings of length 1 [n, d_s].
        teacher: embeddings of length 1 [n, d_t].
        groups: group of each entity [n], from 0.
        weights: weight of each group's sum [n_groups].

    Returns:
        A scalar; each pair counts twice, once from each side.
    """
    cosines = teacher @ teacher.T
    counted = (groups.unsqueeze(0) == groups.unsqueeze(1)) & (cosines > 0)
    return (weights[groups].unsqueeze(1) * counted * (student @ student.T - cosines).square()).sum()


def takes_blocks(device: torch.device, entities: int) -> bool:
    """Say whether :func:`grouped_distance` is quicker than one matrix of all entities, or that would be too large."""
    return device.type == "cpu" or entities > _DENSE


def prototypes(embeddings: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Return the means of the groups' members [n_groups, d] without a gradient; zeros for a group without members.

    Args:
        embeddings: [n, d].
        groups: group of each entity [n].
        n_groups: number of groups.
    """
    sums = embeddings.new_zeros(n_groups, embeddings.shape[1]).index_add_(0, groups, embeddings.detach())
    return sums / torch.bincount(groups, minlength=n_groups).clamp(min=1).unsqueeze(1)


def prototype_loss(student: Tensor, teacher: Tensor, student_prototypes: Tensor, teacher_prototypes: Tensor) -> Tensor:
    """Return the sum of squared differences between the teacher's and the student's cosines of prototypes and entities.

    Args:
        student: the student's entities, or prototypes for (P, P), at length 1 [n, d_s].
        teacher: the teacher's likewise [n, d_t].
        student_prototypes: at length 1 or 0 [g, d_s].
        teacher_prototypes: at length 1 or 0 [g, d_t].

    Returns:
        A scalar.
    """
    return torch.addmm(teacher_prototypes @ teacher.T, student_prototypes, student.T, beta=-1).square().sum()


class _Assignment(DistillationExperts):
    """DE, whose choice of an expert is the group of an entity."""

    @torch.no_grad()
    def groups(self, side: str, teacher: Tensor) -> Tensor:
        """Return the group of each entity [n], by the teacher's embeddings [n, d_t]."""
        bank = self.banks[0][side]
        # The product of the transposes is quicker for so few columns.
        logits = torch.addmm(bank.select_bias.unsqueeze(1), bank.select.T, teacher.T)
        return logits.T.contiguous().argmax(dim=1)

    def error_sum(self, side: str, student: Tensor, teacher: Tensor) -> Tensor:
        """Return GA's sum over entities of one side, by the student's embeddings and the teacher's."""
        return self._error_sum(self.banks[0][side], student, teacher)


class HierarchicalTopologyDistillation(Distiller[HTDOptions]):
    """HTD as a loss term; see the file's head for the formula."""

    name = "htd"
    options_class = HTDOptions
    needs = frozenset({Need.EMBEDDINGS})
    citation = (
        "Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: Topology Distillation for Recommender System, KDD 2021"
    )
    test_settings: ClassVar = {"num_groups": 3, "hidden_size": 5, "sample": 1.0}

    def __init__(self, options: HTDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Make the assignment network and the groups' own.

        Raises:
            OptionError: a hint layer is unknown, or users cannot be compared with items there.
        """
        super().__init__(options, knowledge, student, seed)
        self.assignment = _Assignment(options.of_experts(), knowledge, student, seed)
        # One stream of noise, whose state a training checkpoint keeps.
        self.assignment.generator = self.generator
        self.topology = TopologyEmbeddings("HTD", self.assignment.hints[0])

    def begin_epoch(self, epoch: int) -> None:
        """Set the epoch's temperature."""
        self.assignment.begin_epoch(epoch)

    def work(self) -> Work:
        """Return the work of an entity in the assignment (GA), and in the topology (TD), of which all have a part."""
        own, (mine, theirs) = self.assignment.work(), self.topology.sizes
        compared = 2 * self.options.num_groups + (self.options.members or 0)
        products = self.options.num_groups * theirs + compared * (theirs + 3 * mine)
        return Work(own.entity, own.step, products + NUMBER * _PASSES * (mine + theirs))

    def _topology_sum(self, embeddings: tuple[Tensor, Tensor], sizes: list[int]) -> Tensor:
        per_side, n_groups = self.options.num_groups, 2 * self.options.num_groups
        sides = zip(SIDES, embeddings[1].split(sizes))
        groups = torch.cat([self.assignment.groups(side, rows) for side, rows in sides])
        groups[sizes[0] :] += per_side
        student, teacher = map(unit_rows, embeddings)
        means = [unit_rows(prototypes(side, groups, n_groups)) for side in embeddings]
        entities = means if self.options.topology == "groups" else (student, teacher)
        chosen, weights = drawn_members(groups, n_groups, self.options.members, self.generator)
        blocks = self.student.fused and takes_blocks(student.device, len(chosen))
        within = grouped_distance if blocks else grouped_loss
        of_student, of_teacher, of_groups = (rows.index_select(0, chosen) for rows in (student, teacher, groups))
        return within(of_student, of_teacher, of_groups, weights) + prototype_loss(*entities, *means)

    def _assignment_sum(self, embeddings: tuple[Tensor, Tensor], sizes: list[int], rows: int) -> Tensor:
        share = self.share(sum(sizes), rows)
        total = torch.zeros((), device=self.student.device)
        for side, student, teacher in zip(SIDES, *(both.split(sizes) for both in embeddings)):
            drawn, scale = subsample(torch.arange(len(student), device=student.device), share, self.generator)
            if len(drawn) < len(student):
                student, teacher = student.index_select(0, drawn), teacher.index_select(0, drawn)
            total = total + scale * self.assignment.error_sum(side, student, teacher)
        return total

    @torch.no_grad()
    def diagnostics(self, activity: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Return how many groups of each side have members in the end, and the share of its entities in the largest."""
        found = {}
        for side in SIDES:
            groups = self.assignment.groups(side, self.assignment.targets[0][side][1:])
            sizes = functional.one_hot(groups, self.options.num_groups).sum(dim=0)
            found[side] = {"used": int((sizes > 0).sum()), "largest": round(float(sizes.max()) / len(groups), 6)}
        return {"groups": found}

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_HTD of the batch divided by its rows; float32 under mixed precision as well."""
        alpha, (users, items) = self.options.alpha, distinct_entities("HTD", batch)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            # Both parts look at the same rows.
            embeddings, sizes = self.topology.stacked(users, items), [len(users), len(items)]
            topology = self._topology_sum(embeddings, sizes)
            total = alpha * topology + (1 - alpha) * self._assignment_sum(embeddings, sizes, batch.rows)
        return total / batch.rows
