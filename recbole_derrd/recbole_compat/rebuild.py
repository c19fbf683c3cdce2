"""Plain values, tensors and arrays from what a pickle describes; everything else stays inert."""

from __future__ import annotations

import collections
from typing import Any, Callable

import torch
from torch import Tensor

from recbole_derrd.recbole_compat.arrays import array_of, array_of_buffer, bytes_of, number_type, scalar_of
from recbole_derrd.recbole_compat.placeholders import Described, Inert, Named, StorageAt
from recbole_derrd.recbole_compat.refusals import MalformedError, RefusedError
from recbole_derrd.recbole_compat.tensors import Storages, device_of, layout_of, number_type_of, shape_of, sparse
from recbole_derrd.recbole_compat.unpickle import LARGEST_KEY
from recbole_derrd.runtime.machine_errors import refuse_limit

#: Modules whose classes occur in a stock checkpoint; of these nothing is made.
_INERT_MODULES = ("recbole.", "yaml.", "scipy.sparse", "pathlib")
_CONFIG = "recbole.config.configurator.Config"
_ATOMS = (type(None), bool, int, float, str)
_DEEPEST = 50
# Lists may share parts, so that few bytes could describe many values.
_MOST_VALUES = 10_000_000


def admits(module: str, name: str) -> bool:
    """Say whether a checkpoint may describe something of this name as called."""
    return f"{module}.{name}" in _MAKERS or ("." not in name and (module + ".").startswith(_INERT_MODULES))


class Rebuilder:
    """Makes values of what a pickle describes.

    Args:
        storages: where the numbers of tensors are.
        plain: whether to refuse everything that would stay inert.
        most_bytes: how many bytes may be copied out of the pickle.
    """

    def __init__(self, storages: Storages, plain: bool = False, most_bytes: int = 1 << 20) -> None:
        """Nothing is made yet."""
        self.storages = storages
        self.plain = plain
        #: What some object in a file became; the object itself is kept, so that its id stays its own.
        self._made: dict[int, tuple[Any, Any, int]] = {}
        self._open: set[int] = set()
        self._count = 0
        self._bytes_left = most_bytes

    def value(self, described: Any) -> Any:
        """Return what is described: shared parts once, nothing within itself.

        Raises:
            MalformedError: it is too deep, too large, or holds itself.
        """
        if type(described) in _ATOMS:
            self._count += 1
            return described
        known = self._made.get(id(described))
        if known is not None:
            self._counted(known[2])
            return known[1]
        if id(described) in self._open or len(self._open) >= _DEEPEST:
            raise MalformedError("it holds something that is nested too deep, or in itself")
        self._open.add(id(described))
        before = self._count
        self._counted(1)
        made = self._new(described)
        self._open.remove(id(described))
        self._made[id(described)] = described, made, self._count - before
        return made

    def _counted(self, values: int) -> None:
        self._count += values
        if self._count > _MOST_VALUES:
            raise MalformedError("it holds too many values")

    def copied(self, size: int) -> None:
        """Count the bytes of a copy: a file that names one block many times must not become many blocks."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise MalformedError("it describes more numbers than it holds")

    def _new(self, described: Any) -> Any:
        kind = type(described)
        if kind in (list, tuple, set, frozenset):
            self._counted(len(described))
            return kind([part if type(part) in _ATOMS else self.value(part) for part in described])
        if kind is dict:
            return self.dictionary(described.items())
        if kind is memoryview:
            self.copied(len(described))
            return bytes(described)
        if kind is Named:
            number = number_type_of(described)
            return self.stand_in(described.path) if number is None else number
        if kind is Described:
            return self.object(described)
        raise MalformedError("it holds a storage without a tensor" if kind is StorageAt else "it holds a strange value")

    def stand_in(self, path: str, state: Any = None) -> Inert:
        """Return what stands in for something that is not made."""
        if self.plain:
            raise MalformedError(f"it holds '{path}'")
        return Inert(path, state)

    def object(self, described: Described) -> Any:
        """Return what a call describes, or what stands in for it."""
        path = described.maker.path
        if path not in _MAKERS:
            return self.stand_in(path)
        try:
            return _MAKERS[path](self, described)
        except (RefusedError, torch.cuda.OutOfMemoryError):
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            refuse_limit(error)
            raise MalformedError(f"it describes '{path}' in another way than its library") from error

    def dictionary(self, items: Any) -> dict[Any, Any]:
        """Return a dict of what keys and values describe."""
        return {self.value(key): self.value(value) for key, value in items}

    def arguments(self, described: Described, start: int = 0) -> list[Any]:
        """Return the arguments, from some place on, of a call that has nothing but arguments."""
        if described.state or described.items or described.members:
            raise MalformedError(f"it describes '{described.maker.path}' in another way than its library")
        return [self.value(argument) for argument in described.arguments[start:]]


def _tensor(make: Rebuilder, described: Described) -> Tensor:
    return make.storages.tensor(*described.arguments[:1], *make.arguments(described, start=1))


def _parameter(make: Rebuilder, described: Described) -> Tensor:
    data, requires_grad, *hooks = make.arguments(described)
    if type(data) is not Tensor or type(requires_grad) is not bool or any(hooks):
        raise MalformedError("it describes a parameter in another way than torch")
    return torch.nn.Parameter(data, requires_grad)


def _ordered(make: Rebuilder, described: Described) -> collections.OrderedDict[Any, Any]:
    if described.arguments or described.members:
        raise MalformedError("it describes an ordered dict in another way than Python")
    found = collections.OrderedDict(make.dictionary(described.items))
    state = make.value(described.state[0]) if described.state else None
    # The versions of a model's parts, which torch keeps beside their weights.
    versions = state.get("_metadata") if isinstance(state, dict) else None
    if isinstance(versions, dict) and all(_is_snapshot(*item) for item in versions.items()):
        found._metadata = versions  # type: ignore[attr-defined]
    return found


def _is_snapshot(name: Any, version: Any) -> bool:
    whole = isinstance(version, dict) and version.keys() <= {"version"}
    return isinstance(name, str) and whole and all(type(number) is int for number in version.values())


def _config(make: Rebuilder, described: Described) -> Inert:
    return make.stand_in(described.maker.path, make.value(described.state[0]) if described.state else None)


def _numpy(maker: Callable[[Described], Any]) -> Callable[[Rebuilder, Described], Any]:
    def made(make: Rebuilder, described: Described) -> Any:
        # An array of objects is nothing to load; scipy's lil_matrix has two.
        found = maker(described)
        make.copied(getattr(found, "nbytes", 0))
        return make.stand_in(described.maker.path) if found is None else found

    return made


def _bytes(make: Rebuilder, described: Described) -> bytes:
    found = bytes_of(described) if described.arguments else b""
    if found is None:
        raise MalformedError("it describes bytes in another way than Python")
    make.copied(len(found))
    return bytes(found)


def _sparse(make: Rebuilder, described: Described) -> Tensor:
    found = sparse(*make.arguments(described))
    if found.layout == torch.sparse_coo and found.is_coalesced():
        make.copied(found.indices().nbytes + found.values().nbytes)
    return found


def _is_small(member: Any) -> bool:
    return type(member) in _ATOMS and not (type(member) is int and abs(member) >= LARGEST_KEY)


def _set(make: Rebuilder, described: Described) -> set[Any]:
    (members,) = make.arguments(described)
    if type(members) is not list or not all(map(_is_small, members)):
        raise MalformedError("it describes a set in another way than Python")
    return set(members)


_MAKERS: dict[str, Callable[[Rebuilder, Described], Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch.serialization._get_layout": lambda make, described: layout_of(*make.arguments(described)),
    "torch.Size": lambda make, described: torch.Size(shape_of(*make.arguments(described))),
    "torch.device": lambda make, described: device_of(*make.arguments(described)),
    "collections.OrderedDict": _ordered,
    "numpy.core.multiarray._reconstruct": _numpy(array_of),
    "numpy._core.multiarray._reconstruct": _numpy(array_of),
    "numpy.core.numeric._frombuffer": _numpy(array_of_buffer),
    "numpy._core.numeric._frombuffer": _numpy(array_of_buffer),
    "numpy.core.multiarray.scalar": _numpy(scalar_of),
    "numpy._core.multiarray.scalar": _numpy(scalar_of),
    "numpy.dtype": _numpy(number_type),
    "_codecs.encode": _bytes,
    "__builtin__.bytes": _bytes,
    "__builtin__.set": _set,
    "builtins.set": _set,
    _CONFIG: _config,
}
