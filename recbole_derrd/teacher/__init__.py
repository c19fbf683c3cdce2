"""Teachers and what they know."""

from recbole_derrd.teacher.knowledge import Knowledge
from recbole_derrd.teacher.teacher import Teacher, teacher_name

__all__ = ["Knowledge", "Teacher", "teacher_name"]
