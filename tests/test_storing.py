"""The finished student in few bits: in the record, in the tables, and on disk as large as it is said to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from synthetic_records import groups_of, run_table

from recbole_derrd.adapters import adapter_of
from recbole_derrd.cli import _answer_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.serving import Recommender
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.checkpointing import load_weights

pytestmark = [pytest.mark.whole_run, pytest.mark.usefixtures("few_rounds")]
Settings = Callable[..., dict[str, Any]]
COMMON: dict[str, Any] = {
    "distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "epochs": 3, "teacher": {"embedding_size": 16},
    "latency_users": 3,
}  # fmt: skip


@pytest.fixture
def stored(tiny_settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    settings = tiny_settings("BPR", **COMMON, store_bits=4)
    return run_recbole_derrd("BPR", "tiny", config_dict=settings), settings


def test_the_file_holds_the_students_vectors_within_their_step(stored: Any) -> None:
    record, settings = stored
    config = DistillConfig("BPR", "tiny", config_dict=settings)
    student = build_model(config, prepare_data(config))
    path = record["checkpoints"]["student"]
    load_weights(student, read_checkpoint(path, student.device), path)
    export = Recommender.load(record["stored"]["file"])
    with torch.no_grad():
        wanted = adapter_of(student).score_all(torch.arange(student.n_users))[1:, 1:]
    data = prepare_data(config)
    assert export.item_ids == [str(token) for token in data.dataset.field2id_token["item_id"][1:]]
    found = torch.zeros_like(wanted)
    for row, (_, ranking) in enumerate(export.recommend_many(export.user_ids, 40, exclude_seen=False)):
        for item, score in ranking:
            found[row, export.item_ids.index(item)] = score
    assert (found - wanted).norm() < 0.25 * wanted.norm()
    assert (found - wanted).norm() > 1e-4 * wanted.norm(), "four bits are not float32"


def test_the_record_and_the_tables_tell_of_it(stored: Any) -> None:
    record, _ = stored
    assert f"\nIn 4 bits, as an export: {record['stored']['file']}\n" in _answer_of(record)
    entry = record["stored"]
    # 8 dimensions in 4 bits are 4 bytes, the scale 2.
    assert entry["bytes_per_item"] == entry["bytes_per_user"] == 6 and record["distilled"]["bytes_per_item"] == 32
    rows = record["data"]["users"] + record["data"]["items"] + 2
    assert (
        entry["bytes"] == 6 * rows + 8
        and entry["bits"] == 4
        and entry["test"].keys() == record["distilled"]["test"].keys()
    )
    arrays = [file.stat().st_size for file in Path(entry["file"]).glob("[ui][st]e*.*.npy")]
    # Without the padding rows and the two units, which stand in the card; a header takes 128 bytes.
    assert sum(arrays) == entry["bytes"] - 2 * 6 - 8 + 4 * 128, "nothing but the tables"
    card = json.loads((Path(entry["file"]) / "card.json").read_text())
    assert card["model"] == "BPR" and card["method"][0]["name"] == "rrd" and card["embedding"]["bits"] == 4
    assert "in 4 bits" in run_table(record) and entry["gap_recovered"].keys() == entry["test"].keys()
    labels = {row.label: row for group in groups_of([record]) for row in group.rows.values()}
    assert {"RRD", "RRD in 4 bits"} <= labels.keys()
    row = labels["RRD in 4 bits"]
    assert row.distilled and row.student == labels["RRD"].student and row.number("bytes_per_item") == 6


def test_one_stored_student_is_one_row_whatever_its_runs_are_called(stored: Any) -> None:
    first = stored[0]
    cell = {
        **first,
        "seed": first["seed"] + 1,
        "distillers": [],
        "benchmark": {"experiment": "plain, by a benchmark", "position": 0},
    }
    by_hand = {**first, "distillers": []}
    (group,) = groups_of([by_hand, cell])
    rows = {row.label: row for row in group.rows.values() if row.role != "teacher"}
    (label,) = (label for label in rows if label.endswith("in 4 bits"))
    assert len(rows[label].entries) == 2 and label.removesuffix(" in 4 bits") in rows
    trained = first["distilled"]["seconds"]
    assert rows[label].number("train_seconds") == pytest.approx(trained + first["stored"]["seconds"])


def test_storing_changes_nothing_of_the_student(tiny_settings: Settings, stored: Any) -> None:
    plain = run_recbole_derrd("BPR", "tiny", config_dict=tiny_settings("BPR", **COMMON))
    assert plain["distilled"]["test"] == stored[0]["distilled"]["test"] and plain["stored"] is None
    assert plain["checkpoints"]["student"] == stored[0]["checkpoints"]["student"]


def test_users_may_stay_as_they_are(tiny_settings: Settings) -> None:
    settings = tiny_settings("BPR", **COMMON, store_bits=8, store_users=False)
    record = run_recbole_derrd("BPR", "tiny", config_dict=settings)
    entry = record["stored"]
    assert (entry["bytes_per_item"], entry["bytes_per_user"]) == (10, 32)
    export = Recommender.load(entry["file"])
    assert export.card["embedding"]["user_bits"] == 32 and len(export.recommend(export.user_ids[0], 5)) == 5
    assert "(the users' in float32)" in (Path(entry["file"]) / "README.md").read_text()
    labels = [row.label for group in groups_of([record]) for row in group.rows.values()]
    assert "RRD in 8 bits (items)" in labels
    for metric, value in record["distilled"]["test"].items():
        assert entry["test"][metric] == pytest.approx(value, abs=0.02), metric


CANDIDATES = {"mode": "fixed20", "split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user"}


@pytest.mark.parametrize("more", [{}, {"eval_args": CANDIDATES}], ids=["full", "fixed20"])
@pytest.mark.parametrize("model", ["LightGCN", "SGL", "NCL", "SimpleX"])
def test_students_of_other_kinds_and_protocols(tiny_settings: Settings, model: str, more: dict[str, Any]) -> None:
    """8 bits are nearly float32: what is stored is what the model serves, propagated and normalised."""
    if model == "NCL":
        pytest.importorskip("faiss")
    settings = tiny_settings(
        model, **{**COMMON, "teacher_model": "BPR", "store_bits": 8, "learning_rate": 0.05, **more}
    )
    record = run_recbole_derrd(model, "tiny", config_dict=settings)
    for metric, value in record["distilled"]["test"].items():
        assert record["stored"]["test"][metric] == pytest.approx(value, abs=0.05), metric


def test_a_finished_run_is_stored_in_other_bits_without_training(tiny_settings: Settings) -> None:
    settings = tiny_settings("BPR", **COMMON, checkpoint_step=1)
    first = run_recbole_derrd("BPR", "tiny", config_dict=settings)
    again = run_recbole_derrd("BPR", "tiny", config_dict={**settings, "resume": True, "store_bits": 2})
    assert again["distilled"]["test"] == first["distilled"]["test"] and again["stored"]["bytes_per_item"] == 4
    assert again["cost"]["epoch_seconds"] == first["cost"]["epoch_seconds"]


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (
            "NeuMF",
            {},
            "store_bits is for students whose score is the dot product of two embeddings, and NeuMF's is not",
        ),
        ("BPR", {"nproc": 2}, "store_bits is for a run of one process"),
        ("BPR", {"store_bits": 9}, "store_bits"),
        ("BPR", {"store_bits": 5}, "store_bits must be 8, 4, 3, 2 or 1"),
    ],
)
def test_what_cannot_be_stored_is_refused_early(
    tiny_settings: Settings, model: str, more: dict[str, Any], message: str
) -> None:
    settings = tiny_settings(model, **{**COMMON, "store_bits": 4, **more})
    with pytest.raises(OptionError, match=message):
        run_recbole_derrd(model, "tiny", config_dict=settings)
    assert not list(Path(settings["checkpoint_dir"]).rglob("*.pth")), "nothing has been trained"


def test_a_run_of_other_bits_leaves_the_first_export(tiny_settings: Settings, stored: Any) -> None:
    settings = tiny_settings("BPR", **COMMON, checkpoint_step=1, store_bits=4)
    first = stored[0]["stored"]["file"]
    before = {file.name: file.read_bytes() for file in Path(first).iterdir()}
    other = run_recbole_derrd("BPR", "tiny", config_dict={**settings, "resume": True, "store_bits": 2})
    assert Path(other["stored"]["file"]).is_dir() and other["stored"]["file"] != first
    assert {file.name: file.read_bytes() for file in Path(first).iterdir()} == before


def test_what_is_no_export_is_not_replaced(tiny_settings: Settings, stored: Any) -> None:
    folder = Path(stored[0]["stored"]["file"])
    (folder / "card.json").unlink()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="is no export"):
        run_recbole_derrd("BPR", "tiny", config_dict=tiny_settings("BPR", **COMMON, store_bits=4))
    assert (folder / "mine.txt").read_text() == "mine"
