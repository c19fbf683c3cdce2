"""The best student in so many bytes: which dimensions and bits, how it is trained, and what it is compared with."""

from __future__ import annotations

from recbole_derrd.shrinking.budget import Budget
from recbole_derrd.shrinking.outcome import Outcome, Row
from recbole_derrd.shrinking.shrink import shrink

__all__ = ["Budget", "Outcome", "Row", "shrink"]
