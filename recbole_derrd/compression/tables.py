"""Tables of embeddings as they are stored, and what a row of them takes."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

from recbole_derrd.compression.product import part_of_dimension, product_codes, product_rows
from recbole_derrd.ops.packing import STEP_BYTES, pack, packed_size, unpack
from recbole_derrd.ops.quantize import best_steps, encode, levels
from recbole_derrd.ops.straight_through import unit_of

#: Numbers of the rows that are packed, unpacked or decoded at once; bounds the memory of their single bits.
_CHUNK_NUMBERS = 1 << 20


class Table(Protocol):
    """Stored embeddings. Row 0 is RecBole's padding."""

    @property
    def size(self) -> int:
        """Dimensions of a vector."""

    @property
    def bytes_a_row(self) -> int:
        """Bytes that one row takes, scales included."""

    @property
    def shared_bytes(self) -> int:
        """Bytes that all rows share (codebooks)."""

    def arrays(self) -> dict[str, Tensor]:
        """Return all that is stored, by name."""

    def rows(self, ids: Tensor | None = None) -> Tensor:
        """Return rows as float32 [n, size] on the CPU; all where no ids are given."""


@dataclasses.dataclass(frozen=True)
class PlainTable:
    """float32."""

    embeddings: Tensor

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        return int(self.embeddings.shape[1])

    @property
    def bytes_a_row(self) -> int:
        """Four a dimension."""
        return 4 * self.size

    @property
    def shared_bytes(self) -> int:
        """None."""
        return 0

    def arrays(self) -> dict[str, Tensor]:
        """Return the embeddings."""
        return {"embeddings": self.embeddings}

    def rows(self, ids: Tensor | None = None) -> Tensor:
        """Return the rows themselves."""
        return self.embeddings if ids is None else self.embeddings[ids]


@dataclasses.dataclass(frozen=True)
class QuantizedTable:
    """Packed codes and a float16 scale a row; ``unit`` [1] keeps the scales within float16's range."""

    packed: Tensor
    scales: Tensor
    unit: Tensor
    bits: int
    size: int

    @classmethod
    def of(cls, embeddings: Tensor, bits: int) -> QuantizedTable:
        """Quantise embeddings [n, d] to ``bits`` bits a dimension."""
        return cls.with_steps(embeddings, best_steps(embeddings, bits), bits)

    @classmethod
    def with_steps(cls, embeddings: Tensor, steps: Tensor, bits: int) -> QuantizedTable:
        """Code embeddings [n, d] with given steps [n]; of a student in few bits, with its own, nothing is lost."""
        unit = unit_of(steps)
        scales = (steps / unit).half()
        # Coded with the steps as they are stored, so that their rounding is not an error on top.
        stored = scales.float() * unit
        chunk = max(1, _CHUNK_NUMBERS // embeddings.shape[1])
        packed = [
            pack(encode(rows, own, bits), bits) for rows, own in zip(embeddings.split(chunk), stored.split(chunk))
        ]
        return cls(torch.cat(packed), scales, unit, bits, int(embeddings.shape[1]))

    @property
    def bytes_a_row(self) -> int:
        """The packed codes and the scale."""
        return packed_size(self.size, self.bits) + STEP_BYTES

    @property
    def shared_bytes(self) -> int:
        """The unit."""
        return 4

    def arrays(self) -> dict[str, Tensor]:
        """Return codes, scales and unit."""
        return {"packed": self.packed, "scales": self.scales, "unit": self.unit}

    def rows(self, ids: Tensor | None = None) -> Tensor:
        """Decode rows."""
        packed, scales = (self.packed, self.scales) if ids is None else (self.packed[ids], self.scales[ids])
        steps = (scales.float() * self.unit).unsqueeze(1)
        decoded = torch.empty(len(packed), self.size)
        chunk = max(1, _CHUNK_NUMBERS // self.size)
        for start in range(0, len(packed), chunk):
            part = slice(start, start + chunk)
            decoded[part] = levels(unpack(packed[part], self.bits, self.size), self.bits) * steps[part]
        return decoded


@dataclasses.dataclass(frozen=True)
class ProductTable:
    """One byte a part of the vector, and the parts' centres."""

    codes: Tensor
    centres: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, parts: int, seed: int) -> ProductTable:
        """Quantise embeddings [n, d], of which the padding row is no example, in ``parts`` parts."""
        codes, centres = product_codes(embeddings[1:], parts, seed)
        return cls(torch.cat([codes.new_zeros(1, parts), codes]), centres)

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        return int(self.centres.shape[1])

    @property
    def bytes_a_row(self) -> int:
        """One a part."""
        return int(self.codes.shape[1])

    @property
    def shared_bytes(self) -> int:
        """The centres."""
        return 4 * self.centres.numel()

    def arrays(self) -> dict[str, Tensor]:
        """Return codes and centres."""
        return {"codes": self.codes, "centres": self.centres}

    def rows(self, ids: Tensor | None = None) -> Tensor:
        """Look rows up."""
        codes = self.codes if ids is None else self.codes[ids]
        owner = part_of_dimension(self.size, self.codes.shape[1])
        chunk = max(1, _CHUNK_NUMBERS // self.size)
        return torch.cat([product_rows(part, self.centres, owner) for part in codes.split(chunk)])
