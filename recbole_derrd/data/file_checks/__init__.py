"""A data set's files before RecBole reads them: what it would misread, or fail on without a reason."""

from recbole_derrd.data.file_checks.check import check_files, explained

__all__ = ["check_files", "explained"]
