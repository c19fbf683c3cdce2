"""Codes of few bits in whole bytes: what is stored is what is counted."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Bytes of a row's step, a float16.
STEP_BYTES = 2


def packed_size(size: int, bits: int) -> int:
    """Return the bytes of a row of ``size`` codes: ⌈size · bits / 8⌉.

    Example:
        >>> packed_size(80, 4)
        40
    """
    return -(-size * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes of ``bits`` bits, lowest bit first, each row into whole bytes.

    Args:
        codes: uint8 [n, d], below 2^bits.
        bits: 1 to 8.

    Returns:
        uint8 [n, ⌈d · bits / 8⌉]; the last byte is filled up with 0.

    Example:
        >>> pack(torch.tensor([[1, 2, 3]], dtype=torch.uint8), bits=4).tolist()  # 1 + 16 * 2, 3
        [[33, 3]]
    """
    rows, size = codes.shape
    stream = np.unpackbits(codes.cpu().numpy()[:, :, np.newaxis], axis=2, count=bits, bitorder="little")
    packed = np.packbits(stream.reshape(rows, size * bits), axis=1, bitorder="little")
    return torch.from_numpy(packed).to(codes.device)


def unpack(packed: Tensor, bits: int, size: int) -> Tensor:
    """Return the codes uint8 [n, size] of rows that :func:`pack` made."""
    stream = np.unpackbits(packed.cpu().numpy(), axis=1, count=size * bits, bitorder="little")
    codes = np.packbits(stream.reshape(len(packed), size, bits), axis=2, bitorder="little")
    return torch.from_numpy(codes.reshape(len(packed), size)).to(packed.device)
