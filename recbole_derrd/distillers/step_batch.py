"""What a distiller is given of a training batch."""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """The distinct entities of one training batch, none of them the padding id 0; :meth:`of` makes it so.

    Attributes:
        users: distinct users [n].
        positives: distinct observed items [p]; None where the loader gives users only (autoencoders).
        negatives: distinct sampled items [q]; None likewise.
        rows: training rows of the batch, which every published sum is divided by.
    """

    users: Tensor
    positives: Tensor | None
    negatives: Tensor | None
    rows: int

    @classmethod
    def of(cls, users: Tensor, positives: Tensor | None, negatives: Tensor | None, rows: int) -> StepBatch:
        """Return the batch of these ids, which may repeat and hold the padding id, as RecBole's loaders give them."""
        distinct = [None if ids is None else ids.unique() for ids in (users, positives, negatives)]
        ids = [None if one is None else one[one > 0] for one in distinct]
        assert ids[0] is not None
        return cls(ids[0], ids[1], ids[2], rows)

    @property
    def entities(self) -> int:
        """How many users and items there are; an item that is positive and negative counts twice."""
        return sum(len(ids) for ids in (self.users, self.positives, self.negatives) if ids is not None)
