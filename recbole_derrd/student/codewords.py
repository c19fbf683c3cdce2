"""A table of a student that is trained in codebooks: its rows are sums of codewords, in every loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_derrd.errors import CheckpointError
from recbole_derrd.evaluation.size import Stored
from recbole_derrd.ops.residual import codes_of, codeword_sums, residual_codes
from recbole_derrd.training.fitting import fitting_codes


class CodewordRows(nn.Module):
    """A table's rows as sums of codewords, one of each codebook; codebooks are torch's parameter, codes stay.

    The codebooks are found by residual quantisation of the rows as training begins, and stored in float16, through
    whose rounding gradients pass as they are. The padding row stands for some codewords too.

    Args:
        codes: of the rows, the padding row's among them: uint8 [n, levels].
    """

    codes: Tensor

    def __init__(self, codes: Tensor) -> None:
        """Hold the codes."""
        super().__init__()
        self.register_buffer("codes", codes)

    @classmethod
    def of(cls, rows: Tensor, levels: int, seed: int) -> tuple[CodewordRows, nn.Parameter]:
        """Code rows [n, d] in so many codebooks; return what reads them, and the codebooks [levels, codewords, d].

        Args:
            rows: the table as training begins, the padding row first.
            levels: codebooks.
            seed: seed of k-means.
        """
        codes, codebooks = residual_codes(rows.detach().float().cpu()[1:], levels, seed)
        return cls(_with_padding(codes).to(rows.device)), nn.Parameter(codebooks.to(rows))

    def forward(self, codebooks: Tensor) -> Tensor:
        """Return what the rows' codes stand for [n, d]."""
        with torch.autocast(codebooks.device.type, enabled=False):
            rounded = codebooks + (codebooks.half().float() - codebooks).detach()
            return codeword_sums(self.codes, rounded)

    def entry(self, latent: Tensor) -> dict[str, Any]:
        """Return codes and codebooks."""
        return {"codes": self.codes, "codebooks": latent.detach().half()}

    @torch.no_grad()
    def load(self, latent: Tensor, rows: Tensor, entry: Any, name: str) -> None:
        """Take codes and codebooks, or code the rows by the codebooks that there are."""
        if entry is None:
            self.codes = _with_padding(codes_of(rows.float().cpu()[1:], latent.detach().float().cpu())).to(
                latent.device
            )
            return
        found = fitting_codes(entry, len(self.codes), tuple(latent.shape))
        if found is None:
            raise CheckpointError(
                f"The codes of '{name}' in the checkpoint do not fit its table. Train the student again."
            )
        self.codes, codebooks = (one.to(latent.device) for one in found)
        latent.copy_(codebooks)

    def stored(self, latent: Tensor) -> Stored:
        """Return the size of codes and codebooks."""
        return Stored.in_codebooks(len(self.codes), latent)


def _with_padding(codes: Tensor) -> Tensor:
    return torch.cat([codes.new_zeros(1, codes.shape[1]), codes])
