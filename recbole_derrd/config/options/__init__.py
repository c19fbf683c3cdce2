"""What a user may say: every option of this plugin with its type, range, default and meaning (no torch here)."""

from recbole_derrd.config.options.cd import CDOptions
from recbole_derrd.config.options.cpd import CPDOptions
from recbole_derrd.config.options.de import DEOptions
from recbole_derrd.config.options.hetcomp import HetCompOptions
from recbole_derrd.config.options.hints import HintOptions
from recbole_derrd.config.options.ir_rrd import IRRRDOptions
from recbole_derrd.config.options.listwise import ListwiseOptions
from recbole_derrd.config.options.nkd import NKDOptions
from recbole_derrd.config.options.rd import RDOptions
from recbole_derrd.config.options.rrd import RRDOptions
from recbole_derrd.config.options.run import RunOptions
from recbole_derrd.config.options.schema import Options, option
from recbole_derrd.config.options.sld import SLDOptions

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
