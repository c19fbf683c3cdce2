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
        "svd: fewer dimensions in float32. quantized: few bits a dimension. product: codebooks by faiss "
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
    levels: str = option(
        "uniform",
        "Levels of quantized: uniform, or lloyd_max for 2 to 4 bits, which are best for Gaussian numbers.",
        choices=("uniform", "lloyd_max"),
    )
    rotation: str | bool | None = option(
        None,
        "How the embeddings are turned before they are coded: learned, random or none. If none is given, learned for "
        "quantized, opq and prq, random for pq, and none for rq and lsq, which need none. True is random, False none.",
        choices=("learned", "random", "none"),
        kind=(str, bool, type(None)),
    )
    users: bool = option(False, "Compress the users' embeddings as well; else they stay float32.")
    bytes: int | None = option(
        None, "Bytes of an item's codes for product: one a codeword.", low=1, kind=(int, type(None))
    )
    codebooks: str = option(
        "pq",
        "Codebooks of product. pq: a codeword for each part of the vector. opq: the same after a learned rotation. rq: "
        "codewords of the whole vector, each for what the others leave over. lsq: the same, found together by local "
        "search (slow). prq: rq in each part.",
        choices=("pq", "opq", "rq", "lsq", "prq"),
    )
    part_bytes: int = option(2, "Codewords that are added up in each part of prq.", low=1)
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
        for key in ("bytes", "codebooks"):
            if self.method != "product" and getattr(self, key) != _DEFAULTS[key]:
                raise OptionError(
                    f"compress_{key} belongs to compress_method: product. Take it out, or use that method."
                )
        if isinstance(self.rotation, bool):
            # What the option was called while there was one kind.
            object.__setattr__(self, "rotation", "random" if self.rotation else "none")
        self._check_levels()
        self._check_codebooks()

    def _check_levels(self) -> None:
        if self.levels == "lloyd_max" and not (self.method == "quantized" and 2 <= self.bits <= 4):
            raise OptionError(
                "compress_levels: lloyd_max is for compress_method: quantized with compress_bits 2 to 4. One bit has "
                "the same levels either way; take it out, or change the bits."
            )

    def _check_codebooks(self) -> None:
        if self.codebooks != "prq" and self.part_bytes != _DEFAULTS["part_bytes"]:
            raise OptionError("compress_part_bytes belongs to compress_codebooks: prq. Take it out, or use prq.")
        if self.codebooks == "prq" and (self.bytes or 0) % self.part_bytes:
            raise OptionError(
                f"compress_bytes = {self.bytes} is no multiple of compress_part_bytes = {self.part_bytes}. Change one."
            )
        if self.method != "product" or self.rotation is None:
            return
        if self.codebooks == "pq" and self.rotation == "learned":
            raise OptionError("Product quantisation with a learned rotation is compress_codebooks: opq. Write that.")
        if self.codebooks == "opq" and self.rotation != "learned":
            raise OptionError("compress_codebooks: opq learns its rotation. Take compress_rotation out, or write pq.")
        if self.codebooks in ("rq", "lsq") and self.rotation != "none":
            raise OptionError(
                f"compress_codebooks: {self.codebooks} codes whole vectors, which no rotation makes easier. Take "
                "compress_rotation out."
            )

    @property
    def turned(self) -> str:
        """How the embeddings are turned: learned, random or none, with the default of the method."""
        if self.method in ("none", "svd"):
            return "none"
        if self.rotation is not None:
            return str(self.rotation)
        if self.method == "quantized":
            return "learned"
        return {"pq": "random", "opq": "learned", "prq": "learned"}.get(self.codebooks, "none")


_DEFAULTS = {"bytes": None, "codebooks": "pq", "part_bytes": 2}
