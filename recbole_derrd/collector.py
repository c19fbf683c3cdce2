"""RecBole's evaluation collector, mended for metrics that collect plain numbers."""

from __future__ import annotations

from typing import Any

from recbole.evaluator import Collector


class PlainValuesCollector(Collector):
    """RecBole 1.2.1 asks every collected value for ``.cpu()``; item counts, numbers that they are, have none.

    ItemCoverage, AveragePopularity, GiniIndex and TailPercentage fail on that.
    """

    def get_data_struct(self) -> Any:
        """Return what was collected, numbers included."""
        content = self.data_struct._data_dict
        plain = {key: value for key, value in content.items() if not hasattr(value, "cpu")}
        for key in plain:
            del content[key]
        collected = super().get_data_struct()
        content.update(plain)
        collected._data_dict.update(plain)
        return collected
