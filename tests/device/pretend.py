"""A card that is none: it computes on the CPU, calls itself cuda:0, and refuses what a card would refuse.

Without a card, code for cards can be read but not run. Here tensors "on the card" are a subclass that keeps its
numbers in a CPU tensor. So ``device.type`` is "cuda" where the package looks, its other branches run, and the numbers
are right. An operation on tensors of both kinds is an error, but for those that torch itself allows: copies, CPU
indices into a tensor on the card, and CPU scalars. ``.numpy()`` is an error too. Kernels, speed and memory are not a
card's.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = torch.device("cuda", 0)
_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXED = {
    _aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default,
}  # fmt: skip
_Generator = torch.Generator


class MixedDevicesError(RuntimeError):
    """A tensor on the card meets one on the CPU."""


def _is_card(device: Any) -> bool:
    # Under the wrapper torch believes that the tensors are on its device "meta", which has no numbers.
    return isinstance(device, (str, torch.device)) and torch.device(device).type in ("cuda", "meta")


class OnCard(Tensor):
    """A tensor on the card."""

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        """Wrap a tensor on the CPU."""
        return Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride() if held.layout == torch.strided else None,
            storage_offset=held.storage_offset() if held.layout == torch.strided else 0,
            dtype=held.dtype, layout=held.layout, device="meta",
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        """Keep its numbers."""
        self.held = held

    device = property(lambda self: CARD)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        """Show its numbers."""
        return f"OnCard({self.held})"

    def numpy(self, **_: Any) -> Any:
        """Refuse, as a card's tensor does."""
        raise TypeError("can't convert a tensor on the card to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Refuse, as a card's tensor does."""
        return self.numpy()

    def __deepcopy__(self, _: Any) -> Any:
        """Copy its numbers."""
        return OnCard(self.held.clone())

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Let files hold the numbers alone."""
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU."""
        return _computed(func, args, kwargs or {})


def _refuse_mixed(func: Any, args: Any, flat: list[Any]) -> None:
    others = [part for part in flat if isinstance(part, Tensor) and not isinstance(part, OnCard)]
    if any(part.is_meta for part in others):
        raise NotImplementedError(f"{func}: torch has made a tensor below this pretence, teach it to pretend.py")
    foreign = [part for part in others if part.dim() > 0]
    if func in _INDEXED and isinstance(args[0], OnCard):
        foreign = [part for part in foreign if not any(part is index for index in args[1])]
    if foreign and func not in _COPIES:
        shapes = ", ".join(str(tuple(part.shape)) for part in foreign)
        raise MixedDevicesError(f"{func} mixes tensors on the card with tensors on the CPU (of shape {shapes})")


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = tree_flatten((args, kwargs))[0]
    if any(isinstance(part, OnCard) for part in flat):
        _refuse_mixed(func, args, flat)
    to_cpu = func is _aten._to_copy.default and kwargs.get("device") is not None and not _is_card(kwargs["device"])
    known = {id(part.held): part for part in flat if isinstance(part, OnCard)}

    def held(part: Any) -> Any:
        if isinstance(part, OnCard):
            return part.held
        return torch.device("cpu") if isinstance(part, torch.device) else part

    result = func(*tree_map(held, args), **tree_map(held, kwargs))
    if to_cpu:
        return result
    if func is _aten.copy_.default and not isinstance(args[0], OnCard):
        return args[0]

    def wrapped(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        return known[id(part)] if id(part) in known else OnCard(part)

    return tree_map(wrapped, result)


class _Below(TorchDispatchMode):
    """Makes what torch itself makes on the card, a scalar that is assigned for one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_card = any(isinstance(part, OnCard) for part in tree_flatten((args, kwargs))[0])
        if on_card or _is_card(kwargs.get("device")):
            return _computed(func, args, kwargs)
        return func(*args, **kwargs)


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return OnCard(values.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.held


def _moved(values: Any) -> Any:
    if isinstance(values, OnCard):
        return values
    if values.requires_grad and torch.is_grad_enabled():
        return _Moved.apply(values)
    return OnCard(values.detach().clone())


class _Above(TorchFunctionMode):
    """Takes what is asked of the card before torch looks for CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to and not (len(args) > 1 and isinstance(args[1], Tensor)):
            plain = {name: value for name, value in kwargs.items() if name != "copy"}
            device, dtype, _, _ = torch._C._nn._parse_to(*args[1:], **plain)
            if not _is_card(device):
                return func(*args, **kwargs)
            copied = args[0].clone() if kwargs.get("copy") and isinstance(args[0], OnCard) else args[0]
            return _moved(copied if dtype is None else copied.to(dtype))
        if func is torch.Tensor.cuda:
            return _moved(args[0])
        if func is torch.Tensor.new_tensor and isinstance(args[0], OnCard):
            # torch makes it below the level at which this could be seen.
            return _moved(torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}))
        if _is_card(kwargs.get("device")):
            return _moved(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


class CardGenerator(_Generator):
    """A generator of the card: the CPU's, so that both draw the same."""

    device = property(lambda self: CARD)  # type: ignore[assignment]


class _Choosing(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Generator)


class _GeneratorOf(metaclass=_Choosing):
    def __new__(cls, device: Any = "cpu") -> Any:
        return CardGenerator() if _is_card(device) else _Generator(device)


@contextlib.contextmanager
def pretended_card() -> Iterator[torch.device]:
    """Within the block there is such a card; RecBole's configurations with a ``gpu_id`` take it."""
    from recbole_derrd.config.distill_config import DistillConfig
    from recbole_derrd.recbole_compat.tensors import Storages

    own = DistillConfig._init_device

    def with_card(config: Any) -> None:
        own(config)
        if config.final_config_dict["gpu_id"]:
            config.final_config_dict["device"] = CARD

    load = torch.load

    def loaded(file: Any, map_location: Any = None, **options: Any) -> Any:
        if not _is_card(map_location):
            return load(file, map_location=map_location, **options)
        content = load(file, map_location="cpu", **options)
        return tree_map(lambda part: _moved(part) if isinstance(part, Tensor) else part, content)

    opened, read = Storages.__init__, Storages.tensor

    def opened_on_the_cpu(storages: Any, archive: Any, device: Any) -> None:
        opened(storages, archive, "cpu")
        storages.of_the_card = _is_card(device)

    def read_and_moved(storages: Any, *described: Any) -> Any:
        return _moved(read(storages, *described)) if storages.of_the_card else read(storages, *described)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Storages, "__init__", opened_on_the_cpu))
        stack.enter_context(mock.patch.object(Storages, "tensor", read_and_moved))
        stack.enter_context(mock.patch.object(torch, "Generator", _GeneratorOf))
        stack.enter_context(mock.patch.object(torch, "load", loaded))
        stack.enter_context(mock.patch.object(torch.cuda, "synchronize", lambda *_: None))
        stack.enter_context(mock.patch.object(DistillConfig, "_init_device", with_card))
        stack.enter_context(warnings.catch_warnings())
        # Mixed precision looks for CUDA itself, finds none and stays off.
        warnings.filterwarnings("ignore", message=".*CUDA is not available.*")
        stack.enter_context(_Below())
        stack.enter_context(_Above())
        yield CARD
