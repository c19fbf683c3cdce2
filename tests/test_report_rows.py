"""Which runs are one row, which rows may stand in one table, and what their numbers say; on small synthetic records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_records import SEEDS, groups_of, made, part, synthetic, written

from recbole_derrd.errors import OptionError
from recbole_derrd.report.comparison import baseline_of, fullest, gap_of
from recbole_derrd.report.document import report_of
from recbole_derrd.report.equal_epochs import equal_epochs_table
from recbole_derrd.report.titles import numbered


def test_what_records_have_in_common_is_one_row() -> None:
    (group,) = groups_of(synthetic())
    assert [(row.label, len(row.distinct())) for row in group.ordered()] == [
        ("Teacher", 1), ("Student alone", 5), ("DE", 5), ("RRD", 5),
    ]  # fmt: skip
    assert group.title == "toy, test split, full ranking, 5 seeds on one split"
    rows = {row.label: row for row in group.ordered()}
    means = {"Teacher": 0.5, "Student alone": 0.303, "RRD": 0.4011}
    assert {label: rows[label].mean("ndcg@10") for label in means} == pytest.approx(means)
    assert gap_of(group, rows["RRD"], "ndcg@10") == pytest.approx((0.4011 - 0.303) / (0.5 - 0.303))
    assert baseline_of(group) is rows["Student alone"]


def test_a_row_of_few_seeds_is_measured_on_those_and_not_ranked_with_the_others(tmp_path: Path) -> None:
    """Each seed with its own split: the student's scores are .1, .2, .3, and each method is half way to the teacher."""
    records = []
    for seed in (1, 2, 3):
        own = {
            "student": part("BPR", seed / 10, 100, f"s{seed}"),
            "teacher": part("BPR", seed / 10 + 0.1, 1000, f"t{seed}"),
        }
        data = {
            "data": {"fingerprint": {"ids": "i", "train": "t", "valid": "v", "test": f"w{seed}"}},
            "split_seed": None,
        }
        methods = ("DE", "RRD") if seed == 3 else ("DE",)
        records += [made(method, seed, seed / 10 + 0.05, **own, **data) for method in methods]
    (group,) = groups_of(records)
    rows = {row.label: row for row in group.ordered()}
    assert [gap_of(group, rows[name], "ndcg@10") for name in ("DE", "RRD")] == pytest.approx([0.5, 0.5])
    text = report_of(written(tmp_path / "records", records), "md")
    assert "**0.2500 ± 0.1000**" in text and "**0.3500" not in text
    assert "and those with fewer seeds or splits than others" in text
    records = [made("DE", seed, 0.4, data=record["data"]) for seed, record in zip((1, 2, 3), records)]
    assert "and those with fewer" not in report_of(written(tmp_path / "whole", records), "md")


def test_runs_among_other_candidates_are_another_table() -> None:
    mode = {"mode": "fixed9", "candidates_given": True}
    records = [made("RRD", 1, 0.4, candidates=digest, **mode) for digest in ("a", "b")]
    assert len(groups_of(records)) == 2
    assert len(groups_of([made("RRD", 1, 0.4, mode="fixed9", candidates=digest) for digest in ("a", "b")])) == 2
    drawn = [made("RRD", seed, 0.4, mode="fixed9", candidates=f"c{seed}", split_seed=None) for seed in (1, 2)]
    assert len(groups_of(drawn)) == 1, "each seed draws a split and candidates"
    assert len(groups_of([*drawn, {**drawn[0], "candidates": "other"}])) == 2


def test_what_two_records_say_of_one_seed_is_never_overwritten() -> None:
    """Neither the method's row nor the teacher's and the student's that it is measured by."""
    student, teacher = part("BPR", 0.2, 100, "s", embedding_size=4), part("BPR", 0.6, 1000, "t", embedding_size=64)
    other = {"student": student, "teacher": teacher}
    records = [made("RRD", 1, 0.4), made("RRD", 1, 0.4), made("RRD", 1, 0.3, **other)]
    (group,) = groups_of(records)
    means = {row.label: row.mean("ndcg@10") for row in group.ordered()}
    assert means == pytest.approx(
        {"Teacher": 0.5, "Teacher #2": 0.6, "Student alone": 0.301, "Student alone #2": 0.2, "RRD": 0.4, "RRD #2": 0.3}
    )
    rows = {row.label: row for row in group.ordered()}
    assert gap_of(group, rows["RRD #2"], "ndcg@10") == pytest.approx((0.3 - 0.2) / (0.6 - 0.2))


def test_rows_that_differ_by_their_teacher_say_so() -> None:
    alone: dict[str, Any] = {"benchmark": None}
    large = part("BPR", 0.6, 2000, "large", embedding_size=128)
    records = [made("RRD", 1, 0.4, **alone), made("RRD", 1, 0.45, teacher=large, **alone)]
    labels = {row.label for row in groups_of(records)[0].ordered() if row.role == "method"}
    assert labels == {"RRD (teacher's embedding_size=64)", "RRD (teacher's embedding_size=128)"}


def test_seeds_of_another_named_file_are_another_row() -> None:
    def one(seed: int, content: str) -> dict[str, Any]:
        data = {**made("DE", seed, 0.4)["data"], "named_files": {"a.pth": content}}
        return made("DE", seed, 0.4, data=data, distilled=part("NeuMF", 0.4, 100, mf_pretrain_path="a.pth"))

    (group,) = groups_of([one(1, "old"), one(2, "old"), one(3, "new")])
    assert sorted(len(row.entries) for row in group.rows.values() if row.distilled) == [1, 2]


def test_many_rows_of_one_name_are_numbered_at_once() -> None:
    assert len(set(numbered(["a"] * 20_000, " #{}"))) == 20_000
    assert numbered(["a", "b", "a", "a #2"], " #{}") == ["a", "b", "a #3", "a #2"]


def test_one_seed_on_two_splits_says_so() -> None:
    prints = [{"ids": "i", "train": "t", "valid": "v", "test": test} for test in ("w", "x")]
    data = [{"fingerprint": one, "interactions": "the same"} for one in prints]
    (group,) = groups_of(made("RRD", 1, 0.4, split_seed=None, data=one) for one in data)
    assert group.title.endswith("seed 1 on 2 splits")


def test_only_rows_of_the_same_seeds_are_ranked() -> None:
    records = [
        made(method, seed, 0.4) for method, seeds in (("A", (1, 2)), ("B", (2, 3)), ("C", (1, 2))) for seed in seeds
    ]
    (group,) = groups_of(records)
    methods = [row for row in group.ordered() if row.role == "method"]
    assert [row.label for row in fullest(methods)] == ["A", "C"] and fullest([]) == []


def test_models_of_two_seeds_that_score_alike_are_two() -> None:
    records = [
        made("DE", seed, 0.4, student=part("BPR", score, 100, f"student{seed}", seed=seed))
        for seed, score in ((1, 0.2), (2, 0.2), (3, 0.26))
    ]
    row = next(row for row in groups_of(records)[0].ordered() if row.role == "plain")
    assert len(row.distinct()) == 3 and row.mean("ndcg@10") == pytest.approx(0.22)


@pytest.mark.parametrize(
    ("metric", "scores", "gap"),
    [
        ("ndcg@10", (0.2, 0.1, 0.15), 0.5),
        ("ndcg@10", (0.1, 0.12, 0.13), None),
        ("ndcg@10", (0.1, 0.1, 0.13), None),
        ("logloss", (0.8, 0.9, 0.85), 0.5),
        ("ndcg@10", (0.2, None, 0.15), None),
    ],
)
def test_a_gap_is_recovered_from_a_student_below_its_teacher(
    metric: str, scores: tuple[float | None, ...], gap: float | None
) -> None:
    record = made("RRD", 1, 0.4, valid_metric=metric)
    for role, score in zip(("teacher", "student", "distilled"), scores):
        record[role] = None if score is None else {**part("BPR", score, 1), "test": {metric: score}}
    (group,) = groups_of([record])
    row = next(row for row in group.rows.values() if row.distilled)
    assert gap_of(group, row, metric) == (None if gap is None else pytest.approx(gap))


def test_a_teacher_under_two_keys_is_known_by_its_scores() -> None:
    """Keys of another version of this plugin name the same model anew."""
    records = [made("DE", seed, 0.4, teacher=part("BPR", 0.5, 1000, f"key{seed}")) for seed in SEEDS]
    teacher = next(row for row in groups_of(records)[0].ordered() if row.role == "teacher")
    assert len(teacher.distinct()) == 1
    records[0]["teacher"]["test"] = {"ndcg@10": 0.6}
    teacher = next(row for row in groups_of(records)[0].ordered() if row.role == "teacher")
    assert len(teacher.distinct()) == 2


def test_an_ensemble_of_teachers_with_each_runs_seed_is_one_row() -> None:
    records = []
    for seed in SEEDS:
        several = [part(model, 0.4, 500, f"{model}{seed}", k=3) for model in ("BPR", "ItemKNN")]
        members = [{"model": one["model"], **one["settings"], "seed": seed} for one in several]
        together = part("Ensemble", 0.5, 1000, f"ensemble{seed}", members=members, ensemble_top_n=5)
        records.append(made("HetComp", seed, 0.4, teacher=together, teachers=several))
    other = part("Ensemble", 0.6, 1000, "other", members=members, ensemble_top_n=9)
    records.append(made("HetComp", seed, 0.4, teacher=other, teachers=several))
    (group,) = groups_of(records)
    ensembles = [row for row in group.ordered() if row.model == "Ensemble"]
    assert [len(row.entries) for row in ensembles] == [len(SEEDS), 1]
    assert [len(row.entries) for row in group.ordered() if row.distilled] == [len(SEEDS), 1]


def test_teachers_that_differ_by_their_seed_alone_are_several() -> None:
    records = [
        made("HetComp", seed, 0.4, teachers=[part("BPR", 0.4 + place / 10, 500, f"{seed}-{place}") for place in (0, 1)])
        for seed in SEEDS
    ]
    (group,) = groups_of(records)
    several = [row for row in group.ordered() if row.label.startswith("Teacher BPR")]
    assert [row.mean("ndcg@10") for row in several] == pytest.approx([0.4, 0.5])
    assert len({row.label for row in several}) == 2 and [len(row.entries) for row in several] == [5, 5]


def test_protocols_are_never_mixed() -> None:
    groups = groups_of([*synthetic(), made("DE", 1, 0.7, mode="fixed499")])
    assert [group.title for group in groups] == [
        "toy, test split, full ranking, 5 seeds on one split",
        "toy, test split, ranked among 499 fixed candidates, seed 1",
    ]


def test_tables_of_one_title_are_told_apart() -> None:
    records = [made("DE", 1, 0.3), made("DE", 1, 0.4), made("DE", 1, 0.5)]
    for record, split, items in zip(records, ({"RS": [0.8, 0.1, 0.1]}, {"LS": "valid_and_test"}, None), (9, 9, 8)):
        record["protocol"] = {**record["protocol"], "split": split}
        record["data"] = {**record["data"], "items": items}
    assert [group.title for group in groups_of(records)] == [
        "toy, test split, full ranking, seed 1, split RS 0.8 0.1 0.1, items 9",
        "toy, test split, full ranking, seed 1, split LS valid_and_test, items 9",
        "toy, test split, full ranking, seed 1, split None, items 8",
    ]
    alike = [made("DE", 1, 0.3), made("DE", 1, 0.4)]
    alike[1]["data"] = {**alike[1]["data"], "fingerprint": {**alike[1]["data"]["fingerprint"], "ids": "others"}}
    assert [group.title[-4:] for group in groups_of(alike)] == [" (1)", " (2)"]


def test_other_splits_are_never_paired() -> None:
    one, other = (
        {"fingerprint": {"ids": "i", "train": "t", "valid": "v", "test": test}, "interactions": "the same"}
        for test in ("one", "another")
    )
    records = [made("DE", seed, 0.31, split_seed=None, data=one) for seed in SEEDS]
    records += [made("RRD", seed, 0.4, split_seed=None, student=None, data=other) for seed in SEEDS]
    (group,) = groups_of(records)
    rows = {row.label: row for row in group.ordered()}
    assert rows["DE"].paired(rows["Student alone"], "ndcg@10")[0] == [0.31] * 5
    assert rows["RRD"].paired(rows["Student alone"], "ndcg@10")[0] == []


def test_a_plain_experiment_is_the_plain_students_row_and_a_rerun_counts_once() -> None:
    plain = {"distillers": [], "teacher": None, "student": None, "options": {}, "diagnostics": None}
    records = [*synthetic(), *synthetic()]
    records += [
        made("small", seed, 0.3 + seed / 1000, **plain, distilled=part("BPR", 0.3 + seed / 1000, 100, embedding_size=4))
        for seed in SEEDS
    ]
    (group,) = groups_of(records)
    labels = [(row.label, len(row.distinct())) for row in group.ordered()]
    assert labels == [("Teacher", 1), ("small", 5), ("DE", 5), ("RRD", 5)]


def test_sizes_are_told_apart() -> None:
    larger = part("BPR", 0.4, 200, embedding_size=8)
    records = [*synthetic(), made("DE", 1, 0.4, student={**larger, "key": "l"}, distilled=larger)]
    labels = [row.label for row in groups_of(records)[0].ordered()]
    assert "Student alone (embedding_size=4)" in labels and "Student alone (embedding_size=8)" in labels
    assert "DE (embedding_size=8)" in labels


def test_rows_of_a_sweep_say_what_they_differ_in() -> None:
    """Rows that differ from most in one of many settings each: that one is said, and nothing of the row like most."""
    usual = {"a": 1, "b": 1, "c": 1, "d": 1, "rrd_weight": 1}
    records = []
    for place, change in enumerate([{}, {"a": 2}, {"b": 2}, {"c": 2}, {"d": 2}, {"rrd_weight": 2}]):
        settings = {**usual, **change}
        weight = {"rrd_weight": settings.pop("rrd_weight")}
        record = made("RRD", 1, 0.4 + place / 100, distilled=part("BPR", 0.4, 100, **settings), options=weight)
        del record["benchmark"]
        records.append(record)
    labels = [row.label for row in groups_of(records)[0].ordered() if row.role == "method"]
    assert labels == ["RRD", "RRD (a=2)", "RRD (b=2)", "RRD (c=2)", "RRD (d=2)", "RRD (rrd_weight=2)"]


def test_a_setting_that_a_row_does_not_state_is_not_in_its_name() -> None:
    deep = part("BPR", 0.6, 1000, "deep", embedding_size=64, n_layers=3)
    records = [made("DE", 1, 0.4), made("RRD", 1, 0.4, teacher=deep)]
    teachers = [row.label for row in groups_of(records)[0].ordered() if row.role == "teacher"]
    assert sorted(teachers) == ["Teacher", "Teacher (n_layers=3)"]


def test_what_is_proposed_is_tested_against_the_best_of_the_others(tmp_path: Path) -> None:
    records = synthetic()
    for record in records:
        record["benchmark"]["proposed"] = record["benchmark"]["experiment"] == "RRD"
    (group,) = groups_of(records)
    baseline = baseline_of(group)
    assert baseline is not None and baseline.label == "DE"
    folder = written(tmp_path / "records", records)
    assert "against 'DE'" in report_of(folder, "md")
    assert "against 'Student alone'" in report_of(folder, "md", baseline="Student alone")
    with pytest.raises(OptionError, match="Did you mean 'Student alone'"):
        report_of(folder, "md", baseline="Student alnoe")


def test_a_compressed_teacher_is_a_baseline() -> None:
    plain = {"distillers": [], "student": None, "compression": {"method": "svd"}, "options": {"compress_size": 4}}
    records = synthetic() + [made("SVD", seed, 0.45, **plain) for seed in SEEDS]
    (group,) = groups_of(records)
    baseline = baseline_of(group)
    assert baseline is not None and baseline.label == "SVD"
    # It has no plain student of its own; there is only one that it can be compared with.
    assert gap_of(group, baseline, "ndcg@10") == pytest.approx((0.45 - 0.303) / (0.5 - 0.303))


def test_rows_are_compared_after_equal_epochs() -> None:
    """A student that stops early must not lose to one that trained on, nor the other way round."""

    def curve(record: dict[str, Any], *scores: float) -> dict[str, Any]:
        record["distilled"]["valid_scores"] = [[4 + 5 * place, score] for place, score in enumerate(scores)]
        record["student"]["valid_scores"] = [[4 + 5 * place, 0.05 * place] for place in range(8)]
        return record

    records = [curve(made("DE", seed, 0.3), 0.1, 0.2, 0.3, 0.25, 0.5 + seed / 100) for seed in (1, 2)]
    records += [curve(made("RRD", seed, 0.3), 0.2, 0.1, 0.15, 0.4) for seed in (1, 2)]
    (group,) = groups_of(records)
    table = equal_epochs_table(group)
    assert table is not None and table.head[3:] == [
        "by epoch 5",
        "by epoch 10",
        "by epoch 20",
        "epochs until it stopped",
    ]
    rows = {row[0].text: row for row in table.rows}
    assert [entry.text for entry in rows["DE"][2:]] == ["2", *(f"{v:.4f} ± 0.0000" for v in (0.1, 0.2, 0.3)), "25"]
    assert [entry.text for entry in rows["RRD"][2:]] == ["2", *(f"{v:.4f} ± 0.0000" for v in (0.2, 0.2, 0.4)), "20"]
    assert rows["Student alone"][5].text == "0.1500 ± 0.0000" and rows["Student alone"][6].text == "40"
    assert [entry.mark for entry in rows["RRD"][3:6]] == ["best"] * 3
    assert table.title.startswith("toy, validation split, full ranking")
    late = curve(made("CD", 1, 0.3), 0.1, 0.2)
    late["distilled"]["valid_scores"] = [[70, 0.1], [80, 0.2]]
    assert equal_epochs_table(groups_of([*records, late])[0]) is None, "it begins when others have ended"
    for record in records:
        record["distilled"]["valid_scores"], record["student"]["valid_scores"] = [[0, 0.5]], []
    assert equal_epochs_table(groups_of(records)[0]) is None


def test_options_that_records_leave_out_are_the_defaults() -> None:
    alone: dict[str, Any] = {"benchmark": None}
    two = made("HetComp", 1, 0.4, **alone)
    two["options"] = {"teacher_snapshots": 2}
    usual = made("HetComp", 1, 0.5, **alone)
    labels = {row.label for row in groups_of([two, usual])[0].ordered() if row.role == "method"}
    assert any("teacher_snapshots=2" in label for label in labels) and any(
        "teacher_snapshots=4" in label for label in labels
    )
