r"""Full Topology Distillation (FTD).

Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: "Topology Distillation for Recommender System", KDD 2021. The
student learns how near all entities of a batch are to each other in the teacher's space, not where they are in it. Over
the batch's distinct users and items together, E,

    L_FTD = sum_{e in E} sum_{f in E} (cos(h_t(e), h_t(f)) - cos(h_s(e), h_s(f)))^2

with h_s and h_t the student's and the teacher's embeddings; each pair counts twice, once from each side, as in the
published sum. An embedding of zeros has a cosine of 0 with all.

The matrices of |E|^2 cosines need not be made: see ``ops/topology.py``, whose readable twin is :func:`topology_loss`.

Paper and code: this is written from a description of the authors' code and agrees with it as far as that goes.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import option, share_of_entities
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.hint_embeddings import HintEmbeddings, HintOptions
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import NUMBER, Work, distinct_entities, subsample
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.topology import gram_distance
from recbole_derrd.teacher import Knowledge


@dataclasses.dataclass(frozen=True)
class FTDOptions(HintOptions):
    """Full Topology Distillation (KDD 2021)."""

    prefix: ClassVar[str] = "ftd_"

    weight: float = option(0.001, "Weight of the term in the loss (lambda).", low=0)
    sample: float | str = share_of_entities(auto=True)


def unit_rows(embeddings: Tensor) -> Tensor:
    """Return embeddings [n, d] at length 1; those of zeros stay zeros, without a gradient."""
    lengths: Tensor = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    return embeddings / lengths.masked_fill(lengths == 0, torch.inf)


def topology_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum over all pairs, in both orders, of the squared difference of their cosines.

    Args:
        student: embeddings of length 1 [n, d_s].
        teacher: embeddings of length 1 [n, d_t].

    Returns:
        A scalar.
    """
    return (student @ student.T - teacher @ teacher.T).square().sum()


def pairs_scale(whole: int, drawn: int) -> float:
    """Return the factor by which a sum over pairs of drawn entities is, on average, the sum over all pairs.

    An entity with itself adds nothing to a sum of differences of cosines, so that pairs of two count alone.
    """
    return whole * (whole - 1) / (drawn * (drawn - 1)) if drawn > 1 else 1.0


class TopologyEmbeddings:
    """A batch's users and items in one matrix, in the student's space and in the teacher's.

    Args:
        name: the method's, for errors.
        hints: the embeddings.

    Raises:
        OptionError: a model's users and items have embeddings of different sizes.
    """

    def __init__(self, name: str, hints: HintEmbeddings) -> None:
        """Check that users can be compared with items."""
        self.name, self.hints = name, hints
        sizes = hints.sizes()
        #: Dimensions of the student's embeddings and of the teacher's.
        self.sizes = sizes["user"]
        for role, users, items in zip(("student", "teacher"), *sizes.values()):
            if users != items:
                raise OptionError(
                    f"{name} compares users with items, but the {role}'s embeddings have {users} dimensions for users "
                    f"and {items} for items. Choose another hint layer."
                )

    def draw(self, batch: StepBatch, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
        """Return a share of the batch's distinct users and of its distinct items, and how many there are of both."""
        users, items = distinct_entities(self.name, batch)
        whole = len(users) + len(items)
        # One entity alone has no pair.
        chosen, _ = subsample(
            torch.arange(whole, device=users.device), min(1.0, max(share, 2 / max(whole, 1))), generator
        )
        if len(chosen) < whole:
            users, items = users[chosen[chosen < len(users)]], items[chosen[chosen >= len(users)] - len(users)]
        return users, items, whole

    def stacked(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the student's and the teacher's embeddings of users and, below them, of items."""
        sides = (("user", users), ("item", items))
        student = torch.cat([self.hints.embeddings(side, ids) for side, ids in sides])
        return student, torch.cat([self.hints.targets[side].index_select(0, ids) for side, ids in sides])


class FullTopologyDistillation(Distiller[FTDOptions]):
    """FTD as a loss term; see the file's head for the formula."""

    name = "ftd"
    options_class = FTDOptions
    needs = frozenset({Need.EMBEDDINGS})
    citation = (
        "Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: Topology Distillation for Recommender System, KDD 2021"
    )

    def __init__(self, options: FTDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's embeddings.

        Raises:
            OptionError: a hint layer is unknown, or users cannot be compared with items there.
        """
        super().__init__(options, knowledge, student, seed)
        hints = HintEmbeddings(student, knowledge, student.layer(options.hint), options.teacher_hint)
        self.topology = TopologyEmbeddings("FTD", hints)

    def work(self) -> Work:
        """Return the work of an entity: its part of the products of sizes, and embeddings at length 1."""
        student, teacher = self.topology.sizes
        return Work(teacher * teacher + 3 * student * (student + teacher) + 4 * NUMBER * (student + teacher))

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_FTD of the batch divided by its rows; float32 under mixed precision as well."""
        share = self.share(batch.entities, batch.rows)
        users, items, whole = self.topology.draw(batch, share, self.generator)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            student, teacher = map(unit_rows, self.topology.stacked(users, items))
            distance = gram_distance if self.student.fused else topology_loss
            return pairs_scale(whole, len(student)) * distance(student, teacher) / batch.rows
