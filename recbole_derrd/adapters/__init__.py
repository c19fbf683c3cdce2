"""What distillation may ask of a RecBole model: one small adapter per model family, looked up by model class."""

from __future__ import annotations

from typing import Any, Callable

from recbole_derrd.adapters.base import Adapter, EmbeddingAdapter
from recbole_derrd.adapters.factors import (
    DMFAdapter,
    ENMFAdapter,
    FactorAdapter,
    FISMAdapter,
    NCEPLRecAdapter,
    SimpleXAdapter,
    TwoTablesAdapter,
)
from recbole_derrd.adapters.graph import GCMCAdapter, GraphAdapter, LightGCNAdapter, SGLAdapter
from recbole_derrd.adapters.neumf import NeuMFAdapter
from recbole_derrd.adapters.pairs import ConvNCFAdapter, NAISAdapter, NNCFAdapter, PairAdapter
from recbole_derrd.adapters.rows import (
    ADMMSLIMAdapter,
    CDAEAdapter,
    DrawingAdapter,
    FixedAdapter,
    RandomAdapter,
    RecVAEAdapter,
    RowAdapter,
)

#: Adapter of each RecBole model, by class name; a subclass inherits its parent's.
ADAPTERS: dict[str, type[Adapter]] = {
    "BPR": TwoTablesAdapter,
    "LINE": TwoTablesAdapter,
    "ENMF": ENMFAdapter,
    "SimpleX": SimpleXAdapter,
    "DMF": DMFAdapter,
    "FISM": FISMAdapter,
    "LightGCN": LightGCNAdapter,
    "NGCF": GraphAdapter,
    "DGCF": GraphAdapter,
    "SpectralCF": GraphAdapter,
    "SGL": SGLAdapter,
    "NCL": GraphAdapter,
    "NeuMF": NeuMFAdapter,
    "NNCF": NNCFAdapter,
    "ConvNCF": ConvNCFAdapter,
    "NAIS": NAISAdapter,
    "GCMC": GCMCAdapter,
    "MultiVAE": RowAdapter,
    "MultiDAE": RowAdapter,
    "MacridVAE": DrawingAdapter,
    "RecVAE": RecVAEAdapter,
    "RaCT": RowAdapter,
    "DiffRec": DrawingAdapter,
    "LDiffRec": DrawingAdapter,
    "CDAE": CDAEAdapter,
    "Pop": FixedAdapter,
    "Random": RandomAdapter,
    "ItemKNN": FixedAdapter,
    "AsymKNN": FixedAdapter,
    "EASE": FixedAdapter,
    "SLIMElastic": FixedAdapter,
    "ADMMSLIM": ADMMSLIMAdapter,
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
    "NeuMFAdapter",
    "PairAdapter",
    "RowAdapter",
    "adapter_class",
    "adapter_of",
    "register_adapter",
]
