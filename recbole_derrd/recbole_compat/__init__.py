"""Files of RecBole, read as data: nothing that a file names is imported or called, and damage is noticed."""

from __future__ import annotations

from recbole_derrd.recbole_compat.placeholders import Inert
from recbole_derrd.recbole_compat.reading import read_archive

__all__ = ["Inert", "read_archive"]
