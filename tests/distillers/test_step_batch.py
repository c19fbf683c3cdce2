"""A batch as a distiller sees it: distinct ids without padding, each kind in its own place."""

from __future__ import annotations

import torch

from recbole_derrd.distillers.step_batch import StepBatch


def test_ids_are_distinct_without_padding_and_in_their_places() -> None:
    batch = StepBatch.of(torch.tensor([3, 1, 3, 0]), torch.tensor([7, 7, 0, 1]), torch.tensor([9, 0, 1, 5]), rows=4)
    assert batch.users.tolist() == [1, 3] and batch.rows == 4
    assert batch.positives is not None and batch.positives.tolist() == [1, 7]
    assert batch.negatives is not None and batch.negatives.tolist() == [1, 5, 9]
    assert batch.entities == 2 + 2 + 3


def test_a_loader_of_users_gives_no_items() -> None:
    batch = StepBatch.of(torch.tensor([2, 2, 1]), None, None, rows=3)
    assert batch.users.tolist() == [1, 2] and batch.positives is None and batch.negatives is None
    assert batch.entities == 2


def test_a_batch_of_padding_alone_is_empty() -> None:
    padding = torch.zeros(2, dtype=torch.long)
    batch = StepBatch.of(padding, padding, None, rows=2)
    assert batch.entities == 0 and batch.positives is not None and batch.negatives is None
