"""A checkpoint becomes an export: any model's own rankings, with the data's own ids, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from conftest import _SMALL
from recbole.data.interaction import Interaction
from stock import ITEMS, USERS, ring_rows, settings_on, stock_checkpoint, write_rows

from recbole_derrd.cli import main
from recbole_derrd.compression import compress
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.config.settings import file_names
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import DataError
from recbole_derrd.exporting import Request, export
from recbole_derrd.exporting.checkpoint import Trained, described_by, load_trained, run_settings
from recbole_derrd.exporting.request import Source
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.runtime import files
from recbole_derrd.serving import Recommender
from recbole_derrd.serving.lists import named_users
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.trainer import trainer_for

pytestmark = pytest.mark.whole_run

ROOT = Path(__file__).resolve().parent.parent
WITH_EMBEDDINGS = ["BPR", "LightGCN", "NGCF", "ENMF", "SimpleX", "FISM", "DMF", "GCMC", "NCEPLRec"]
WITHOUT = ["NeuMF", "EASE", "MultiVAE", "Pop", "ItemKNN", "CDAE"]
FOURS = {"rating": "[4,inf)"}
WHOLE_USERS = ("ENMF", "MultiVAE", "CDAE")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_rows(ring_rows(), folder / "data" / "ring" / "ring.inter")
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> Callable[[str], Path]:
    """Return the checkpoint of a model that stock RecBole has trained on the ring."""

    def make(model: str) -> Path:
        file = home / "stock" / f"{model}.pth"
        if not file.exists():
            more = {"train_neg_sample_args": None} if model in WHOLE_USERS else {}
            more.update({key: value for key, value in _SMALL.get(model, {}).items() if key != "embedding_size"})
            stock_checkpoint(model, settings_on(home / "data", home, epochs=2, **more), file)
        return file

    return make


def scores_of(model: Trained) -> np.ndarray[Any, Any]:
    """Return RecBole's own scores of every pair, without padding."""
    own = model.adapter.model
    users = torch.arange(1, USERS + 1)
    with torch.no_grad():
        try:
            scores = own.full_sort_predict(Interaction({"user_id": users}))
        except NotImplementedError:
            pairs = torch.cartesian_prod(users, torch.arange(ITEMS + 1))
            scores = own.predict(Interaction({"user_id": pairs[:, 0], "item_id": pairs[:, 1]}))
    return torch.as_tensor(scores).float().reshape(USERS, ITEMS + 1).numpy()[:, 1:]


def read_lists(file: Path) -> dict[str, list[tuple[str, float]]]:
    with open(file, encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        ranking = found.setdefault(row["user_id"], [])
        ranking.append((row["item_id"], float(row["score"])))
        assert int(row["rank"]) == len(ranking)
    return found


def assert_the_models_own(lists: dict[str, list[tuple[str, float]]], model: Trained, count: int) -> None:
    """Each ranking has the model's best unseen items; those of nearly equal scores may be exchanged."""
    scores, history = scores_of(model), model.data.history
    users, items = model.tokens
    assert list(lists) == users
    for row, user in enumerate(users):
        own = scores[row].copy()
        own[history.items[history.indptr[row + 1] : history.indptr[row + 2]] - 1] = -np.inf
        wanted = np.argsort(-own, kind="stable")[:count]
        found = [items.index(item) for item, _ in lists[user]]
        assert len(set(found)) == count and np.allclose(own[found], own[wanted], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", WITH_EMBEDDINGS)
def test_embeddings_give_the_models_own_rankings(model: str, trained: Any, tmp_path: Path) -> None:
    request = Request(trained(model), tmp_path / "out", top=7)
    card = export(request)
    served, own = Recommender.load(tmp_path / "out"), load_trained(request)
    assert card["score"] == "inner product" and card["users"] == USERS and card["items"] == ITEMS
    lists = read_lists(tmp_path / "out" / "top.csv")
    assert_the_models_own(lists, own, 7)
    for user, ranking in served.recommend_many(served.user_ids, k=7):
        assert [one.item for one in ranking] == [item for item, _ in lists[user]]
    vectors = (np.load(tmp_path / "out" / f"{side}.npy") for side in ("users", "items"))
    users, items = vectors
    if model not in ("DMF", "GCMC", "FISM"):  # RecBole passes these through a function that keeps the order
        assert np.allclose(users @ items.T, scores_of(own), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", WITHOUT)
def test_models_without_embeddings_export_rankings(
    model: str, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = Request(trained(model), tmp_path / "out", top=6)
    assert main(["export", str(request.checkpoint), f"--out={tmp_path / 'out'}"]) == 2
    assert f"The score of {model} is no inner product of two embeddings, so it has none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["export", str(request.checkpoint), f"--out={tmp_path / 'out'}", "--top=6"]) == 0
    assert "is no inner product of two embeddings, so the rankings are all" in capsys.readouterr().out
    assert_the_models_own(read_lists(tmp_path / "out" / "top.csv"), load_trained(request), 6)
    assert main(["recommend", str(tmp_path / "out"), "--users=all"]) == 2
    assert "Its users' rankings are in 'top.csv'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
def test_few_bits_are_compressions(bits: int, kind: str, trained: Any, tmp_path: Path) -> None:
    request = Request(trained("LightGCN"), tmp_path / "out", kind, bits, top=5)
    card = export(request)
    own = load_trained(request)
    recipe = CompressOptions(method="quantized", bits=bits, users=True, rotation="learned" if bits == 1 else "random")
    tables = compress(own.adapter, recipe, own.config["seed"])  # type: ignore[arg-type]
    served = Recommender.load(tmp_path / "out")
    for vectors, table in ((served._user_vectors, tables.users), (served._item_vectors, tables.items)):
        assert np.array_equal(vectors.rows(slice(None)), table.rows()[1:].numpy())
    assert card["embedding"]["bytes_per_item"] == tables.items.bytes_a_row
    for user, ranking in read_lists(tmp_path / "out" / "top.csv").items():
        assert ranking == [(one.item, pytest.approx(one.score, rel=1e-5)) for one in served.recommend(user, 5)]


def test_seen_items_may_be_kept(trained: Any, tmp_path: Path) -> None:
    request = Request(trained("BPR"), tmp_path / "out", top=ITEMS, keep_seen=True)
    export(request)
    lists = read_lists(tmp_path / "out" / "top.csv")
    assert all(len(ranking) == ITEMS for ranking in lists.values())
    served = Recommender.load(tmp_path / "out")
    history = load_trained(request).data.history
    assert len(served.recommend("u5", ITEMS)) == ITEMS - history.lengths[served.user_ids.index("u5") + 1]


def test_the_card_and_the_readme_tell_of_it(trained: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", str(trained("LightGCN")), "--out", str(out), "--bits", "4", "--top=5"]) == 0
    card = json.loads((out / "card.json").read_text())
    assert card["model"] == "LightGCN" and card["embedding"]["bits"] == 4 and card["data"]["dataset"] == "ring"
    assert card["metrics"]["valid"]["ndcg@5"] == pytest.approx(
        float(read_checkpoint(trained("LightGCN"))["best_valid_score"])
    )
    assert card["command"].startswith("recbole-derrd export")
    # A build's own name (+cpu, +cu130) is not a part of the version that is installed.
    assert torch.__version__.startswith(card["versions"]["torch"])
    assert {path.name for path in out.iterdir()} == {*card["files"], "card.json"}
    text = (out / "README.md").read_text(encoding="utf-8")
    for words in ("# LightGCN on ring", "**inner product**", "4 bits", "top.csv", "--bits 4", "Recommender.load"):
        assert words in text
    assert str(tmp_path) not in text.partition("Made by")[0], "no path but those of the command"


def test_a_distilled_student_names_its_method_and_its_data(
    tiny_settings: Any, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its split's seed is in its file; a file of an earlier version holds none, and it has to be given."""
    more = {"rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "teacher": {"embedding_size": 16}}
    settings = tiny_settings("BPR", distillers=["rrd"], split_seed=5, **more)
    student = run_recbole_derrd("BPR", "tiny", config_dict=settings)["checkpoints"]["student"]
    content = torch.load(student, weights_only=False)
    assert content["derrd"].pop("split_seed") == 5
    torch.save(content, tmp_path / "earlier.pth")
    earlier, out = str(tmp_path / "earlier.pth"), f"--out={tmp_path / 'out'}"
    assert main(["export", earlier, out]) == 2
    said = capsys.readouterr().err
    assert "was not trained on these data: its training interactions are others" in said and "--split_seed=N" in said
    assert main(["export", earlier, out, "--split_seed=5"]) == 0
    assert main(["export", student, out, "--force"]) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert [method["name"] for method in card["method"]] == ["rrd"] and card["method"][0]["citation"]
    assert "Distilled by rrd." in (tmp_path / "out" / "README.md").read_text()


def test_the_encoding_of_the_data_is_read_from_the_checkpoint(tmp_path: Path) -> None:
    file, rows = tmp_path / "data" / "ring" / "ring.inter", [(f"\u00fc{user}", *rest) for user, *rest in ring_rows()]
    write_rows(rows, file)  # type: ignore[arg-type]
    file.write_bytes(file.read_text(encoding="utf-8").encode("latin-1"))
    stock_checkpoint("BPR", settings_on(tmp_path / "data", tmp_path, encoding="latin-1"), tmp_path / "BPR.pth")
    trained = load_trained(Request(tmp_path / "BPR.pth", tmp_path / "out"))
    assert all(user.startswith("\u00fc") for user in trained.tokens[0])
    settings = run_settings(trained.config, trained.content)
    assert settings["encoding"] == "latin-1" and "split_seed" not in settings


def test_a_setting_of_the_data_that_was_taken_out_stays_out(tiny_settings: Any, tmp_path: Path) -> None:
    """All columns (load_col: none), of which one filters; RecBole's default is two columns."""
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", load_col=None, val_interval=FOURS))
    data = prepare_data(config)
    trainer = trainer_for(config, build_model(config, data), checkpoint=tmp_path / "BPR.pth", role="student")
    trainer.fit(data.train, data.valid)
    trained = load_trained(Source(tmp_path / "BPR.pth", "evaluate"))
    assert trained.data.fingerprint == data.fingerprint and "timestamp" in trained.data.dataset.inter_feat.columns
    settings = run_settings(trained.config, trained.content)
    assert settings["load_col"] is None and settings["val_interval"] == FOURS
    assert not {key for key, value in settings.items() if value is None} - {"load_col"}


def test_the_settings_of_a_run_on_a_checkpoints_data_hold_its_split(tiny_settings: Any, tmp_path: Path) -> None:
    more = {"split_seed": 5, "candidates_seed": 6, "eval_args": {"mode": "fixed9"}}
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **more))
    data = prepare_data(config)
    trainer = trainer_for(config, build_model(config, data), checkpoint=tmp_path / "BPR.pth", role="student")
    trainer.fit(data.train, data.valid)
    for given, seed in (((), 5), (("--split_seed=3",), 3)):
        settings = run_settings(*described_by(Source(tmp_path / "BPR.pth", "shrink", settings=given)))
        assert (settings["split_seed"], settings["candidates_seed"]) == (seed, 6)
        assert settings["eval_args"]["mode"] == {"valid": "fixed9", "test": "fixed9"}


# -- what is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "An export needs a place: --out=FOLDER."),
        (["--out=out", "--bits=5"], "--bits must be 8, 4, 3, 2 or 1, or 32 for float32, but is 5."),
        (["--out=out", "--bits=x"], "--bits must be a whole number from 1 on, but is 'x'."),
        (["--out=out", "--top=0"], "--top must be a whole number"),
        (["--out=out", "--format=npz"], "--format cannot be 'npz'. Did you mean 'npy'?"),
        (["--out=out", "--format=parquet", "--bits=4"], "take out --format or --bits"),
        (["--out=.."], "'..' names none"),
        (["--out=out", "--frce=1"], "Unknown option '--frce' of export. Did you mean '--force'?"),
        (["--out=out", "--epochs=3"], "Unknown option '--epochs' of export."),
        (["--out=out", "--data_path=nowhere"], "--data_path=FOLDER names the folder in which its folder lies"),
        (["--out=out", "--model=NGCF"], "is of a BPR, not a NGCF"),
        (["--out=out", "more.pth"], "'export' needs one name"),
        (["--out=there"], "'there' exists. Choose another folder, or replace an export by --force."),
        (["--out=there", "--force"], "'there' is no export, so --force does not replace it."),
    ],
)
def test_a_wrong_command_is_a_sentence_and_writes_nothing(
    arguments: list[str],
    words: str,
    trained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = trained("BPR")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    assert main(["export", str(checkpoint), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "there"]


def test_what_is_no_checkpoint_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pth").write_text("weights")
    torch.save({"state_dict": {}}, tmp_path / "bare.pth")
    code = {"state_dict": {}, "config": {"model": "os.path", "dataset": "ring"}}
    torch.save(code, tmp_path / "own.pth")
    torch.save({"state_dict": {}, "config": {"model": "BPR", "dataset": "../ring"}}, tmp_path / "path.pth")
    for name, words in (
        ("none.pth", "There is no checkpoint file"),
        ("text.pth", "is a text file"),
        ("bare.pth", "holds weights, but no settings"),
        ("own.pth", "which is none of RecBole's models"),
        ("path.pth", "name no data set, but '../ring'"),
    ):
        assert main(["export", str(tmp_path / name), f"--out={tmp_path / 'out'}"]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_other_data_are_a_sentence(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row for row in ring_rows() if row[0] != "u3"]
    write_rows(rows, tmp_path / "data" / "ring" / "ring.inter")
    assert main(["export", str(trained("BPR")), f"--out={tmp_path / 'out'}", f"--data_path={tmp_path / 'data'}"]) == 2
    assert "'user_embedding.weight' has 60 rows beside the padding, and these data need 59" in capsys.readouterr().err


def test_force_replaces_an_export_and_a_failure_leaves_the_old_one(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, checkpoint = tmp_path / "out", trained("BPR")
    export(Request(checkpoint, out))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("recbole_derrd.exporting.folder.write_card", full)
        assert main(["export", str(checkpoint), f"--out={out}", "--force", "--bits=2"]) == 2
        assert main(["export", str(checkpoint), f"--out={tmp_path / 'other'}"]) == 2
    assert Recommender.load(out).card["embedding"]["bits"] == 32
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name or path.name == "other"]
    assert main(["export", str(checkpoint), f"--out={out}", "--force", "--bits=2"]) == 0
    assert Recommender.load(out).card["embedding"]["bits"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_export_leaves_no_folder(number: int, trained: Any, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nimport recbole_derrd.exporting.folder as export\n"
        "def slow(*_):\n    Path('writing').touch()\n    time.sleep(60)\n"
        "export.write_card = slow\nfrom recbole_derrd.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "export", str(trained("BPR")), "--out=out"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    until = time.monotonic() + 120
    while not (tmp_path / "writing").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == (143 if number == signal.SIGTERM else -number)
    assert not (tmp_path / "out").exists()
    if number == signal.SIGTERM:
        assert not list(tmp_path.glob(".out.partial*"))
    assert main(["export", str(trained("BPR")), f"--out={tmp_path / 'out'}"]) == 0
    assert not list(tmp_path.glob(".out.partial*")), "what was left is removed by the next"


def test_parquet_is_refused_where_it_cannot_be_written(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    assert main(["export", str(trained("BPR")), f"--out={tmp_path / 'out'}", "--format=parquet"]) == 2
    assert "pip install 'recbole_derrd[export]'" in capsys.readouterr().err


def test_parquet_holds_ids_and_embeddings(trained: Any, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    request = Request(trained("LightGCN"), tmp_path / "out", "parquet", top=4)
    export(request)
    export(Request(trained("LightGCN"), tmp_path / "plain", top=4))
    table = parquet.read_table(tmp_path / "out" / "items.parquet").to_pydict()
    assert np.array_equal(np.array(table["embedding"], np.float32), np.load(tmp_path / "plain" / "items.npy"))
    assert table["item_id"] == Recommender.load(tmp_path / "plain").item_ids
    rows = parquet.read_table(tmp_path / "out" / "top.parquet").to_pylist()
    lists = read_lists(tmp_path / "plain" / "top.csv")
    assert [row["item_id"] for row in rows] == [item for ranking in lists.values() for item, _ in ranking]


def test_rankings_alone_are_named_as_they_are_written(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(file: Path, rows: Any) -> int:
        file.write_bytes(b"PAR1")
        return len(list(rows))

    monkeypatch.setattr("recbole_derrd.exporting.request.refuse_without_pyarrow", lambda: None)
    monkeypatch.setattr("recbole_derrd.exporting.folder.write_rankings", written)
    card = export(Request(trained("Pop"), tmp_path / "out", "parquet", top=3))
    assert card["top"]["file"] == "top.parquet" and (tmp_path / "out" / "top.parquet").is_file()
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "`top.parquet` holds" in page and "top.csv" not in page
    with pytest.raises(DataError, match=r"Its users' rankings are in 'top\.parquet'"):
        Recommender.load(tmp_path / "out")


# -- recommend


@pytest.fixture(scope="module")
def folder(trained: Any, home: Path) -> Path:
    export(Request(trained("BPR"), home / "served"))
    return home / "served"


def test_recommend_writes_csv(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = Recommender.load(folder)
    wanted = {user: [one.item for one in served.recommend(user, 4)] for user in served.user_ids}
    out = tmp_path / "lists.csv"
    assert main(["recommend", str(folder), "--users=all", "--k=4", f"--out={out}"]) == 0
    assert {user: [item for item, _ in ranking] for user, ranking in read_lists(out).items()} == wanted
    (tmp_path / "ids.txt").write_text("u7\r\nu3\n\n", encoding="utf-8")
    assert main(["recommend", str(folder), "--users", str(tmp_path / "ids.txt"), "--k", "4", f"--out={out}"]) == 0
    assert list(read_lists(out)) == ["u7", "u3"]
    capsys.readouterr()
    assert main(["recommend", str(folder), "--users=u3,u9", "--k=2", "--keep-seen"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "user_id,rank,item_id,score" and len(lines) == 5
    assert lines[1].startswith(f"u3,1,{served.recommend('u3', 1, exclude_seen=False)[0].item},")


def test_many_users_are_named_with_commas() -> None:
    """As many as a command line takes: the text is longer than any file's name."""
    assert named_users(",".join(["u1", "u2"] * 9999), []) == ["u1", "u2"] * 9999
    assert file_names(" ".join(["run.yaml"] * 999)) == ["run.yaml"] * 999


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Whose rankings?"),
        (["--users=x,u1"], "1 of the 2 users are not in this export: 'x'."),
        (["--users=,"], "names no user"),
        (["--users=empty"], "'empty' names no user"),
        (["--users=bytes"], "it is no UTF-8 text"),
        (["--users=all", "--k=0"], "--k must be a whole number from 1 on"),
        (["--users=all", "--out=folder"], "Cannot write folder"),
        (["--users=all", "--keepseen"], "Did you mean '--keep-seen'?"),
    ],
)
def test_recommend_refuses_in_a_sentence(
    folder: Path,
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main(["recommend", str(folder), *arguments]) == 2
    assert words in capsys.readouterr().err and sorted(tmp_path.rglob("*")) == before


def test_recommend_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys\nfrom recbole_derrd.cli import main\n"
        f"assert main(['recommend', {str(folder)!r}, '--users=u1']) == 0\n"
        "assert not {'torch', 'pandas', 'recbole', 'scipy', 'yaml'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def test_no_lock_or_partial_file_is_taken_for_an_export(folder: Path) -> None:
    assert not [path.name for path in (*folder.iterdir(), *folder.parent.iterdir()) if path.name.startswith(".")]
    assert files._partial_prefix(folder) == ".served.partial-"
