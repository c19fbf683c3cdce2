"""Embeddings in fewer bytes, with no training at all: a teacher's as the baseline, a student's as what is served."""

from recbole_derrd.compression.evaluate import evaluate_tables
from recbole_derrd.compression.model import CompressedModel
from recbole_derrd.compression.recipe import Tables, check_rank, check_recipe, compress, storing_recipe

__all__ = ["CompressedModel", "Tables", "check_rank", "check_recipe", "compress", "evaluate_tables", "storing_recipe"]
