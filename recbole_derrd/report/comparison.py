"""What the numbers of a group say: who is best, how much of the gap is recovered, what is significant."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection

from recbole_derrd.errors import OptionError, did_you_mean
from recbole_derrd.evaluation.metrics import bigger_is_better, gap_recovered, is_within_noise, within_noise
from recbole_derrd.report.rows import Group, Pair, Row
from recbole_derrd.report.significance import holm, paired_t, wilcoxon_signed_rank


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row against the best baseline."""

    row: Row
    pairs: int
    difference: float | None
    t: float | None
    t_holm: float | None
    wilcoxon: float | None
    wilcoxon_holm: float | None


def best_two(rows: list[Row], metric: str) -> tuple[set[str], set[str]]:
    """Return the keys of the best and of the second best rows by their means, of the students in :func:`fullest`."""
    means = {row.key: row.mean(metric) for row in fullest([row for row in rows if row.role != "teacher"])}
    known = {key: mean for key, mean in means.items() if mean is not None}
    ranked = sorted(set(known.values()), reverse=bigger_is_better(metric))
    return (
        {key for key, mean in known.items() if ranked[:1] == [mean]},
        {key for key, mean in known.items() if ranked[1:2] == [mean]},
    )


def fullest(rows: list[Row]) -> list[Row]:
    """Return the rows with the most seeds and splits, the same for all: means over others cannot be ranked with theirs.

    Of sets of one size it is the one that most rows have.
    """
    sets = Counter(frozenset(row.entries) for row in rows)
    most = max(sets, key=lambda pairs: (len(pairs), sets[pairs]), default=frozenset())
    return [row for row in rows if row.entries.keys() == most]


def gap_of(group: Group, row: Row, metric: str) -> float | None:
    """Return (row - student alone) / (teacher - student alone), of the means over the seeds and splits of all three.

    None where there are none, where the teacher is not better, or where it is so within the noise of the seeds.
    """
    compared = _with_student_and_teacher(group, row)
    if compared is None or gap_is_noise(group, row, metric):
        return None
    pairs = compared[0].entries.keys() & compared[1].entries.keys() & compared[2].entries.keys()
    own, alone, above = (one.mean(metric, pairs) for one in compared)
    if own is None or alone is None or above is None:
        return None
    return gap_recovered(above, alone, own, bigger=bigger_is_better(metric))


def gap_is_noise(group: Group, row: Row, metric: str) -> bool:
    """Say whether the teacher is better than the student alone by no more than noise: over seeds, or users."""
    compared = _with_student_and_teacher(group, row)
    if compared is None:
        return False
    own, student, teacher = compared
    pairs = own.entries.keys() & student.entries.keys() & teacher.entries.keys()
    values = teacher.paired(student, metric, pairs)
    differences = [one - other for one, other in zip(*values)]
    if len(differences) != 1:
        return is_within_noise(differences)
    error = _error_over_users(group, student, teacher, metric, pairs)
    return error is not None and within_noise(differences[0], error)


def _error_over_users(group: Group, student: Row, teacher: Row, metric: str, pairs: Collection[Pair]) -> float | None:
    """Return the gap's standard error over the users of one seed, as a record of these two models has it."""
    for row in group.rows.values():
        if (row.teacher, row.student) == (teacher.key, student.key):
            for pair in row.entries.keys() & set(pairs):
                error = row.entries[pair].gap_error.get(metric)
                if error is not None:
                    return float(error)
    return None


def _with_student_and_teacher(group: Group, row: Row) -> tuple[Row, Row, Row] | None:
    student, teacher = group.rows.get(row.student or _only_student(group)), group.rows.get(row.teacher or "")
    return None if student is None or teacher is None or student is row else (row, student, teacher)


def _only_student(group: Group) -> str:
    """Return the key of the plain student that all distilled rows are compared with, "" where they have several.

    A compressed teacher has no plain student of its own.
    """
    students = {row.student for row in group.rows.values() if row.student}
    return students.pop() if len(students) == 1 else ""


def baseline_of(group: Group, name: str | None = None) -> Row | None:
    """Return what rows are tested against: the baseline of this name, or the one with the best mean of the fullest.

    Baselines are all rows but teachers and the proposed. Proposed are the experiments that the benchmark names so, or
    else whatever is distilled; a compressed teacher is a baseline, whatever its size.

    Raises:
        OptionError: there is no row of that name.
    """
    students = [row for row in group.ordered() if row.role != "teacher"]
    if name is not None:
        labels = {row.label: row for row in students}
        if name not in labels:
            raise OptionError(f"There is no row '{name}' to compare with.{did_you_mean(name, labels)}")
        return labels[name]
    known = [row for row in students if row not in _proposed(students) and row.mean(group.headline) is not None]
    best = max if bigger_is_better(group.headline) else min
    return best(fullest(known), key=lambda row: row.mean(group.headline) or 0.0) if known else None


def _proposed(rows: list[Row]) -> list[Row]:
    named = [row for row in rows if row.proposed]
    return named or [row for row in rows if row.distilled]


def comparisons(group: Group, baseline: Row) -> list[Comparison]:
    """Test the proposed rows against the baseline at the headline metric; Holm corrects each test over the rows."""
    students = [row for row in group.ordered() if row.role != "teacher"]
    rows = [row for row in _proposed(students) if row is not baseline]
    metric, bigger = group.headline, bigger_is_better(group.headline)
    values = [row.paired(baseline, metric) for row in rows]
    t = [paired_t(ours, theirs, bigger=bigger) for ours, theirs in values]
    ranks = [wilcoxon_signed_rank(ours, theirs, bigger=bigger) for ours, theirs in values]
    return [
        Comparison(
            row=row,
            pairs=len(ours),
            difference=sum(our - their for our, their in zip(ours, theirs)) / len(ours) if ours else None,
            t=t[place],
            t_holm=holm(t)[place],
            wilcoxon=ranks[place],
            wilcoxon_holm=holm(ranks)[place],
        )
        for place, (row, (ours, theirs)) in enumerate(zip(rows, values))
    ]
