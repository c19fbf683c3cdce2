"""One record a run, and tables, tests and plots from records alone."""

from recbole_derrd.report.run_table import run_table
from recbole_derrd.report.schema import RunRecord

__all__ = ["RunRecord", "run_table"]
