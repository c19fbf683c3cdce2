"""What a user may say: every option of this plugin with its type, range, default and meaning (no torch here)."""

from recbole_derrd.options.cd import CDOptions
from recbole_derrd.options.de import DEOptions
from recbole_derrd.options.hetcomp import HetCompOptions
from recbole_derrd.options.ir_rrd import IRRRDOptions
from recbole_derrd.options.listwise import ListwiseOptions
from recbole_derrd.options.rd import RDOptions
from recbole_derrd.options.rrd import RRDOptions
from recbole_derrd.options.run import RunOptions
from recbole_derrd.options.schema import Options, option

#: Options of each built-in method, by its name in ``distillers``.
METHOD_OPTIONS: dict[str, type[Options]] = {
    "de": DEOptions,
    "rrd": RRDOptions,
    "listwise": ListwiseOptions,
    "cd": CDOptions,
    "rd": RDOptions,
    "ir_rrd": IRRRDOptions,
    "hetcomp": HetCompOptions,
}

__all__ = [
    "METHOD_OPTIONS",
    "CDOptions",
    "DEOptions",
    "HetCompOptions",
    "IRRRDOptions",
    "ListwiseOptions",
    "Options",
    "RDOptions",
    "RRDOptions",
    "RunOptions",
    "option",
]
