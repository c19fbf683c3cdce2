"""One record a run, and tables, tests and plots from records alone."""

from recbole_derrd.report.run_table import run_table
from recbole_derrd.report.seeds import seeds_table

__all__ = ["run_table", "seeds_table"]
