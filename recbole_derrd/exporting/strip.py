"""A checkpoint without the state of its optimiser: a third of the bytes after a training by Adam."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml
from recbole.config import Config
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType

from recbole_derrd.errors import CheckpointError, OptionError
from recbole_derrd.recbole_compat import Inert, read_archive
from recbole_derrd.recbole_compat.models import general_models
from recbole_derrd.training.checkpoint import read_checkpoint, write_stock_checkpoint

#: Settings that are classes of RecBole's own, found by the model's name.
_ENUMS = ("MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type")


def strip(checkpoint: Path, out: Path, *, force: bool = False) -> tuple[int, int]:
    """Write a checkpoint without the optimiser's state, which stock RecBole loads; return the bytes before and after.

    The optimiser's settings stay. A training that goes on from it starts the optimiser's moments anew.

    Args:
        checkpoint: of ours or of stock RecBole.
        out: the file to write.
        force: replace a file that lies there.

    Raises:
        CheckpointError: it is no usable checkpoint, or holds what cannot be written again.
        OptionError: something lies at ``out``.
    """
    if out.is_dir() or out.name in ("", ".", ".."):
        raise OptionError(f"--out must name a file with --strip, and '{out}' is a folder, e.g. --out=stripped.pth.")
    if not force and (out.exists() or out.is_symlink()):
        raise OptionError(f"'{out}' exists. Choose another file, or replace it by --force.")
    settings = read_checkpoint(checkpoint)["config"]
    content: dict[str, Any] = read_archive(checkpoint, "cpu")
    before = checkpoint.stat().st_size
    config = content.get("config")
    if isinstance(config, Inert):
        content["config"] = _config(config.state, settings, checkpoint)
    optimizer = content.get("optimizer")
    if isinstance(optimizer, dict):
        content["optimizer"] = {**optimizer, "state": {}}
    _refuse_inert(content, checkpoint)
    write_stock_checkpoint(out, content)
    return before, out.stat().st_size


def _config(state: Any, settings: dict[str, Any], checkpoint: Path) -> Config:
    """Return RecBole's Config of a file's plain values; its classes are taken from the installed RecBole."""
    if not isinstance(state, dict) or not isinstance(state.get("final_config_dict"), dict):
        raise CheckpointError(f"'{checkpoint}' holds no settings of RecBole's, so that it cannot be written again.")
    state = {name: dict(value) if isinstance(value, dict) else value for name, value in state.items()}
    module = general_models().get(str(state.get("model")))
    kind = getattr(importlib.import_module(module), str(state["model"])) if module else None
    # A class of the user's own would be code to load; this plugin's checkpoints name none either.
    state["model_class"], state["yaml_loader"] = kind, yaml.FullLoader
    metrics = settings.get("metrics")
    names = [str(name).lower() for name in (metrics if isinstance(metrics, list) else [metrics])]
    ranking = any(metric_types.get(name) == EvaluatorType.RANKING for name in names)
    known = {
        "MODEL_TYPE": getattr(kind, "type", None),
        "MODEL_INPUT_TYPE": getattr(kind, "input_type", None),
        "eval_type": EvaluatorType.RANKING if ranking else EvaluatorType.VALUE,
    }
    for name, values in state.items():
        if name.endswith("config_dict"):
            values.update({key: known[key] for key in _ENUMS if isinstance(values.get(key), Inert)})
    config: Config = Config.__new__(Config)
    vars(config).update(state)
    return config


def _refuse_inert(value: Any, checkpoint: Path, depth: int = 6) -> None:
    if isinstance(value, Inert):
        raise CheckpointError(
            f"'{checkpoint}' holds {value.path}, which is not read from a file and so cannot be written again. Keep "
            "the checkpoint as it is."
        )
    if isinstance(value, Config):
        value = {name: one for name, one in vars(value).items() if name not in ("model_class", "yaml_loader")}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for part in parts if depth else ():
        _refuse_inert(part, checkpoint, depth - 1)
