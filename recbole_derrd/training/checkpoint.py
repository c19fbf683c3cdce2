"""Reading and writing checkpoints: stock RecBole's format, atomically written, read without running code from them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from recbole.config import Config

from recbole_derrd.config.settings import candidate_count
from recbole_derrd.errors import CheckpointError, UnreadableError
from recbole_derrd.recbole_compat import Inert, read_archive
from recbole_derrd.recbole_compat.file_kinds import fault_of_checkpoint_path
from recbole_derrd.recbole_compat.models import general_models, recbole_ancestor
from recbole_derrd.runtime.files import replacing_file


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of ours or of stock RecBole; tensors, arrays and plain values only, no code is run.

    Returns:
        The checkpoint's dict; ``config`` is a plain dict of its settings, and what cannot be read safely (scipy
        matrices, classes) is left out of ``other_parameter``.

    Raises:
        CheckpointError: the file is missing, no checkpoint, truncated, or asks for code.
    """
    path = Path(path)
    fault = fault_of_checkpoint_path(path)
    if fault:
        raise CheckpointError(fault)
    content = read_archive(path, device)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise CheckpointError(f"'{path}' is no RecBole checkpoint: it has no 'state_dict'.")
    content["config"] = _settings(content.get("config"))
    others = content.get("other_parameter")
    content["other_parameter"] = {
        key: value
        for key, value in (others if isinstance(others, Mapping) else {}).items()
        if value is None or isinstance(value, (torch.Tensor, np.ndarray, int, float, str))
    }
    return content


def _settings(config: Any) -> dict[str, Any]:
    state = getattr(config, "state", config)
    if isinstance(state, dict) and isinstance(state.get("final_config_dict"), dict):
        state = state["final_config_dict"]
    if not isinstance(state, dict):
        return {}
    return {key: value for key, value in state.items() if isinstance(key, str) and not isinstance(value, Inert)}


def stock_config(config: Config) -> Config:
    """Return ``config`` as RecBole's own class without this plugin's keys, as a stock checkpoint holds it."""
    import importlib

    stock: Config = Config.__new__(Config)
    state = {key: value for key, value in vars(config).items() if key in _CONFIG_STATE}
    ours = set(config.parameters.get("Distillation", ()))
    for name, value in state.items():
        if name.endswith("config_dict"):
            state[name] = {key: _stock_value(key, kept) for key, kept in value.items() if key not in ours}
    state["parameters"] = {group: list(keys) for group, keys in config.parameters.items() if group != "Distillation"}
    state["yaml_loader"] = yaml.FullLoader
    # A class of the user's own would be code to load.
    name = recbole_ancestor(config["model"])
    known = general_models().get(name)
    state["model_class"] = getattr(importlib.import_module(known), name) if known else None
    vars(stock).update(state)
    return stock


def served_config(config: Config, size: int) -> Config:
    """Return :func:`stock_config` as that of a RecBole BPR of so many dimensions."""
    from recbole.model.general_recommender import BPR

    stock = stock_config(config)
    final = {**stock.final_config_dict, "model": BPR.__name__, "embedding_size": size}
    vars(stock).update(model=BPR.__name__, model_class=BPR, final_config_dict=final)
    return stock


def _stock_value(key: str, value: Any) -> Any:
    """Return a setting as stock RecBole knows it: fixed candidates are this plugin's, there it ranks all items."""
    mode = value.get("mode") if key == "eval_args" and isinstance(value, dict) else None
    if isinstance(mode, str):
        return {**value, "mode": _stock_mode(mode)}
    return {**value, "mode": {phase: _stock_mode(one) for phase, one in mode.items()}} if mode else value


def _stock_mode(mode: str) -> str:
    return mode if candidate_count(mode) is None else "full"


_CONFIG_STATE = (
    "parameters", "yaml_loader", "file_config_dict", "variable_config_dict", "cmd_config_dict", "external_config_dict",
    "model", "model_class", "dataset", "internal_config_dict", "final_config_dict",
)  # fmt: skip


class _Writer:
    """Gives torch a file to write to and remembers the disk's error, which torch turns into a puzzle."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, block: Any) -> int:
        try:
            return self.file.write(block)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save(content: dict[str, Any], path: Path, **options: Any) -> None:
    with open(path, "wb") as file:
        writer = _Writer(file)
        try:
            torch.save(content, writer, **options)  # type: ignore[arg-type]
        except RuntimeError as error:
            if writer.error is None:
                raise
            raise writer.error from error


def write_stock_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint that plain RecBole loads."""
    with replacing_file(path) as partial:
        _save(dict(content), partial, pickle_protocol=4)


def write_plain(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, for :func:`read_plain`."""
    with replacing_file(path) as partial:
        _save(dict(content), partial)


def read_plain(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what :func:`write_plain` wrote.

    Raises:
        CheckpointError: the file is damaged or was not written by this plugin.
    """
    try:
        content = read_archive(path, device, plain=True)
    except UnreadableError:
        raise
    except CheckpointError as error:
        raise CheckpointError(
            f"'{path}' is damaged or no training checkpoint of this plugin. Remove it to start the run anew."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' is no training checkpoint of this plugin.")
    return content
