"""Runs that cannot show what they ask for say so: at the start, under the table, in the record."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest
import torch
from synthetic_records import run_table

from recbole_derrd.config.distill_config import DistillConfig, model_settings
from recbole_derrd.experiment.purpose import (
    _rounded_up,
    of_data,
    of_models,
    of_other_methods,
    of_refined,
    of_settings,
    refined_is_better,
)
from recbole_derrd.model_cache.results import TrainedModel
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.registry import METHODS

Settings = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parent.parent
LARGE = {"embedding_size": 16}
_SAME = "a BPR of the student's own size"


def made(settings: dict[str, Any], model: str = "BPR") -> DistillConfig:
    return DistillConfig(model, "tiny", config_dict=settings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"distillers": ["rrd"]}, _SAME + " and settings"),
        ({"distillers": ["rrd"], "teacher": {"seed": 3}, "split_seed": 1}, _SAME + " and settings"),
        ({"distillers": ["rrd"], "teacher": {"learning_rate": 0.1}}, _SAME + ":"),
        ({"distillers": ["rrd"], "teacher": {"embedding_size": 4}}, "embedding_size 4 is smaller than the student's 8"),
        (
            {"distillers": ["listwise"], "teacher": LARGE, "listwise_k": 5},
            "listwise_k has no effect with listwise_items: all. Change that, or take listwise_k out",
        ),
        (
            {"distillers": ["ir_rrd"], "teacher": LARGE, "ir_rrd_item_l": 5, "ir_rrd_item_weight": 0},
            "ir_rrd_item_l has no effect with ir_rrd_item_weight: 0",
        ),
        ({"distillers": ["rrd"], "teacher": LARGE, "rrd_weight": 0}, "rrd has no effect, since rrd_weight is 0"),
        ({"distillers": ["hetcomp"], "teacher": LARGE, "teacher_snapshots": 1}, "teacher_snapshots is 1"),
        ({"distillers": ["hetcomp"], "teachers": [{"checkpoint": "x.pth"}]}, "all teachers are brought"),
        ({"distillers": ["rrd"], "teacher": LARGE, "teacher_export": "e"}, "teacher has no effect: the teacher is the"),
        ({"distillers": ["rrd"], "teacher": LARGE, "threshold": {"rating": 9}}, 'val_interval: {rating: "[9,inf)"}'),
        ({"distillers": ["rrd"], "teacher": LARGE, "candidates_seed": 1}, "'candidates_seed' has no effect"),
        ({"distillers": ["rrd"], "teacher": LARGE, "foo": 1, "bar": 1}, "do not know 'foo' and 'bar', so"),
        ({"distillers": ["rrd"], "teacher": {**LARGE, "foo": 1}}, "do not know 'foo' in 'teacher', so"),
        ({"distillers": ["rrd"], "teacher": LARGE, "device": "cuda:7"}, "device: cuda:7 has no effect"),
        ({"distillers": ["rrd"], "teacher": LARGE, "valid_metric_bigger": False}, "valid_metric decides"),
        (
            {"distillers": ["rrd"], "teacher": LARGE, "valid_neg_sample_args": {"distribution": "uniform"}},
            "the mode in eval_args decides",
        ),
        ({"teacher": LARGE}, "plain RecBole training, and 'teacher' is not used"),
        ({}, "No distillers are given"),
        ({"distillers": None, "teacher": LARGE}, "plain RecBole training, and 'teacher' is not used"),
    ],
)  # fmt: skip
def test_settings_without_a_point_are_named(tiny_settings: Settings, given: dict[str, Any], words: str) -> None:
    (said,) = of_settings(made(tiny_settings("BPR", **given)))
    assert words in said


@pytest.mark.parametrize(
    "given",
    [
        {"distillers": []},
        {"distillers": ["rrd"], "teacher": LARGE},
        {"distillers": ["rrd"], "teacher_model": "LightGCN"},
        {"distillers": ["rrd"], "teacher_export": "e"},
        {"distillers": ["listwise"], "teacher": LARGE, "listwise_k": 5, "listwise_items": "student"},
        {"distillers": ["rrd"], "teacher": LARGE, "rrd_interesting": "topk"},
        {"distillers": ["rrd"], "store_bits": 4},
        {"distillers": ["rrd"], "student_bits": 2},
        {"distillers": ["rrd"], "teachers": ["BPR", {"model": "BPR", "seed": 3}]},
        {"distillers": ["hetcomp"], "teacher": LARGE, "teacher_snapshots": 1, "hetcomp_trajectory": False},
        {"distillers": ["rrd"], "teacher": LARGE, "candidates_seed": 1, "eval_args": {"mode": "fixed9"}},
        {"distillers": ["rrd"], "teacher": LARGE, "valid_metric_bigger": True, "device": "cpu"},
        {"distillers": ["rrd"], "teacher": LARGE, "base_weight": 0, "user_inter_num_interval": "[0,inf)"},
    ],
)
def test_settings_with_a_point_are_not(tiny_settings: Settings, given: dict[str, Any]) -> None:
    if given.get("device") and torch.cuda.is_available():
        pytest.skip("RecBole takes the GPU")
    assert of_settings(made(tiny_settings("BPR", **given))) == []


def test_no_shipped_configuration_asks_for_anything_in_vain() -> None:
    runs = sorted(path for path in ROOT.glob("configs/**/*.yaml") if path.parent.name not in ("benchmark", "frontier"))
    assert len(runs) > 5
    assert {path.name: said for path in runs if (said := of_settings(DistillConfig(config_file_list=[path])))} == {}


@pytest.mark.parametrize(
    ("model", "given", "read"),
    [
        ("BPR", {}, False),
        ("NeuMF", {}, False),
        ("NeuMF", {"train_neg_sample_args": None}, True),
        ("MultiVAE", {"train_neg_sample_args": None}, False),
        ("BPR", {"eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC"}, True),
    ],
)
def test_a_threshold_counts_where_labels_are_read(
    tiny_settings: Settings, model: str, given: dict[str, Any], read: bool
) -> None:
    said = of_settings(made(tiny_settings(model, distillers=[], threshold={"rating": 4}, **given), model))
    assert said == [] if read else "threshold: {rating: 4} has no effect" in said[0]


def test_a_threshold_counts_where_the_teacher_reads_labels(tiny_settings: Settings) -> None:
    labelled = {"teacher_model": "NeuMF", "teacher": {"train_neg_sample_args": None, "embedding_size": 64}}
    given = tiny_settings("BPR", distillers=["rrd"], threshold={"rating": 4}, **labelled)
    assert not [said for said in of_settings(made(given)) if "threshold" in said]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"rrd_k": 4},
            ["Not among the distillers: rrd. So rrd_k has no effect: add rrd to distillers, or take it out."],
        ),
        ({"rce_kd_preset": "citeulike-bpr", "rrd_weight": 1}, ["rrd and rce_kd. So rrd_weight and rce_kd_preset have"]),
        ({f"{name}_weight": 1 for name in METHODS}, [" and 9 more have no effect"]),
        ({"de_weight": 1, "rrd_preset": None}, []),
        ({"rrd_k": 4, "distillers": []}, []),
        ({"rrd_k": 4, "benchmark": {"name": "b", "key": "k"}}, []),
    ],
)
def test_options_of_other_methods_are_for_the_log_alone(
    tiny_settings: Settings, given: dict[str, Any], words: list[str]
) -> None:
    config = made(tiny_settings("BPR", **{"distillers": ["de"], "teacher": LARGE, **given}))
    said = of_other_methods(config)
    assert len(said) == len(words) and all(word in sentence for word, sentence in zip(words, said))
    assert of_settings(config) == []


def of_tiny_data(labels: list[int]) -> Any:
    feat = {"label": torch.tensor(labels)}
    return SimpleNamespace(dataset=SimpleNamespace(inter_feat=feat), history=SimpleNamespace(n_users=31))


def test_labels_of_one_kind_are_named(tiny_settings: Settings) -> None:
    more = {"distillers": [], "threshold": {"rating": 9}, "eval_args": {"mode": "labeled"}, "metrics": ["AUC"]}
    config = made(tiny_settings("NeuMF", **more, topk=[5], valid_metric="AUC"), "NeuMF")
    assert "makes no interaction positive" in of_data(config, of_tiny_data([0, 0]))[0]
    assert "makes all interactions positive" in of_data(config, of_tiny_data([1, 1]))[0]
    assert of_data(config, of_tiny_data([1, 0])) == []


def test_a_share_of_less_than_one_user_is_named(tiny_settings: Settings) -> None:
    config = made(tiny_settings("BPR", distillers=["de", "rrd"], teacher=LARGE, de_sample=0.03, rrd_sample=0.04))
    (said,) = of_data(config, of_tiny_data([]))
    assert said.startswith("de_sample = 0.03 is less than one user of a batch")
    least = float(re.search(r"set it to (\S+) at the very least", said)[1])  # type: ignore[index]
    raised = made(tiny_settings("BPR", distillers=["de"], teacher=LARGE, de_sample=least))
    assert of_data(raised, of_tiny_data([])) == []


@pytest.mark.parametrize(
    ("number", "written"), [(1 / 2048, "0.0005"), (1 / 16, "0.07"), (0.1, "0.1"), (1 / 30, "0.04"), (0.95, "1")]
)
def test_the_least_share_is_rounded_up(number: float, written: str) -> None:
    assert _rounded_up(number) == written


def trained(model: str, params: int, score: float, groups: list[float] | None = None) -> TrainedModel:
    scores, named = {"ndcg@5": score}, {} if groups is None else {"ndcg@5": groups}
    return TrainedModel(
        model, "k", Path("m"), params, 4 * params, scores, scores, 1.0, [], None, {}, test_groups=named
    )  # fmt: skip


def test_a_teacher_that_turns_out_weak_is_named(tiny_settings: Settings) -> None:
    config = made(tiny_settings("BPR", distillers=["rrd"], teacher_checkpoint="x.pth"))
    student = trained("BPR", 100, 0.3, [0.3, 0.2, 0.4])
    assert of_models(config, trained("BPR", 200, 0.4), student) == []
    assert of_models(config, trained("BPR", 200, 0.4, [0.4, 0.3, 0.5]), student) == []
    assert of_models(config, trained("ItemKNN", 0, 0.4), student) == []
    assert of_models(config, trained("BPR", 200, 0.2), None) == []
    (small,) = of_models(config, trained("BPR", 100, 0.4), student)
    assert "100 parameters and the student 100, both BPR" in small
    (worse,) = of_models(config, trained("BPR", 200, 0.3), student)
    assert "no better than the plain student, 0.3000 to 0.3000 in ndcg@5 on the validation split" in worse
    (noise,) = of_models(config, trained("BPR", 200, 0.31, [0.5, 0.1, 0.33]), student)
    assert "0.0100 in ndcg@5, is within the noise" in noise


def test_as_many_parameters_with_other_settings_have_a_point(tiny_settings: Settings) -> None:
    config = made(tiny_settings("LightGCN", distillers=["rrd"], n_layers=1, teacher={"n_layers": 3}), "LightGCN")
    assert of_settings(config) == []
    assert of_models(config, trained("LightGCN", 100, 0.4), trained("LightGCN", 100, 0.3)) == []


def test_a_brought_teacher_of_the_students_size_is_named_without_a_plain_student(tiny_settings: Settings) -> None:
    config = made(tiny_settings("BPR", distillers=["rrd"], teacher_checkpoint="x.pth"))
    own = {key: config[key] for key in ("embedding_size", *model_settings("BPR"))}
    alike = dataclasses.replace(trained("BPR", 100, 0.4), settings=own)
    assert "of the student's own size" in of_models(config, alike, None)[0]
    assert of_models(config, dataclasses.replace(alike, settings={**own, "embedding_size": 99}), None) == []


def test_a_metric_that_is_better_small_has_its_teacher_below(tiny_settings: Settings) -> None:
    more = {"metrics": ["NDCG", "AveragePopularity"], "valid_metric": "AveragePopularity@5"}
    config = made(tiny_settings("BPR", distillers=["rrd"], teacher=LARGE, **more))
    low, high = (
        dataclasses.replace(trained("BPR", size, 0.0), valid={"averagepopularity@5": value}, test={})
        for size, value in ((200, 3.0), (100, 4.0))
    )
    assert of_models(config, low, high) == []
    assert "no better" in of_models(config, high, dataclasses.replace(low, params=50))[0]


def test_a_run_repeats_it_under_its_table_and_in_its_record(
    tiny_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Without quicker steps the teacher is the plain student, to the bit.
    lists = {"distillers": "RRD", "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "fast": "none", "latency_users": 0}
    settings = tiny_settings("BPR", **lists, foo=1, cd_weight=1, record_dir=str(tmp_path / "records"))
    with caplog.at_level(logging.WARNING):
        record = run_recbole_derrd("BPR", "tiny", config_dict=settings, notes=["Said before."])
    said = record["warnings"]
    assert said[0] == "Said before." and "'foo'" in said[1] and _SAME in said[2]
    assert "no better than the plain student" in said[3] and len(said) == 4
    assert record["gap_error"] == {"ndcg@5": 0.0, "recall@5": 0.0} and record["gap_recovered"]["ndcg@5"] is None
    notes = [line for line in run_table(record).splitlines() if line.startswith("Note: ")]
    assert notes == [f"Note: {one}" for one in said]
    logged = [entry.getMessage() for entry in caplog.records]
    assert [logged.count(one) for one in said] == [1, 1, 1, 1]
    # A file may be for several runs: an option of another method is in the log, and no note of the result.
    assert sum("cd_weight has no effect" in one for one in logged) == 1


def test_without_a_validation_split_a_refined_teacher_teaches(tiny_settings: Settings) -> None:
    """What cannot be told is not said, and what was asked for is done."""
    config = made(tiny_settings("BPR", distillers=["rrd"], teacher=LARGE))
    teacher, refined = (
        dataclasses.replace(trained("BPR", 200, 0.4), valid={"ndcg@5": value}) for value in (math.nan, math.nan)
    )
    assert refined_is_better(config, teacher, refined)
    assert of_refined(config, teacher, refined, first_teaches=True) == []
    worse = dataclasses.replace(refined, valid={"ndcg@5": 0.2})
    assert not refined_is_better(config, dataclasses.replace(teacher, valid={"ndcg@5": 0.3}), worse)
