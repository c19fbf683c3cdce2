"""The distillation methods, one file each: its options, pure functions of tensors and a thin module around them.

:mod:`recbole_derrd.registry` knows them by name and imports a method's file when it is asked for.
"""

from recbole_derrd.distillers.base import Distiller, Need, StepBatch

__all__ = ["Distiller", "Need", "StepBatch"]
