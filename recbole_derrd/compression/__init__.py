"""The baselines without distillation: the teacher's own vectors in fewer bytes an item, with no training at all."""

from recbole_derrd.compression.model import CompressedModel
from recbole_derrd.compression.recipe import Tables, compress
from recbole_derrd.compression.run import run_compressed

__all__ = ["CompressedModel", "Tables", "compress", "run_compressed"]
