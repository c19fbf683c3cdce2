"""What a user may say: the options of a run with their types, ranges, defaults and meanings (no torch here).

A method's own options are in its file in ``distillers/``.
"""

from recbole_derrd.config.options.run import RunOptions
from recbole_derrd.config.options.schema import Options, option

__all__ = ["Options", "RunOptions", "option"]
