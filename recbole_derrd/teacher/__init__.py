"""Teachers and what they know."""

from recbole_derrd.teacher.ensemble import EnsembleKnowledge, EnsembleModel
from recbole_derrd.teacher.knowledge import Knowledge
from recbole_derrd.teacher.rank_weighting import RankWeighting
from recbole_derrd.teacher.specs import TeacherSpec, only_spec, teacher_specs
from recbole_derrd.teacher.teacher import Teacher

__all__ = [
    "EnsembleKnowledge",
    "EnsembleModel",
    "Knowledge",
    "RankWeighting",
    "Teacher",
    "TeacherSpec",
    "only_spec",
    "teacher_specs",
]
