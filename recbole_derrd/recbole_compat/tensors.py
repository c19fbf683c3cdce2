"""Torch's tensors from the records that hold their bytes: no tensor reaches beyond its storage, no index its shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recbole_derrd.recbole_compat.archive import Archive
from recbole_derrd.recbole_compat.placeholders import Named, StorageAt
from recbole_derrd.recbole_compat.refusals import MalformedError

#: Torch's types of numbers by their names.
NUMBERS: dict[str, torch.dtype] = {
    f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
LAYOUTS = {str(layout): layout for layout in (torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)}
_LARGEST = 1 << 62


class Storages:
    """The storages of an archive, each read once and moved to the device.

    Args:
        archive: where their bytes are.
        device: where they go.
    """

    def __init__(self, archive: Archive, device: torch.device | str) -> None:
        """Nothing is read yet."""
        self._archive = archive
        self._device = torch.device(device)
        self._read: dict[str, tuple[torch.dtype, torch.UntypedStorage]] = {}

    def tensor(self, at: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, *more: Any) -> Tensor:
        """Return the tensor that ``torch._utils._rebuild_tensor_v2`` describes."""
        hooks, metadata = (*more, None, None)[:2]
        if type(at) is not StorageAt or type(requires_grad) is not bool or hooks or metadata:
            raise MalformedError("it describes a tensor in another way than torch")
        size, stride = shape_of(size), shape_of(stride)
        kind, storage = self._storage(at)
        if type(offset) is not int or len(stride) != len(size) or not _within(at.numel, offset, size, stride):
            raise MalformedError(f"it holds a tensor of shape {size} that reaches beyond its {at.numel} numbers")
        # Torch's own description of set_ differs between its versions.
        tensor: Any = torch.empty(0, dtype=kind, device=self._device)
        made: Tensor = tensor.set_(storage, offset, size, stride)
        return made.requires_grad_(requires_grad)

    def _storage(self, at: StorageAt) -> tuple[torch.dtype, torch.UntypedStorage]:
        kind = _STORAGES.get(at.kind.path)
        if kind is None or at.numel < 0:
            raise MalformedError(f"it holds a tensor of '{at.kind.path}'")
        width = torch.empty(0, dtype=kind).element_size()
        if at.key not in self._read:
            storage = self._archive.storage(at.key, at.numel * width)
            if self._archive.swapped:
                _turn_round(storage, width // 2 if kind.is_complex else width)
            self._read[at.key] = kind, _moved(storage, self._device)
        known, storage = self._read[at.key]
        if known != kind:
            raise MalformedError("it holds one tensor's bytes as two types of numbers")
        # A tensor that reaches beyond it would make torch lengthen it.
        if storage.nbytes() != at.numel * width:
            raise MalformedError("it holds one tensor's bytes in two sizes")
        return known, storage


def shape_of(value: Any) -> tuple[int, ...]:
    """Return a tuple of sizes or strides, or refuse it."""
    if not isinstance(value, tuple) or len(value) > 32 or not all(type(n) is int and 0 <= n < _LARGEST for n in value):
        raise MalformedError("it holds a tensor of no shape")
    return value


def _within(numel: int, offset: int, size: Sequence[int], stride: Sequence[int]) -> bool:
    if not 0 <= offset <= numel or math.prod(size) > numel:
        return False
    return 0 in size or offset + sum((n - 1) * step for n, step in zip(size, stride)) < numel


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    whole: Any = torch.empty(0, dtype=torch.uint8, device=storage.device)
    found: Tensor = whole.set_(storage, 0, (storage.nbytes(),), (1,))
    return found


def _turn_round(storage: torch.UntypedStorage, width: int) -> None:
    if width > 1 and storage.nbytes():
        _bytes_of(storage).numpy().view(f"u{width}").byteswap(inplace=True)


def _moved(storage: torch.UntypedStorage, device: torch.device) -> torch.UntypedStorage:
    return storage if device.type == "cpu" else _bytes_of(storage).to(device).untyped_storage()


def sparse(layout: Any, parts: Any) -> Tensor:
    """Return the tensor that ``torch._utils._rebuild_sparse_tensor`` describes, once its indices are within its shape.

    Args:
        layout: which kind of sparse tensor.
        parts: its indices, values and size, already built.
    """
    if type(parts) is not tuple or not all(isinstance(part, Tensor) for part in parts[:2]):
        raise MalformedError("it describes a sparse tensor in another way than torch")
    if layout == torch.sparse_coo and len(parts) in (3, 4):
        return _by_coordinates(*parts)
    if layout in (torch.sparse_csr, torch.sparse_csc) and len(parts) == 4 and isinstance(parts[2], Tensor):
        return _by_rows(layout, *parts)
    raise MalformedError(f"it holds a sparse tensor of layout {layout}")


def _by_coordinates(indices: Tensor, values: Tensor, size: Any, coalesced: Any = False) -> Tensor:
    size = shape_of(size)
    whole = indices.dtype == torch.int64 and indices.dim() == 2 and values.dim() >= 1
    if not whole or any(part.layout != torch.strided for part in (indices, values)) or math.prod(size) >= _LARGEST:
        raise MalformedError("it holds a sparse tensor that is not whole")
    dimensions, count = indices.shape
    if len(values) != count or tuple(values.shape[1:]) != size[dimensions:] or dimensions > len(size):
        raise MalformedError("it holds a sparse tensor that is not whole")
    if count and not all(int(row.min()) >= 0 and int(row.max()) < n for row, n in zip(indices, size)):
        raise MalformedError(f"it holds a sparse tensor of shape {size} with indices beyond it")
    tensor = torch.sparse_coo_tensor(indices, values, size, check_invariants=True)
    # Its word that it is in order is not taken.
    return tensor.coalesce() if coalesced else tensor


def _by_rows(layout: torch.layout, starts: Tensor, indices: Tensor, values: Tensor, size: Any) -> Tensor:
    size = shape_of(size)
    parts = (starts, indices, values)
    if len(size) != 2 or any(part.layout != torch.strided or part.dim() != 1 for part in parts):
        raise MalformedError("it holds a sparse tensor that is not whole")
    rows, columns = size if layout == torch.sparse_csr else size[::-1]
    numbers = starts.dtype == indices.dtype and indices.dtype in (torch.int32, torch.int64)
    if not numbers or len(starts) != rows + 1 or len(indices) != len(values):
        raise MalformedError("it holds a sparse tensor that is not whole")
    ordered = int(starts[0]) == 0 and int(starts[-1]) == len(indices) and bool((starts[1:] >= starts[:-1]).all())
    if not ordered or (len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < columns)):
        raise MalformedError(f"it holds a sparse tensor of shape {size} with indices beyond it")
    return torch.sparse_compressed_tensor(starts, indices, values, size, layout=layout, check_invariants=True)


def device_of(kind: Any, index: Any = None) -> torch.device:
    """Return a device by its name; it need not be there."""
    if type(kind) is not str or not (index is None or (type(index) is int and 0 <= index < 128)):
        raise MalformedError("it names no device")
    return torch.device(kind) if index is None else torch.device(kind, index)


def layout_of(name: Any) -> torch.layout:
    """Return a layout by its name."""
    if type(name) is not str or name not in LAYOUTS:
        raise MalformedError("it holds a tensor of an unknown layout")
    return LAYOUTS[name]


def number_type_of(name: Named) -> torch.dtype | None:
    """Return the type of numbers of this name; None if it is none."""
    return NUMBERS.get(name.path)
