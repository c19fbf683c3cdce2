"""What a user may say: every option of this plugin with its type, range, default and meaning (no torch here)."""

from recbole_derrd.options.cd import CDOptions
from recbole_derrd.options.cpd import CPDOptions
from recbole_derrd.options.de import DEOptions
from recbole_derrd.options.hetcomp import HetCompOptions
from recbole_derrd.options.hints import HintOptions
from recbole_derrd.options.ir_rrd import IRRRDOptions
from recbole_derrd.options.listwise import ListwiseOptions
from recbole_derrd.options.nkd import NKDOptions
from recbole_derrd.options.rd import RDOptions
from recbole_derrd.options.rrd import RRDOptions
from recbole_derrd.options.run import RunOptions
from recbole_derrd.options.schema import Options, option
from recbole_derrd.options.sld import SLDOptions

#: Options of each built-in method, by its name in ``distillers``.
METHOD_OPTIONS: dict[str, type[Options]] = {
    "de": DEOptions,
    "rrd": RRDOptions,
    "listwise": ListwiseOptions,
    "cd": CDOptions,
    "rd": RDOptions,
    "ir_rrd": IRRRDOptions,
    "hetcomp": HetCompOptions,
    "nkd": NKDOptions,
    "cpd": CPDOptions,
    "sld": SLDOptions,
}

__all__ = [
    "METHOD_OPTIONS",
    "CDOptions",
    "CPDOptions",
    "DEOptions",
    "HetCompOptions",
    "HintOptions",
    "IRRRDOptions",
    "ListwiseOptions",
    "NKDOptions",
    "Options",
    "RDOptions",
    "RRDOptions",
    "RunOptions",
    "SLDOptions",
    "option",
]
