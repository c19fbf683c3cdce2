"""What a user may say: every option of this plugin with its type, range, default and meaning (no torch here)."""

from recbole_derrd.options.de import DEOptions
from recbole_derrd.options.rrd import RRDOptions
from recbole_derrd.options.run import RunOptions
from recbole_derrd.options.schema import Options, option

#: Options of each built-in method, by its name in ``distillers``.
METHOD_OPTIONS: dict[str, type[Options]] = {"de": DEOptions, "rrd": RRDOptions}

__all__ = ["METHOD_OPTIONS", "DEOptions", "Options", "RRDOptions", "RunOptions", "option"]
