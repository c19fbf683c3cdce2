"""Tables of embeddings as they are stored, and what a row of them takes."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

from recbole_derrd.ops.lloyd_max import best_scales, encode_nearest, gaussian_levels
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
    def with_steps(cls, embeddings: Tensor, steps: Tensor, bits: int, unit: Tensor | None = None) -> QuantizedTable:
        """Code embeddings [n, d] with given steps [n].

        Of a student in few bits nothing is lost with its own steps and the unit [1] that they were trained in. Where
        the largest has grown since, the smallest have fewer digits in the unit that is found from them.
        """
        unit = unit_of(steps) if unit is None else unit
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
class LloydMaxTable:
    """Packed codes of ``levels`` [2^bits], which all rows share, and a float16 scale a row in units of ``unit`` [1]."""

    packed: Tensor
    scales: Tensor
    unit: Tensor
    levels: Tensor
    size: int

    @classmethod
    def of(cls, embeddings: Tensor, bits: int) -> LloydMaxTable:
        """Quantise embeddings [n, d] to ``bits`` bits a dimension."""
        values = gaussian_levels(bits)
        chunk = max(1, _CHUNK_NUMBERS // embeddings.shape[1])
        best = torch.cat([best_scales(rows, values) for rows in embeddings.split(chunk)])
        unit = best.max().clamp(min=torch.finfo(torch.float32).tiny).reshape(1)
        scales = (best / unit).half()
        stored = scales.float() * unit
        packed = [
            pack(encode_nearest(rows, own, values), bits)
            for rows, own in zip(embeddings.split(chunk), stored.split(chunk))
        ]
        return cls(torch.cat(packed), scales, unit, values, int(embeddings.shape[1]))

    @property
    def bits(self) -> int:
        """Bits a dimension."""
        return (len(self.levels) - 1).bit_length()

    @property
    def bytes_a_row(self) -> int:
        """The packed codes and the scale."""
        return packed_size(self.size, self.bits) + STEP_BYTES

    @property
    def shared_bytes(self) -> int:
        """The unit and the levels."""
        return 4 + 4 * len(self.levels)

    def arrays(self) -> dict[str, Tensor]:
        """Return codes, scales, unit and levels."""
        return {"packed": self.packed, "scales": self.scales, "unit": self.unit, "levels": self.levels}

    def rows(self, ids: Tensor | None = None) -> Tensor:
        """Decode rows."""
        packed, scales = (self.packed, self.scales) if ids is None else (self.packed[ids], self.scales[ids])
        stored = (scales.float() * self.unit).unsqueeze(1)
        chunk = max(1, _CHUNK_NUMBERS // self.size)
        codes = (unpack(part, self.bits, self.size).long() for part in packed.split(chunk))
        return torch.cat([self.levels[part] * own for part, own in zip(codes, stored.split(chunk))])
