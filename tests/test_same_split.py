"""A brought teacher has seen this run's split, or is refused: files that stock RecBole has written."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stock import ring_rows, settings_on, stock_checkpoint, write_rows

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, OptionError
from recbole_derrd.evaluation.spread import standard_error
from recbole_derrd.model_cache.preference import share_above
from recbole_derrd.model_cache.same_split import other_sizes, refuse_other_sizes
from recbole_derrd.model_cache.valid_score import Comparison, ReportedScore, comparison_of, reported_by, rounding_of
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.teacher import Teacher, teacher_specs

pytestmark = pytest.mark.whole_run

FOLDS = {"benchmark_filename": ["train", "valid", "test"]}
IN_TIME = {"eval_args": {"order": "TO", "split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "mode": "full"}}
#: Long enough to know its training items by heart, and validated once.
LEARNT = {"epochs": 40, "eval_step": 40}
#: Models that learn nothing by epochs; RecBole writes their best_valid_score as well.
CLOSED = ("Pop", "ItemKNN", "EASE")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ring")


@pytest.fixture(scope="module")
def folds(home: Path) -> list[Path]:
    """Five folds whose training files name users and items in the same order, so that all have the same ids."""
    rows = ring_rows()
    shuffled = [rows[index] for index in np.random.default_rng(3).permutation(len(rows))]
    parts = [shuffled[start::5] for start in range(5)]
    for held_out in range(5):
        valid = (held_out + 1) % 5
        train = [row for index, part in enumerate(parts) if index not in (held_out, valid) for row in part]
        folder = home / f"fold{held_out}" / "ring"
        for name, part in (("train", train), ("valid", parts[valid]), ("test", parts[held_out])):
            write_rows(sorted(part, key=lambda row: (int(row[0][1:]), int(row[1][1:]))), folder / f"ring.{name}.inter")
    return [home / f"fold{index}" for index in range(5)]


@pytest.fixture(scope="module")
def orders(home: Path) -> dict[str, Path]:
    """The same rows, the same rows in another order, and the same rows and some more."""
    rows = ring_rows()
    shuffled = [rows[index] for index in np.random.default_rng(5).permutation(len(rows))]
    grown = [*rows, *((f"u{60 + index // 6}", f"i{index % 6}", index) for index in range(30)), ("u3", "i80", 99)]
    for name, content in (("as-is", rows), ("shuffled", shuffled), ("grown", grown)):
        write_rows(content, home / name / "ring" / "ring.inter")
    return {name: home / name for name in ("as-is", "shuffled", "grown")}


def brought(data: Path, home: Path, file: Path, student: str = "BPR", **more: Any) -> Teacher:
    """Take a file as the teacher of a run on these data."""
    teacher = {"teacher_checkpoint": str(file), "embedding_size": 4, "latency_users": 0}
    config = DistillConfig(student, "ring", config_dict=settings_on(data, home, **{**teacher, **more}))
    return Teacher.of(config, prepare_data(config))


@pytest.fixture(scope="module")
def bpr_of_a_fold(folds: list[Path], home: Path) -> dict[int, Path]:
    files = {index: home / f"bpr{index}.pth" for index in (1, 3)}
    for index, file in files.items():
        stock_checkpoint("BPR", settings_on(folds[index], home, **FOLDS, **LEARNT), file)
    return files


def test_a_teacher_of_another_fold_is_refused(folds: list[Path], home: Path, bpr_of_a_fold: dict[int, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"ndcg@5 = 0\.\d{4} .*this run's it has 0\.\d{4}.*teacher_trusted"):
        brought(folds[3], home, bpr_of_a_fold[1], **FOLDS)
    proper = brought(folds[3], home, bpr_of_a_fold[3], **FOLDS).trained
    assert proper.split_check is not None and proper.split_check["by"] == "valid score"
    assert proper.valid["ndcg@5"] == pytest.approx(proper.split_check["in_file"], abs=1e-4)
    assert proper.test["ndcg@5"] < 0.5


def test_nothing_is_trained_for_a_teacher_that_is_refused(
    folds: list[Path], tmp_path: Path, bpr_of_a_fold: dict[int, Path]
) -> None:
    rrd = {"distillers": ["rrd"], "rrd_k": 5, "rrd_l": 5, "rrd_top_n": 20, "record_dir": str(tmp_path / "records")}
    one = settings_on(folds[3], tmp_path, **FOLDS, **rrd, teacher_checkpoint=str(bpr_of_a_fold[1]))
    several = settings_on(folds[3], tmp_path, **FOLDS, **rrd, teachers=["Pop", {"checkpoint": str(bpr_of_a_fold[1])}])
    for settings in (one, several):
        with pytest.raises(CheckpointError, match="was not trained on this run's split"):
            run_recbole_derrd("BPR", "ring", config_dict=settings)
        assert not list((tmp_path / "saved").rglob("*.pth")) and not list((tmp_path / "records").glob("*.json"))


def test_a_trusted_teacher_is_taken_with_a_warning_and_the_record_says_so(
    folds: list[Path], tmp_path: Path, bpr_of_a_fold: dict[int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    more = {"teacher_checkpoint": str(bpr_of_a_fold[1]), "teacher_trusted": True, "distillers": ["rrd"], "epochs": 1}
    more.update(rrd_k=5, rrd_l=5, rrd_top_n=20, latency_users=0, record_dir=str(tmp_path / "records"))
    settings = settings_on(folds[3], tmp_path, **{**FOLDS, **more})
    with caplog.at_level(logging.WARNING):
        record = run_recbole_derrd("BPR", "ring", config_dict={**settings, "compare_student": False})
    assert record["teacher"]["trusted"] is True and record["teacher"]["split_check"] == {"by": "trusted"}
    assert "teacher_trusted" in caplog.text
    # What was measured on trust is no proof for a run without it.
    with pytest.raises(CheckpointError, match="was not trained on this run's split"):
        run_recbole_derrd("BPR", "ring", config_dict={**settings, "teacher_trusted": False})
    entry = {"checkpoint": str(bpr_of_a_fold[1]), "trusted": True}
    specs = teacher_specs(
        DistillConfig("BPR", "ring", config_dict={**settings_on(folds[3], tmp_path), "teachers": [entry]})
    )
    assert specs[0].trusted and not specs[0].settings


@pytest.mark.parametrize("how", [{}, IN_TIME], ids=["RO", "TO"])
def test_a_teacher_of_rows_in_another_order_is_refused(orders: dict[str, Path], tmp_path: Path, how: Any) -> None:
    file = tmp_path / "bpr.pth"
    stock_checkpoint("BPR", settings_on(orders["as-is"], tmp_path, **how, **LEARNT), file)
    with pytest.raises(CheckpointError, match="rows in another order"):
        brought(orders["shuffled"], tmp_path, file, **how)
    assert brought(orders["as-is"], tmp_path, file, **how).trained.test["ndcg@5"] > 0
    with pytest.raises(CheckpointError, match=r"it has 60 users, not 65 and 80 items, not 81"):
        brought(orders["grown"], tmp_path, file, **how, teacher_trusted=True)


@pytest.mark.parametrize("model", CLOSED)
def test_closed_forms_are_looked_at_too(folds: list[Path], tmp_path: Path, model: str) -> None:
    file = tmp_path / f"{model}.pth"
    stock_checkpoint(model, settings_on(folds[1], tmp_path, **FOLDS, epochs=1), file)
    assert brought(folds[1], tmp_path, file, **FOLDS).trained.split_check["by"] == "valid score"  # type: ignore[index]
    if model == "Pop":
        # So few and so equal counts: how ties are broken explains any score, and they give nothing away.
        return
    with pytest.raises(CheckpointError, match="was not trained on this run's split"):
        brought(folds[3], tmp_path, file, **FOLDS)


def test_a_file_is_evaluated_as_it_says(folds: list[Path], tmp_path: Path) -> None:
    """Other metric, cut-offs, decimals and mode than the run's; candidates are drawn anew at each evaluation."""
    told = {"valid_metric": "MRR@7", "metrics": ["MRR"], "topk": [3, 7], "metric_decimal_place": 6, **LEARNT}
    told["eval_args"] = {"mode": {"valid": "uni30", "test": "full"}}
    file, other = tmp_path / "uni.pth", tmp_path / "other.pth"
    stock_checkpoint("BPR", settings_on(folds[1], tmp_path, **{**FOLDS, **told}), other)
    # Of 60 users among 30 drawn items its score may be within chance; that it knows the held-out items is not.
    with pytest.raises(CheckpointError, match="trained on this run's split"):
        brought(folds[3], tmp_path, other, **FOLDS)
    stock_checkpoint("BPR", settings_on(folds[3], tmp_path, **{**FOLDS, **told}), file)
    check = brought(folds[3], tmp_path, file, **FOLDS).trained.split_check
    assert (
        check is not None and check["metric"] == "mrr@7" and check["in_file"] == pytest.approx(check["here"], abs=0.1)
    )


def test_a_teacher_that_knows_the_test_items_alone_is_refused(folds: list[Path], tmp_path: Path) -> None:
    """The neighbouring fold's has seen this run's test items and none of its validation items."""
    told = {**FOLDS, **LEARNT, "eval_args": {"mode": {"valid": "uni30", "test": "full"}}}
    files = {fold: tmp_path / f"{fold}.pth" for fold in (3, 4)}
    for fold, file in files.items():
        stock_checkpoint("BPR", settings_on(folds[fold], tmp_path, **told), file)
    with pytest.raises(CheckpointError, match="on this run's split"):
        brought(folds[3], tmp_path, files[4], **FOLDS)
    assert brought(folds[3], tmp_path, files[3], **FOLDS).trained.split_check["by"] == "valid score"  # type: ignore[index]


def test_nncf_keeps_the_neighbours_of_its_own_seed(folds: list[Path], tmp_path: Path) -> None:
    """They are drawn as it is built and are in no file."""
    small = {"ui_embedding_size": 8, "neigh_embedding_size": 6, "num_conv_kernel": 4, "neigh_num": 12,
             "mlp_hidden_size": [8], "conv_kernel_size": 3, "pool_kernel_size": 2}  # fmt: skip
    file = tmp_path / "nncf.pth"
    stock_checkpoint("NNCF", settings_on(folds[3], tmp_path, **FOLDS, **small, epochs=10, seed=8), file)
    teacher = brought(folds[3], tmp_path, file, **FOLDS)
    assert teacher.config["seed"] == 8 and teacher.trained.split_check["by"] == "valid score"  # type: ignore[index]


def test_what_was_never_validated_is_refused(folds: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "blind.pth"
    settings = settings_on(folds[3], tmp_path, **FOLDS, epochs=1)
    assert stock_checkpoint("BPR", settings, file, validated=False) == -np.inf
    with pytest.raises(CheckpointError, match="never validated"):
        brought(folds[3], tmp_path, file, **FOLDS)
    assert brought(folds[3], tmp_path, file, **FOLDS, teacher_trusted=True).trained.split_check == {"by": "trusted"}


def test_every_checkpoint_of_ours_says_what_it_has_seen(folds: list[Path], tmp_path: Path) -> None:
    """Those of a script of the user's own too."""
    from recbole_derrd import trainer_for
    from recbole_derrd.model_cache.building import build_model

    config = DistillConfig("BPR", "ring", config_dict=settings_on(folds[1], tmp_path, **FOLDS))
    data = prepare_data(config)
    trainer = trainer_for(config, build_model(config, data), checkpoint=tmp_path / "own.pth")
    trainer.fit(data.train, data.valid)
    content = torch.load(tmp_path / "own.pth", weights_only=False)
    assert content["derrd"]["fingerprint"]["train"] == data.fingerprint.train and content["derrd"]["users"] == 60
    assert brought(folds[1], tmp_path, tmp_path / "own.pth", **FOLDS).trained.split_check == {"by": "fingerprint"}
    with pytest.raises(CheckpointError, match="not trained on this run's data"):
        brought(folds[3], tmp_path, tmp_path / "own.pth", **FOLDS)
    for damaged in ({}, {"fingerprint": {"ids": 1}}, "seen", 0):
        torch.save({**content, "derrd": damaged}, tmp_path / "damaged.pth")
        with pytest.raises(CheckpointError, match="'derrd' part is damaged"):
            brought(folds[1], tmp_path, tmp_path / "damaged.pth", **FOLDS)
    swapped = {**content["derrd"]["fingerprint"], "valid": content["derrd"]["fingerprint"]["test"]}
    torch.save({**content, "derrd": {"fingerprint": swapped}}, tmp_path / "swapped.pth")
    with pytest.raises(CheckpointError, match="validation interactions are others"):
        brought(folds[1], tmp_path, tmp_path / "swapped.pth", **FOLDS)


def test_trust_stands_beside_a_checkpoint(folds: list[Path], tmp_path: Path) -> None:
    for entry in ({"model": "BPR", "trusted": True}, {"checkpoint": "x.pth", "trusted": "yes, I do"}):
        with pytest.raises(OptionError, match="stands beside a checkpoint"):
            DistillConfig("BPR", "ring", config_dict=settings_on(folds[1], tmp_path, teachers=[entry]))


# -- the parts


GOOD = {"valid_metric": "NDCG@5", "topk": [5], "eval_args": {"mode": "full"}, "metric_decimal_place": 4}


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        ({}, None),
        ({"valid_metric": "GAUC", "topk": 5}, None),
        ({"valid_metric": "NDCG@6"}, "not measured"),
        ({"valid_metric": "NDCG"}, "not measured"),
        ({"valid_metric": "GAUC@5"}, "not measured"),
        ({"valid_metric": "os.system@5"}, "none of RecBole's"),
        ({"valid_metric": ["NDCG@5"] * 3}, "none of RecBole's"),
        ({"topk": [5, 10**12]}, "topk"),
        ({"topk": []}, "topk"),
        ({"eval_args": {"mode": "uni0"}}, "no mode"),
        ({"eval_args": {"mode": "uni999999999"}}, "no mode"),
        ({"eval_args": None}, "no mode"),
        ({"metric_decimal_place": 1}, "metric_decimal_place"),
        ({"metric_decimal_place": True}, "metric_decimal_place"),
    ],
)
def test_what_a_file_says_of_its_validation_is_checked(change: dict[str, Any], lacking: str | None) -> None:
    told = reported_by({"config": {**GOOD, **change}, "best_valid_score": 0.25})
    assert isinstance(told, ReportedScore) if lacking is None else lacking in str(told)


@pytest.mark.parametrize("score", [None, float("nan"), float("-inf"), "0.5", True, 1e300, 10**400, [0.5]])
def test_a_score_is_a_number(score: Any) -> None:
    assert "never validated" in str(reported_by({"config": GOOD, "best_valid_score": score}))


def test_the_limits_hold() -> None:
    told = ReportedScore("ndcg@5", 0.3, [5], "full", False, 4)
    assert rounding_of(told) == pytest.approx(1e-4, abs=2e-9) and rounding_of(
        ReportedScore("a", 0, [5], "full", False, 3, 4), 100
    ) == pytest.approx(0.021)
    assert Comparison(told, 0.2, 0.25, 0.31).agree and not Comparison(told, 0.2, 0.2, 0.29).agree


class Evaluated:
    """Gives one score after another, each with its parts, and another with ties."""

    def __init__(self, *scores: float, spread: float = 0.0, ties: float | None = None) -> None:
        self.left, self.spread, self.ties, self.count = list(scores), spread, ties, 0

    def score(self) -> float:
        self.count += 1
        return self.left.pop(0)

    def rows(self) -> int:
        return 64

    def parts(self) -> list[float]:
        return [self.count * self.spread] * 64

    def score_with_ties(self, favour: int) -> float:
        assert self.ties is not None and favour in (1, -1)
        return self.ties


def compare(metric: str, value: float, evaluated: Evaluated) -> Comparison:
    return comparison_of(ReportedScore(metric, value, [5], "full", False, 4), evaluated)  # type: ignore[arg-type]


def test_one_evaluation_is_enough_where_the_score_comes_back() -> None:
    evaluated = Evaluated(0.30006)
    assert compare("ndcg@5", 0.3, evaluated).agree and evaluated.count == 1


def test_what_is_not_drawn_comes_back_to_rounding_and_ties() -> None:
    for value, ties, agree in ((0.31, 0.305, False), (0.31, 0.32, True), (0.29, 0.295, False), (0.29, 0.28, True)):
        assert compare("ndcg@5", value, Evaluated(0.3, 0.3, ties=ties)).agree is agree


def test_what_is_drawn_may_lie_some_standard_errors_off() -> None:
    """Two evaluations that differ by 0.08 in each of 64 parts: an error of 0.08 / sqrt(2) / 8 = 0.00707."""
    error = 0.08 / 2**0.5 / 8 * 1.5**0.5
    for metric, low, high in (("ndcg@5", -4, 6), ("rmse", -6, 4)):
        for errors, agree in ((low - 0.1, False), (low + 0.1, True), (high - 0.1, True), (high + 0.1, False)):
            drawn = Evaluated(0.29, 0.31, spread=0.08, ties=0.3)
            assert compare(metric, 0.3 + errors * error, drawn).agree is agree, (metric, errors)


@given(st.integers(0, 2**32 - 1))
def test_the_standard_error_is_that_of_the_mean(seed: int) -> None:
    """Of 64 parts with a spread of 0.3 each: 0.3 / sqrt(64), to within what 64 of them can tell."""
    one, other = np.random.default_rng(seed).normal(0.5, 0.3, (2, 64))
    assert standard_error(list(one), list(other)) == pytest.approx(0.3 / 8, rel=0.5)
    assert standard_error(list(one), list(one)) == 0


def test_a_name_that_is_no_text_has_no_size() -> None:
    model = SimpleNamespace(n_users=3, n_items=3, state_dict=dict)
    refuse_other_sizes(model, {"state_dict": {}, "other_parameter": {7: np.ones(4)}}, Path("a.pth"))


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.permutations(range(6)))
def test_the_share_above_is_that_of_a_slow_count(values: list[int], order: list[int]) -> None:
    some, others = np.array(order[:2]), np.array(order[2:5])
    wins = [(values[a] > values[b]) + (values[a] == values[b]) / 2 for a in some for b in others]
    assert share_above(torch.tensor(values, dtype=torch.float32), some, others) == pytest.approx(np.mean(wins))


def test_a_range_is_wide_where_something_is_drawn() -> None:
    told = ReportedScore("ndcg@5", 0.3, [5], "uni30", False, 4)
    assert Comparison(told, 0.3, 0.29, 0.31, drawn=True).wide and not Comparison(told, 0.3, 0.29, 0.31).wide
    assert not Comparison(told, 0.3, 0.295, 0.305, drawn=True).wide


def test_sizes_are_told_apart() -> None:
    shapes = {"user_embedding.weight": ((61, 8), (66, 8)), "item_embedding.weight": ((81, 8), (81, 8))}
    assert other_sizes(shapes, 66, 81) == {"users": (61, 66)}
    assert other_sizes({"item_embedding.weight": ((61, 8), (66, 8))}, 66, 66) == {"items": (61, 66)}
    assert other_sizes({"layer.weight": ((61, 8), (61, 4))}, 66, 81) == {}
    assert other_sizes({"layer.weight": ((61,), (66, 8))}, 66, 81) == {}
