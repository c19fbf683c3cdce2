"""For the tests of a distillation method, a user's own as well: the contract and a tiny world without RecBole.

A method's test class derives from :class:`LossContract`, names its ``method``, and adds the five kinds of test; what
every method must do whatever its formula is tested by the class itself. pytest is needed here and nowhere else.
"""

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "recbole_derrd.testing is for tests and needs pytest, which the package does not install: pip install pytest",
        name="pytest",
    ) from error

# Before its import, so that a failure shows the values that were compared.
pytest.register_assert_rewrite(f"{__name__}.contract")

from recbole_derrd.testing.contract import KINDS, LossContract, assert_share_is_unbiased, gaps  # noqa: E402
from recbole_derrd.testing.world import (  # noqa: E402
    TEACHERS,
    SeveralTeachers,
    TinyAdapter,
    TinyModel,
    World,
    history_of,
    make_world,
    some_rows,
    step,
)

__all__ = [
    "KINDS",
    "TEACHERS",
    "LossContract",
    "SeveralTeachers",
    "TinyAdapter",
    "TinyModel",
    "World",
    "assert_share_is_unbiased",
    "gaps",
    "history_of",
    "make_world",
    "some_rows",
    "step",
]
