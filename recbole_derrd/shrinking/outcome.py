"""What a shrinking came to: the models that were to be compared, in one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_derrd.evaluation.metrics import shown_metric
from recbole_derrd.report.run_table import shown_size


@dataclasses.dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        name: what it is.
        test: its metrics on the test split.
        valid: those on the validation split.
        item_bytes: bytes of an item, steps included.
        total_bytes: bytes of the whole.
        milliseconds: what one user's top-10 list takes, if it was measured.
        seconds: how long it took to make.
    """

    name: str
    test: dict[str, float]
    valid: dict[str, float]
    item_bytes: float | None
    total_bytes: int | None
    milliseconds: float | None
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a shrinking made.

    Attributes:
        rows: the models of the table, the shrunk one last.
        checkpoint: the shrunk student.
        export: the folder that it is served from, if one was asked for.
        record: the record of its training.
        choices: what was chosen, and why, a sentence each.
        metric: the metric that chose.
    """

    rows: tuple[Row, ...]
    checkpoint: Path
    export: Path | None
    record: Path
    choices: tuple[str, ...]
    metric: str

    @property
    def shrunk(self) -> Row:
        """The shrunk student's row."""
        return self.rows[-1]

    def table(self) -> str:
        """Return the table, the metric that chose first."""
        names = [self.metric, *(name for name in self.shrunk.test if name != self.metric)][:4]
        titles = ["", f"{self.metric}, validation", *names, "bytes an item", "size", "one user (ms)", "seconds"]
        table: str = tabulate([_cells(row, names) for row in self.rows], titles, disable_numparse=True)
        return table

    def summary(self) -> str:
        """Return what the command line says in the end: the table, and where the files are."""
        lines = ["", self.table(), "", f"Student: {self.checkpoint}", f"Record:  {self.record}"]
        return "\n".join([*lines, *([] if self.export is None else [f"Export:  {self.export}"]), ""])

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            **dataclasses.asdict(self),
            "checkpoint": str(self.checkpoint),
            "export": None if self.export is None else str(self.export),
            "record": str(self.record),
        }


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    return [
        row.name,
        shown_metric(row.valid.get(names[0], float("nan"))),
        *(shown_metric(row.test.get(name, float("nan"))) for name in names),
        "-" if row.item_bytes is None else f"{row.item_bytes:.0f}",
        "-" if row.total_bytes is None else shown_size(row.total_bytes, "B"),
        "-" if row.milliseconds is None else f"{row.milliseconds:.2f}",
        "-" if row.seconds is None else f"{row.seconds:.0f}",
    ]
