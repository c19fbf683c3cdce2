"""Knowledge distillation for RecBole: make a recommender ten times smaller and keep its quality.

Names are resolved on first use, so that ``import recbole_derrd`` (and ``--help``) does not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "run_recbole_derrd": "recbole_derrd.quick_start",
    "objective_function": "recbole_derrd.quick_start",
    "DistillConfig": "recbole_derrd.config.distill_config",
    "DistillError": "recbole_derrd.errors",
    "prepare_data": "recbole_derrd.data.prepare",
    "train_or_find": "recbole_derrd.model_cache.train_or_find",
    "Teacher": "recbole_derrd.teacher",
    "teachers_of": "recbole_derrd.experiment.teachers",
    "knowledge_of": "recbole_derrd.experiment.teachers",
    "Knowledge": "recbole_derrd.teacher",
    "adapter_of": "recbole_derrd.adapters",
    "register_adapter": "recbole_derrd.adapters",
    "distilled": "recbole_derrd.student.model",
    "build_student": "recbole_derrd.student.model",
    "Distiller": "recbole_derrd.distillers",
    "trainer_for": "recbole_derrd.training.trainer",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    """Import the public name on first use."""
    if name in _EXPORTS:
        try:
            return getattr(importlib.import_module(_EXPORTS[name]), name)
        except ModuleNotFoundError as error:
            if error.name != "recbole":
                raise
            from recbole_derrd.doctor import without_recbole

            raise ModuleNotFoundError(without_recbole(), name=error.name) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
