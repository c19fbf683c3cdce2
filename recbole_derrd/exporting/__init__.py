"""A checkpoint made into what is served: embeddings with the data set's own ids, rankings, and a card."""

from __future__ import annotations

from recbole_derrd.exporting.folder import export
from recbole_derrd.exporting.request import Request

__all__ = ["Request", "export"]
