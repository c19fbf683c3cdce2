"""What a frontier file may say: a benchmark over bytes an item."""

from __future__ import annotations

import dataclasses
from typing import Any

from recbole_derrd.config.options.benchmark import BenchmarkOptions
from recbole_derrd.config.options.schema import option
from recbole_derrd.errors import OptionError, did_you_mean

#: What is made for each number of bytes, in the order of the table.
KINDS = ("trained", "trained_codebooks", "untrained", "refined", "lloyd_max", "pq", "opq", "rq", "prq", "student")


@dataclasses.dataclass(frozen=True)
class FrontierOptions(BenchmarkOptions):
    """The keys of a frontier file: those of a benchmark, and which models are made at which bytes."""

    bytes: list[Any] = option([], "Bytes of an item's codes, without the 2 of its scale: [5, 10, 20].")
    kinds: list[Any] = option(
        ["trained", "untrained", "refined", "student"],
        "What is made for each: trained (a student in few bits, as 'recbole-derrd shrink' trains it), "
        "trained_codebooks (a student in codebooks, a byte each), untrained and refined (the codes of the teacher and "
        "of the refined teacher), lloyd_max, pq, opq, rq, prq (the teacher's, by other levels and by codebooks), "
        "student (a student alone, in 8 bits).",
    )
    ways: int = option(
        2, "Ways to spend the bytes that are tried: of dimensions and bits, those of the fewest bits first.", low=1
    )

    def __post_init__(self) -> None:
        """Check bytes and kinds."""
        super().__post_init__()
        whole = all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in self.bytes)
        if not whole or len(set(self.bytes)) < len(self.bytes):
            raise OptionError(f"bytes must be whole numbers from 1 on, none twice, e.g. [5, 10], but is {self.bytes}.")
        for kind in self.kinds:
            if kind not in KINDS:
                raise OptionError(f"kinds cannot hold {kind!r}.{did_you_mean(str(kind), KINDS)}")
