"""A student that was trained in codebooks: its export is its own codes, in fewer bytes, with its own rankings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch

from recbole_derrd.cli import main
from recbole_derrd.compression import compress, storing_recipe
from recbole_derrd.compression.recipe import trained_tables
from recbole_derrd.errors import DataError
from recbole_derrd.exporting import Request, export
from recbole_derrd.exporting.checkpoint import load_trained
from recbole_derrd.exporting.recommend import ranking_rows
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.serving import Recommender
from recbole_derrd.serving.arrays import read_safetensors
from recbole_derrd.teacher.exported.reading import read_exported
from recbole_derrd.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.whole_run

CODEBOOKS, SIZE, USERS, ITEMS = 2, 6, 30, 40


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return the checkpoint of a student in two codebooks, its users in so many bits."""
    made: dict[int, Path] = {}

    def make(user_bits: int = 32) -> Path:
        if user_bits not in made:
            settings = {
                "data_path": str(tiny_data),
                "checkpoint_dir": str(tmp_path_factory.mktemp("saved")),
                "teacher": {"embedding_size": 8, "epochs": 3},
                "embedding_size": SIZE,
                "epochs": 2,
                "eval_batch_size": 4000,
                "metrics": ["NDCG"],
                "topk": [5],
                "valid_metric": "NDCG@5",
                "show_progress": False,
                "state": "WARNING",
                "distillers": ["rrd"],
                "warm_start": "svd",
                "student_codebooks": CODEBOOKS,
                "user_bits": user_bits,
                "student_rotation": "random",
                "latency_users": 0,
                "compare_student": False,
                **{"rrd_k": 5, "rrd_l": 5, "rrd_top_n": 20},
            }
            made[user_bits] = Path(run_recbole_derrd("BPR", "tiny", config_dict=settings)["checkpoints"]["student"])
        return made[user_bits]

    return make


def plain_rows(checkpoint: Path, side: str) -> np.ndarray[Any, Any]:
    rows: torch.Tensor = read_checkpoint(checkpoint)["state_dict"][f"{side}_embedding.weight"]
    return rows[1:].numpy()


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize("user_bits", [32, 4])
def test_an_export_is_the_students_own_codes(kind: str, user_bits: int, trained: Any, tmp_path: Path) -> None:
    out, entry = tmp_path / "out", read_checkpoint(trained(user_bits))["table_steps"]["item_embedding"]
    card = export(Request(trained(user_bits), out, kind, top=7))
    if kind == "npy":
        codes, codebooks = np.load(out / "items.codes.npy"), np.load(out / "items.codebooks.npy")
        assert not (out / "items.npy").exists() and (out / "users.npy").exists() == (user_bits == 32)
    else:
        arrays = read_safetensors(out / "items.safetensors")
        codes, codebooks = arrays["codes"], arrays["codebooks"]
        assert len(arrays) == 2
    assert codes.dtype == np.uint8 and np.array_equal(codes, entry["codes"][1:].numpy())
    assert codebooks.dtype == np.float16 and np.array_equal(codebooks, entry["codebooks"].numpy())
    assert codebooks.shape == (CODEBOOKS, ITEMS, SIZE)
    embedding = card["embedding"]
    assert (embedding["item_codebooks"], embedding["bits"], embedding.get("user_bits", 32)) == (2, 32, user_bits)
    assert embedding["bytes_per_item"] == CODEBOOKS and embedding["codebook_bytes"] == 2 * codebooks.size
    assert embedding["bytes_per_user"] == (4 * SIZE if user_bits == 32 else SIZE * 4 // 8 + 2)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize("user_bits", [32, 4])
def test_it_ranks_as_its_checkpoint_does(kind: str, user_bits: int, trained: Any, tmp_path: Path) -> None:
    request = Request(trained(user_bits), tmp_path / "out", kind, top=7)
    export(request)
    served = Recommender.load(tmp_path / "out")
    rows = {side: vectors.rows(slice(None)) for side, vectors in
            (("user", served._user_vectors), ("item", served._item_vectors))}  # fmt: skip
    for side, own in rows.items():
        assert np.array_equal(own, plain_rows(request.checkpoint, side))
    # Those of the model itself, from its plain rows.
    wanted = list(ranking_rows(load_trained(request), None, 7, keep_seen=False))
    found = [(user, rank, one.item, pytest.approx(one.score, rel=1e-5, abs=1e-7))
             for user, ranking in served.recommend_many(served.user_ids, 7)
             for rank, one in enumerate(ranking, start=1)]  # fmt: skip
    assert found == wanted
    # Two stages find what they find in its float32 export.
    export(Request(request.checkpoint, tmp_path / "plain", bits=32))
    one, other = (Recommender.load(tmp_path / name, search="two_stage", candidates=4) for name in ("out", "plain"))
    for user in one.user_ids:
        assert one.recommend(user, 3) == [(item, pytest.approx(score)) for item, score in other.recommend(user, 3)]
    assert np.array_equal(read_exported(tmp_path / "out").embeddings["item"], rows["item"])  # type: ignore[index]


def test_few_bits_are_those_of_its_decoded_rows(trained: Any, tmp_path: Path) -> None:
    request = Request(trained(), tmp_path / "out", bits=8)
    card, own = export(request), load_trained(request)
    tables = compress(own.adapter, storing_recipe(8, users=True), own.config["seed"])  # type: ignore[arg-type]
    served = Recommender.load(tmp_path / "out")
    assert np.array_equal(served._item_vectors.rows(slice(None)), tables.items.rows()[1:].numpy())
    assert card["embedding"]["bits"] == 8 and "item_codebooks" not in card["embedding"]


def test_float32_is_its_decoded_rows(trained: Any, tmp_path: Path) -> None:
    card = export(Request(trained(4), tmp_path / "out", bits=32))
    assert card["embedding"]["bytes_per_item"] == 4 * SIZE and "item_codebooks" not in card["embedding"]
    for side in ("user", "item"):
        assert np.array_equal(np.load(tmp_path / "out" / f"{side}s.npy"), plain_rows(trained(4), side))


def test_parquet_is_its_decoded_rows(trained: Any, tmp_path: Path) -> None:
    columns = pytest.importorskip("pyarrow.parquet")
    export(Request(trained(4), tmp_path / "parquet", "parquet"))
    rows = columns.read_table(tmp_path / "parquet" / "items.parquet")["embedding"].to_pylist()
    assert np.array_equal(np.array(rows, np.float32), plain_rows(trained(4), "item"))


def test_card_command_and_readme_say_so(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(trained()), f"--out={tmp_path / 'out'}"]) == 0
    words = "in 2 codebooks (the users' in float32)"
    assert f"Embeddings of 6 dimensions {words}, 2 bytes an item" in capsys.readouterr().out
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"dimensions, {words}: 2 bytes an item (npy)." in text
    assert "`codebooks[l, codes[r, l]]`" in text and "take 960 bytes for all items together" in text
    assert main(["export", str(trained(4)), f"--out={tmp_path / 'few'}"]) == 0
    assert "in 2 codebooks (the users' in 4 bits)" in (tmp_path / "few" / "README.md").read_text()
    assert main(["recommend", str(tmp_path / "few"), "--users=all", f"--out={tmp_path / 'lists.csv'}"]) == 0
    assert len((tmp_path / "lists.csv").read_text().splitlines()) == 1 + 10 * USERS


def test_codes_that_do_not_fit_the_table_are_refused(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = load_trained(Request(trained(), tmp_path / "out"))
    entry = own.table_entries["item_embedding"]
    codes, codebooks = entry["codes"], entry["codebooks"]
    assert isinstance(trained_tables(own.adapter, own.table_entries).items.rows(), torch.Tensor)  # type: ignore[arg-type]
    nan = codebooks.clone()
    nan[0, 0, 0] = float("nan")
    others = [
        {"codes": codes + ITEMS, "codebooks": codebooks},
        {"codes": codes.long(), "codebooks": codebooks},
        {"codes": codes[1:], "codebooks": codebooks},
        {"codes": codes[:, :1], "codebooks": codebooks},
        {"codes": codes, "codebooks": codebooks.float()},
        {"codes": codes, "codebooks": codebooks[:0]},
        {"codes": codes, "codebooks": codebooks[:, :, 1:]},
        {"codes": codes, "codebooks": codebooks[:, 1:]},
        {"codes": codes, "codebooks": torch.tensor(1.0)},
        {"codes": codes, "codebooks": None},
        {"codebooks": codebooks},
        {"codes": codes, "codebooks": nan},
        # They fit, but stand for other rows.
        {"codes": codes.flip(0), "codebooks": codebooks},
        {"codes": codes, "codebooks": codebooks * 1.01},
    ]
    for other in others:
        with pytest.raises(DataError, match="The codes of 'item_embedding' in the checkpoint do not fit its table"):
            trained_tables(own.adapter, {"item_embedding": other})  # type: ignore[arg-type]
    file = tmp_path / "other.pth"
    torch.save({**torch.load(trained(), weights_only=False), "table_steps": {"item_embedding": others[0]}}, file)
    assert main(["export", str(file), f"--out={tmp_path / 'out'}"]) == 2
    assert "do not fit its table. Train the student again." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
