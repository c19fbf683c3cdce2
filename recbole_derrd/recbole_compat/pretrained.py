"""RecBole's models that start from a file that the user names: NeuMF, NAIS, ConvNCF, RaCT, and LDiffRec's item
embeddings.

RecBole unpickles these files, which torch has refused since 2.6 and which would run whatever they hold. Here they are
read as data, and the unchanged model is given a copy that holds its weights alone.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.errors import CheckpointError, DataError, OptionError
from recbole_derrd.recbole_compat.file_kinds import fault_of_checkpoint_path
from recbole_derrd.recbole_compat.reading import read_archive


class _Start(NamedTuple):
    keys: tuple[str, ...]
    used: Callable[[Any], bool]


_STARTS = {
    "NeuMF": _Start(("mf_pretrain_path", "mlp_pretrain_path"), lambda config: bool(config["use_pretrain"])),
    "NAIS": _Start(("pretrain_path",), lambda config: config["pretrain_path"] is not None),
    "ConvNCF": _Start(("pre_model_path",), lambda config: config["train_method"] == "after_pretrain"),
    "RaCT": _Start(("pre_model_path",), lambda config: config["train_stage"] in ("critic_pretrain", "finetune")),
}
# The functions in which these models take the weights over.
_TAKES = ("load_pretrain", "_load_pretrain", "load_state_dict")


class StartsFromWeights:
    """Mixed in over a model that reads the weights that it starts from while it is built."""

    def __init__(self, config: Any, dataset: Any) -> None:
        """Build the stock model.

        Raises:
            OptionError: the settings name no file.
            CheckpointError: a file is missing, damaged, or holds other weights.
        """
        name, start = _start_of(type(self))
        if not start.used(config):
            super().__init__(config, dataset)  # type: ignore[call-arg]
            return
        given = {key: config[key] for key in start.keys}
        for key, path in given.items():
            if not path:
                raise OptionError(
                    f"{name} starts from trained weights with these settings, and {key} names no file. Set it to the "
                    ".pth file of a training."
                )
        with tempfile.TemporaryDirectory() as folder, _copies(config, given, Path(folder)) as copies, _logs_of(copies):
            try:
                super().__init__(config, dataset)  # type: ignore[call-arg]
            except (LookupError, TypeError, ValueError, AssertionError, RuntimeError) as error:
                if not {frame.name for frame in traceback.extract_tb(error.__traceback__)}.intersection(_TAKES):
                    raise
                files = " and ".join(f"{key} = '{path}'" for key, path in given.items())
                raise CheckpointError(
                    f"{name} cannot start from {files} with these settings and data: "
                    f"{' '.join(str(error).split())[:300]}. Give weights of the same sizes."
                ) from error
        vars(self).update(given)


def _start_of(model: type[Any]) -> tuple[str, _Start]:
    names = (one.__name__ for one in model.__mro__ if one.__module__.startswith("recbole.model."))
    name = next(name for name in names if name in _STARTS)
    return name, _STARTS[name]


@contextlib.contextmanager
def _copies(config: Any, given: Mapping[str, Any], folder: Path) -> Iterator[dict[str, str]]:
    """Let the settings name copies of the weights alone while the model is built; return what each stands for."""
    copies = {}
    for key, path in given.items():
        copy = folder / f"{key}.pth"
        torch.save({"state_dict": _weights(key, path)}, copy)
        copies[str(copy)] = str(path)
    try:
        for key, copy_path in zip(given, copies):
            config[key] = copy_path
        yield copies
    finally:
        for key, path in given.items():
            config[key] = path


def _weights(key: str, path: str) -> dict[str, Tensor]:
    try:
        fault = fault_of_checkpoint_path(path)
        if fault is not None:
            raise CheckpointError(fault)
        content = read_archive(path)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error
    found = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{key}: '{path}' holds no weights. Give the .pth file of a training.")
    return {str(name): value.detach() for name, value in found.items()}


class _Names(logging.Filter):
    """Names the user's files in the log; RaCT names its own without a place for it, at which logging stumbles."""

    def __init__(self, copies: Mapping[str, str]) -> None:
        super().__init__()
        self.copies = copies

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else (record.args,)
        placed = not record.args or "%" in str(record.msg)
        message = record.getMessage() if placed else " ".join(map(str, (record.msg, *arguments)))
        for copy, path in self.copies.items():
            message = message.replace(copy, path)
        record.msg, record.args = message, ()
        return True


@contextlib.contextmanager
def _logs_of(copies: Mapping[str, str]) -> Iterator[None]:
    names, logger = _Names(copies), logging.getLogger()
    logger.addFilter(names)
    try:
        yield
    finally:
        logger.removeFilter(names)


class ReadsItemEmbeddings:
    """Mixed in over LDiffRec, which unpickles ``item_emb.npy`` beside the data where it clusters the items."""

    def __init__(self, config: Any, dataset: Any) -> None:
        """Build the stock model, once the file is known to hold numbers alone."""
        path = Path(dataset.dataset_path) / "item_emb.npy"
        if config["n_cate"] > 1:
            try:
                np.load(path, mmap_mode="r", allow_pickle=False)
            except FileNotFoundError as error:
                raise DataError(f"LDiffRec with n_cate above 1 needs the items' embeddings in '{path}'.") from error
            except (OSError, ValueError, EOFError) as error:
                raise DataError(
                    f"'{path}' is damaged, or no plain table of numbers. Write it anew with numpy.save."
                ) from error
        super().__init__(config, dataset)  # type: ignore[call-arg]


def reading_mixins(model: type[Any]) -> tuple[type[Any], ...]:
    """Return what is mixed in over a model class that is, or derives from, one that reads files while it is built."""
    names = {one.__name__ for one in model.__mro__ if one.__module__.startswith("recbole.model.")}
    starts = (StartsFromWeights,) if names.intersection(_STARTS) else ()
    return (*starts, *((ReadsItemEmbeddings,) if "LDiffRec" in names else ()))
