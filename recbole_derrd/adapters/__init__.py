"""What distillation may ask of a RecBole model: one small adapter per model family, looked up by model class."""

from __future__ import annotations

from typing import Any, Callable

from recbole_derrd.adapters.base import Adapter, EmbeddingAdapter
from recbole_derrd.adapters.factors import (
    DMFBackbone,
    ENMFBackbone,
    FactorAdapter,
    FISMBackbone,
    NCEPLRecAdapter,
    SimpleXBackbone,
    TwoTablesAdapter,
)
from recbole_derrd.adapters.graph import GCMCBackbone, GraphAdapter, LightGCNBackbone, SGLBackbone
from recbole_derrd.adapters.neumf import NeuMFBackbone
from recbole_derrd.adapters.pairs import ConvNCFBackbone, NAISBackbone, NNCFBackbone, PairAdapter
from recbole_derrd.adapters.rows import (
    ADMMSLIMBackbone,
    CDAEBackbone,
    DrawingAdapter,
    FixedAdapter,
    RandomAdapter,
    RecVAEBackbone,
    RowAdapter,
)

#: Adapter of each RecBole model, by class name; a subclass inherits its parent's.
ADAPTERS: dict[str, type[Adapter]] = {
    "BPR": TwoTablesAdapter,
    "LINE": TwoTablesAdapter,
    "ENMF": ENMFBackbone,
    "SimpleX": SimpleXBackbone,
    "DMF": DMFBackbone,
    "FISM": FISMBackbone,
    "LightGCN": LightGCNBackbone,
    "NGCF": GraphAdapter,
    "DGCF": GraphAdapter,
    "SpectralCF": GraphAdapter,
    "SGL": SGLBackbone,
    "NCL": GraphAdapter,
    "NeuMF": NeuMFBackbone,
    "NNCF": NNCFBackbone,
    "ConvNCF": ConvNCFBackbone,
    "NAIS": NAISBackbone,
    "GCMC": GCMCBackbone,
    "MultiVAE": RowAdapter,
    "MultiDAE": RowAdapter,
    "MacridVAE": DrawingAdapter,
    "RecVAE": RecVAEBackbone,
    "RaCT": RowAdapter,
    "DiffRec": DrawingAdapter,
    "LDiffRec": DrawingAdapter,
    "CDAE": CDAEBackbone,
    "Pop": FixedAdapter,
    "Random": RandomAdapter,
    "ItemKNN": FixedAdapter,
    "AsymKNN": FixedAdapter,
    "EASE": FixedAdapter,
    "SLIMElastic": FixedAdapter,
    "ADMMSLIM": ADMMSLIMBackbone,
    "NCEPLRec": NCEPLRecAdapter,
}


def register_adapter(name: str) -> Callable[[type[Adapter]], type[Adapter]]:
    """Register an adapter for a model class of your own.

    Example:
        >>> @register_adapter("MyModel")
        ... class MyAdapter(FactorAdapter): ...
    """

    def register(adapter: type[Adapter]) -> type[Adapter]:
        ADAPTERS[name] = adapter
        return adapter

    return register


def adapter_class(model: type[Any]) -> type[Adapter]:
    """Return the adapter class of a model class; :class:`RowAdapter`, which any model offers, where none is known.

    A class may name its own as ``own_adapter``.
    """
    for ancestor in model.__mro__:
        if "own_adapter" in vars(ancestor):
            own: type[Adapter] = vars(ancestor)["own_adapter"]
            return own
        if ancestor.__name__ in ADAPTERS:
            return ADAPTERS[ancestor.__name__]
    return RowAdapter


def adapter_of(model: Any) -> Adapter:
    """Wrap a RecBole model in its adapter."""
    return adapter_class(type(model))(model)


__all__ = [
    "ADAPTERS",
    "Adapter",
    "EmbeddingAdapter",
    "FactorAdapter",
    "GraphAdapter",
    "NeuMFBackbone",
    "PairAdapter",
    "RowAdapter",
    "adapter_class",
    "adapter_of",
    "register_adapter",
]
