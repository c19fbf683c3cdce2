r"""FreqD: embeddings after a filter that keeps what neighbours in the interactions have in common.

Zhangchi Zhu, Wei Zhang: "Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency
Perspective", KDD 2025, arXiv 2411.10676. On a graph, low frequencies are what neighbours have in common. Teacher's and
student's embeddings are compared after a filter H that lets these pass:

    H = alpha A + (1 - alpha) I
    l(e) = 1 - cos((H f(S))_e, (H T)_e)    or    || (H f(S))_e - (H T)_e ||^2
    L_FreqD = sum_{users} l(u) + 1/2 (sum_{positives} l(i) + sum_{negatives} l(j))    over a batch's distinct entities

S and T are the embedding tables of a side, and f is the mean of E networks of two layers, d_s -> d_t -> d_t, with
dropout before each layer; users and items have a graph and an f each. A = D^-1/2 (B + B^T) / 2 D^-1/2 of the side's
co-occurrence graph: a user's row of B has ones for the K users with which it shares the most training items, and
likewise for items (``data/co_occurrence.py``). Whom the teacher does not know has no edges. In each step an entry of A
is kept with probability p and then divided by p, the same entries for the student and the teacher, so that H is right
on average. The two ends of an edge are dropped each on its own.

Only the rows of H of the batch are made, and f maps only what these touch.

Paper and code: the paper's equations were not accessible; this follows a description of the authors' code. There H
covers whole tables in each step, which is the same for a batch's rows. That nobody is its own neighbour, which of equal
ties is taken, dropout at both layers and relu between them are our reading. Of a teacher that propagates the code reads
the propagated embeddings, beside the student's table; here both are tables (``freqd_teacher_hint``). The code has both
errors; which of them a published result has is not known, and the default is the first.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import option, published, share_of_entities
from recbole_derrd.data.co_occurrence import CoOccurrence, co_occurrence_graph
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.de import reconstruction_errors
from recbole_derrd.distillers.hint_embeddings import SIDES, HintEmbeddings, HintOptions
from recbole_derrd.distillers.nkd import direction_errors
from recbole_derrd.distillers.projector import projectors_of
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import Work, subsampled_entities
from recbole_derrd.ops.listed_scores import distinct_positions
from recbole_derrd.teacher import Knowledge

#: The authors' code.
_PRESETS = {
    "gowalla-bpr": {
        "weight": 0.5, "neighbours": 5, "alpha": 0.5, "keep": 0.5, "norm": "cosine", "num_experts": 5, "dropout": 0.2
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FreqDOptions(HintOptions):
    """Frequency-aware distillation (KDD 2025)."""

    prefix: ClassVar[str] = "freqd_"

    preset: str | None = published(_PRESETS)
    # Weight, neighbours, alpha and keep are those of Gowalla with BPR.
    weight: float = option(0.5, "Weight of the term in the loss.", low=0)
    neighbours: int = option(
        5,
        "Strongest neighbours of a user or an item in the co-occurrence graph, before it is made symmetric (K).",
        low=1,
    )
    alpha: float = option(
        0.5, "Share of the neighbours in the filter (alpha); with 0 embeddings are compared as they are.", low=0, high=1
    )
    keep: float = option(
        0.5, "Probability with which a step keeps an entry of the graph (p); with 1 all are kept.", above=0, high=1
    )
    norm: str = option(
        "cosine", "Error of an embedding: 1 - cosine, or the squared distance.", choices=("cosine", "squared")
    )
    num_experts: int = option(
        5, "Small networks whose mean maps the student's embeddings to the teacher's (E).", low=1, high=1000
    )
    hidden_size: int | None = option(
        None, "Hidden units of such a network; the teacher's size if none.", low=1, kind=(int, type(None))
    )
    dropout: float = option(0.2, "Dropout before each of its layers.", low=0, high=0.9)
    sample: float | str = share_of_entities(auto=True)


@dataclasses.dataclass(frozen=True)
class Edges:
    """Entries of some rows of A, row after row.

    Attributes:
        counts: entries of each row [n].
        others: column of each entry [m], int64.
        weights: [m].
    """

    counts: Tensor
    others: Tensor
    weights: Tensor


class Graph:
    """A on the student's device.

    Args:
        graph: A by rows.
        device: where it is read.
        known: whom the teacher knows, bool [n], on the device; None for all.
    """

    def __init__(self, graph: CoOccurrence, device: torch.device, known: Tensor | None = None) -> None:
        """Move it there, and take out the edges to those that are not known."""
        self.indptr, self.neighbours, self.weights = (
            torch.from_numpy(part).to(device) for part in (graph.indptr, graph.neighbours, graph.weights)
        )
        if known is not None:
            kept = known[self.neighbours.long()]
            self.indptr = functional.pad(kept.cumsum(0), (1, 0)).index_select(0, self.indptr)
            self.neighbours, self.weights = self.neighbours[kept], self.weights[kept]

    def edges(self, ids: Tensor) -> Edges:
        """Return the rows of these ids [n]."""
        starts = self.indptr.index_select(0, ids)
        counts = self.indptr.index_select(0, ids + 1) - starts
        # Where an entry is, less its place in what is returned, is the same for all of a row.
        shifts = (starts - (counts.cumsum(0) - counts)).repeat_interleave(counts)
        places = shifts + torch.arange(len(shifts), device=ids.device)
        return Edges(counts, self.neighbours.index_select(0, places).long(), self.weights.index_select(0, places))


def kept_edges(edges: Edges, keep: float, generator: torch.Generator) -> Edges:
    """Keep each entry with a probability p and divide it by p; 1 keeps all and draws no random number."""
    if keep == 1:
        return edges
    kept = torch.rand(len(edges.others), generator=generator, device=generator.device) < keep
    rows = torch.arange(len(edges.counts), device=kept.device).repeat_interleave(edges.counts)[kept]
    return Edges(rows.bincount(minlength=len(edges.counts)), edges.others[kept], edges.weights[kept] / keep)


def filtered(table: Tensor, own: Tensor, edges: Edges, alpha: float) -> Tensor:
    """Return (alpha A + (1 - alpha) I) X of some rows.

    Args:
        table: X [k, d].
        own: where the rows themselves are in the table [n], int64.
        edges: their rows of A, whose ``others`` are places in the table.
        alpha: share of the neighbours.

    Returns:
        [n, d].
    """
    starts = edges.counts.cumsum(0) - edges.counts
    weights = edges.weights.to(table.dtype)
    around = functional.embedding_bag(edges.others, table, starts, mode="sum", per_sample_weights=weights)
    return alpha * around + (1 - alpha) * table.index_select(0, own)


def errors(mapped: Tensor, targets: Tensor, norm: str) -> Tensor:
    """Return each row's 1 - cos ("cosine") or squared distance ("squared") [n] of two tables [n, d]."""
    return direction_errors(mapped, targets) if norm == "cosine" else reconstruction_errors(targets, mapped)


class FrequencyDistillation(Distiller[FreqDOptions]):
    """FreqD as a loss term; see the file's head for the formula."""

    name = "freqd"
    options_class = FreqDOptions
    needs = frozenset({Need.EMBEDDINGS})
    citation = (
        "Zhangchi Zhu, Wei Zhang: Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency "
        "Perspective, KDD 2025"
    )
    test_settings: ClassVar = {"neighbours": 3, "keep": 1.0, "num_experts": 2, "dropout": 0.0}

    def __init__(self, options: FreqDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's embeddings, build the graphs, and make a map for the users and one for the items.

        Raises:
            OptionError: a hint layer is unknown.
        """
        super().__init__(options, knowledge, student, seed)
        self.hints = HintEmbeddings.of_tables(student, knowledge, options)
        self.graphs = {
            side: Graph(
                co_occurrence_graph(knowledge.history, side, options.neighbours), student.device, self.known(side)
            )
            for side in SIDES
        }
        self.projectors: Any = projectors_of(self.hints, options, seed, lambda _, teacher: teacher)
        self.to(student.device)

    def work(self) -> Work:
        """Return the work of an entity: its own map and, as a symmetric graph has two ends, those of 2 K neighbours."""
        networks = self.projectors["user"].work()
        touched = 1 + 2 * self.options.neighbours
        return Work(touched * networks.entity, networks.step)

    def _errors(self, side: str, ids: Tensor) -> Tensor:
        """Return the errors of distinct entities."""
        targets, graph = self.hints.targets[side], self.graphs[side]
        edges = kept_edges(graph.edges(ids), self.options.keep, self.generator)
        touched, places = distinct_positions(torch.cat([ids, edges.others]), len(targets))
        own, edges = places[: len(ids)], dataclasses.replace(edges, others=places[len(ids) :])
        mapped = self.projectors[side](self.hints.embeddings(side, touched), self.generator)
        alpha = self.options.alpha
        wanted = filtered(targets.index_select(0, touched), own, edges, alpha)
        return errors(filtered(mapped, own, edges, alpha), wanted, self.options.norm)

    def diagnostics(self, activity: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Return how many users and items have neighbours in the graphs, and how many on average."""
        found = {}
        for side, graph in self.graphs.items():
            degrees = graph.indptr.diff()[1:]
            connected = int((degrees > 0).sum())
            found[side] = {
                "entities": len(degrees),
                "with_neighbours": connected,
                "mean_neighbours": round(int(degrees.sum()) / max(1, connected), 6),
            }
        return {"co_occurrence_graph": found}

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_FreqD of the batch divided by its rows; float32 under mixed precision as well."""
        total = torch.zeros((), device=self.student.device)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            share = self.share(batch.entities, batch.rows)
            for side, ids, weight in subsampled_entities("FreqD", batch, share, self.generator):
                # An item that is positive and negative counts twice, with one row of the graph.
                distinct, places = distinct_positions(ids, len(self.hints.targets[side]))
                total = total + weight * self._errors(side, distinct).index_select(0, places).sum()
        return total / batch.rows
