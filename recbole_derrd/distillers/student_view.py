"""Looking at a student between its steps: its rankings, without a trace in its mode or its random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from recbole_derrd.adapters import Adapter
from recbole_derrd.errors import DataError, TrainingError
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.teacher.exact import ExactSearch

#: The sentence where a student's scores give no order.
STUDENT_DIVERGED = "The student's scores hold NaN; lower learning_rate or the methods' weights."


def student_rankings(search: ExactSearch, start: int, stop: int) -> Tensor:
    """Return the student's rankings of users start .. stop - 1, on the CPU.

    Raises:
        TrainingError: the student has diverged.
    """
    try:
        return search.rankings(start, stop).cpu()
    except DataError as error:
        raise TrainingError(STUDENT_DIVERGED) from error


@contextlib.contextmanager
def eval_mode(student: Adapter) -> Iterator[None]:
    """Within the block the student is only looked at: in evaluation mode, without gradients, propagating once.

    Afterwards its mode and every random state are as they were.
    """
    model = student.model
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), kept_random_state(), student.shared():
            yield
    finally:
        model.train(training)
