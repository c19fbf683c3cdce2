"""What is asked of a checkpoint, and of an export, checked before anything is read."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
from pathlib import Path
from typing import ClassVar, Union

from recbole_derrd.errors import OptionError, did_you_mean
from recbole_derrd.exporting.index import check_index
from recbole_derrd.runtime.files import try_writing
from recbole_derrd.serving.layout import BITS, CARD, FORMATS


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that is read for something else than an export.

    Attributes:
        checkpoint: the model's file.
        doing: the command that reads it: evaluate or recommend.
        model: the dotted path of a model class of the user's own.
        settings: RecBole keys over those of the checkpoint, as ``--key=value``.
    """

    checkpoint: Path
    doing: str
    model: str | None = None
    settings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Request:
    """One export.

    Attributes:
        checkpoint: the model's file.
        out: the folder to write.
        kind: how the vectors are written: npy, safetensors or parquet.
        bits: bits of a dimension, 32 for float32; if none those that the model was trained in.
        top: length of the users' rankings; 0 for none.
        keep_seen: leave the users' training items in the rankings.
        force: replace an export that lies at ``out``.
        index: the library of a search index over the items, if one is wanted: faiss or usearch.
        model: the dotted path of a model class of the user's own.
        settings: RecBole keys over those of the checkpoint, as ``--key=value``.
        command: the command line, for the card.
    """

    checkpoint: Path
    out: Path
    kind: str = "npy"
    bits: int | None = None
    top: int = 0
    keep_seen: bool = False
    force: bool = False
    model: str | None = None
    settings: tuple[str, ...] = ()
    command: str = ""
    index: str | None = None

    doing: ClassVar[str] = "export"

    @property
    def wanted_bits(self) -> int | None:
        """Bits of a dimension, which Parquet and an index have no choice of; None for those of the training."""
        return 32 if self.kind == "parquet" or self.index is not None else self.bits

    def check(self) -> None:
        """Refuse what cannot be written.

        Raises:
            OptionError: what, and what to do.
        """
        if self.kind not in FORMATS:
            raise OptionError(f"--format cannot be '{self.kind}'.{did_you_mean(self.kind, FORMATS)}")
        if self.bits is not None and self.bits not in BITS:
            raise OptionError(f"--bits must be 8, 4, 3, 2 or 1, or 32 for float32, but is {self.bits}.")
        if self.kind == "parquet" and self.bits not in (None, 32):
            raise OptionError("Codes of few bits are written as npy or safetensors: take out --format or --bits.")
        if self.kind == "parquet":
            refuse_without_pyarrow()
        if self.index is not None:
            check_index(self.index, self.bits or 32)
        if not 0 <= self.top <= 1_000_000:
            raise OptionError(f"--top, the length of the rankings, must be 1 to 1000000, but is {self.top}.")
        self.check_place()
        self.check_writable()

    def check_place(self) -> None:
        """Refuse a place where something lies that must not be replaced.

        Raises:
            OptionError: what lies there, and what to do.
        """
        if self.out.name in ("", ".", ".."):
            raise OptionError(f"--out must name a new folder, and '{self.out}' names none, e.g. --out=export.")
        if not os.path.lexists(self.out):
            return
        if not self.force:
            raise OptionError(f"'{self.out}' exists. Choose another folder, or replace an export by --force.")
        if not (self.out / CARD).is_file() or self.out.is_symlink():
            raise OptionError(f"'{self.out}' is no export, so --force does not replace it. Choose another folder.")

    def check_writable(self) -> None:
        """Refuse a place that the system does not let be written, before hours are spent on what it is for.

        Raises:
            OptionError: why not.
        """
        above = self.out.absolute().parents
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(self.out)
            try_writing(next(place for place in above if os.path.lexists(place)))
        except OSError as error:
            raise OptionError(
                f"Cannot write to --out = '{self.out}': {error.strerror or error}. Choose another folder."
            ) from error


#: What names a checkpoint: its ``checkpoint``, ``model``, ``settings`` and ``doing``.
Asked = Union[Request, Source]


def refuse_without_pyarrow() -> None:
    """Refuse Parquet where pyarrow is missing, or does not go with the installed numpy.

    Raises:
        OptionError: what to install.
    """
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise OptionError(
            f"--format=parquet needs the package pyarrow ({error}): pip install 'recbole_derrd[export]'. npy and "
            "safetensors need none."
        ) from error
