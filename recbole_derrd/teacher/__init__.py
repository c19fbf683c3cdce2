"""Frozen teachers, and what they know."""

from recbole_derrd.teacher.array_builder import BuildSettings
from recbole_derrd.teacher.ensemble import Ensemble, EnsembleKnowledge
from recbole_derrd.teacher.ensemble_model import EnsembleModel
from recbole_derrd.teacher.exported import Exported, ExportTeacher, read_exported
from recbole_derrd.teacher.knowledge import Knowledge
from recbole_derrd.teacher.rank_weighting import RankWeighting
from recbole_derrd.teacher.source import GivenTeacher, NoTeacher, TeacherSource
from recbole_derrd.teacher.specs import TeacherSpec, only_spec, teacher_specs
from recbole_derrd.teacher.stored_knowledge import StoredKnowledge, knowledge_folder
from recbole_derrd.teacher.teacher import Teacher

__all__ = [
    "BuildSettings",
    "Ensemble",
    "EnsembleKnowledge",
    "EnsembleModel",
    "ExportTeacher",
    "Exported",
    "GivenTeacher",
    "Knowledge",
    "NoTeacher",
    "RankWeighting",
    "StoredKnowledge",
    "Teacher",
    "TeacherSource",
    "TeacherSpec",
    "knowledge_folder",
    "only_spec",
    "read_exported",
    "teacher_specs",
]
