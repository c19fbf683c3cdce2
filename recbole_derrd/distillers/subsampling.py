"""What a method draws: a seed of each epoch's own, and a share of a batch's users and items."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_derrd.distillers.base import StepBatch
from recbole_derrd.errors import OptionError


def epoch_seed(seed: int, epoch: int) -> int:
    """Return a seed of its own for each epoch, so that a resumed run draws what an uninterrupted one draws."""
    return (seed * 1_000_003 + (epoch + 2) * 7_919) % (2**63 - 1)


def subsampled_entities(
    method: str, batch: StepBatch, share: float, generator: torch.Generator
) -> list[tuple[str, Tensor, float]]:
    """Return (side, ids, weight of their sum) of a batch's users and items, for methods that sum over both.

    Items weigh half, as users have one of each; an item that is positive and negative counts twice. Of a share of them,
    drawn again, the weighted sums are those of all on average.

    Args:
        method: its name, for the error.
        batch: the step's entities.
        share: above 0, at most 1.
        generator: source of randomness.

    Raises:
        OptionError: the batch has users only.
    """
    users, user_scale = subsample(batch.users, share, generator)
    items, item_scale = subsample(torch.cat(_items(method, batch)), share, generator)
    return [("user", users, user_scale), ("item", items, 0.5 * item_scale)]


def distinct_entities(method: str, batch: StepBatch) -> tuple[Tensor, Tensor]:
    """Return a batch's users and its items, an item that is positive and negative once.

    Args:
        method: its name, for the error.
        batch: the step's entities.

    Raises:
        OptionError: the batch has users only.
    """
    return batch.users, torch.cat(_items(method, batch)).unique()


def _items(method: str, batch: StepBatch) -> tuple[Tensor, Tensor]:
    """Return the positive and the negative items, or refuse the batch."""
    if batch.positives is None or batch.negatives is None:
        raise OptionError(
            f"{method} needs the items of a batch, and this model is trained on whole users. Use distillers that learn "
            "from rankings or scores."
        )
    return batch.positives, batch.negatives


def subsample(ids: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Draw a fixed share of the ids without replacement, and return the factor for a sum over them.

    Every id is as likely as any other, so the expected sum is the sum over all. A share of 1 draws no random number.

    Args:
        ids: distinct ids [n], on the generator's device.
        share: above 0, at most 1.
        generator: source of randomness.

    Returns:
        max(1, round(share * n)) of the ids, and n divided by their number.
    """
    if share == 1 or not len(ids):
        return ids, 1.0
    count = max(1, round(share * len(ids)))
    chosen = torch.randperm(len(ids), generator=generator, device=ids.device)[:count]
    return ids[chosen], len(ids) / count
