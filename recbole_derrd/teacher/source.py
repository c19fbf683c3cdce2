"""Where a frozen teacher comes from, and the teacher in memory while arrays are built from it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Callable, Protocol

import numpy as np

from recbole_derrd.adapters import Adapter
from recbole_derrd.errors import OptionError
from recbole_derrd.runtime.randomness import kept_random_state

#: Loads one snapshot of a teacher.
Load = Callable[[], Adapter]
#: Which users and items a teacher knows, by side: bool [n]; a side of which it knows all is left out.
Known = Mapping[str, "np.ndarray[Any, Any]"]
_ALL: Known = MappingProxyType({})


class TeacherSource(Protocol):
    """A frozen teacher that may not be in memory: a run's own, an ensemble of several, or one given in code."""

    @property
    def hints(self) -> tuple[str, ...]:
        """Hint layers that its embeddings can be read from, default first."""
        ...

    @property
    def known(self) -> Known:
        """Which users and items it knows, by side; a side of which it knows all is left out."""
        ...

    def load(self) -> Adapter:
        """Return the frozen teacher."""
        ...

    def snapshots(self, count: int) -> contextlib.AbstractContextManager[Sequence[Load]]:
        """Give what loads each of its earlier snapshots, oldest first; they exist within the block alone.

        Args:
            count: how many are wanted, the final one included; a teacher may have fewer.
        """
        ...

    def forget(self) -> None:
        """Free the memory of what it was loaded from."""
        ...


@dataclasses.dataclass(frozen=True)
class GivenTeacher:
    """A teacher outside a run: a function that loads it.

    Attributes:
        load: returns the frozen teacher.
        hints: hint layers that its embeddings can be read from, default first.
        earlier: what loads each of its earlier snapshots, oldest first.
        known: which users and items it knows, by side; a side of which it knows all is left out.
    """

    load: Load
    hints: tuple[str, ...] = ()
    earlier: tuple[Load, ...] = ()
    known: Known = dataclasses.field(default_factory=dict)

    def snapshots(self, count: int) -> contextlib.AbstractContextManager[Sequence[Load]]:
        """Give the earlier snapshots, all of them."""
        return contextlib.nullcontext(self.earlier)

    def forget(self) -> None:
        """Do nothing."""


class NoTeacher:
    """What a run without distillers has in the place of a teacher."""

    hints: tuple[str, ...] = ()
    known: Known = _ALL

    def load(self) -> Adapter:
        """Refuse.

        Raises:
            OptionError: what to do.
        """
        raise OptionError("This run has no teacher. Add distillers, e.g. distillers: [de, rrd].")

    def snapshots(self, count: int) -> contextlib.AbstractContextManager[Sequence[Load]]:
        """Give none."""
        return contextlib.nullcontext(())

    def forget(self) -> None:
        """Do nothing."""


class LazyTeacher:
    """A frozen teacher that is loaded when it is first used, and can be forgotten again.

    Args:
        source: where it comes from.
    """

    def __init__(self, source: TeacherSource) -> None:
        """Load nothing yet."""
        self.source = source
        self._adapter: Adapter | None = None

    @property
    def loaded(self) -> bool:
        """Whether it is in memory."""
        return self._adapter is not None

    @property
    def adapter(self) -> Adapter:
        """The teacher, loaded if necessary."""
        if self._adapter is None:
            # Building a RecBole model seeds every random state, and a run whose arrays are on disk builds none.
            with kept_random_state():
                self._adapter = self.source.load()
        return self._adapter

    def forget(self) -> None:
        """Free its memory; it is loaded again on its next use."""
        self._adapter = None
        self.source.forget()
