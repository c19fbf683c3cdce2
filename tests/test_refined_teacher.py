"""teacher_refine: the teacher trained on, which then teaches in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.experiment.compress import run_compressed
from recbole_derrd.experiment.plans import Sizes, refining
from recbole_derrd.experiment.refine import (
    bytes_named,
    dimensions_named,
    dimensions_of,
    refined_config,
    who_teaches,
)
from recbole_derrd.experiment.teachers import teachers_of
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.report.document import report_of
from recbole_derrd.report.frontier import frontiers_of
from recbole_derrd.report.reading import records_of
from recbole_derrd.report.run_table import run_table
from recbole_derrd.report.schema import RunRecord
from recbole_derrd.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.whole_run


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("refined")
    return {
        "model": "BPR", "dataset": "tiny", "data_path": str(tiny_data), "checkpoint_dir": str(folder / "saved"),
        "record_dir": str(folder / "records"), "distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 10,
        "teacher": {"embedding_size": 16, "epochs": 1}, "embedding_size": 4, "epochs": 4, "train_batch_size": 128,
        "latency_users": 0, "metrics": ["NDCG", "Recall"], "topk": [5], "valid_metric": "NDCG@5",
        "show_progress": False, "learning_rate": 0.02,
        # A teacher of one epoch: raised to the size of a finished one's, its scores teach noise.
        "teacher_refine": {"epochs": 3, "learning_rate": 0.05, "teacher_scale": 1},
    }  # fmt: skip


@pytest.fixture(scope="module")
def record(keys: dict[str, Any]) -> dict[str, Any]:
    return run_recbole_derrd(config_dict=keys, show_result=False)


def _items(record: dict[str, Any]) -> torch.Tensor:
    weights: torch.Tensor = read_checkpoint(record["checkpoints"]["student"])["state_dict"]["item_embedding.weight"]
    return weights


def test_the_refined_teacher_teaches_and_the_first_stays_the_reference(
    keys: dict[str, Any], record: dict[str, Any]
) -> None:
    refined, teacher = record["refined"], record["teacher"]
    assert refined["settings"]["embedding_size"] == 16 and refined["epochs"] == 3
    assert refined["key"] != teacher["key"] and refined["test"] != teacher["test"]
    metric = record["valid_metric"]
    gap = record["gap_recovered"][metric]
    if gap is not None:
        whole = teacher["test"][metric] - record["student"]["test"][metric]
        assert gap == pytest.approx((record["distilled"]["test"][metric] - record["student"]["test"][metric]) / whole)
    # Another student than without it, from the same teacher.
    plainly = run_recbole_derrd(config_dict={**keys, "teacher_refine": False}, show_result=False)
    assert plainly["teacher"]["key"] == teacher["key"] and plainly["refined"] is None
    assert not torch.equal(_items(plainly), _items(record))
    assert record["options"]["teacher_refine"] == keys["teacher_refine"] and "teacher_refine" not in plainly["options"]


def test_tables_and_reports_have_both(record: dict[str, Any], keys: dict[str, Any]) -> None:
    table = run_table(RunRecord.from_json({key: value for key, value in record.items() if key not in ("path", "log")}))
    assert [line.split("  ")[0] for line in table.splitlines()][3:7] == [
        "Teacher", "Refined teacher", "Student alone", "Distilled student",
    ]  # fmt: skip
    assert "Refined teacher" in report_of(Path(record["path"]), "md")


def test_it_is_trained_once_and_found_again(keys: dict[str, Any], record: dict[str, Any]) -> None:
    again = run_recbole_derrd(config_dict={**keys, "rrd_weight": 0.5, "learning_rate": 0.01}, show_result=False)
    # The teacher inherits the learning rate, so it is another one, and so is what it becomes.
    assert not again["refined"]["found"]
    fixed = {**keys, "rrd_weight": 0.5}
    found = run_recbole_derrd(config_dict=fixed, show_result=False)
    assert found["refined"]["found"] and found["refined"]["key"] == record["refined"]["key"]
    assert found["refined"]["test"] == record["refined"]["test"]
    folders = [path.name for path in Path(keys["checkpoint_dir"], "cache").glob("Refined-*")]
    assert len(folders) == 2


@pytest.mark.slow
def test_a_refining_that_was_killed_goes_on(keys: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    from recbole_derrd.training import trainer

    own = {**keys, "checkpoint_dir": str(tmp_path / "saved"), "compare_student": False}
    whole = run_recbole_derrd(config_dict=own, show_result=False)
    other = {**own, "checkpoint_dir": str(tmp_path / "other"), "resume": True}
    real, seen = trainer.TrainerMixin._train_epoch, []

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.model, "distillers", None) and len(seen) == 2:
            raise KeyboardInterrupt
        if getattr(self.model, "distillers", None):
            seen.append(1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(trainer.TrainerMixin, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        run_recbole_derrd(config_dict=other, show_result=False)
    monkeypatch.setattr(trainer.TrainerMixin, "_train_epoch", real)
    went_on = run_recbole_derrd(config_dict=other, show_result=False)
    assert went_on["refined"]["test"] == whole["refined"]["test"]
    assert went_on["distilled"]["test"] == whole["distilled"]["test"]


@pytest.mark.slow
def test_its_codes_are_a_baseline(keys: dict[str, Any], record: dict[str, Any]) -> None:
    own = {"compress_method": "quantized", "compress_bits": 8}
    coded = run_compressed(config_dict={**keys, **own}, show_result=False)
    plainly = run_compressed(config_dict={**keys, **own, "teacher_refine": False}, show_result=False)
    assert coded["refined"]["key"] == record["refined"]["key"] and coded["teacher"]["key"] == record["teacher"]["key"]
    assert coded["distilled"]["key"] != plainly["distilled"]["key"]
    # By it a frontier tells their lines apart.
    assert coded["options"]["teacher_refine"] == keys["teacher_refine"] and "teacher_refine" not in plainly["options"]
    assert coded["distilled"]["test"] != plainly["distilled"]["test"]
    # The record of the codes: no method has trained them, and which teacher's they are.
    assert coded["distillers"] == [] and coded["options"]["teacher_refine"] == keys["teacher_refine"]
    assert plainly["distillers"] == [] and "teacher_refine" not in plainly["options"]
    records = [Path(one["path"]) for one in (coded, plainly)]
    (frontier,) = frontiers_of(records_of(*records)[0])
    assert {point.family for point in frontier.points} == {"refined", "codes"}


def test_codes_of_more_dimensions_than_it_has_are_refused_first(keys: dict[str, Any], tmp_path: Path) -> None:
    own = {**keys, "teacher_refine": {"embedding_size": 8}, "compress_method": "svd", "compress_size": 12}
    with pytest.raises(OptionError, match="more than the teacher's 8 dimensions"):
        run_compressed(config_dict={**own, "checkpoint_dir": str(tmp_path)}, show_result=False)
    assert not list(tmp_path.glob("cache/*/model.pth"))


@pytest.mark.slow
def test_a_teacher_without_embeddings_and_several_are_trained_on(keys: dict[str, Any], tmp_path: Path) -> None:
    own = {**keys, "compare_student": False, "checkpoint_dir": str(tmp_path / "saved")}
    one = run_recbole_derrd(
        config_dict={**own, "teacher_model": "NeuMF", "teacher": {"mf_embedding_size": 8, "mlp_embedding_size": 8}},
        show_result=False,
    )
    assert one["teacher"]["model"] == "NeuMF" and one["refined"]["model"] == "BPR"
    several = run_recbole_derrd(
        config_dict={**own, "teacher": {}, "teachers": [{"embedding_size": 8}, "LightGCN"]}, show_result=False
    )
    assert len(several["teachers"]) == 2 and several["refined"]["model"] == "BPR"


def test_its_students_file_is_an_ordinary_checkpoint(record: dict[str, Any], keys: dict[str, Any]) -> None:
    (folder,) = [
        path
        for path in Path(keys["checkpoint_dir"], "cache").glob("Refined-*")
        if json.loads((path / "result.json").read_text())["key"] == record["refined"]["key"]
    ]
    content = read_checkpoint(folder / "model.pth")
    assert content["state_dict"]["item_embedding.weight"].shape[1] == 16


def test_who_teaches_is_the_same_for_another_student(keys: dict[str, Any]) -> None:
    """The student's own settings, which a teacher inherits, are those of the first student."""
    config = DistillConfig(config_dict={**keys, "weight_decay": 0.001})
    own = refined_config(config, Sizes(100, 200, 1000, 16))
    assert own["embedding_size"] == 16 and own["learning_rate"] == 0.05
    assert own["weight_decay"] == refining(Sizes(100, 200, 1000, 16))["weight_decay"]
    teacher = who_teaches(config)["teacher"]
    assert teacher["learning_rate"] == 0.02 and teacher["weight_decay"] == 0.001 and teacher["embedding_size"] == 16
    assert "metrics" not in teacher and "distillers" not in teacher


def test_it_has_the_runs_seed_and_not_the_teachers(keys: dict[str, Any]) -> None:
    own = {**keys, "split_seed": 1, "seed": 5, "teacher": {**keys["teacher"], "seed": 3}}
    for settings, seed in ((True, 5), ({"seed": 7}, 7)):
        config = DistillConfig(config_dict={**own, "teacher_refine": settings})
        assert refined_config(config, Sizes(100, 200, 1000, 16))["seed"] == seed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"distillers": []}, "without distillers has none"),
        ({"distillers": ["hetcomp"]}, "follows the training of its teachers"),
        ({"teacher_refine": {"epoch": 3}}, "epochs"),
        ({"teacher_refine": {"metrics": ["MRR"]}}, "must be the same"),
        ({"teacher_refine": "yes please"}, "must be bool or dict"),
        ({"teacher_refine": True, "warm_start": "svd", "embedding_size": 24}, "at least the student's 24"),
        # What its training would not read, or read to the harm of the split.
        ({"teacher_refine": {"split_seed": 5}}, "'split_seed' in 'teacher_refine' is an option of the run"),
        ({"teacher_refine": {"store_bits": 8}}, "'store_bits' in 'teacher_refine' is an option of the run"),
        ({"teacher_refine": {"compress_bits": 8}}, "'compress_bits' in 'teacher_refine' is an option of the run"),
        ({"teacher_refine": {"model": "LightGCN"}}, "A refined teacher is a BPR"),
        ({"teacher_refine": {"distillers": [], "warm_start": "none"}}, "leaves it no distillers"),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, Any], settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        run_recbole_derrd(config_dict={**keys, "record_dir": str(tmp_path), **settings}, show_result=False)
    assert not list(tmp_path.glob("*.json"))


def test_no_settings_of_it_are_those_of_the_plan(keys: dict[str, Any]) -> None:
    """An empty dict asks for it as True does, and is not False."""
    assert DistillConfig(config_dict={**keys, "teacher_refine": {}}).run_options.teacher_refine is True
    assert DistillConfig(config_dict={**keys, "teacher_refine": False}).run_options.teacher_refine is False


def test_another_split_is_refused_and_leaves_nothing_in_the_cache(keys: dict[str, Any], tmp_path: Path) -> None:
    """The key holds the run's data: what was trained on others would be found by the next run."""
    own = {**keys, "checkpoint_dir": str(tmp_path / "saved"), "compare_student": False}
    with pytest.raises(DataError, match="data are not the student's"):
        run_recbole_derrd(config_dict={**own, "teacher_refine": {"epochs": 1, "seed": 3}}, show_result=False)
    assert not list((tmp_path / "saved" / "cache").glob("Refined-*/*"))
    # With a split of its own seed, its training may have another.
    done = {**own, "teacher_refine": {"epochs": 1, "seed": 3}, "split_seed": 1}
    assert run_recbole_derrd(config_dict=done, show_result=False)["refined"]["epochs"] == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"distillers": ["rrd"], "rrd_n_distill": 0}, "rrd_"),
        ({"embedding_size": 24}, "at least the student's 24"),
    ],
)
def test_what_it_cannot_be_is_said_before_the_teacher_is_trained(
    keys: dict[str, Any], tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    own = {**keys, "checkpoint_dir": str(tmp_path / "saved"), "teacher_refine": settings}
    codes = {"compress_method": "quantized", "compress_bits": 4}
    for run, more in ((run_recbole_derrd, {}), (run_compressed, codes)):
        with pytest.raises(OptionError, match=words):
            run(config_dict={**own, **more}, show_result=False)
    assert not list((tmp_path / "saved" / "cache").glob("*/model.pth"))


def test_dimensions_and_bytes_are_those_of_the_teachers_before_they_are_trained(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = run_recbole_derrd(config_dict=keys, show_result=False)["checkpoints"]["teacher"]
    several = ["LightGCN", {"model": "BPR", "embedding_size": 12}]
    named: dict[str, Any]
    for named, dimensions in (
        ({}, 16),
        # NeuMF's size is no embedding_size, whatever the student's is.
        ({"teacher_model": "NeuMF", "teacher": {"epochs": 1}, "embedding_size": 24}, None),
        ({"teachers": several, "teacher": {"epochs": 1}, "embedding_size": 10}, 12),
        ({"teacher_checkpoint": checkpoint, "teacher": {}}, 16),
    ):
        config = DistillConfig(config_dict={**keys, **named, "checkpoint_dir": str(tmp_path)})
        data = prepare_data(config)
        found, size = dimensions_named(config, data), bytes_named(config, data)
        teachers = teachers_of(config, data)
        assert found == dimensions_of(teachers) == dimensions
        brought = "teacher_checkpoint" in named
        assert size == (None if brought else sum(teacher.trained.bytes for teacher in teachers))


@pytest.mark.slow
def test_a_refined_teacher_that_is_no_better_leaves_the_first_to_teach(keys: dict[str, Any], tmp_path: Path) -> None:
    """Steps that are far too large spoil it."""
    worse = {"epochs": 1, "learning_rate": 50.0, "teacher_scale": 1}
    own = {**keys, "teacher_refine": worse, "compare_student": False, "record_dir": str(tmp_path)}
    record = run_recbole_derrd(config_dict=own, show_result=False)
    refined, teacher = (record[who]["valid"][record["valid_metric"]] for who in ("refined", "teacher"))
    assert refined <= teacher
    (said,) = [one for one in record["warnings"] if one.startswith("The refined teacher is no better")]
    assert "so the teacher itself teaches" in said
    plainly = run_recbole_derrd(config_dict={**own, "teacher_refine": False}, show_result=False)
    assert torch.equal(_items(plainly), _items(record))
    # What the first teacher has no embeddings for, the refined one teaches, better or not.
    of_pairs = {**own, "teacher_model": "NeuMF", "teacher": {"epochs": 2}, "distillers": ["de"], "warm_start": "svd"}
    of_pairs["teacher_refine"] = {**worse, "embedding_size": 8}
    record = run_recbole_derrd(config_dict=of_pairs, show_result=False)
    assert not any("itself teaches" in one for one in record["warnings"])
