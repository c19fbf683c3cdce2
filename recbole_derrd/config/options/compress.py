"""Options of the baselines without distillation: the teacher's own embeddings, in fewer bytes an item."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from recbole_derrd.config.options.schema import Options, option
from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class CompressOptions(Options):
    """How a teacher of two embeddings is compressed, with no training at all (docs/compression.md)."""

    prefix: ClassVar[str] = "compress_"

    method: str = option(
        "none",
        "svd: fewer dimensions in float32. quantized: few bits a dimension. product: product quantisation by faiss "
        "(pip install 'recbole_derrd[ann]').",
        choices=("none", "svd", "quantized", "product"),
    )
    size: int | None = option(
        None,
        "Dimensions that a truncated SVD of the teacher's scores keeps; the teacher's own embeddings if none.",
        low=1,
        kind=(int, type(None)),
    )
    bits: int = option(32, "Bits a dimension: 1 to 8 for quantized, 32 is float32.", low=1, high=32)
    rotation: bool = option(True, "Turn the embeddings by a random rotation before they are quantised.")
    users: bool = option(False, "Compress the users' embeddings as well; else they stay float32.")
    bytes: int | None = option(
        None, "Bytes of an item's codes for product: one a part of the vector.", low=1, kind=(int, type(None))
    )
    seed: int | None = option(
        None, "Seed of the rotation and of product's k-means; the run's seed if none.", kind=(int, type(None))
    )

    def __post_init__(self) -> None:
        """Check that the method has what it needs, and nothing that it would ignore."""
        super().__post_init__()
        if 8 < self.bits < 32:
            raise OptionError(f"Option 'compress_bits' must be 1 to 8, or 32 for float32, but is {self.bits}.")
        if self.method == "svd" and self.size is None:
            raise OptionError("compress_method: svd needs the dimensions it keeps, e.g. compress_size: 20.")
        if self.method == "quantized" and self.bits == 32:
            raise OptionError("compress_method: quantized needs the bits of a dimension, e.g. compress_bits: 4.")
        if self.method == "product" and self.bytes is None:
            raise OptionError("compress_method: product needs the bytes of an item's codes, e.g. compress_bytes: 20.")
        if self.method != "quantized" and self.bits != 32:
            raise OptionError("compress_bits belongs to compress_method: quantized. Take it out, or use that method.")
        if self.method != "product" and self.bytes is not None:
            raise OptionError("compress_bytes belongs to compress_method: product. Take it out, or use that method.")
