"""Hashes that tell whether two models have seen the same data, split in the same way."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Hashes of the id maps and of each split's pairs, with their labels where there are any."""

    ids: str
    train: str
    valid: str
    test: str

    def difference(self, other: Fingerprint) -> str | None:
        """Say in words what differs, or None."""
        if self.ids != other.ids:
            return "its users or items, or their order, are others"
        if self.train != other.train:
            return "its training interactions are others (another split or seed), so it may have seen the test items"
        if self.valid != other.valid:
            return "its validation interactions are others, so its best epoch may have been chosen by the test items"
        return None

    @classmethod
    def of(cls, dataset: Any, splits: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint of a data set and of its training, validation and test part, in this order."""
        ids = digest(
            *(
                np.array("\0".join(map(str, dataset.field2id_token[field])).encode())
                for field in (dataset.uid_field, dataset.iid_field)
            )
        )
        return cls(ids, *(interactions_digest(part) for part in splits.values()))


def digest(*arrays: np.ndarray[Any, Any]) -> str:
    """Return a hash of the arrays' bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
        found.update(b"|")
    return found.hexdigest()[:32]


def pairs_of(dataset: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the users and the items of a data set's interactions."""
    feat = dataset.inter_feat
    return feat[dataset.uid_field].numpy(), feat[dataset.iid_field].numpy()


def labels_of(dataset: Any) -> np.ndarray[Any, Any] | None:
    """Return the labels of a data set's interactions, where they have any of their own."""
    feat, field = dataset.inter_feat, dataset.config["LABEL_FIELD"]
    return feat[field].numpy() if field in feat else None


def interactions_digest(dataset: Any) -> str:
    """Return a hash of a data set's interactions with their labels, whatever their order."""
    return digest(*_in_order(dataset, *pairs_of(dataset)))


def content_digest(dataset: Any) -> str:
    """Return a hash of a data set's interactions by their own ids, with their labels, whatever the order of its files.

    Unlike :func:`interactions_digest` it is that of data whose ids RecBole has numbered in another order.
    """
    tokens, ranks = [], []
    for field, internal in zip((dataset.uid_field, dataset.iid_field), pairs_of(dataset)):
        names = np.array(dataset.field2id_token[field], dtype=str)
        order = np.argsort(names, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        tokens.append(np.array("\0".join(names[order]).encode()))
        ranks.append(rank[internal])
    return digest(*tokens, *_in_order(dataset, *ranks))


def _in_order(dataset: Any, users: np.ndarray[Any, Any], items: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Return a number of each pair, ascending, and the pairs' labels."""
    keys, labels = users.astype(np.int64) * dataset.item_num + items, labels_of(dataset)
    if labels is None:
        return [np.sort(keys)]
    order = np.lexsort((labels, keys))
    return [keys[order], labels[order]]
