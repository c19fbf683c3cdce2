"""Options of Neighbourhood Knowledge Distillation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.hints import HintOptions
from recbole_derrd.config.options.schema import option, share_of_entities


@dataclasses.dataclass(frozen=True)
class NKDOptions(HintOptions):
    """Neighbourhood Knowledge Distillation, the input layer of MKD (2023)."""

    prefix: ClassVar[str] = "nkd_"

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
    own_share: float = option(0.5, "Share of the entity itself, on average (a); mixing: entity has 0.5.", low=0, high=1)
    num_experts: int = option(
        5, "Small networks whose mean maps the student's embeddings to the teacher's (E).", low=1, high=1000
    )
    hidden_size: int | None = option(
        None, "Hidden units of such a network; half the teacher's size if none.", low=1, kind=(int, type(None))
    )
    dropout: float = option(0.1, "Dropout before each of its layers.", low=0, high=0.9)
    sample: float = share_of_entities()
