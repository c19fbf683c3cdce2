"""Checkpoints are evaluated to stock RecBole's own metrics, digit by digit; recommend and export answer of them too."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from conftest import _SMALL
from recbole.data.interaction import Interaction
from stock import ring_rows, settings_on, stock_checkpoint, stock_metrics, write_rows

from recbole_derrd.cli import main
from recbole_derrd.exporting.evaluate import Evaluation, evaluate_checkpoints, write_records
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.report.document import report_of
from recbole_derrd.report.reading import records_of
from recbole_derrd.report.schema import RunRecord

pytestmark = pytest.mark.whole_run

DIGITS = {"metric_decimal_place": 12}
WHOLE_USERS = ("ENMF", "MultiVAE", "CDAE")
SAMPLED = {"mode": {"valid": "uni20", "test": "uni20"}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_rows(ring_rows(), folder / "data" / "ring" / "ring.inter")
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> Callable[..., Path]:
    """Return the checkpoint of a model that stock RecBole has trained on the ring, by further settings."""

    def make(model: str, name: str = "", **more: Any) -> Path:
        file = home / "stock" / f"{model}{name}.pth"
        if not file.exists():
            given = {"epochs": 2, **({"train_neg_sample_args": None} if model in WHOLE_USERS else {})}
            given.update({key: value for key, value in _SMALL.get(model, {}).items() if key != "embedding_size"})
            with pytest.MonkeyPatch.context() as elsewhere:
                # RecBole leaves files in the working directory.
                elsewhere.chdir(home)
                stock_checkpoint(model, settings_on(home / "data", home, **{**given, **DIGITS, **more}), file)
        return file

    return make


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, in which everything that a command leaves is seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_in(folder: Path) -> RunRecord:
    (record,), unread = records_of(folder)
    assert not unread
    return record


def same_numbers(one: dict[str, float], other: dict[str, float]) -> bool:
    return list(one) == list(other) and all(float(other[name]) == value for name, value in one.items())


def left(folder: Path) -> list[str]:
    """Every file and folder but for the lock of a folder of records."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".records.lock")


# -- the metrics


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "BPR": ("BPR", {}),
    "LightGCN": ("LightGCN", {}),
    "NeuMF": ("NeuMF", {}),
    "EASE": ("EASE", {}),
    "MultiVAE": ("MultiVAE", {}),
    "Pop": ("Pop", {}),
    "ItemKNN": ("ItemKNN", {}),
    "ENMF": ("ENMF", {}),
    "candidates": ("BPR", {"eval_args": SAMPLED}),
    "by time": ("BPR", {"eval_args": {"order": "TO", "split": {"LS": "valid_and_test"}}, "seed": 7}),
    "repeatable": ("BPR", {"repeatable": True}),
    "of scores": (
        "BPR",
        {"metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "eval_args": {"mode": "uni5"}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_metrics_are_those_of_stock_digit_by_digit(case: str, trained: Any, here: Path) -> None:
    model, more = CASES[case]
    file = trained(model, case, **more)
    assert main(["evaluate", str(file)]) == 0
    (written,) = Path("records").glob("*.json")
    assert left(here) == ["records", str(written)], "nothing else is left"
    record = record_in(here / "records")
    entry = record.distilled
    for split, found in (("valid", entry.valid), ("test", entry.test)):
        wanted, own = stock_metrics(file, split)
        assert same_numbers(found, wanted), (split, found, wanted)
    assert record.evaluated == str(file) and entry.split_check and entry.split_check["by"] == "valid score"
    if model not in ("EASE", "Pop", "ItemKNN"):
        assert entry.params == sum(one.numel() for one in own.parameters())


def test_one_split_alone_has_the_same_metrics(trained: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = trained("BPR", "candidates", eval_args=SAMPLED)
    for split in ("test", "valid"):
        assert main(["evaluate", str(file), f"--split={split}", f"--records={split}"]) == 0
    tested, validated = record_in(here / "test").distilled, record_in(here / "valid")
    assert same_numbers(tested.test, stock_metrics(file, "test")[0]) and not tested.valid
    assert same_numbers(validated.distilled.valid, stock_metrics(file, "valid")[0])
    assert all(math.isnan(value) for value in validated.distilled.test.values())
    assert list(validated.distilled.test) == list(tested.test)
    page = capsys.readouterr().out
    assert "Note: The test split of 'BPRcandidates.pth' was not evaluated." in page
    assert "ring, test split of seed 2020, ranked among 20 sampled candidates" in page
    assert "| - |" in report_of(here / "valid", "md") and "nan" not in report_of(here / "valid", "md")


def test_other_metrics_may_be_asked_for(trained: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = trained("BPR", "BPR")
    assert main(["evaluate", str(file), "--metrics=[MRR, NDCG]", "--topk=[3, 5, 7, 9]"]) == 0
    record = record_in(here / "records")
    names = [f"{metric}@{cutoff}" for metric in ("mrr", "ndcg") for cutoff in (3, 5, 7, 9)]
    assert list(record.distilled.test) == names and record.valid_metric == "ndcg@5"
    assert record.distilled.test["ndcg@5"] == stock_metrics(file, "test")[0]["ndcg@5"]
    page = capsys.readouterr().out
    assert "2 more metrics are in the records." in page and "ndcg@9" not in page
    assert main(["evaluate", str(file), "--topk=[3]", "--records=second"]) == 0
    assert record_in(here / "second").valid_metric == "ndcg@3"


def test_a_table_for_each_split_and_a_row_for_each_checkpoint(
    trained: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [trained("BPR", "BPR"), trained("EASE", "EASE"), trained("BPR", "seed 3", seed=3)]
    (here / "sub").mkdir()
    shutil.copy(files[0], here / "sub" / files[0].name)
    given = [*map(str, files), f"sub/{files[0].name}", str(files[0])]
    assert main(["evaluate", *given]) == 0
    page = capsys.readouterr().out
    first, second, *rest = page.split("\n\n")
    assert not rest and first.startswith("ring, validation and test split of seed 2020, full ranking\n")
    assert second.startswith("ring, validation and test split of seed 3, full ranking\n")
    assert [line.split()[0] for line in first.splitlines()[4:]] == [
        str(files[0]), "EASEEASE.pth", f"sub/{files[0].name}"
    ]  # fmt: skip
    records, _ = records_of(here / "records")
    assert len(records) == 4 and len({record.data.fingerprint.test for record in records}) == 2
    wanted = f"{stock_metrics(files[1], 'test')[0]['ndcg@5']:.4f}"
    (row,) = (line for line in first.splitlines() if line.startswith("EASE"))
    assert wanted in row.split() and f"{records[0].distilled.valid['ndcg@5']:.4f}" in page


@pytest.mark.slow
def test_data_are_prepared_once_and_the_metrics_are_those_of_each_alone(
    trained: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole_derrd.exporting import checkpoint

    names = ["BPR", "candidates", "LightGCN", "by time", "NeuMF", "MultiVAE", "EASE", "ENMF"]
    files = [trained(CASES[name][0], name, **CASES[name][1]) for name in names]
    files.insert(3, trained("LightGCN", "sampled", eval_args=SAMPLED))
    files.append(trained("BPR", "second", embedding_size=4))
    files.append(trained("BPR", "other sample", eval_args=SAMPLED, embedding_size=4))
    alone = [evaluate_checkpoints(Evaluation((file,)))[0] for file in files]
    prepared, prepare = [], checkpoint.prepare_data

    def counted(config: Any) -> Any:
        prepared.append(config["model"])
        return prepare(config)

    monkeypatch.setattr(checkpoint, "prepare_data", counted)
    together = evaluate_checkpoints(Evaluation(tuple(files)))
    # Once for the models of pairs under full ranking, candidates, and the order of time; NeuMF's and those of others.
    assert prepared == ["BPR", "BPR", "BPR", "NeuMF", "MultiVAE", "EASE", "ENMF"]
    for file, one, other in zip(files, alone, together):
        assert one.evaluated == other.evaluated == str(file)
        assert one.distilled == other.distilled and one.data == other.data and one.protocol == other.protocol


def test_a_report_shows_evaluated_checkpoints_beside_runs(tiny_settings: Any, tiny_data: Path, here: Path) -> None:
    more = {"rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "teacher": {"embedding_size": 16}, "split_seed": 5}
    made = run_recbole_derrd("BPR", "tiny", config_dict=tiny_settings("BPR", distillers=["rrd"], **more))
    student = made["checkpoints"]["student"]
    files = [Path(student), *Path(student).parent.glob("cache/BPR*/model.pth")]
    assert len(files) == 3
    records = evaluate_checkpoints(Evaluation(tuple(files), settings=("--split_seed=5",)))
    assert records[0].distilled.test == made["distilled"]["test"] and records[0].distillers == ["rrd"]
    assert records[0].distilled.split_check == {"by": "fingerprint"} and not records[0].warnings
    assert {record.distilled.params for record in records[1:]} == {
        made["teacher"]["params"], made["student"]["params"]
    }  # fmt: skip
    write_records(records, here / "records")
    page = report_of(here / "records", "md")
    for label in ("RRD, checkpoint", "BPR, checkpoint (embedding\\_size=8)", "BPR, checkpoint (embedding\\_size=16)"):
        assert f"| {label} | BPR | 1 |" in page
    both = report_of([here / "records", Path(made["path"])], "md")
    assert "| RRD | BPR | 1 |" in both and "| RRD, checkpoint | BPR | 1 |" in both
    assert both.count("test split, full ranking") == page.count("test split, full ranking"), "one table"


# -- whose split it is


def test_a_checkpoint_without_a_score_is_evaluated_and_said(
    trained: Any, home: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = here / "bare.pth"
    settings = settings_on(home / "data", home, epochs=1, **DIGITS)
    stock_checkpoint("BPR", settings, file, validated=False)
    assert main(["evaluate", "bare.pth"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "Note: Nothing shows that 'bare.pth' was trained on this split, and has seen no held-out item of it" in page
    entry = record_in(here / "records").distilled
    assert entry.trusted and entry.split_check and entry.split_check["by"] == "nothing"
    assert same_numbers(entry.test, stock_metrics(file, "test")[0])


def test_another_split_is_refused_unless_trusted(trained: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(trained("BPR", "BPR"))
    assert main(["evaluate", file, "--seed=9"]) == 2
    said = capsys.readouterr().err
    assert "was not trained on this split: its file says ndcg@5 = " in said and "--trusted" in said
    assert main(["evaluate", file, "--seed=9", "--split=test"]) == 2, "also where the split is not asked for"
    assert left(here) == []
    assert main(["evaluate", file, "--seed=9", "--trusted"]) == 0
    assert "Note: Evaluated all the same (--trusted): " in capsys.readouterr().out
    entry = record_in(here / "records").distilled
    assert entry.trusted and entry.split_check and entry.split_check["by"] == "trusted"


# -- what is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "'evaluate' needs a name: recbole-derrd evaluate saved/BPR.pth"),
        (["none.pth"], "There is no checkpoint file"),
        (["BPR", "text.pth"], "is a text file"),
        (["BPR", "bare.pth"], "holds weights, but no settings"),
        (["BPR", "folder"], "is a folder"),
        (["BPR", "part.pth"], "part.pth"),
        (["BPR", "--split=train"], "--split cannot be 'train'. It is one of: test, valid, both."),
        (["BPR", "--records=text.pth"], "--records must name a folder, and 'text.pth' is a file."),
        (["BPR", "--record=x"], "Unknown option '--record' of evaluate. Did you mean '--records'?"),
        (["BPR", "--trustd"], "Did you mean '--trusted'?"),
        (["BPR", "--epochs=3"], "Unknown option '--epochs' of evaluate."),
        (["BPR", "--metrics=[Foo]"], "RecBole has no metric 'Foo'."),
        (["BPR", "--metrics=5"], "metrics must name at least one metric"),
        (["BPR", "--topk=[a]"], "topk must hold at least one whole number"),
        (["BPR", "--topk=[500]"], "topk reaches to 500"),
        (["BPR", "--metrics=[AUC]"], "metrics names metrics of single scores only"),
        (["BPR", "--data_path=nowhere"], "--data_path=FOLDER names the folder in which its folder lies"),
        (["BPR", "--model=NGCF"], "is of a BPR, not a NGCF"),
    ],
    ids=str,
)
def test_evaluate_refuses_in_a_sentence_and_writes_nothing(
    arguments: list[str], words: str, trained: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trained("BPR", "BPR")
    (here / "text.pth").write_text("weights")
    torch.save({"state_dict": {}}, here / "bare.pth")
    (here / "part.pth").write_bytes(file.read_bytes()[:-300])
    (here / "folder").mkdir()
    before = left(here)
    assert main(["evaluate", *(str(file) if one == "BPR" else one for one in arguments)]) == 2
    said = capsys.readouterr()
    assert words in said.err and "Traceback" not in said.err and not said.out
    assert left(here) == before


def test_other_data_are_refused(trained: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([row for row in ring_rows() if row[0] != "u3"], here / "data" / "ring" / "ring.inter")
    for command in (["evaluate"], ["recommend", "--users=all"]):
        assert main([command[0], str(trained("BPR", "BPR")), *command[1:], "--data_path=data"]) == 2
        assert "has 60 rows beside the padding, and these data need 59" in capsys.readouterr().err
    write_rows(reversed(ring_rows()), here / "data" / "ring" / "ring.inter")
    assert main(["evaluate", str(trained("BPR", "BPR")), "--data_path=data"]) == 2
    assert "its users and items are numbered otherwise (rows in another order)" in capsys.readouterr().err
    assert left(here) == ["data", "data/ring", "data/ring/ring.inter"]


def test_a_full_disk_leaves_no_record(
    trained: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recbole_derrd.exporting import evaluate

    whole, calls = evaluate.write_record, []

    def full(*given: Any) -> Path:
        calls.append(given)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return whole(*given)

    monkeypatch.setattr(evaluate, "write_record", full)
    assert main(["evaluate", str(trained("BPR", "BPR")), str(trained("EASE", "EASE"))]) == 2
    said = capsys.readouterr()
    assert "No space left on device" in said.err and "Record:" not in said.out and "BPRBPR.pth" in said.out
    assert len(calls) == 2 and not [name for name in left(here) if name.endswith(".json")]


# -- recommend


def scores_of(model: Any, users: int, items: int) -> np.ndarray[Any, Any]:
    """RecBole's own scores of every pair, without padding."""
    model.eval()
    with torch.no_grad():
        own = torch.arange(1, users + 1)
        try:
            scores = model.full_sort_predict(Interaction({"user_id": own}))
        except NotImplementedError:
            pairs = torch.cartesian_prod(own, torch.arange(items + 1))
            scores = model.predict(Interaction({"user_id": pairs[:, 0], "item_id": pairs[:, 1]}))
    return torch.as_tensor(scores).float().reshape(users, items + 1).numpy()[:, 1:]


def read_lists(file: Path) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    with open(file, encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            ranking = found.setdefault(row["user_id"], [])
            ranking.append((row["item_id"], float(row["score"])))
            assert int(row["rank"]) == len(ranking)
    return found


def assert_the_models_own(lists: dict[str, list[tuple[str, float]]], file: Path, count: int) -> None:
    """Rankings are those of stock's model on stock's data; items of nearly equal scores may be exchanged."""
    import stock

    config = torch.load(file, weights_only=False)["config"]
    train, _, _ = stock._stock_data(config)
    dataset = train.dataset
    users, items = dataset.field2id_token["user_id"][1:], list(dataset.field2id_token["item_id"][1:])
    scores = scores_of(stock_metrics(file, "test")[1], len(users), len(items))
    feat = dataset.inter_feat
    np_users, np_items = feat["user_id"].numpy() - 1, feat["item_id"].numpy() - 1
    scores[np_users, np_items] = -np.inf
    place = {item: number for number, item in enumerate(items)}
    number = {user: row for row, user in enumerate(users)}
    assert set(lists) <= set(users)
    for user, ranking in lists.items():
        own = scores[number[user]]
        wanted, found = np.sort(own)[::-1][:count], [place[item] for item, _ in ranking]
        assert len(set(found)) == min(count, int((own > -np.inf).sum()))
        assert np.allclose(own[found], wanted[: len(found)], rtol=1e-4, atol=1e-5)


def alike(one: list[tuple[str, float]], other: list[tuple[str, float]]) -> bool:
    """Scores of another block of users may differ in the last digit."""
    return [item for item, _ in one] == [item for item, _ in other] and np.allclose(
        [score for _, score in one], [score for _, score in other], rtol=1e-5
    )


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "EASE", "MultiVAE", "NeuMF"])
def test_recommend_of_a_checkpoint_is_the_models_own(
    model: str, trained: Any, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_derrd.exporting.scores._USERS", 7)
    file = trained(model, model)
    assert main(["recommend", str(file), "--users=all", "--k=6", "--out=lists.csv"]) == 0
    assert capsys.readouterr().out == "360 rows of 60 users: lists.csv\n"
    lists = read_lists(Path("lists.csv"))
    assert len(lists) == 60
    assert_the_models_own(lists, file, 6)
    (here / "ids.txt").write_text("u9\nu3\n")
    assert main(["recommend", str(file), "--users=ids.txt", "--k=6", "--out=few.csv"]) == 0
    few = read_lists(Path("few.csv"))
    assert list(few) == ["u9", "u3"] and all(alike(few[user], lists[user]) for user in few)
    assert main(["export", str(file), "--out=out", "--top=6"]) == 0
    assert read_lists(Path("out/top.csv")) == lists


def test_recommend_of_a_checkpoint_may_keep_seen_items(
    trained: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(trained("EASE", "EASE"))
    assert main(["recommend", file, "--users=u3", "--k=80", "--out=all.csv", "--keep-seen"]) == 0
    assert main(["recommend", file, "--users=u3", "--k=80", "--out=new.csv"]) == 0
    every, new = (read_lists(here / name)["u3"] for name in ("all.csv", "new.csv"))
    assert len(every) == 80 and 60 < len(new) < 80 and [one for one in every if one in new] == new


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--users=u1,nobody,x,y,z"], "4 of the 5 users are not in the data of 'own.pth': 'nobody', 'x', 'y' and 1"),
        (["--users=nobody"], "There is no user 'nobody' in the data of 'own.pth'."),
        (["--users=,"], "names no user"),
        ([], "Whose rankings?"),
        (["--users=all", "--k=0"], "--k must be a whole number from 1 on"),
        (["--users=all", "--out=folder"], "Cannot write folder"),
        (["--users=all", "--kk=3"], "Unknown option '--kk' of recommend. Did you mean 'k'?"),
        (["--users=all", "--data_path=nowhere"], "--data_path=FOLDER names"),
    ],
    ids=str,
)
def test_recommend_of_a_checkpoint_refuses_in_a_sentence(
    arguments: list[str], words: str, trained: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trained("EASE", "EASE"), "own.pth")
    (here / "folder").mkdir()
    before = left(here)
    assert main(["recommend", "own.pth", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and not said.out and left(here) == before


def test_recommend_of_what_is_no_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "text").write_text("x")
    for name, words in (
        ("text", "is a text file"),
        ("none", "is no folder of an export"),
        (".", "it has no card.json"),
    ):
        assert main(["recommend", name, "--users=all"]) == 2
        assert words in capsys.readouterr().err


# -- a search index


def test_an_export_takes_no_settings(trained: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(trained("BPR", "BPR")), "--out=out"]) == 0
    for arguments, words in (
        (["--data_path=d"], "'out' is an export, which takes no '--data_path'; a checkpoint does."),
        (["--kep-seen=1"], "Did you mean '--keep-seen'?"),
        (["--model=a.B"], "which takes no '--model'"),
    ):
        assert main(["recommend", "out", "--users=all", *arguments]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_faiss_index(kind: str, trained: Any, here: Path) -> None:
    faiss = pytest.importorskip("faiss")
    _export(trained("LightGCN", "LightGCN"), "faiss", kind)
    index = faiss.read_index("out/items.faiss")
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT and index.ntotal == 80
    users, items, _ = _of_export("out") if kind == "npy" else _of_export("plain")
    scores, labels = index.search(users, 5)
    wanted = users @ items.T
    assert np.allclose(scores, -np.sort(-wanted, axis=1)[:, :5], atol=1e-6)
    assert np.allclose(np.take_along_axis(wanted, labels, 1), scores, atol=1e-6)


def test_usearch_index(trained: Any, here: Path) -> None:
    usearch = pytest.importorskip("usearch.index")
    _export(trained("LightGCN", "LightGCN"), "usearch", "npy")
    index = usearch.Index.restore("out/items.usearch")
    assert "ip" in str(index.metric).lower() and len(index) == 80
    users, items, ids = _of_export("out")
    found = index.search(users[3], 80)
    wanted = items @ users[3]
    assert np.allclose(1 - found.distances, wanted[found.keys.astype(int)], atol=1e-5)
    assert {ids[row] for row in found.keys.astype(int)[:5]} == {ids[row] for row in np.argsort(-wanted)[:5]}


def _export(file: Path, library: str, kind: str) -> None:
    assert main(["export", str(file), "--out=out", f"--index={library}", f"--format={kind}"]) == 0
    assert main(["export", str(file), "--out=plain"]) == 0
    card = json.loads(Path("out/card.json").read_text())
    assert card["index"]["file"] in card["files"] and card["index"]["metric"] == "inner product"
    text = Path("out/README.md").read_text()
    assert f"`items.{library}` is an index of the items" in text and "Label r stands for line r" in text
    assert json.loads(Path("plain/card.json").read_text())["index"] is None


def _of_export(folder: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]:
    ids = [json.loads(line) for line in Path(folder, "item_ids.jsonl").read_text().splitlines()]
    return np.load(f"{folder}/users.npy"), np.load(f"{folder}/items.npy"), ids


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("BPR", ["--index=annoy"], "--index cannot be 'annoy'."),
        ("BPR", ["--index=fais"], "Did you mean 'faiss'?"),
        ("BPR", ["--index=faiss", "--bits=4"], "Take out --index or --bits."),
        ("BPR", ["--index=faiss"], "--index=faiss needs the package faiss-cpu"),
        ("BPR", ["--index=usearch"], "pip install 'recbole_derrd[usearch]'"),
    ],
    ids=str,
)
def test_an_index_is_refused_in_a_sentence(
    model: str,
    arguments: list[str],
    words: str,
    trained: Any,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("faiss", "usearch", "usearch.index"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert main(["export", str(trained(model, model)), "--out=out", *arguments]) == 2
    assert words in capsys.readouterr().err and left(here) == []


def test_a_model_without_embeddings_has_no_index(
    trained: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", __import__("types").ModuleType("faiss"))
    assert main(["export", str(trained("EASE", "EASE")), "--out=out", "--index=faiss", "--top=5"]) == 2
    assert "so it has none to export for an index. Take out --index" in capsys.readouterr().err and left(here) == []


# -- ml-100k


@pytest.mark.slow
@pytest.mark.parametrize("model", ["LightGCN", "MultiVAE", "EASE"])
def test_stock_on_ml_100k(model: str, here: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2, "state": "ERROR", "checkpoint_dir": "saved", "show_progress": False}
    if model == "MultiVAE":
        settings["train_neg_sample_args"] = None
    file = here / "stock" / f"{model}.pth"
    stock_checkpoint(model, settings, file, dataset="ml-100k")
    assert main(["evaluate", str(file)]) == 0
    entry = record_in(here / "records").distilled
    assert same_numbers(entry.valid, stock_metrics(file, "valid")[0])
    assert same_numbers(entry.test, stock_metrics(file, "test")[0])
    assert main(["export", str(file), "--out=out", "--top=10"]) == 0
    assert Path("out/items.npy").exists() == (model == "LightGCN")
    lists = read_lists(here / "out" / "top.csv")
    assert len(lists) == 943
    assert_the_models_own(lists, file, 10)
    assert main(["recommend", str(file), "--users=all", "--k=10", "--out=lists.csv"]) == 0
    assert read_lists(Path("lists.csv")) == lists
