"""RecBole's evaluation collector, mended for metrics of plain numbers and spared its tables of zeros."""

from __future__ import annotations

from typing import Any

import torch
from recbole.evaluator import Collector
from torch import Tensor

from recbole_derrd.ops.top_k import top_scores
from recbole_derrd.runtime.processes import gather_rows

#: What RecBole collects by rows of users, or of pairs; the rest describes the data.
BY_ROWS = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")


def _best_items(scores: Tensor, count: int) -> Tensor:
    """Return the items that ``torch.topk`` returns, ties included."""
    if count >= scores.shape[1]:
        return scores.topk(count, dim=1).indices
    values, items = top_scores(scores, count + 1)
    # NaN equals nothing, but comes first: two of them are a tie as well.
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1) | values[:, 1].isnan()
    items = items[:, :count]
    if tied.any():
        # torch decides which of equal scores comes first, as it does for RecBole's metrics.
        items[tied] = scores[tied].topk(count, dim=1).indices
    return items


class PlainValuesCollector(Collector):
    """RecBole 1.2.1 asks every collected value for ``.cpu()``; item counts, numbers that they are, have none.

    ItemCoverage, AveragePopularity, GiniIndex and TailPercentage fail on that.

    Args:
        config: the configuration.
        quick: find hits among the best items alone, not by a table of users x items; the result is the same.
    """

    def __init__(self, config: Any, *, quick: bool = False) -> None:
        """Build RecBole's collector."""
        super().__init__(config)
        self._quick = quick
        self._rankings_only = not any(self.register.need(what) for what in ("rec.meanrank", "rec.score", "data.label"))
        #: Whether each process has collected its own users, so that they must be put together.
        self._shared_out = False
        #: Items [n, W] that the columns of a batch's scores stand for; None where they are the catalogue.
        self.columns: Tensor | None = None

    def share_out(self, shared: bool) -> None:
        """Say whether each process collects its own share of the users from here on."""
        self._shared_out = shared

    def eval_batch_collect(self, scores: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor) -> None:
        """Collect a batch's best items, and which of them are positives."""
        if not self._rankings_only or not (self._quick or self.columns is not None):
            if self.columns is not None and self.register.need("rec.meanrank"):
                # RecBole counts a user's ranked items by the place of the first -inf, the padding item's at the latest.
                scores = torch.nn.functional.pad(scores, (0, 1), value=-torch.inf)
                self.columns = torch.nn.functional.pad(self.columns, (0, 1))
            super().eval_batch_collect(scores, interaction, positive_u, positive_i)
            if self.columns is not None and self.register.need("rec.items"):
                latest = self.data_struct.get("rec.items")[-len(scores) :]
                latest.copy_(self.columns.to(latest.device).gather(1, latest))
            return
        best = _best_items(scores, max(self.topk))
        if self.register.need("rec.items"):
            self._add("rec.items", best if self.columns is None else self.columns.to(best.device).gather(1, best))
        if self.register.need("rec.topk"):
            width = scores.shape[1]
            # Sampled modes give an item once for each of its rows; it is one positive all the same.
            wanted = (positive_u * width + positive_i).unique().to(best.device)
            row = torch.arange(len(best), device=best.device).unsqueeze(1)
            hits = torch.isin(best + row * width, wanted).long()
            counts = torch.bincount(wanted // width, minlength=len(best))
            self._add("rec.topk", torch.cat([hits, counts.unsqueeze(1)], dim=1))

    def _add(self, name: str, part: Tensor) -> None:
        # Stock joins all that was collected with each new batch; the parts are joined once, when they are asked for.
        if name not in self.data_struct:
            self.data_struct.set(name, [])
        self.data_struct.get(name).append(part)

    def get_data_struct(self) -> Any:
        """Return what was collected, numbers included."""
        content = self.data_struct._data_dict
        for key, value in content.items():
            if isinstance(value, list):
                content[key] = torch.cat(value)
            if key in BY_ROWS and self._shared_out:
                content[key] = gather_rows(content[key])
        plain = {key: value for key, value in content.items() if not hasattr(value, "cpu")}
        for key in plain:
            del content[key]
        collected = super().get_data_struct()
        content.update(plain)
        collected._data_dict.update(plain)
        return collected
