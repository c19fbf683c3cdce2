"""Embeddings as codes of codewords, and the codebooks that all rows share."""

from __future__ import annotations

import dataclasses
from typing import Callable

import torch
from torch import Tensor

from recbole_derrd.compression.additive import additive_rows
from recbole_derrd.compression.product import part_of_dimension

#: Makes codes uint8 [n, levels, parts] and codebooks float32 [levels, centres, d] of rows [n, d].
Coder = Callable[[Tensor], tuple[Tensor, Tensor]]
#: Numbers of the rows that are decoded at once.
_CHUNK_NUMBERS = 1 << 20


@dataclasses.dataclass(frozen=True)
class CodebookTable:
    """A byte for each codeword: one a part of the vector, or several of a part that are added up.

    ``codes`` is uint8 [n, levels, parts], ``codebooks`` float32 or float16 [levels, centres, d].
    """

    codes: Tensor
    codebooks: Tensor

    def __post_init__(self) -> None:
        """Check that the arrays fit each other.

        Raises:
            ValueError: they do not.
        """
        if self.codes.dtype != torch.uint8 or self.codes.dim() != 3 or self.codebooks.dim() != 3:
            raise ValueError(f"codes are {self.codes.dtype} {tuple(self.codes.shape)}, not uint8 [n, levels, parts]")
        if self.codes.shape[1] != len(self.codebooks) or not 1 <= self.codes.shape[2] <= self.size:
            raise ValueError(f"codes {tuple(self.codes.shape)} do not fit codebooks {tuple(self.codebooks.shape)}")
        if self.codes.numel() and int(self.codes.max()) >= self.codebooks.shape[1]:
            raise ValueError("codes name codewords that there are not")

    @classmethod
    def of(cls, embeddings: Tensor, coder: Coder) -> CodebookTable:
        """Code embeddings [n, d], of which the padding row is no example."""
        codes, codebooks = coder(embeddings[1:])
        return cls(torch.cat([codes.new_zeros(1, *codes.shape[1:]), codes]), codebooks)

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        return int(self.codebooks.shape[2])

    @property
    def bytes_a_row(self) -> int:
        """One a codeword."""
        return int(self.codes.shape[1] * self.codes.shape[2])

    @property
    def shared_bytes(self) -> int:
        """The codebooks."""
        return self.codebooks.numel() * self.codebooks.element_size()

    def arrays(self) -> dict[str, Tensor]:
        """Return codes and codebooks."""
        return {"codes": self.codes, "codebooks": self.codebooks}

    def rows(self, ids: Tensor | None = None) -> Tensor:
        """Add codewords up, in float32 and in the order of the codebooks. The padding row stands for some too."""
        codes = self.codes if ids is None else self.codes[ids]
        owner = part_of_dimension(self.size, self.codes.shape[2])
        chunk = max(1, _CHUNK_NUMBERS // self.size)
        codebooks = self.codebooks.float()
        return torch.cat([additive_rows(part, codebooks, owner) for part in codes.split(chunk)])
