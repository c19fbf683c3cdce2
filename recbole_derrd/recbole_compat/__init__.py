"""RecBole's models by name, and its files read as data: nothing that one names is imported or called."""

from __future__ import annotations

from recbole_derrd.recbole_compat.placeholders import Inert
from recbole_derrd.recbole_compat.reading import read_archive

__all__ = ["Inert", "read_archive"]
