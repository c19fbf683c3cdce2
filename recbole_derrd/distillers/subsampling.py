"""What a method draws: a seed of each epoch's own, and a share of a batch's users and items."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter, RowAdapter
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.errors import OptionError

#: A term with ``auto`` has at most this multiple of the student's own step in arithmetic.
MULTIPLE = 3.0
#: ... unless that is fewer entities than these, of which a term would hardly be the one of the batch on average.
#: A method that needs more to teach anything says so (``Distiller.fewest``).
FEWEST = 16

# What is not a product of matrices is counted in the multiply-adds that take as long on one thread, 39 to a nanosecond:
# what was fitted to CiteULike's steps is a constant everywhere, so that a share depends on sizes alone.
#: A number that one operation reads and writes.
NUMBER = 16
#: A random number.
DRAWN = 128
#: An item of a user's list: found, its embedding gathered, its gradient brought back.
LISTED = 640
#: Operations on each score of a catalogue that is ranked.
_RANKED = 12
#: A parameter in the optimizer's step.
_PARAMETER = 32
#: A row of a batch: its loading, its negative item, forward and backward.
_ROW = 1 << 15
#: What a step calls, whatever its sizes.
_CALLS = 1 << 24


@dataclasses.dataclass(frozen=True)
class Work:
    """The arithmetic of a term, in multiply-adds of a matrix product.

    Attributes:
        entity: of each user or item that it looks at.
        step: of each step, whatever the share.
        every: of each user or item of the batch, whatever the share.
        epoch: of each epoch, for all users.
    """

    entity: float
    step: float = 0.0
    every: float = 0.0
    epoch: float = 0.0


def listed_work(student: Adapter, items: int, passes: int = 0) -> float:
    """Return the work of one user's listed items: their logits, and a loss of some operations on each.

    Args:
        student: the student; of models that score whole rows a list costs a row.
        items: in the list.
        passes: operations of the loss on each item.
    """
    if isinstance(student, RowAdapter):
        return 3.0 * student.parameter_count() + NUMBER * passes * items
    return items * (3.0 * student.logit_work() + LISTED + NUMBER * passes)


def catalogue_work(student: Adapter, teacher_size: int, passes: int) -> float:
    """Return the work of one user's softmax over the catalogue, of which the student's scores have a gradient.

    Args:
        student: the student.
        teacher_size: multiply-adds of a logit of the teacher's, 0 where its scores are on disk.
        passes: operations on each score.
    """
    if isinstance(student, RowAdapter):
        return listed_work(student, 0) + student.n_items * (teacher_size + NUMBER * passes)
    return student.n_items * (3.0 * student.logit_work() + teacher_size + NUMBER * passes)


def ranking_work(student: Adapter) -> float:
    """Return the work of ranking the catalogue for all users, as a validation does."""
    by_rows = isinstance(student, RowAdapter)
    row = student.parameter_count() if by_rows else student.n_items * student.logit_work()
    return float((student.n_users - 1) * (row + NUMBER * _RANKED * student.n_items))


def of_parameters(count: int) -> float:
    """Return the work of the optimizer's step on so many parameters."""
    return float(_PARAMETER * count)


def student_step(parameters: int, rows: int, propagated: int = 0) -> float:
    """Return the work of the student's own step.

    Args:
        parameters: the student's.
        rows: of the batch.
        propagated: numbers that a graph model gathers in its propagations, both ways.
    """
    return of_parameters(parameters) + _ROW * rows + NUMBER * propagated + _CALLS


def automatic_share(
    work: Work, entities: int, step: float, fewest: float = FEWEST, steps_per_epoch: float = 1.0
) -> float:
    """Return the largest share of a batch whose term costs at most ``MULTIPLE`` of the student's own step.

    Args:
        work: of the term.
        entities: users, or users and items, of the batch.
        step: work of the student's own step.
        fewest: entities that a term looks at whatever they cost.
        steps_per_epoch: over which the work of an epoch is spread.

    Returns:
        Above 0, at most 1; of at least ``fewest`` entities where there are as many.

    Example:
        >>> automatic_share(Work(entity=1000.0, step=0.0), entities=100, step=15_000.0)
        0.45
    """
    fixed = work.step + work.every * entities + work.epoch / steps_per_epoch
    affordable = (MULTIPLE * step - fixed) / work.entity
    return min(1.0, max(affordable, fewest) / max(entities, 1))


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
