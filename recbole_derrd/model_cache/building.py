"""RecBole's models: built as RecBole builds them, with their weights, and frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole.utils import init_seed

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.error_translation import FAULTS, refusal
from recbole_derrd.data.prepare import Data
from recbole_derrd.recbole_compat.models import model_class
from recbole_derrd.runtime.processes import rank
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.checkpointing import load_weights


def build_model(config: DistillConfig, data: Data, kind: type[Any] | None = None) -> Any:
    """Build a RecBole model as stock RecBole does, seeded the same way.

    Args:
        config: the configuration.
        data: the data.
        kind: a subclass of the configuration's model class, if not that class itself.
    """
    init_seed(config["seed"] + rank(), config["reproducibility"])
    kind = kind or model_class(config["model"])
    try:
        return kind(config, data.train._dataset).to(config["device"])
    except (*FAULTS, OSError, MemoryError) as error:
        raise refusal(config, "build", error) from error


def load_model(config: DistillConfig, data: Data, checkpoint: Path) -> Any:
    """Build a model and load its weights; it is frozen and in evaluation mode."""
    content = read_checkpoint(checkpoint, config["device"])
    model = build_model(config, data)
    load_weights(model, content, checkpoint)
    return freeze(model)


def freeze(model: Any) -> Any:
    """Put a model into evaluation mode and stop its gradients."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model
