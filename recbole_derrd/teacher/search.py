r"""Approximate top-N search for teachers whose score is a dot product, with the optional package faiss.

An inverted file (IVF): k-means puts the items into 4 sqrt(n_items) cells, and only the cells whose centres score
highest for a user are searched. Measured on 200,000 clustered embeddings of 64 dimensions, it is built in 6 s and finds
98% of a top 100 in 0.4 ms a user, where a graph of neighbours (HNSW, 32 links) takes 70 s to build and, for 92%, 6 ms.
Its one parameter, the number of cells searched, trades time for recall up to the exact result.

It is chosen from the data: it is doubled until recall@N on one seeded sample of users reaches :data:`WANTED_RECALL`.
The reported recall is measured on another sample. The teacher itself scores the items found, so their order is exact.
As training items are dropped, more than N items are searched for; a user with fewer than N left gets an exact search.
"""

from __future__ import annotations

import importlib
from logging import getLogger
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter, EmbeddingAdapter
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.ops.top_k import top_scores
from recbole_derrd.teacher.exact import DIVERGED, ExactSearch, hidden_entries

#: Recall@N that is enough, and recall@N below which the log warns.
WANTED_RECALL, LOW_RECALL = 0.98, 0.95
#: Users in each of the two samples for measuring recall.
SAMPLE = 256
#: Cells for each square root of the items; items for each cell in k-means' training; least number of cells searched.
_CELLS, _TRAINED_ON, _FEWEST_CELLS = 4, 64, 8
#: Numbers in the embeddings of the items that one chunk finds (64 MB of float32).
_CHUNK_NUMBERS = 1 << 24
#: Users who need more than this share of the catalogue get an exact search.
_LARGEST_SHARE = 1 / 8


def check_search(search: str, teacher: type[Adapter], name: str) -> None:
    """Refuse a search that does not work for this kind of teacher, or whose package is missing.

    Raises:
        OptionError: what to do.
    """
    if search == "exact":
        return
    if not issubclass(teacher, EmbeddingAdapter):
        raise OptionError(
            f"knowledge_search: {search} needs a teacher whose score is the dot product of two embeddings, which "
            f"{name}'s is not. Use knowledge_search: exact."
        )
    _faiss()


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise OptionError(
            "knowledge_search: faiss needs the package faiss. Run: pip install 'recbole_derrd[ann]', or use "
            "knowledge_search: exact."
        ) from error


class ApproximateSearch:
    """Approximate rankings; the index is built and measured when the object is created.

    Args:
        exact: an exact search over the same teacher, for the samples and for users who are left with too few items.

    Attributes:
        recall: recall@N on the second sample.
        about: the description that is stored beside the rankings.
    """

    def __init__(self, exact: ExactSearch) -> None:
        """Build the index and choose how many cells are searched.

        Raises:
            OptionError: the teacher has no embeddings, or faiss is not installed.
        """
        check_search("faiss", type(exact.adapter), exact.adapter.name)
        self.exact, self.adapter, self.history, self.count = exact, exact.adapter, exact.history, exact.count
        embeddings = self._finite(self.adapter.item_embeddings())
        self.chunk = max(1, _CHUNK_NUMBERS // (2 * self.count * embeddings.shape[1]))
        self._index = self._build(embeddings[1:])  # the padding item is never found
        self.recall = self._tune()
        self.about = {
            "search": "faiss", "cells": self._index.nlist, "cells_searched": self._index.nprobe, "recall": self.recall,
        }  # fmt: skip
        message = (
            f"Teacher's rankings by faiss: recall@{self.count} {self.recall:.4f} against the exact search on a sample "
            f"of users, {self._index.nprobe} of {self._index.nlist} cells searched."
        )
        if self.recall < LOW_RECALL:
            getLogger().warning(message + " That is low: use knowledge_search: exact.")
        else:
            getLogger().info(message)

    @staticmethod
    def _finite(embeddings: Tensor) -> np.ndarray[Any, Any]:
        embeddings = embeddings.detach().float().cpu().contiguous()
        if not bool(embeddings.isfinite().all()):
            raise DataError(DIVERGED)
        return embeddings.numpy()

    def _build(self, embeddings: np.ndarray[Any, Any]) -> Any:
        faiss = _faiss()
        faiss.omp_set_num_threads(torch.get_num_threads())
        items, size = embeddings.shape
        cells = max(1, min(int(_CELLS * items**0.5), items // 40))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = 0
        chosen = np.random.default_rng(0).permutation(items)[: _TRAINED_ON * cells]
        index.train(embeddings[chosen])
        index.add(embeddings)
        return index

    def _tune(self) -> float:
        users = np.random.default_rng(0).permutation(self.history.n_users - 1)[: 2 * SAMPLE] + 1
        first, second = np.sort(users[::2]), np.sort(users[1::2] if len(users) > 1 else users)
        wanted = self._exact_rankings(first)
        self._index.nprobe = min(_FEWEST_CELLS, self._index.nlist)
        while self._measured(first, wanted) < WANTED_RECALL and self._index.nprobe < self._index.nlist:
            self._index.nprobe = min(2 * self._index.nprobe, self._index.nlist)
        return self._measured(second, self._exact_rankings(second))

    def _exact_rankings(self, users: np.ndarray[Any, Any]) -> Tensor:
        return torch.cat([self.exact.rankings(int(user), int(user) + 1).cpu() for user in users])

    def _measured(self, users: np.ndarray[Any, Any], wanted: Tensor) -> float:
        found = torch.cat([self.rankings(int(user), int(user) + 1) for user in users])
        hits = [len(set(row) & set(other) - {0}) for row, other in zip(found.tolist(), wanted.tolist())]
        return sum(hits) / max(1, int((wanted > 0).sum()))

    def rankings(self, start: int, stop: int) -> Tensor:
        """Return the rankings of users start .. stop - 1 [stop - start, count], int32."""
        rankings = torch.zeros(stop - start, self.count, dtype=torch.int32)
        lengths = self.history.lengths[start:stop]
        # Enough to drop all training items of the user; powers of two, so that there are few sizes.
        wanted = self.count + np.where(lengths > 0, 1 << np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64), 0)
        large = wanted > self.history.n_items * _LARGEST_SHARE
        short = [torch.from_numpy(np.flatnonzero(large))]
        for size in np.unique(wanted[~large]):
            rows = torch.from_numpy(np.flatnonzero(~large & (wanted == size)))
            embeddings_at_once = max(1, _CHUNK_NUMBERS // (int(size) * self._index.d))
            for part in rows.split(embeddings_at_once):
                rankings[part], complete = self._found(start, part, int(size))
                short.append(part[~complete])
        for row in torch.cat(short).tolist():
            rankings[row] = self.exact.rankings(start + row, start + row + 1).cpu()[0]
        return rankings

    def _found(self, start: int, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Search ``size`` items for some rows; return their rankings and which are complete."""
        device = self.adapter.device
        users = (rows + start).to(device)
        embeddings = self._finite(self.adapter.user_embeddings(users))
        # faiss counts from 0 and pads with -1, which becomes the padding item.
        items = torch.from_numpy(self._index.search(embeddings, size)[1] + 1)
        scores = self.adapter.score(users, items.to(device)).float().cpu()
        scores.masked_fill_(self._hidden(start, rows, items), -torch.inf)
        values, positions = top_scores(scores, self.count)
        return items.gather(1, positions).to(torch.int32), values[:, -1] > -torch.inf

    def _hidden(self, start: int, rows: Tensor, items: Tensor) -> Tensor:
        """Return which of the items [n, size] are the users' training items, or item 0."""
        known_rows, known_items = hidden_entries(self.history, start, start + int(rows.max()) + 1, torch.device("cpu"))
        keys = (known_rows * self.history.n_items + known_items).sort().values
        asked = rows.unsqueeze(1) * self.history.n_items + items
        place = torch.searchsorted(keys, asked).clamp_(max=len(keys) - 1)
        return keys[place] == asked
