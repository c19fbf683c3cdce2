"""Evaluation settings that cannot work are refused when they are read; what stock RecBole evaluates is not."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.evaluation import check_evaluation
from recbole_derrd.errors import OptionError

KINDS = {"NDCG": "ranking", "Recall": "ranking", "GAUC": "ranking", "AUC": "value", "LogLoss": "value"}
WORKING = {"metrics": ["NDCG", "Recall"], "topk": [5, 10], "valid_metric": "NDCG@5", "eval_args": {}}
VALUE = {"metrics": ["AUC"], "valid_metric": "auc"}


def check(**more: Any) -> None:
    check_evaluation({**WORKING, **more}, KINDS)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"eval_args": {"mode": "uni0"}}, "'uni0' in eval_args must say how many negatives, at least one"),
        ({"eval_args": {"mode": "pop0"}}, "e.g. pop100"),
        ({"eval_args": {"mode": "uni"}}, "must say how many negatives"),
        ({"eval_args": {"mode": "uni-5"}}, "must say how many negatives"),
        ({"eval_args": {"mode": "uni 5"}}, "must say how many negatives"),
        ({"eval_args": {"mode": "uni5.5"}}, "must say how many negatives"),
        ({"eval_args": {"mode": "uni²"}}, "must say how many negatives"),
        ({"eval_args": {"mode": "uni٥"}}, "must say how many negatives"),
        ({"eval_args": {"mode": "uni5\n"}}, "must say how many negatives"),
        ({"eval_args": {"mode": "fixed0"}}, "must say how many candidates"),
        ({"eval_args": {"mode": "ful"}}, "no mode 'ful'. Did you mean 'full'"),
        ({"eval_args": {"mode": "Uni50"}}, "Did you mean 'uni50'"),
        ({"eval_args": {"mode": "uniform100"}}, "no mode 'uniform100'"),
        ({"eval_args": {"mode": "unj100"}}, "Did you mean 'uni100'"),
        ({"eval_args": {"mode": "label"}}, "Did you mean 'labeled'"),
        ({"eval_args": {"mode": ""}}, "no mode ''"),
        ({"eval_args": {"mode": 100}}, "mode in eval_args must be a text"),
        ({"eval_args": {"mode": None}}, "mode in eval_args must be a text"),
        ({"eval_args": {"mode": {"valid": None}}}, "must be a text"),
        ({"eval_args": {"mode": {"valid": "full", "test": "uni0"}}}, "uni0"),
        ({"eval_args": {"mode": {"validation": "full"}}}, "has no 'validation'. Did you mean 'valid'"),
        ({"eval_args": {"mode": {"train": "full"}}}, "has no 'train'"),
        ({"eval_args": {"modes": "full"}}, "eval_args has no 'modes'. Did you mean 'mode'"),
        ({"eval_args": {"groupby": "user"}}, "Did you mean 'group_by'"),
        ({"eval_args": {3: "user"}}, "eval_args has no '3'"),
        ({"eval_args": ["full"]}, "eval_args must be a dict"),
        ({"eval_args": None}, "eval_args must be a dict"),
        ({"eval_args": {"order": "RT"}}, "must be RO (random) or TO (by time)"),
        ({"eval_args": {"order": None}}, "must be RO (random) or TO (by time)"),
        ({"eval_args": {"group_by": "item"}}, "must be user or none"),
        ({"eval_args": {"group_by": ["user"]}}, "must be user or none"),
        ({"eval_args": {"split": None}}, "must be one of RS, LS and TS"),
        ({"eval_args": {"split": {}}}, "must be one of RS, LS and TS"),
        ({"eval_args": {"split": {"RS": [8, 1, 1], "LS": "valid_and_test"}}}, "must be one of RS, LS and TS"),
        ({"eval_args": {"split": {"SR": [8, 1, 1]}}}, "split in eval_args has no 'SR'. Known are: LS, RS, TS."),
        ({"eval_args": {"split": {"RS": [8, 2]}}}, "not RS: [8, 2]"),
        ({"eval_args": {"split": {"RS": "8,1,1"}}}, "training, validation and test"),
        ({"eval_args": {"split": {"RS": [8, 1, "1"]}}}, "must hold three numbers"),
        ({"eval_args": {"split": {"RS": [8, 1, -1]}}}, "must hold three numbers"),
        ({"eval_args": {"split": {"RS": [8, 1, float("nan")]}}}, "must hold three numbers"),
        ({"eval_args": {"split": {"RS": [float("inf"), 1, 1]}}}, "must hold three numbers"),
        ({"eval_args": {"split": {"RS": [True, 1, 1]}}}, "must hold three numbers"),
        ({"eval_args": {"split": {"RS": [0, 1, 1]}}}, "leaves the training split empty"),
        ({"eval_args": {"split": {"TS": [8, 1]}}}, "not TS: [8, 1]"),
        ({"eval_args": {"split": {"LS": "valid_and_tests"}}}, "Did you mean 'valid_and_test'"),
        ({"eval_args": {"split": {"LS": 2}}}, "LS in eval_args cannot be 2"),
        ({"eval_args": {"split": {"LS": ["valid_and_test"]}}}, "LS in eval_args cannot be"),
        ({"metrics": ["NDGC"]}, "no metric 'NDGC'. Did you mean 'NDCG'"),
        ({"metrics": []}, "at least one metric"),
        ({"metrics": None}, "at least one metric"),
        ({"metrics": {"NDCG": 1}}, "at least one metric"),
        ({"metrics": ["NDCG", "AUC"]}, "mixes metrics of single scores (AUC) with metrics of ranked lists (NDCG)"),
        (VALUE, "ranks items, and metrics names metrics of single scores only"),
        ({**VALUE, "eval_args": {"mode": "fixed9"}}, "'fixed9' in eval_args ranks items"),
        ({**VALUE, "eval_args": {"mode": {"valid": "uni9", "test": "full"}}}, "ranks items"),
        ({"eval_args": {"mode": "labeled"}}, "ranks nothing: set metrics to some of AUC"),
        ({"eval_args": {"mode": {"valid": "uni9", "test": "labeled"}}}, "ranks nothing"),
        ({"metrics": ["GAUC"], "valid_metric": "GAUC", "eval_args": {"mode": "labeled"}}, "ranks nothing"),
        ({**VALUE, "eval_args": {"mode": {"valid": "labeled", "test": "uni9"}}}, "for both splits, or for none"),
        ({"topk": [0]}, "whole number from 1 on"),
        ({"topk": [5, 2.5]}, "whole number from 1 on"),
        ({"topk": [True]}, "whole number from 1 on"),
        ({"topk": "10"}, "whole number from 1 on"),
        ({"topk": None}, "whole number from 1 on"),
        ({"topk": []}, "whole number from 1 on"),
        ({"valid_metric": "NDCG@7"}, "is not measured"),
        ({"valid_metric": "NDCG@05"}, "is not measured"),
        ({"valid_metric": "NDCG"}, "is not measured"),
        ({"valid_metric": 3}, "is not measured"),
        ({"valid_metric": ""}, "is not measured"),
        ({"metrics": ["GAUC"], "valid_metric": "GAUC@5"}, "is not measured. It must be one of metrics ['GAUC']"),
        ({"repeatable": "maybe"}, "repeatable must be True or False"),
        ({"benchmark_filename": ["a", "b"]}, "must name three files"),
        ({"benchmark_filename": ["a", "b", "c"], "eval_args": {"ordre": "RO"}}, "Did you mean 'order'"),
    ],
)  # fmt: skip
def test_mistakes_are_named(more: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        check(**more)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"metrics": "NDCG", "topk": 5},
        {"metrics": ["ndcg", "gauc"], "valid_metric": "gauc"},
        {"metrics": ["GAUC"], "valid_metric": "GAUC"},
        {"valid_metric": "ndcg@10"},
        {"eval_args": {"mode": {}}},
        {"eval_args": {"mode": {"test": "uni5"}}},
        {"eval_args": {"mode": {"valid": "uni05", "test": "pop5"}}},
        {"eval_args": {"mode": {"valid": "fixed99", "test": "full"}}},
        {"eval_args": {"split": {"RS": [8, 1, 1]}, "group_by": None}},
        {"eval_args": {"split": {"RS": [0.98, 0.01, 0.01]}, "group_by": "None", "order": "TO"}},
        {"eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user"}},
        {"eval_args": {"split": {"TS": [8, 1, 1]}, "order": "TO"}},
        # RecBole splits nothing where the files are the splits.
        {"benchmark_filename": ["a", "b", "c"], "eval_args": {"split": None, "order": None, "group_by": "item"}},
        {**VALUE, "eval_args": {"mode": "uni5"}},
        {**VALUE, "eval_args": {"mode": "labeled"}, "topk": []},
        {**VALUE, "eval_args": {"mode": {"valid": "pop5", "test": "labeled"}}},
        {"repeatable": True},
    ],
)
def test_what_works_is_taken(more: dict[str, Any]) -> None:
    check(**more)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example("unif")
@example("fixed")
@given(st.text(max_size=8) | st.from_regex(r"(uni|pop|fixed|full|labeled)[a-z0-9 _.+-]{0,4}", fullmatch=True))
def test_any_mode_is_taken_or_refused_in_a_sentence(mode: str) -> None:
    counted = next((word for word in ("uni", "pop", "fixed") if mode.startswith(word)), "")
    digits = mode[len(counted) :]
    good = bool(counted) and digits.isascii() and digits.isdigit() and int(digits) >= 1
    try:
        check(eval_args={"mode": mode})
    except OptionError:
        assert not good and mode != "full"
    else:
        assert good or mode == "full"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"eval_args": {"mode": "uni0"}}, "must say how many negatives"),
        ({"metrics": ["NDCG", "rmse"]}, "mixes"),
        ({"metrics": ["AUC"], "valid_metric": "AUC"}, "ranks items"),
        ({"metrics": ["TailPercentag"]}, "Did you mean 'TailPercentage'"),
    ],
)
def test_the_configuration_is_checked_before_recbole_reads_it(
    tiny_settings: Callable[..., dict[str, Any]], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **more))
