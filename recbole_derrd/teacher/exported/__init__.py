"""A teacher that comes as files: embeddings or rankings with ids of their own, whatever has made them."""

from recbole_derrd.teacher.exported.reading import Exported, read_exported
from recbole_derrd.teacher.exported.teacher import ExportTeacher

__all__ = ["ExportTeacher", "Exported", "read_exported"]
