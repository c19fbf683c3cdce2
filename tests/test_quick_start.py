"""The whole job on planted data: what is known to be right must come out, be recorded, and be found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import group_of_item, group_of_user, write_planted

import recbole_derrd.model_cache.train_or_find as trained
from recbole_derrd.adapters import adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import CheckpointError, DataError
from recbole_derrd.evaluation.metrics import gap_recovered
from recbole_derrd.model_cache.building import load_model
from recbole_derrd.model_cache.results import split_metrics
from recbole_derrd.quick_start import objective_function, run_recbole_derrd
from recbole_derrd.report import RunRecord
from recbole_derrd.teacher import GivenTeacher, StoredKnowledge


def settings(data: Path, home: Path, **more: Any) -> dict[str, Any]:
    """A student of 4 numbers that alone learns little of the 8 planted groups in 30 epochs."""
    return {
        "data_path": str(data), "load_col": {"inter": ["user_id", "item_id"]}, "checkpoint_dir": str(home / "saved"),
        "record_dir": str(home / "records"), "embedding_size": 4, "learning_rate": 0.01, "epochs": 30,
        "teacher": {"embedding_size": 64, "weight_decay": 1e-4, "epochs": 60}, "train_batch_size": 512,
        "stopping_step": 30, "eval_batch_size": 4_000_000, "metrics": ["NDCG", "Recall"], "topk": [10],
        "valid_metric": "NDCG@10", "show_progress": False, "state": "WARNING", "latency_users": 5,
        "distillers": ["de", "rrd"], "de_num_experts": 4, "rrd_k": 10, "rrd_l": 20, "rrd_top_n": 30, "rrd_weight": 0.05,
        **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def record(planted: Path, home: Path) -> dict[str, Any]:
    return run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home))


def own_group_share(model: Any, data: Data, folder: Path) -> float:
    """Share of own-group items in all users' top-10 lists without their training items; chance is 1/8."""
    dataset, history = data.dataset, data.history
    knowledge = StoredKnowledge(folder, GivenTeacher(lambda: adapter_of(model)), history)
    right = total = 0
    for user, items in enumerate(knowledge.top_items(10)):
        for item in items[items > 0]:
            token = dataset.id2token(dataset.iid_field, int(item))
            right += group_of_item(token) == group_of_user(dataset.id2token(dataset.uid_field, user))
            total += 1
    return right / total


def test_de_rrd_beats_the_plain_student_on_planted_data(record: dict[str, Any]) -> None:
    student, distilled = record["student"], record["distilled"]
    for split in ("valid", "test"):
        assert distilled[split]["ndcg@10"] > 1.3 * student[split]["ndcg@10"], record
    assert record["gap_recovered"]["ndcg@10"] > 0.4


def test_the_distilled_student_names_the_planted_groups(record: dict[str, Any], planted: Path, home: Path) -> None:
    config = DistillConfig("BPR", "planted", config_dict=settings(planted, home))
    data = prepare_data(config)
    shares = {
        role: own_group_share(load_model(config, data, Path(file)), data, home / f"share-{role}")
        for role, file in (
            ("distilled", record["checkpoints"]["student"]),
            ("student", next((home / "saved" / "cache").glob(f"*{record['student']['key']}/model.pth"))),
        )
    }
    assert shares["distilled"] > 0.7 and shares["distilled"] > shares["student"] + 0.15, shares


def test_the_record_holds_what_tables_need(record: dict[str, Any]) -> None:
    written = json.loads(Path(record["path"]).read_text(encoding="utf-8"))
    assert RunRecord.from_json(written).to_json() == written, "what a run writes is what is read"
    assert written["schema"] == 2 and written["distillers"] == ["de", "rrd"] and written["seed"] == 2020
    assert written["protocol"]["mode"] == {"valid": "full", "test": "full"}
    for role in ("teacher", "student", "distilled"):
        assert {"model", "params", "bytes", "valid", "test"} <= written[role].keys()
        assert written[role]["latency"]["p50_ms"] > 0
        assert all(isinstance(value, float) for value in written[role]["test"].values())
    assert written["distilled"]["params"] == written["student"]["params"] == 4 * (193 + 193)
    assert written["teacher"]["bytes"] == 4 * 64 * (193 + 193)
    assert len(written["cost"]["epoch_seconds"]) == 30 and written["cost"]["knowledge_seconds"] > 0
    assert (
        written["cost"]["peak_rss_bytes"] > 1e7 and written["options"]["rrd_k"] == 10 and "--" not in written["model"]
    )
    assert Path(written["checkpoints"]["student"]).exists() and Path(written["checkpoints"]["teacher"]).exists()
    assert {"python", "torch", "recbole", "recbole_derrd"} <= written["versions"].keys() and written["command"]


def test_a_second_run_does_no_teacher_work_and_gives_the_same(
    record: dict[str, Any], planted: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("the teacher or the plain student was touched again")

    monkeypatch.setattr(trained, "build_model", refuse)
    for name in ("load_model", "prepare_data"):
        monkeypatch.setattr(f"recbole_derrd.teacher.teacher.{name}", refuse)
    monkeypatch.setattr(trained, "prepare_data", refuse)
    again = run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home))
    assert again["teacher"]["found"] and again["student"]["found"] and again["cost"]["knowledge_seconds"] == 0
    assert again["distilled"]["test"] == record["distilled"]["test"]
    assert again["path"] != record["path"] and again["checkpoints"] == record["checkpoints"]


@pytest.mark.slow
def test_further_metrics_train_no_teacher_anew(
    record: dict[str, Any], planted: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model that is there was trained or evaluated again")

    monkeypatch.setattr(trained, "_train", refuse)
    more = {"metrics": ["GAUC", "NDCG", "ItemCoverage"], "topk": [5, 10], "epochs": 30}
    further = run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home, **more))
    for role in ("teacher", "student"):
        names = ["gauc", "ndcg@5", "ndcg@10", "itemcoverage@5", "itemcoverage@10"]
        assert further[role]["found"] and further[role]["key"] == record[role]["key"]
        assert list(further[role]["valid"]) == list(further[role]["test"]) == names
        assert further[role]["test"]["ndcg@10"] == record[role]["test"]["ndcg@10"]
        assert 0.5 < further[role]["test"]["gauc"] < 1
        assert further[role]["settings"]["topk"] == [5, 10] and record[role]["settings"]["topk"] == [10]
    assert further["cost"]["knowledge_seconds"] == 0
    assert further["distilled"]["test"]["ndcg@10"] == record["distilled"]["test"]["ndcg@10"]
    # Both are kept.
    monkeypatch.setattr(trained, "_evaluate_again", refuse)
    for wanted, run in (({}, record), (more, further)):
        again = run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home, **wanted))
        assert again["teacher"]["test"] == run["teacher"]["test"]


def test_candidates_that_are_drawn_anew_are_never_mixed(planted: Path, home: Path) -> None:
    sampled = {"eval_args": {"mode": "uni20"}, "epochs": 1, "teacher": {"embedding_size": 8}, "compare_student": False}
    keys = {
        run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home, **sampled, topk=topk))["teacher"]["key"]
        for topk in ([10], [5, 10])
    }
    assert len(keys) == 2


def test_other_settings_are_another_teacher(record: dict[str, Any], planted: Path, home: Path) -> None:
    other = run_recbole_derrd(
        "BPR",
        "planted",
        config_dict=settings(planted, home, epochs=1, teacher={"embedding_size": 8}, compare_student=False),
    )
    assert other["teacher"]["key"] != record["teacher"]["key"] and other["student"] is None
    assert other["gap_recovered"] is None


@pytest.mark.slow
def test_teachers_of_another_class_and_without_gradients(planted: Path, home: Path) -> None:
    for teacher in ("EASE", "LightGCN", "MultiVAE"):
        extra = {"train_neg_sample_args": None} if teacher == "MultiVAE" else {}
        more = {"teacher_model": teacher, "teacher": {"epochs": 2, **extra}, "distillers": ["rrd"], "epochs": 2}
        record = run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home, **more))
        assert record["teacher"]["model"] == teacher and record["teacher"]["bytes"] > 0


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_a_teacher_can_be_brought(record: dict[str, Any], planted: Path, home: Path, tmp_path: Path, kind: str) -> None:
    file = Path(record["checkpoints"]["teacher"])
    if kind == "stock":
        content = torch.load(file, weights_only=False)
        del content["derrd"]
        file = tmp_path / "stock.pth"
        torch.save(content, file)
    brought = settings(planted, home, epochs=1, teacher_checkpoint=str(file), teacher={}, compare_student=False)
    found = run_recbole_derrd("BPR", "planted", config_dict=brought)
    assert (
        found["teacher"]["test"] == record["teacher"]["test"]
        and found["teacher"]["params"] == record["teacher"]["params"]
    )
    for wrong, words in (({"seed": 7}, "another split|other"), ({"eval_args": {"split": {"RS": [7, 1, 2]}}}, "split")):
        with pytest.raises(CheckpointError, match=words):
            run_recbole_derrd("BPR", "planted", config_dict={**brought, **wrong})


def test_a_brought_teacher_is_measured_once(
    record: dict[str, Any], planted: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"teacher_checkpoint": record["checkpoints"]["teacher"], "teacher": {}, "compare_student": False}
    brought = settings(planted, home, epochs=1, **more)
    first = run_recbole_derrd("BPR", "planted", config_dict=brought)
    for module in ("recbole_derrd.teacher.teacher", "recbole_derrd.model_cache.train_or_find"):
        monkeypatch.setattr(f"{module}.prepare_data", lambda _: pytest.fail("the teacher's data were prepared again"))
    again = run_recbole_derrd("BPR", "planted", config_dict=brought)
    assert again["teacher"]["found"] and again["teacher"]["test"] == first["teacher"]["test"]
    assert again["distilled"]["test"] == first["distilled"]["test"]


@pytest.mark.slow
def test_lists_are_made_anew_for_a_found_teacher(record: dict[str, Any], planted: Path, home: Path) -> None:
    """Its data are prepared only now; nothing of that may reach the student."""
    for folder in (home / "saved" / "cache").glob("knowledge-*"):
        shutil.rmtree(folder)
    again = run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home))
    assert again["teacher"]["found"] and again["cost"]["knowledge_seconds"] > 0
    assert again["distilled"]["test"] == record["distilled"]["test"]


def test_a_teacher_of_another_data_set_is_refused(
    record: dict[str, Any], planted: Path, home: Path, tiny_data: Path
) -> None:
    more = {"teacher_checkpoint": record["checkpoints"]["teacher"], "data_path": str(tiny_data), "rrd_k": 2, "rrd_l": 2}
    with pytest.raises(CheckpointError, match="data set 'planted'"):
        run_recbole_derrd("BPR", "tiny", config_dict=settings(planted, home, **more))


def test_a_teacher_on_another_split_is_refused(planted: Path, home: Path) -> None:
    with pytest.raises(DataError, match="training interactions are others"):
        run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home, teacher={"seed": 1}))


def test_plain_training_needs_no_teacher(planted: Path, home: Path) -> None:
    record = run_recbole_derrd(
        "BPR", "planted", config_dict=settings(planted, home, distillers=[], teacher={}, epochs=2)
    )
    assert record["teacher"] is None and record["student"] is None and record["distilled"]["test"]


@pytest.mark.slow
def test_an_interrupted_run_goes_on(
    record: dict[str, Any], planted: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings(
        planted, home, checkpoint_dir=str(home / "resumed"), cache_dir=str(home / "saved" / "cache"), checkpoint_step=4
    )
    original = split_metrics
    monkeypatch.setattr(
        "recbole_derrd.experiment.student.split_metrics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt())
    )
    with pytest.raises(KeyboardInterrupt):
        run_recbole_derrd("BPR", "planted", config_dict=own)
    monkeypatch.setattr("recbole_derrd.experiment.student.split_metrics", original)
    again = run_recbole_derrd("BPR", "planted", config_dict={**own, "resume": True})
    assert again["distilled"]["test"] == record["distilled"]["test"]


def test_hyper_tuning_gets_its_objective(planted: Path, home: Path) -> None:
    settled = settings(planted, home, epochs=2, latency_users=0)
    result = objective_function({**settled, "model": "BPR", "dataset": "planted", "rrd_weight": "0.01"})
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"] and result["valid_score_bigger"]


def test_metrics_that_count_items_work(planted: Path, home: Path, record: dict[str, Any]) -> None:
    """RecBole 1.2.1 fails on them, for plain numbers have no .cpu()."""
    metrics = ["NDCG", "ItemCoverage", "AveragePopularity", "GiniIndex", "TailPercentage", "ShannonEntropy"]
    more = {"metrics": metrics, "epochs": 1, "teacher": {}, "teacher_checkpoint": record["checkpoints"]["teacher"]}
    found = run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home, **more))
    for role in ("teacher", "student", "distilled"):
        assert 0 < found[role]["test"]["itemcoverage@10"] <= 1 and found[role]["test"]["giniindex@10"] > 0


def test_a_checkpoint_of_another_model_is_refused(planted: Path, home: Path, record: dict[str, Any]) -> None:
    more = {"teacher_checkpoint": record["checkpoints"]["teacher"], "teacher": {}, "teacher_model": "LightGCN"}
    with pytest.raises(CheckpointError, match="is a BPR, not a LightGCN"):
        run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home, **more))


def test_each_run_of_a_process_has_its_own_log(planted: Path, home: Path) -> None:
    import logging

    own = settings(planted, home, distillers=[], teacher={}, epochs=1, state="INFO")
    handlers, threads = list(logging.getLogger().handlers), torch.get_num_threads()
    level = logging.getLogger().level
    for handler in handlers:
        logging.getLogger().removeHandler(handler)
    before = set(Path("log").rglob("*.log"))
    for seed in (1, 2):
        run_recbole_derrd("BPR", "planted", config_dict={**own, "seed": seed, "threads": 1})
        assert not logging.getLogger().handlers and logging.getLogger().level == level
    for handler in handlers:
        logging.getLogger().addHandler(handler)
    written = set(Path("log").rglob("*.log")) - before
    assert len(written) == 2 and all(
        "best eval result" in file.read_text() or "Record" in file.read_text() for file in written
    )
    assert torch.get_num_threads() == threads


def test_the_gap_is_a_share_of_what_is_missing() -> None:
    assert gap_recovered(0.5, 0.3, 0.4) == pytest.approx(0.5)
    assert gap_recovered(0.5, 0.3, 0.2) == pytest.approx(-0.5)
    assert gap_recovered(0.3, 0.3, 0.4) is None and gap_recovered(0.2, 0.3, 0.4) is None


@pytest.mark.slow
def test_the_gap_of_a_metric_that_is_better_small_goes_the_other_way(planted: Path, home: Path) -> None:
    assert gap_recovered(0.3, 0.5, 0.4, bigger=False) == pytest.approx(0.5)
    assert gap_recovered(0.5, 0.3, 0.4, bigger=False) is None
    more = {"distillers": ["rrd"], "metrics": ["NDCG", "AveragePopularity"], "latency_users": 0}
    record = run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home, **more))
    teacher, student, distilled = (
        record[role]["test"]["averagepopularity@10"] for role in ("teacher", "student", "distilled")
    )
    expected = (distilled - student) / (teacher - student) if teacher < student else None
    assert record["gap_recovered"]["averagepopularity@10"] == (expected and pytest.approx(expected))


def test_whole_user_students_and_pair_teachers_get_along(planted: Path, home: Path) -> None:
    """RecBole's examples switch negative sampling off for autoencoders; a BPR teacher cannot do without."""
    more = {"train_neg_sample_args": None, "distillers": ["rrd"], "epochs": 1, "teacher_model": "BPR"}
    record = run_recbole_derrd("MultiVAE", "planted", config_dict=settings(planted, home, **more))
    assert record["teacher"]["model"] == "BPR" and record["distilled"]["test"]


@pytest.mark.slow
@pytest.mark.parametrize("pair", [("LightGCN", "BPR"), ("NeuMF", "MultiVAE"), ("SGL", "SimpleX")])
def test_cached_lists_change_nothing(planted: Path, tmp_path: Path, pair: tuple[str, str]) -> None:
    """Loading a teacher seeds every random state anew; a run that finds its lists must not draw other numbers."""
    student, teacher = pair
    more = {"epochs": 2, "teacher_model": teacher, "teacher": {"epochs": 1}, "distillers": ["rrd"], "latency_users": 0}
    weights = []
    for _ in range(2):
        record = run_recbole_derrd(student, "planted", config_dict=settings(planted, tmp_path, **more))
        weights.append(torch.load(record["checkpoints"]["student"], weights_only=False)["state_dict"])
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


def test_recboles_deprecations_are_not_the_users(planted: Path, home: Path, recwarn: pytest.WarningsRecorder) -> None:
    run_recbole_derrd("BPR", "planted", config_dict=settings(planted, home, distillers=["rrd"], epochs=1))
    assert not [one for one in recwarn if issubclass(one.category, FutureWarning) and "recbole/" in one.filename]
