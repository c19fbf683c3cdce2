"""Codes of few bits in whole bytes: what is stored is what is counted."""

from __future__ import annotations

import torch
from torch import Tensor


def packed_size(size: int, bits: int) -> int:
    """Return the bytes of a row of ``size`` codes: ⌈size · bits / 8⌉."""
    return -(-size * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes of ``bits`` bits, lowest bit first, each row into whole bytes.

    Args:
        codes: uint8 [n, d], below 2^bits.
        bits: 1 to 8.

    Returns:
        uint8 [n, ⌈d · bits / 8⌉]; the last byte is filled up with 0.
    """
    rows, size = codes.shape
    stream = (codes.unsqueeze(2) >> torch.arange(bits, dtype=torch.uint8, device=codes.device)) & 1
    filled = torch.zeros(rows, packed_size(size, bits) * 8, dtype=torch.uint8, device=codes.device)
    filled[:, : size * bits] = stream.view(rows, size * bits)
    positions = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return (filled.view(rows, packed_size(size, bits), 8) << positions).sum(dim=2, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, size: int) -> Tensor:
    """Return the codes uint8 [n, size] of rows that :func:`pack` made."""
    rows = len(packed)
    stream = (packed.unsqueeze(2) >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    stream = stream.view(rows, packed.shape[1] * 8)[:, : size * bits].reshape(rows, size, bits)
    positions = torch.arange(bits, dtype=torch.uint8, device=packed.device)
    return (stream << positions).sum(dim=2, dtype=torch.uint8)
