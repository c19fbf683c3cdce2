"""The distillation methods, one file each: pure functions of tensors and a thin module around them."""

from __future__ import annotations

import importlib

from recbole_derrd.distillers.base import Distiller, Need, StepBatch
from recbole_derrd.distillers.cd import CollaborativeDistillation
from recbole_derrd.distillers.cpd import ConsistentPreferenceDistillation
from recbole_derrd.distillers.de import DistillationExperts
from recbole_derrd.distillers.hetcomp import HeterogeneousDistillation
from recbole_derrd.distillers.ir_rrd import ItemSideRankingDistillation
from recbole_derrd.distillers.listwise import ListwiseDistillation
from recbole_derrd.distillers.nkd import NeighbourhoodDistillation
from recbole_derrd.distillers.rd import RankingDistillation
from recbole_derrd.distillers.rrd import RelaxedRankingDistillation
from recbole_derrd.distillers.sld import SoftLabelDistillation

#: Built-in methods by their name in ``distillers``.
DISTILLERS: dict[str, type[Distiller]] = {
    "de": DistillationExperts,
    "rrd": RelaxedRankingDistillation,
    "listwise": ListwiseDistillation,
    "cd": CollaborativeDistillation,
    "rd": RankingDistillation,
    "ir_rrd": ItemSideRankingDistillation,
    "hetcomp": HeterogeneousDistillation,
    "nkd": NeighbourhoodDistillation,
    "cpd": ConsistentPreferenceDistillation,
    "sld": SoftLabelDistillation,
}


def distiller_class(name: str) -> type[Distiller]:
    """Return the method of this name, or of this dotted path (checked when the configuration was read)."""
    if name in DISTILLERS:
        return DISTILLERS[name]
    module, _, attribute = name.rpartition(".")
    found: type[Distiller] = getattr(importlib.import_module(module), attribute)
    return found


__all__ = [
    "DISTILLERS",
    "CollaborativeDistillation",
    "ConsistentPreferenceDistillation",
    "DistillationExperts",
    "Distiller",
    "HeterogeneousDistillation",
    "ItemSideRankingDistillation",
    "ListwiseDistillation",
    "Need",
    "NeighbourhoodDistillation",
    "RankingDistillation",
    "RelaxedRankingDistillation",
    "SoftLabelDistillation",
    "StepBatch",
    "distiller_class",
]
