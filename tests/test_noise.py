"""What of a gap is noise: means over groups of users, and the rule."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.evaluator.collector import DataStruct
from synthetic_records import groups_of, made, part, run_table, written

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.evaluation.by_groups import GroupingEvaluator, group_means
from recbole_derrd.evaluation.metrics import gap_recovered, paired_error, percent
from recbole_derrd.report.comparison import gap_of
from recbole_derrd.report.document import report_of


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.integers(1, 20))
def test_users_are_dealt_into_groups(values: list[float], groups: int) -> None:
    (means,) = group_means(np.array(values)[:, None], groups)
    dealt: dict[int, list[float]] = {}
    for place, value in enumerate(values):
        dealt.setdefault(place % min(groups, len(values)), []).append(value)
    assert means == pytest.approx([statistics.fmean(dealt[group]) for group in sorted(dealt)])


def test_the_error_is_that_of_the_paired_difference() -> None:
    # Differences 0.1, 0.3, 0.2: standard deviation 0.1, over the root of 3.
    assert paired_error([0.2, 0.5, 0.9], [0.1, 0.2, 0.7]) == pytest.approx(0.1 / math.sqrt(3))
    assert (
        paired_error([0.2], [0.1]) is None and paired_error([0.1, 0.2], [0.1]) is None and paired_error([], []) is None
    )


def test_a_report_of_one_seed_holds_it_to_its_users_noise() -> None:
    for error, known in ((0.11, False), (0.05, True)):
        (group,) = groups_of([made("RRD", 1, 0.4, gap_error={"ndcg@10": error})])
        row = next(row for row in group.rows.values() if row.distilled)
        assert (gap_of(group, row, "ndcg@10") is not None) is known


def test_the_report_repeats_what_runs_have_said(tmp_path: Path) -> None:
    records = [made("RRD", 1, 0.4, warnings=["Too small."]), made("RRD", 2, 0.4)]
    assert "1 of 2 runs: Too small." in report_of(written(tmp_path / "r", records), "md")


def test_the_error_of_groups_is_about_that_of_users() -> None:
    draw = np.random.default_rng(3)
    ours, theirs = draw.random(4000), draw.random(4000)
    (a,), (b,) = group_means(ours[:, None]), group_means(theirs[:, None])
    exact = (ours - theirs).std(ddof=1) / math.sqrt(4000)
    assert paired_error(a, b) == pytest.approx(exact, rel=0.4)


def test_metrics_are_the_means_of_their_groups() -> None:
    # RecBole's metrics use aliases of numpy's, which only a configuration sets.
    DistillConfig.compatibility_settings(None)  # type: ignore[arg-type]
    metrics = ["Hit", "MRR", "MAP", "Recall", "NDCG", "Precision"]
    evaluator = GroupingEvaluator({"metrics": metrics, "topk": [2, 5], "metric_decimal_place": 8})
    draw = np.random.default_rng(1)
    hits = draw.random((40, 5)) < 0.3
    collected = DataStruct()
    collected.set("rec.topk", torch.from_numpy(np.column_stack([hits, np.full(40, 7)]).astype(np.int64)))
    with evaluator.grouping():
        found = evaluator.evaluate(collected)
    assert evaluator.groups.keys() == found.keys()
    for name, groups in evaluator.groups.items():
        assert len(groups) == 20 and statistics.fmean(groups) == pytest.approx(found[name], abs=1e-7)
    evaluator.evaluate(collected)
    assert evaluator.groups == {}, "kept only where it is asked for"


def test_a_gap_within_the_noise_has_no_share() -> None:
    assert gap_recovered(0.305, 0.3, 0.3056, error=0.0026) is None
    assert gap_recovered(0.305, 0.3, 0.3056, error=0.0024) == pytest.approx(1.12)
    assert gap_recovered(0.3, 0.305, 0.301, bigger=False, error=0.0026) is None


@pytest.mark.parametrize(
    ("share", "shown"), [(None, "-"), (-0.004, "0 %"), (0.0, "0 %"), (1.118, "112 %"), (-0.2, "-20 %")]
)
def test_no_share_is_minus_nothing(share: float | None, shown: str) -> None:
    assert percent(share) == shown


def table_of(**more: Any) -> str:
    record = made("RRD", 1, 0.4, gap_recovered={"ndcg@10": -0.001}, **more)
    return run_table({**record, "student": part("BPR", 0.3, 100)})


def test_the_runs_table_names_the_metric_of_the_gap_and_repeats_the_notes() -> None:
    shown = table_of(warnings=["Nobody reads 'foo'.", "Too small."])
    assert "gap recovered (ndcg@10)" in shown and " 0 %" in shown and "-0 %" not in shown
    assert shown.splitlines()[-2:] == ["Note: Nobody reads 'foo'.", "Note: Too small."]
    assert "Note" not in table_of(), "records of earlier versions have none"


def test_a_single_seed_is_held_to_its_own_noise() -> None:
    def gap(*records: dict[str, Any]) -> float | None:
        (group,) = groups_of(records)
        row = next(row for row in group.rows.values() if row.distilled)
        return gap_of(group, row, "ndcg@10")

    record = made("RRD", 1, 0.4)
    assert gap(record) == pytest.approx(0.5, abs=0.01)
    noisy = {**record, "gap_error": {"ndcg@10": 0.11}}
    assert gap(noisy) is None
    assert gap(noisy, {**noisy, "seed": 2}) == pytest.approx(0.5, abs=0.01), "several seeds have their own spread"
