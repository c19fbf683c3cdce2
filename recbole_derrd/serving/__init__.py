"""Recommendations from an exported model, with numpy alone: no torch, no pandas, no RecBole.

Example, with the folder that ``recbole-derrd export`` has written::

    from recbole_derrd.serving import Recommender

    model = Recommender.load("export")
    for item, score in model.recommend("196", k=10):
        print(item, score)
"""

from __future__ import annotations

from recbole_derrd.serving.recommender import Recommended, Recommender

__all__ = ["Recommended", "Recommender"]
