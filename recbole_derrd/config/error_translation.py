"""What a model of RecBole's stumbles over, as a sentence: RecBole compares hardly any setting with what it can be."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import recbole

import recbole_derrd
from recbole_derrd.config.distill_config import DistillConfig, model_settings
from recbole_derrd.errors import OptionError
from recbole_derrd.runtime.machine_errors import limit_reached, refuse_limit

#: What RecBole raises at settings or data that they cannot take.
FAULTS = (
    LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError, RuntimeError, ImportError,
)  # fmt: skip

_RECBOLE, _OURS = (str(Path(file).parent) + os.sep for file in (recbole.__file__, recbole_derrd.__file__))


def is_of_the_model(config: DistillConfig, error: BaseException) -> bool:
    """Say whether RecBole's code raised an error: not ours, and not a model of the user's own, who wants to see it."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    known = [file for file in files if file.startswith((_RECBOLE, _OURS))]
    # Too little memory says nothing of the settings alone.
    return (
        limit_reached(error) is None and "." not in config["model"] and bool(known) and known[-1].startswith(_RECBOLE)
    )


def refusal(config: DistillConfig, doing: str, error: BaseException) -> OptionError:
    """Return the error that says what RecBole could not do, e.g. "build", with which settings."""
    refuse_limit(error)
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    settings = {key: config[key] for key in model_settings(config["model"])}
    return OptionError(f"RecBole cannot {doing} {config['model']} with {settings}: {reason}")
