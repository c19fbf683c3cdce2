"""What every distillation method is: one loss term with its own parameters and its own randomness."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from logging import getLogger
from typing import Any, Callable, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from recbole_derrd.adapters import Adapter, RowAdapter
from recbole_derrd.config.options import Options
from recbole_derrd.config.options.schema import AUTO
from recbole_derrd.data.history import History
from recbole_derrd.distillers.preconditions import Requirement
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import FEWEST, Work, automatic_share, student_step, subsample
from recbole_derrd.teacher import Knowledge

#: The options of a method.
OptionsT = TypeVar("OptionsT", bound=Options)


class Need(enum.Enum):
    """What a method asks of the teacher; EMBEDDINGS are asked of the student as well."""

    EMBEDDINGS = "embeddings"
    TOP_ITEMS = "top items"
    SCORES = "scores"
    TRAJECTORY = "trajectory"


class Distiller(nn.Module, Generic[OptionsT]):
    """One distillation term.

    Scale: published weights assume a base loss summed over the batch's rows, RecBole's is their mean. ``forward``
    therefore returns the published sum divided by the rows, and published weights carry over unchanged.

    Args:
        options: the method's checked options; ``options.weight`` is applied by the student, not here.
        knowledge: what the teacher knows.
        student: the student in its adapter.
        seed: seed of the method's own generator.
    """

    name: ClassVar[str]
    options_class: ClassVar[type[Options]]
    needs: ClassVar[frozenset[Need]]
    #: The paper, as one would cite it.
    citation: ClassVar[str] = ""
    #: Options' defaults for students of these RecBole models where they differ from ``options_class``'s own.
    student_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Options under which the method is quick in a tiny world, for tests that try every method.
    test_settings: ClassVar[Mapping[str, Any]] = {}
    #: Users, or users and items, that the term looks at in a step with ``sample: auto``, whatever they cost.
    fewest: ClassVar[int] = FEWEST

    def __init__(self, options: OptionsT, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Keep the parts; none of them becomes a parameter or a buffer."""
        super().__init__()
        self.options = options
        self.knowledge = knowledge
        self.student = student
        self.seed = seed
        self.generator = torch.Generator(device=student.device).manual_seed(seed)
        self._left_out: Tensor | None = None
        self._known: dict[str, Tensor | None] = {}
        #: Whose share a method takes that is a part of another; None for its own.
        self.share_of: Callable[[int, int], float] | None = None
        #: The share that ``auto`` has found for the first batch, None before it and where a share is given.
        self.found_share: float | None = None

    @classmethod
    def defaults_for(cls, student: str) -> dict[str, Any]:
        """Return the options' defaults for a student of this RecBole model that differ from its own, by RecBole key."""
        return {cls.options_class.prefix + name: value for name, value in cls.student_defaults.get(student, {}).items()}

    @classmethod
    def needed(cls, options: Any) -> frozenset[Need]:
        """Return what the method asks of the teacher under these options; at most :attr:`needs`."""
        return cls.needs

    @classmethod
    def listed(cls, options: Any) -> tuple[int, str]:
        """Return how many items of a user's list by the teacher the term reads, and the option that says so."""
        # Of what follows trajectories the lists are each teacher's own.
        count = 0 if Need.TRAJECTORY in cls.needs else int(getattr(options, "top_n", 0))
        return count, f"{options.prefix}top_n"

    @classmethod
    def requirements(cls, options: Any, history: History) -> list[Requirement]:
        """Return what the options ask of the data."""
        return []

    @classmethod
    def check(cls, options: Any, history: History) -> None:
        """Refuse, before anything is trained, options that these data do not allow.

        Raises:
            OptionError: what is wrong and what to do.
        """
        for requirement in cls.requirements(options, history):
            requirement.refuse()

    @classmethod
    def note(cls, options: Any, history: History) -> str | None:
        """Return which users these data leave too little to teach, and what becomes of them; None for none."""
        notes = (requirement.note() for requirement in cls.requirements(options, history))
        return " ".join(filter(None, notes)) or None

    def leave_out(self, users: Tensor | None) -> None:
        """Leave users [n_users] out of the term, where there are any."""
        self._left_out = None if users is None else users.to(self.student.device)

    def term(self, batch: StepBatch) -> Tensor:
        """Return :meth:`forward` of what the teacher knows of a batch; 0 where that is nothing."""
        batch = self._known_part(batch)
        parts = [batch.users]
        if Need.EMBEDDINGS in self.needs:
            parts += [ids for ids in (batch.positives, batch.negatives) if ids is not None]
        if not any(len(ids) for ids in parts):
            return torch.zeros((), device=self.student.device)
        loss: Tensor = self(batch)
        return loss

    def _known_part(self, batch: StepBatch) -> StepBatch:
        """Return the users and items of a batch that the teacher knows; its rows stay those of the whole batch."""
        users, items = self.known("user"), self.known("item")
        if users is None and items is None:
            return batch

        def kept(ids: Tensor | None, known: Tensor | None) -> Tensor | None:
            return ids if ids is None or known is None else ids[known[ids]]

        of_users = kept(batch.users, users)
        assert of_users is not None
        return StepBatch(of_users, kept(batch.positives, items), kept(batch.negatives, items), batch.rows)

    def known(self, side: str) -> Tensor | None:
        """Return which users or items the teacher can teach by this method, bool [n]; None where it can all."""
        if side not in self._known:
            found = self.knowledge.known(side)
            if Need.EMBEDDINGS in self.needs:
                embedded = self.knowledge.known(side, by_embedding=True)
                found = embedded if found is None else found if embedded is None else found & embedded
            self._known[side] = None if found is None else torch.from_numpy(found).to(self.student.device)
        return self._known[side]

    def taught(self, users: Tensor) -> Tensor:
        """Return those of a batch's users who are not left out of the term."""
        return users if self._left_out is None else users[~self._left_out[users]]

    def work(self) -> Work:
        """Return the term's arithmetic by sizes alone, which ``sample: auto`` is found from."""
        raise NotImplementedError(f"{self.name} does not state its work: its sample cannot be auto.")

    def step_work(self, rows: int) -> float:
        """Return the work of the student's own step on so many rows."""
        return student_step(self.student.parameter_count(), rows, self.student.propagated_numbers())

    def _rows_per_epoch(self) -> int:
        """Return the rows of an epoch: interactions, or users of models that are trained on whole users."""
        history = self.knowledge.history
        return history.n_users - 1 if isinstance(self.student, RowAdapter) else len(history.items)

    def drawn_scores(self, batch: StepBatch, *drawn: Tensor | None) -> tuple[Tensor, float, list[Tensor]]:
        """Return the logits [n, K] of the drawn items of the users that the term looks at, and the factor of the sum.

        Args:
            batch: the step's entities.
            drawn: what the epoch has drawn for every user, the items [n_users, K] first.

        Returns:
            Logits, factor, and these users' rows of everything in ``drawn``.
        """
        tables = [table for table in drawn if table is not None]
        if len(tables) < len(drawn):
            raise RuntimeError("begin_epoch must come before the first batch: it draws the items.")
        users = self.taught(batch.users)
        users, scale = subsample(users, self.share(len(users), batch.rows), self.generator)
        items, *others = (table.index_select(0, users) for table in tables)
        items = items.long()
        return self.student.score(users, items), scale, [items, *others]

    def share(self, entities: int, rows: int) -> float:
        """Return the share of a batch that the term looks at: the option ``sample``, or what ``auto`` finds.

        Args:
            entities: users, or users and items, of the batch.
            rows: of the batch.
        """
        if self.share_of is not None:
            return self.share_of(entities, rows)
        given = getattr(self.options, "sample", 1.0)
        if given != AUTO:
            return float(given)
        steps = max(1.0, self._rows_per_epoch() / max(rows, 1))
        found = automatic_share(self.work(), entities, self.step_work(rows), self.fewest, steps)
        if self.found_share is None:
            self.found_share = found
            getLogger().info(
                f"{self.name} looks at {found:.1%} of a batch, {round(found * entities):,} of {entities:,}, in each "
                f"step ({self.options.prefix}sample: auto; 1 is the full sum)."
            )
        return found

    @property
    def weight(self) -> float:
        """Weight of the term in the training loss."""
        return float(getattr(self.options, "weight", 1.0))

    def begin_epoch(self, epoch: int) -> None:
        """Draw what is drawn once an epoch and set what changes with the epoch."""

    def progress(self) -> dict[str, float]:
        """Return where the method stands on its way, by name; empty for methods that have none. Cheap."""
        return {}

    def progress_note(self, finished: bool) -> str | None:
        """Return what is logged where ``progress`` has come to its end, or the training before it."""
        return None

    def diagnostics(self, activity: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Return what the record shall hold about the trained method, as plain values by name.

        Args:
            activity: training items of each user, padding user 0 included.
        """
        return {}

    def forward(self, batch: StepBatch) -> Tensor:
        """Return the unweighted term, a scalar."""
        raise NotImplementedError
