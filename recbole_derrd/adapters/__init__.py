"""What distillation may ask of a RecBole model: one small adapter per model family, looked up by model class."""

from __future__ import annotations

from typing import Any, Callable

from recbole_derrd.adapters.base import Backbone, VectorBackbone
from recbole_derrd.adapters.factors import (
    DMFBackbone,
    ENMFBackbone,
    FactorBackbone,
    FISMBackbone,
    NCEPLRecBackbone,
    SimpleXBackbone,
    TwoTablesBackbone,
)
from recbole_derrd.adapters.graph import GCMCBackbone, GraphBackbone, LightGCNBackbone, SGLBackbone
from recbole_derrd.adapters.neumf import NeuMFBackbone
from recbole_derrd.adapters.pairs import ConvNCFBackbone, NAISBackbone, NNCFBackbone, PairBackbone
from recbole_derrd.adapters.rows import (
    ADMMSLIMBackbone,
    CDAEBackbone,
    DrawingBackbone,
    FixedBackbone,
    RandomBackbone,
    RecVAEBackbone,
    RowBackbone,
)

#: Adapter of each RecBole model, by class name; a subclass inherits its parent's.
BACKBONES: dict[str, type[Backbone]] = {
    "BPR": TwoTablesBackbone,
    "LINE": TwoTablesBackbone,
    "ENMF": ENMFBackbone,
    "SimpleX": SimpleXBackbone,
    "DMF": DMFBackbone,
    "FISM": FISMBackbone,
    "LightGCN": LightGCNBackbone,
    "NGCF": GraphBackbone,
    "DGCF": GraphBackbone,
    "SpectralCF": GraphBackbone,
    "SGL": SGLBackbone,
    "NCL": GraphBackbone,
    "NeuMF": NeuMFBackbone,
    "NNCF": NNCFBackbone,
    "ConvNCF": ConvNCFBackbone,
    "NAIS": NAISBackbone,
    "GCMC": GCMCBackbone,
    "MultiVAE": RowBackbone,
    "MultiDAE": RowBackbone,
    "MacridVAE": DrawingBackbone,
    "RecVAE": RecVAEBackbone,
    "RaCT": RowBackbone,
    "DiffRec": DrawingBackbone,
    "LDiffRec": DrawingBackbone,
    "CDAE": CDAEBackbone,
    "Pop": FixedBackbone,
    "Random": RandomBackbone,
    "ItemKNN": FixedBackbone,
    "AsymKNN": FixedBackbone,
    "EASE": FixedBackbone,
    "SLIMElastic": FixedBackbone,
    "ADMMSLIM": ADMMSLIMBackbone,
    "NCEPLRec": NCEPLRecBackbone,
}


def register_backbone(name: str) -> Callable[[type[Backbone]], type[Backbone]]:
    """Register an adapter for a model class of your own.

    Example:
        >>> @register_backbone("MyModel")
        ... class MyBackbone(FactorBackbone): ...
    """

    def register(adapter: type[Backbone]) -> type[Backbone]:
        BACKBONES[name] = adapter
        return adapter

    return register


def adapter_of(model: type[Any]) -> type[Backbone]:
    """Return the adapter class of a model class; :class:`RowBackbone`, which any model offers, where none is known.

    A class may name its own as ``backbone_class``.
    """
    for ancestor in model.__mro__:
        if "backbone_class" in vars(ancestor):
            own: type[Backbone] = vars(ancestor)["backbone_class"]
            return own
        if ancestor.__name__ in BACKBONES:
            return BACKBONES[ancestor.__name__]
    return RowBackbone


def backbone_of(model: Any) -> Backbone:
    """Wrap a RecBole model in its adapter."""
    return adapter_of(type(model))(model)


__all__ = [
    "BACKBONES",
    "Backbone",
    "FactorBackbone",
    "GraphBackbone",
    "NeuMFBackbone",
    "PairBackbone",
    "RowBackbone",
    "VectorBackbone",
    "adapter_of",
    "backbone_of",
    "register_backbone",
]
