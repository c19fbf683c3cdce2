"""The finished student in few bits: in the record, in the tables, and on disk as large as it is said to be."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from synthetic_records import groups_of, run_table

from recbole_derrd.adapters import adapter_of
from recbole_derrd.compression import load_tables
from recbole_derrd.compression.file import save_tables
from recbole_derrd.compression.recipe import Tables
from recbole_derrd.compression.tables import ProductTable, QuantizedTable
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, OptionError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.checkpointing import load_weights

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
    tables = load_tables(record["stored"]["file"])
    with torch.no_grad():
        wanted = adapter_of(student).score_all(torch.arange(student.n_users))[1:, 1:]
    found = (tables.users.rows() @ tables.items.rows().T)[1:, 1:]
    assert (found - wanted).norm() < 0.25 * wanted.norm()
    assert (found - wanted).norm() > 1e-4 * wanted.norm(), "four bits are not float32"


def test_the_record_and_the_tables_tell_of_it(stored: Any) -> None:
    record, _ = stored
    entry = record["stored"]
    # 8 dimensions in 4 bits are 4 bytes, the scale 2.
    assert entry["bytes_per_item"] == entry["bytes_per_user"] == 6 and record["distilled"]["bytes_per_item"] == 32
    rows = record["data"]["users"] + record["data"]["items"] + 2
    assert (
        entry["bytes"] == 6 * rows + 8
        and entry["bits"] == 4
        and entry["test"].keys() == record["distilled"]["test"].keys()
    )
    on_disk = Path(entry["file"]).stat().st_size
    assert entry["bytes"] < on_disk < entry["bytes"] + 3000, "nothing but the tables, and a zip's headers"
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
    ],
)
def test_what_cannot_be_stored_is_refused_early(
    tiny_settings: Settings, model: str, more: dict[str, Any], message: str
) -> None:
    settings = tiny_settings(model, **{**COMMON, "store_bits": 4, **more})
    with pytest.raises(OptionError, match=message):
        run_recbole_derrd(model, "tiny", config_dict=settings)
    assert not list(Path(settings["checkpoint_dir"]).rglob("*.pth")), "nothing has been trained"


def test_a_bad_file_is_a_sentence(stored: Any, tmp_path: Path) -> None:
    path = Path(stored[0]["stored"]["file"])
    with pytest.raises(CheckpointError, match="There is no file"):
        load_tables(tmp_path / "nowhere.npz")
    for content, message in (
        (path.read_bytes()[:300], "damaged, or no file of stored embeddings"),
        (b"", "damaged, or no file of stored embeddings"),
        (b"no zip", "damaged, or no file of stored embeddings"),
    ):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_tables(tmp_path / "bad.npz")
    np.save(tmp_path / "bad.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match="damaged, or no file of stored embeddings"):
        load_tables(tmp_path / "bad.npy")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(tmp_path / "short.npz", **{**arrays, "item_scales": arrays["item_scales"][:-1]})
    with pytest.raises(CheckpointError, match="a table is not whole"):
        load_tables(tmp_path / "short.npz")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(CheckpointError, match="holds no stored embeddings of format 1"):
        load_tables(tmp_path / "other.npz")
    np.savez(tmp_path / "part.npz", format=np.array([1]), user_packed=np.zeros((3, 2), dtype=np.uint8))
    with pytest.raises(CheckpointError, match="a table is not whole"):
        load_tables(tmp_path / "part.npz")
    np.savez(tmp_path / "code.npz", format=np.array([object()], dtype=object))
    with pytest.raises(CheckpointError, match="damaged, or no file"):
        load_tables(tmp_path / "code.npz")


def some_tables() -> Tables:
    """A table of each kind that a file may hold."""
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (7, 2), generator=draw, dtype=torch.uint8)
    users = QuantizedTable.of(torch.randn(5, 6, generator=draw), 3)
    return Tables(users, ProductTable(codes, torch.randn(4, 6, generator=draw)))


def content_of(tables: Tables) -> list[torch.Tensor]:
    return [*tables.users.arrays().values(), *tables.items.arrays().values(), tables.users.rows(), tables.items.rows()]


def test_flipped_bits_and_truncations_of_a_stored_file_are_found(tmp_path: Path) -> None:
    """A file is read as it was written, or it is a sentence."""
    path, draw = tmp_path / "tables.npz", random.Random(2)
    save_tables(some_tables(), path)
    whole, wanted, refused = path.read_bytes(), content_of(load_tables(path)), 0
    assert all(torch.equal(one, two) for one, two in zip(wanted, content_of(some_tables())))
    for case in range(300):
        changed = bytearray(whole)
        if case % 5 == 4:
            del changed[draw.randrange(len(changed)) :]
        else:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = content_of(load_tables(path))
        except CheckpointError as error:
            assert "tables.npz" in str(error)
            refused += 1
            continue
        assert all(torch.equal(one, two) for one, two in zip(wanted, found)), case
    assert refused > 150


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("user_shape", [9, 6], "6 dimensions of 9 bits"),
        ("user_shape", [3, 0], "0 dimensions"),
        ("user_shape", [3, 10**15], "not those of so many"),
        ("user_shape", [3], "user_shape"),
        ("user_shape", [3.5, 6.0], "user_shape"),
        ("user_scales", np.full(5, np.nan, np.float16), "no finite number"),
        ("user_scales", np.ones(5, np.float32), "user_scales is float32"),
        ("user_unit", np.zeros((1, 1), np.float32), "user_unit"),
        ("user_packed", np.zeros((5, 3), np.int64), "user_packed is int64"),
        ("item_codes", np.full((7, 2), 9, np.uint8), "centres that there are not"),
        ("item_codes", np.zeros((0, 2), np.uint8), "item_codes"),
        ("item_centres", np.zeros((4, 5), np.float32), "users have 6 dimensions and items 5"),
        ("format", [[[1]]], "no stored embeddings of format 1"),
    ],
)
def test_a_stored_file_with_wrong_values_is_a_sentence(tmp_path: Path, name: str, value: Any, words: str) -> None:
    path = tmp_path / "tables.npz"
    save_tables(some_tables(), path)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(path, **{**arrays, name: np.asarray(value)})
    with pytest.raises(CheckpointError, match=r"tables\.npz") as caught:
        load_tables(path)
    assert words in str(caught.value)


def test_an_archive_that_unpacks_to_much_or_claims_a_huge_array_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "tables.npz"
    save_tables(some_tables(), path)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez_compressed(path, **arrays)
    with pytest.raises(CheckpointError, match="damaged"):
        load_tables(path)
    head = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 20)}
    np.lib.format.write_array_header_1_0(head, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("user_embeddings.npy", head.getvalue())
    with pytest.raises(CheckpointError, match="damaged"):
        load_tables(path)
