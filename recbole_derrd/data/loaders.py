"""RecBole's batches made with less work: the same rows, the same negatives, in the same order.

Stock RecBole spends most of a small model's epoch here: torch collects each row of a batch by itself, every column of
the data set is read, and a negative is checked against a Python set. Each class below is a subclass of the stock one
that takes over a finished object's state, and draws from the same generators in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.sampler import Sampler
from recbole.utils import InputType

from recbole_derrd.runtime.processes import rank, shard_range, world_size

#: Scores that one batch of full ranking may hold (8 MB of float32): they stay in a core's cache.
_SCORES_AT_ONCE = 1 << 21


def taking_over(kind: type[Any], stock: Any) -> Any:
    """Return an object of this class with the state of a stock object; nothing is built or drawn again."""
    taken = object.__new__(kind)
    vars(taken).update(vars(stock))
    return taken


class PairSampler(Sampler):
    """RecBole's sampler of negatives, checking a whole batch at once by binary search."""

    _used_pairs: np.ndarray[Any, Any] | None = None

    def _used(self) -> np.ndarray[Any, Any]:
        """Return the sorted numbers user * item_num + item of what must not be drawn."""
        if self._used_pairs is None:
            lengths = [len(items) for items in self.used_ids]
            users = np.repeat(np.arange(len(lengths)), lengths)
            items = np.fromiter(chain.from_iterable(self.used_ids), dtype=np.int64, count=len(users))
            self._used_pairs = np.sort(users * self.item_num + items)
        return self._used_pairs

    def sample_by_key_ids(self, key_ids: Any, num: int) -> torch.Tensor:
        """Draw ``num`` unused items for each user, redrawing as stock does what turns out to be used."""
        users = np.array(key_ids)
        used = self._used()
        # Stock takes another path where all users are the same; it is as quick.
        if len(used) == 0 or (users == users[0]).all():
            drawn: torch.Tensor = super().sample_by_key_ids(key_ids, num)
            return drawn
        users = np.tile(users, num)
        items = np.zeros(len(users), dtype=np.int64)
        open_rows = np.arange(len(users))
        while len(open_rows) > 0:
            items[open_rows] = self.sampling(len(open_rows))
            pairs = users[open_rows] * self.item_num + items[open_rows]
            place = np.minimum(np.searchsorted(used, pairs), len(used) - 1)
            open_rows = open_rows[used[place] == pairs]
        return torch.from_numpy(items)


class _WholeBatches:
    """Iterates a RecBole loader batch by batch, in the order that torch's DataLoader would have drawn."""

    def __iter__(self: Any) -> Iterator[Any]:
        """Yield RecBole's batches."""
        if self.num_workers > 0:
            yield from super().__iter__()  # type: ignore[misc]
            return
        # torch's iterator and sampler are begun and used up, for what they draw from the generator.
        super().__iter__()  # type: ignore[misc]
        order = np.array(list(self.sampler))
        for start in range(0, len(order), self.step):
            yield self.collate_fn(_own_share(order[start : start + self.step]))


def _own_share(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return this process's part of a batch; where it cannot be shared out evenly, its first rows stand in twice."""
    processes = world_size()
    if processes == 1:
        return rows
    share = -(-len(rows) // processes)
    return np.resize(rows, share * processes)[rank() :: processes]


def columns_beside(config: Any) -> list[str]:
    """Return the columns that one of RecBole's models learns from beside users, items and labels."""
    return [config["RATING_FIELD"]] if config["model"] == "DMF" and config["inter_matrix_type"] == "rating" else []


class WholeBatchLoader(_WholeBatches, TrainDataLoader):
    """RecBole's training loader for users and items: no column is read that such a model does not use."""

    def collate_fn(self, index: Any) -> Any:
        """Return one batch, negatives included."""
        feat = self._dataset.inter_feat
        # A list, where torch's own processes collect the batch.
        rows = torch.from_numpy(np.asarray(index))
        return self._neg_sampling(Interaction({name: feat[name][rows] for name in self._columns()}))

    def _columns(self) -> list[str]:
        names = [self.uid_field, self.iid_field, self.config["LABEL_FIELD"], *columns_beside(self.config)]
        return [name for name in names if name in self._dataset.inter_feat]

    def _neg_sample_by_pair_wise_sampling(self, inter_feat: Any, neg_item_ids: torch.Tensor) -> Any:
        batch = inter_feat.repeat(self.times) if self.times > 1 else inter_feat
        batch.update(Interaction({self.neg_item_id: neg_item_ids}))
        return batch

    def _neg_sample_by_point_wise_sampling(self, inter_feat: Any, neg_item_ids: torch.Tensor) -> Any:
        positives = len(inter_feat)
        batch = inter_feat.repeat(self.times)
        batch[self.iid_field][positives:] = neg_item_ids
        labels = torch.zeros(positives * self.times)
        labels[:positives] = 1.0
        batch.update(Interaction({self.label_field: labels}))
        return batch


class CatalogueSizedLoader(FullSortEvalDataLoader):
    """RecBole's full-ranking loader in batches sized to the catalogue, whatever ``eval_batch_size`` says."""

    _flat: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    @property
    def _rows(self) -> int:
        return max(1, _SCORES_AT_ONCE // int(self._dataset.item_num))

    def _rankings(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (history starts, history, positives' starts, positives) of the users, one user after the other."""
        if self._flat is None:
            parts = []
            for by_user in (self.uid2history_item, self.uid2positive_item):
                lists = list(by_user[self.uid_list.numpy()])
                starts = torch.tensor([0, *map(len, lists)]).cumsum(0)
                parts += [starts, torch.cat(lists)]
            self._flat = (parts[0], parts[1], parts[2], parts[3])
        return self._flat

    def __len__(self) -> int:
        """Return the number of this process's batches."""
        first, end = shard_range(len(self.user_df))
        return -(-(end - first) // self._rows)

    def _blocks(self) -> Iterator[tuple[int, int, Any]]:
        """Yield where each of this process's batches begins and ends, and its users."""
        first, end = shard_range(len(self.user_df))
        for start in range(first, end, self._rows):
            stop = min(start + self._rows, end)
            yield start, stop, self.user_df[slice(start, stop)]

    def __iter__(self) -> Iterator[Any]:
        """Yield what stock yields: users, (row, item) of their histories, rows and items of their positives."""
        history_starts, history, positive_starts, positives = self._rankings()
        for start, stop, users in self._blocks():
            seen, wanted = (_rows_of(starts, start, stop) for starts in (history_starts, positive_starts))
            yield (
                users,
                (seen, history[history_starts[start] : history_starts[stop]]),
                wanted,
                positives[positive_starts[start] : positive_starts[stop]],
            )


def _rows_of(starts: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return torch.arange(stop - start).repeat_interleave(starts[start + 1 : stop + 1] - starts[start:stop])


def whole_batches(loader: Any) -> Any:
    """Return the quick form of a training loader; the loader itself where it is no plain user-item one."""
    plain = type(loader) is TrainDataLoader and loader.config["transform"] is None
    # A model of the user's own may read any column.
    own_model = loader.config.model_class.__module__.startswith("recbole.")
    if not (plain and own_model) or loader.dl_format not in (InputType.PAIRWISE, InputType.POINTWISE):
        return loader
    quick = taking_over(WholeBatchLoader, loader)
    # Bound methods among the state still belong to the stock object.
    del quick.collate_fn
    if hasattr(quick, "sampling_func"):
        pointwise = quick.dl_format == InputType.POINTWISE
        quick.sampling_func = (
            quick._neg_sample_by_point_wise_sampling if pointwise else quick._neg_sample_by_pair_wise_sampling
        )
    if type(loader._sampler) is Sampler:
        quick._sampler = taking_over(PairSampler, loader._sampler)
    return quick


def shared_out(loader: Any) -> Any:
    """Return a training loader that gives each process its part of every batch."""
    kind = type(loader)
    if not isinstance(loader, _WholeBatches):
        loader = taking_over(type(f"Shared{kind.__name__}", (_WholeBatches, kind), {"__module__": __name__}), loader)
    # RecBole's trainer would ask for torch's DistributedSampler; the order is drawn by the loader's own sampler.
    loader.shuffle = False
    return loader


def catalogue_sized(loader: Any) -> Any:
    """Return the quick form of a full-ranking loader; any other loader itself."""
    return taking_over(CatalogueSizedLoader, loader) if type(loader) is FullSortEvalDataLoader else loader
