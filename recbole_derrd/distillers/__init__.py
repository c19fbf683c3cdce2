"""The distillation methods, one file each: its options, pure functions of tensors and a thin module around them.

:mod:`recbole_derrd.registry` knows them by name and imports a method's file when it is asked for. What a method is made
of is named here, for methods of a user's own.
"""

from recbole_derrd.config.options.schema import Options, option, published, share_of_users
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.negative_sampling import NegativeSampler
from recbole_derrd.distillers.preconditions import LEFT_OUT, SHORTER, Requirement, require_unobserved, short_users
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import epoch_seed, subsample

__all__ = [
    "LEFT_OUT",
    "SHORTER",
    "Distiller",
    "Need",
    "NegativeSampler",
    "Options",
    "Requirement",
    "StepBatch",
    "epoch_seed",
    "option",
    "published",
    "require_unobserved",
    "share_of_users",
    "short_users",
    "subsample",
]
