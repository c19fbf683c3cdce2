"""RecBole's general recommenders by name, and the user's own by dotted path, able to run on today's numpy and scipy."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import recbole.model.general_recommender as general
import scipy.sparse as sp
import torch
from recbole.model.abstract_recommender import GeneralRecommender

from recbole_derrd.errors import OptionError, did_you_mean
from recbole_derrd.ops.propagation import propagate, to_csr
from recbole_derrd.recbole_compat.pretrained import reading_mixins


class _NormalisedAdjacency:
    """RecBole's normalised user-item graph, without the scipy method that newer versions lack.

    The stock models fill a dictionary matrix through ``dok_matrix._update``, which scipy 1.13 removed. The values
    here are the same to the bit, and the matrix is built faster.
    """

    interaction_matrix: Any
    n_users: int
    n_items: int

    def _adjacency(self) -> sp.csr_matrix:
        pairs = self.interaction_matrix
        size = self.n_users + self.n_items
        row = np.concatenate([pairs.row, pairs.col + self.n_users])
        col = np.concatenate([pairs.col + self.n_users, pairs.row])
        adjacency = sp.csr_matrix((np.ones(len(row), dtype=np.float32), (row, col)), shape=(size, size))
        adjacency.sum_duplicates()
        adjacency.data[:] = 1
        return adjacency

    @staticmethod
    def _degrees(adjacency: sp.csr_matrix) -> np.ndarray[Any, Any]:
        return np.asarray((adjacency > 0).sum(axis=1)).ravel() + 1e-7

    @staticmethod
    def _tensor(matrix: sp.spmatrix) -> torch.Tensor:
        matrix = sp.coo_matrix(matrix)
        index = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
        values = torch.from_numpy(matrix.data.astype(np.float32))
        return torch.sparse_coo_tensor(index, values, matrix.shape, check_invariants=False)

    def get_norm_adj_mat(self) -> torch.Tensor:
        """Return D^-1/2 A D^-1/2 as a sparse tensor."""
        adjacency = self._adjacency()
        scale = sp.diags(np.power(self._degrees(adjacency), -0.5))
        return self._tensor(scale @ adjacency @ scale)

    def get_laplacian_matrix(self) -> torch.Tensor:
        """Return I - D^-1 A as a sparse tensor (SpectralCF)."""
        adjacency = self._adjacency()
        walk = sp.diags(np.power(self._degrees(adjacency), -1.0)) @ adjacency
        identity: torch.Tensor = self.get_eye_mat(self.n_items + self.n_users)  # type: ignore[attr-defined]
        return identity - self._tensor(walk)


class _LayerMeanOnce:
    """LightGCN's propagation by :mod:`recbole_derrd.ops.propagation`, where the configuration asks for it."""

    norm_adj_matrix: torch.Tensor
    n_layers: int
    _by_rows: torch.Tensor | None = None

    def __init__(self, config: Any, dataset: Any) -> None:
        """Build the stock model."""
        super().__init__(config, dataset)  # type: ignore[call-arg]
        self._quick = "graph" in getattr(config, "fast", ())

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return every user's and every item's vector."""
        if not self._quick:
            stock: tuple[torch.Tensor, torch.Tensor] = super().forward()  # type: ignore[misc]
            return stock
        if self._by_rows is None:
            self._by_rows = to_csr(self.norm_adj_matrix)
        every = propagate(self._by_rows, self.get_ego_embeddings(), self.n_layers)  # type: ignore[attr-defined]
        return torch.split(every, [self.n_users, self.n_items])  # type: ignore[attr-defined, return-value]


class _NeedsFaiss:
    """NCL clusters with faiss, which RecBole does not install."""

    def run_kmeans(self, x: Any) -> Any:
        """Cluster as stock NCL does, or say what is missing."""
        try:
            return super().run_kmeans(x)  # type: ignore[misc]
        except ImportError as error:
            raise OptionError(missing_package("NCL") or str(error)) from error


# What a model's training imports and RecBole does not install: the module, and what to install.
_PACKAGES = {"NCL": ("faiss", "faiss-cpu")}


def missing_package(name: str) -> str | None:
    """Say which package the training of this model lacks, or return None."""
    module, package = _PACKAGES.get(name, (None, None))
    if module is None or importlib.util.find_spec(module) is not None:
        return None
    return f"RecBole's {name} needs the package '{module}' to be trained: pip install {package}."


_BUILDS_ADJACENCY = ("LightGCN", "NGCF", "NCL", "GCMC", "SpectralCF")


@functools.cache
def general_models() -> dict[str, str]:
    """Return the module of each general recommender of the installed RecBole, by class name, importing none."""
    modules: dict[str, str] = {}
    for file in sorted(Path(general.__file__).parent.glob("*.py")):
        for name in re.findall(r"^class (\w+)\(.*GeneralRecommender", file.read_text(encoding="utf-8"), re.M):
            modules[name] = f"recbole.model.general_recommender.{file.stem}"
    modules["LDiffRec"] = "recbole.model.general_recommender.ldiffrec"
    return modules


def _other_recbole_model(name: str) -> bool:
    root = Path(general.__file__).parent.parent
    return any(
        (root / kind / f"{name.lower()}.py").exists()
        for kind in (
            "sequential_recommender",
            "context_aware_recommender",
            "knowledge_aware_recommender",
            "exlib_recommender",
        )
    )


def model_class(name: str) -> type[Any]:
    """Return the RecBole model class of this name, or the user's own of this dotted path, package.module.Class.

    Raises:
        OptionError: there is no general recommender of this name.
    """
    if "." not in name:
        return _recbole_class(name)
    own: Any = _own_class(name)
    return _adapted(own)


#: Classes that were given as such, by their dotted paths: a script's or a notebook's need not be importable.
_GIVEN: dict[str, type[Any]] = {}


def name_of(model: type[Any]) -> str:
    """Return the name by which :func:`model_class` knows a class: RecBole's by its own, a user's by its path."""
    if general_models().get(model.__name__) == model.__module__:
        return model.__name__
    path = f"{model.__module__}.{model.__qualname__}"
    _GIVEN[path] = model
    return path


def recbole_ancestor(name: str) -> str:
    """Return the RecBole model that a model is or is derived from; the name itself where there is none."""
    if "." not in name:
        return name
    ancestors = (one.__name__ for one in model_class(name).__mro__ if one.__module__.startswith("recbole."))
    return next((one for one in ancestors if one in general_models()), name)


def _own_class(path: str) -> type[Any]:
    module, _, attribute = path.rpartition(".")
    try:
        found = _GIVEN.get(path) or getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(f"Cannot load the model '{path}': {error}.") from error
    if not (isinstance(found, type) and issubclass(found, GeneralRecommender)):
        raise OptionError(f"'{path}' is no model class: it must be a subclass of RecBole's GeneralRecommender.")
    return found


def own_classes(kind: type[Any]) -> list[type[Any]]:
    """Return those classes that a model is derived from, itself among them, which are the user's."""
    theirs = ("recbole", "recbole_derrd", "torch", "builtins")
    return [one for one in kind.__mro__ if one.__module__.partition(".")[0] not in theirs]


def own_sources(kind: type[Any]) -> list[str]:
    """Return the source of the user's own modules behind a model, as far as there is any."""
    found = []
    for one in own_classes(kind):
        # A notebook's module has no source, but its classes may have one.
        for owner in (sys.modules.get(one.__module__), one):
            with contextlib.suppress(OSError, TypeError):
                found.append(inspect.getsource(owner))  # type: ignore[arg-type]
                break
    return found


@functools.cache
def _adapted(own: Any) -> type[Any]:
    """Return the user's class: on today's scipy where it builds a RecBole model's graph, and reading files as data."""
    for method in ("get_norm_adj_mat", "get_laplacian_matrix"):
        owner = next((one for one in own.__mro__ if method in vars(one)), None)
        if owner is not None and owner.__name__ in _BUILDS_ADJACENCY and owner.__module__.startswith("recbole."):
            return type(own.__name__, (_NormalisedAdjacency, own), {"__module__": own.__module__})
    mixins = reading_mixins(own)
    return type(own.__name__, (*mixins, own), {"__module__": own.__module__}) if mixins else own


@functools.cache
def _recbole_class(name: str) -> type[Any]:
    modules = general_models()
    if name not in modules:
        if _other_recbole_model(name):
            raise OptionError(
                f"'{name}' is not a general recommender: it needs more than users and items, and cannot be distilled "
                "here. Choose a general recommender such as BPR, NeuMF or LightGCN."
            )
        raise OptionError(f"RecBole has no general recommender '{name}'.{did_you_mean(name, modules)}")
    try:
        stock: type[Any] = getattr(importlib.import_module(modules[name]), name)
    except ImportError as error:
        raise OptionError(f"RecBole's {name} needs the package '{error.name}': pip install {error.name}.") from error
    mixins = reading_mixins(stock)
    if name in _BUILDS_ADJACENCY:
        first = {"NCL": (_NeedsFaiss,), "LightGCN": (_LayerMeanOnce,)}.get(name, ())
        mixins = (*first, _NormalisedAdjacency)
    if mixins:
        return type(name, (*mixins, stock), {"__module__": stock.__module__, "__doc__": stock.__doc__})
    return stock
