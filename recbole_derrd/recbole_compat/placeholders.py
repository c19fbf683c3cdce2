"""What a pickle describes, as a description: nothing that it names is imported, made or called."""

from __future__ import annotations

from typing import Any, NamedTuple

from recbole_derrd.errors import CheckpointError


class Named:
    """A class or function that the file names; two words and no more."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        """Keep the words."""
        self.module = module
        self.name = name

    @property
    def path(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"


class Described:
    """An object that the file would have made: by what, of which arguments, with which state and items."""

    __slots__ = ("arguments", "items", "maker", "members", "state")

    def __init__(self, maker: Named, arguments: tuple[Any, ...]) -> None:
        """Nothing is made."""
        self.maker = maker
        self.arguments = arguments
        self.state: tuple[Any, ...] = ()
        self.items: list[tuple[Any, Any]] = []
        self.members: list[Any] = []


class StorageAt(NamedTuple):
    """The bytes of a tensor, somewhere in the archive."""

    kind: Named
    key: str
    numel: int


class Inert:
    """Stands in for an object of a file that is not needed here; holds its name, and does nothing."""

    def __init__(self, path: str, state: Any = None) -> None:
        """Keep the name, and the state where it is of use."""
        self.path = path
        self.state = state

    def __repr__(self) -> str:
        """Return the name."""
        return f"<{self.path}, not loaded>"

    def __reduce__(self) -> Any:
        """Refuse to be saved again."""
        raise CheckpointError(f"'{self.path}' of a checkpoint was not loaded and cannot be saved again.")
