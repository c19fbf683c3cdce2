"""Teachers that come as files: an export of one run, or arrays that anything has made, teach another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from recbole_derrd.cli import main
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import DataError, DistillError, OptionError
from recbole_derrd.experiment.preflight import check_run
from recbole_derrd.experiment.teachers import knowledge_of, teachers_of
from recbole_derrd.exporting import Request, export
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.teacher import read_exported

pytestmark = pytest.mark.whole_run

Settings = Callable[..., dict[str, Any]]
RRD: dict[str, Any] = {"distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "latency_users": 0, "epochs": 2}
ALL = {**RRD, "distillers": ["de", "rrd", "nkd", "cpd", "cd", "listwise", "ir_rrd", "rd", "sld", "dcd", "rce_kd"],
       "cpd_q": 3, "cpd_top_n": 10, "cd_n_distill": 3, "ir_rrd_k": 3, "ir_rrd_l": 3, "ir_rrd_top_n": 6,
       "ir_rrd_item_k": 2, "ir_rrd_item_l": 2, "ir_rrd_item_top_n": 4, "rd_k": 3, "sld_k": 3, "sld_l": 3,
       "sld_top_n": 6, "dcd_k": 3, "dcd_top_n": 6, "rce_kd_k": 4, "rce_kd_l": 4, "rce_kd_m": 8, "de_num_experts": 2,
       "compare_student": False}  # fmt: skip
OF_RANKINGS = {**ALL, "distillers": ["rrd", "ir_rrd", "rd", "dcd"]}
OF_SCORES = {**ALL, "distillers": ["rrd", "cd", "listwise", "ir_rrd", "rd", "sld", "dcd", "rce_kd"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Data:
    home = tmp_path_factory.mktemp("plain")
    config = DistillConfig("BPR", "tiny", config_dict={"data_path": str(tiny_data), "checkpoint_dir": str(home)})
    return prepare_data(config)


def tokens(data: Data) -> tuple[list[str], list[str]]:
    users, items = (data.dataset.field2id_token[field] for field in (data.dataset.uid_field, data.dataset.iid_field))
    return [str(one) for one in users[1:]], [str(one) for one in items[1:]]


def planted(users: int, items: int, size: int = 6, seed: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    draw = np.random.default_rng(seed)
    return {
        "user_embeddings": draw.normal(size=(users, size)).astype(np.float32),
        "item_embeddings": draw.normal(size=(items, size)).astype(np.float32),
    }


@pytest.fixture
def whole(data: Data, tmp_path: Path) -> Path:
    users, items = tokens(data)
    file = tmp_path / "whole.npz"
    np.savez(file, user_ids=users, item_ids=items, **planted(len(users), len(items)))
    return file


@pytest.fixture
def partial(data: Data, tmp_path: Path) -> Path:
    """Embeddings of some of the data's users and items, and of others."""
    users, items = tokens(data)
    users, items = [*users[:20], "new-user", "other"], ["gone", *items[5:]]
    file = tmp_path / "partial.npz"
    np.savez(file, user_ids=users, item_ids=items, **planted(len(users), len(items)))
    return file


def rows_of(data: Data, length: int, scores: bool, some: int = 1000) -> list[list[Any]]:
    """Rankings by planted scores, best first, training items left in."""
    users, items = tokens(data)
    tables = planted(len(users), len(items))
    every = tables["user_embeddings"] @ tables["item_embeddings"].T
    rows: list[list[Any]] = []
    for user, own in list(zip(users, every))[:some]:
        for rank, item in enumerate(np.argsort(-own)[:length], 1):
            rows.append([user, items[item], rank, *([float(own[item])] if scores else [])])
    return rows


def write_csv(file: Path, rows: list[list[Any]], scores: bool) -> Path:
    head = "user_id,item_id,rank" + (",score" if scores else "")
    file.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return file


def run(settings: dict[str, Any]) -> dict[str, Any]:
    return run_recbole_derrd("BPR", "tiny", config_dict=settings)


def knowledge(settings: dict[str, Any]) -> tuple[Any, Any]:
    config = DistillConfig("BPR", "tiny", config_dict=settings)
    found = prepare_data(config)
    teachers = teachers_of(config, found)
    return knowledge_of(config, teachers, found), teachers


@pytest.mark.parametrize("form", ["npy", "safetensors", "8", "4", "1", "parquet", "top"])
def test_an_export_of_one_run_teaches_another(tiny_settings: Settings, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    first = run(tiny_settings("BPR", distillers=[], epochs=2, embedding_size=12, latency_users=0))
    out, kinds = (
        tmp_path / "export",
        {"npy": {}, "parquet": {"kind": "parquet"}, "safetensors": {"kind": "safetensors"}},
    )
    more: dict[str, Any] = {"bits": int(form)} if form.isdigit() else kinds.get(form, {"top": 20})
    export(Request(Path(first["checkpoints"]["student"]), out, **more))
    if form == "top":
        card = json.loads((out / "card.json").read_text())
        assert card["top"]
    record = run(tiny_settings("BPR", **RRD, teacher_export=str(out)))
    teacher = record["teacher"]
    assert teacher["model"] == "Export" and teacher["settings"]["model"] == "BPR"
    assert teacher["trusted"] is False, "the card names this run's very split"
    assert not any("comes as files" in warning for warning in record["warnings"])
    if form in ("npy", "safetensors", "parquet", "top"):
        assert teacher["test"] == pytest.approx(first["distilled"]["test"])


def test_a_checkpoint_and_its_export_teach_the_same(tiny_settings: Settings, tmp_path: Path) -> None:
    first = run(tiny_settings("BPR", distillers=[], epochs=2, embedding_size=12, latency_users=0))
    checkpoint = first["checkpoints"]["student"]
    export(Request(Path(checkpoint), tmp_path / "export"))
    by_file = run(tiny_settings("BPR", **RRD, teacher_checkpoint=checkpoint))
    by_export = run(tiny_settings("BPR", **RRD, teacher_export=str(tmp_path / "export")))
    assert by_export["distilled"]["test"] == by_file["distilled"]["test"]


def test_shuffled_ids_give_the_same_knowledge(tiny_settings: Settings, whole: Path, tmp_path: Path) -> None:
    content = dict(np.load(whole))
    draw = np.random.default_rng(1)
    for side in ("user", "item"):
        order = draw.permutation(len(content[f"{side}_ids"]))
        for name in (f"{side}_ids", f"{side}_embeddings"):
            content[name] = content[name][order]
    np.savez(tmp_path / "shuffled.npz", **content)
    one, other = (
        knowledge(tiny_settings("BPR", **RRD, teacher_export=str(file)))[0]
        for file in (whole, tmp_path / "shuffled.npz")
    )
    assert one.folder != other.folder
    for side in ("user", "item"):
        assert np.array_equal(one.embeddings(side), other.embeddings(side)) and one.known(side) is None
    assert np.array_equal(one.top_items(10), other.top_items(10))


def test_matched_rows_are_those_of_their_ids(tiny_settings: Settings, partial: Path, data: Data) -> None:
    found, _ = knowledge(tiny_settings("BPR", **RRD, teacher_export=str(partial)))
    content = dict(np.load(partial))
    for side, own in zip(("user", "item"), tokens(data)):
        known, table = found.known(side), found.embeddings(side)
        places = {one: row for row, one in enumerate(content[f"{side}_ids"].tolist())}
        for number, token in enumerate(own, 1):
            assert known[number] == (token in places)
            wanted = content[f"{side}_embeddings"][places[token]] if token in places else 0
            assert np.array_equal(table[number], np.broadcast_to(wanted, table[number].shape))


def test_partial_overlap_trains_by_every_method(
    tiny_settings: Settings, partial: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    record = run(tiny_settings("BPR", **ALL, teacher_export=str(partial), state="INFO"))
    assert all(np.isfinite(value) for value in record["distilled"]["test"].values())
    assert record["teacher"]["trusted"] is True
    (warning,) = (one for one in record["warnings"] if "comes as files" in one)
    assert "nothing shows that it has not seen this run's test items" in warning
    (line,) = (one.getMessage() for one in caplog.records if "knows" in one.getMessage())
    assert "20 of this run's 30 users (10 are new to it, 2 of its own are not in these data)" in line
    assert "35 of this run's 40 items (5 are new to it, 1 of its own are not in these data)" in line


@pytest.mark.parametrize("scores", [False, True], ids=["ranks", "scores"])
@pytest.mark.parametrize("form", ["csv", "npz", "parquet"])
def test_rankings_teach(
    tiny_settings: Settings, data: Data, tmp_path: Path, form: str, scores: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(data, 15, scores, some=25)
    np.random.default_rng(0).shuffle(rows)  # type: ignore[arg-type]
    file = tmp_path / f"lists.{form}"
    names = ["user_id", "item_id", "rank", *(["score"] if scores else [])]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    if form == "csv":
        write_csv(file, rows, scores)
    elif form == "npz":
        np.savez(file, **{name: np.array(values) for name, values in columns.items()})
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table(columns), file)
    record = run(tiny_settings("BPR", **{**(OF_SCORES if scores else OF_RANKINGS), "compare_student": True},
                               teacher_export=str(file)))  # fmt: skip
    assert all(np.isfinite(value) for value in record["distilled"]["test"].values())
    assert any("is not evaluated (-)" in warning for warning in record["warnings"])
    assert all(share is None for share in record["gap_recovered"].values())
    table = capsys.readouterr()
    assert "nan" not in table.out + table.err
    main(["report", str(Path(record["path"]).parent)])
    assert "nan" not in capsys.readouterr().out


def test_rankings_are_the_files_own_without_training_items(tiny_settings: Settings, data: Data, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "lists.csv", rows_of(data, 12, False, some=25), False)
    found, _ = knowledge(tiny_settings("BPR", **RRD, teacher_export=str(file)))
    users, items = tokens(data)
    wanted: dict[int, list[int]] = {number: [] for number in range(len(users) + 1)}
    for user, item, _rank in rows_of(data, 12, False, some=25):
        number, row = users.index(user) + 1, items.index(item) + 1
        own = data.history.items[data.history.indptr[number] : data.history.indptr[number + 1]]
        if row not in own:
            wanted[number].append(row)
    top = found.top_items(30)
    for number, ranking in wanted.items():
        assert [one for one in top[number].tolist() if one] == ranking
    assert found.known("item") is None and found.known("user")[1:].tolist() == [bool(wanted[n]) for n in range(1, 31)]


def test_an_export_teaches_beside_others(tiny_settings: Settings, partial: Path, data: Data, tmp_path: Path) -> None:
    lists = write_csv(tmp_path / "lists.csv", rows_of(data, 12, False), False)
    teachers = [{"export": str(partial)}, {"model": "BPR", "embedding_size": 12}, {"export": str(lists)}]
    settings = tiny_settings("BPR", **{**ALL, "teachers": teachers, "distillers": ["rrd", "de", "listwise"]})
    record = run(settings)
    assert [one["model"] for one in record["teachers"]] == ["Export", "BPR", "Export"]
    assert all(np.isfinite(value) for value in record["distilled"]["test"].values())
    alone = run({**settings, "teachers": [{"export": str(partial)}, {"export": str(lists)}]})
    assert all(np.isfinite(value) for value in alone["distilled"]["test"].values())


def test_the_key_holds_what_the_files_hold(tiny_settings: Settings, whole: Path, tmp_path: Path) -> None:
    settings = tiny_settings("BPR", **RRD, teacher_export=str(whole))
    first = knowledge(settings)[0].folder
    moved = shutil.copy(whole, tmp_path / "moved.npz")
    assert knowledge({**settings, "teacher_export": str(moved)})[0].folder == first
    content = dict(np.load(whole))
    content["user_embeddings"][0, 0] += 1
    np.savez(whole, **content)
    assert knowledge(settings)[0].folder != first


def test_a_file_that_changes_within_a_run_is_refused(tiny_settings: Settings, whole: Path) -> None:
    _, (teacher,) = knowledge(tiny_settings("BPR", **RRD, teacher_export=str(whole)))
    teacher.forget()
    teacher.load()
    teacher.forget()
    np.savez(whole, **{**dict(np.load(whole)), "more": np.zeros(2)})
    with pytest.raises(DataError, match="has changed since this run began"):
        teacher.load()


def test_a_whole_teacher_can_start_a_student(tiny_settings: Settings, whole: Path, partial: Path) -> None:
    settings = tiny_settings("BPR", **{**RRD, "compare_student": False, "embedding_size": 4, "warm_start": "svd"})
    assert run({**settings, "teacher_export": str(whole)})["distilled"]["test"]
    with pytest.raises(OptionError, match="knows all of this run's users and items"):
        run({**settings, "teacher_export": str(partial)})
    with pytest.raises(OptionError, match="at least the student's 8 dimensions"):
        run({**settings, "embedding_size": 8, "teacher_export": str(whole)})


@pytest.mark.parametrize(
    ("methods", "kind", "words"),
    [
        (["de"], "lists", "de needs embeddings of users and items, and the teacher '.*' has rankings without scores"),
        (["cpd"], "scored", "cpd needs embeddings of users and items, and the teacher '.*' has rankings\\."),
        (["listwise"], "lists", "listwise needs a score of each item .* use distillers that need none: .*rrd"),
        (["hetcomp"], "whole", "hetcomp follows the training of its teachers.*hetcomp_trajectory: False"),
    ],
)
def test_what_the_files_lack_is_refused_before_any_training(
    tiny_settings: Settings, data: Data, whole: Path, tmp_path: Path, methods: list[str], kind: str, words: str
) -> None:
    scored = kind == "scored"
    lists = write_csv(tmp_path / "lists.csv", rows_of(data, 12, scored), scored)
    settings = tiny_settings("BPR", **{**RRD, "distillers": methods})
    settings["teacher_export"] = str(whole if kind == "whole" else lists)
    with pytest.raises(OptionError, match=words):
        check_run(DistillConfig("BPR", "tiny", config_dict=settings))


def test_hetcomp_learns_from_the_finished_teacher(tiny_settings: Settings, partial: Path) -> None:
    settings = tiny_settings("BPR", **{**RRD, "distillers": ["hetcomp"], "hetcomp_trajectory": False, "hetcomp_k": 5,
                                       "hetcomp_top_n": 10, "hetcomp_discrepancy_k": 5,
                                       "teacher_export": str(partial)})  # fmt: skip
    assert all(np.isfinite(value) for value in run(settings)["distilled"]["test"].values())


def test_options_that_contradict_each_other(tiny_settings: Settings) -> None:
    for more, words in (
        ({"teacher_export": "a", "teacher_checkpoint": "b"}, "both name the teacher"),
        ({"teacher_export": "a", "teachers": ["BPR"]}, "both name the teacher"),
        ({"teachers": [{"export": "a", "embedding_size": 4}]}, "take out embedding_size"),
        ({"teachers": [{"export": 3}]}, "must be a text"),
    ):
        with pytest.raises(OptionError, match=words):
            DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **RRD, **more))


CODE = {"user_ids": np.array([object()], dtype=object)}
HEAD = "user_id,item_id,rank,score\n"
BAD_ARRAYS: list[tuple[dict[str, Any], str]] = [
    ({"user_ids": ["a", "a"]}, "user ids hold 'a' twice"),
    ({"user_ids": [1.5, 2.5]}, "not a list of texts or whole numbers"),
    ({"user_ids": ["a"]}, "not 1 rows of numbers"),
    ({"user_embeddings": np.full((2, 3), np.nan)}, "the embedding of the user 'a' is no finite number"),
    ({"user_embeddings": np.full((2, 3), 1e300)}, "is no finite number"),
    ({"user_embeddings": np.zeros((2, 4))}, "users have 4 dimensions and items 3"),
    ({"item_embeddings": np.zeros(3)}, "the embeddings of the items"),
    ({"user_ids": np.array(["a", None], dtype=object)}, "no .npz file of plain arrays"),
]


@pytest.mark.parametrize(("change", "words"), BAD_ARRAYS, ids=lambda one: one if isinstance(one, str) else "")
def test_bad_arrays_are_a_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    good = {
        "user_ids": ["a", "b"],
        "item_ids": [1, 2],
        "user_embeddings": np.eye(2, 3),
        "item_embeddings": np.eye(2, 3),
    }
    file = tmp_path / "x.npz"
    np.savez(file, **{name: np.array(value) for name, value in good.items()})
    assert read_exported(file).ids["item"] == ["1", "2"]
    np.savez(file, **{name: np.array(value) for name, value in {**good, **change}.items()})
    with pytest.raises(DataError, match=words):
        read_exported(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names the columns"),
        ("user_id,item_id\na,b\n", "need user_id, item_id and rank"),
        (HEAD, "there is no row in it"),
        (HEAD + "a,x,1\n", "row 2 of 'x.csv' has 3 columns, not 4"),
        (HEAD + "a,x,one,1\n", "row 2 of 'x.csv' is none of a ranking"),
        (HEAD + "a,x,0,1\n", "a rank is 0, and ranks go from 1"),
        (HEAD + "a,x,1,2\na,y,1,1\n", "the ranking of 'a' has two items of one rank"),
        (HEAD + "a,x,1,2\na,x,2,1\n", "the ranking of 'a' holds the item 'x' twice"),
        (HEAD + "a,x,1,1\na,y,2,2\n", "the ranking of 'a' has scores that rise with the rank"),
        (HEAD + "a,x,1,nan\n", "a score is no finite number"),
        (HEAD + "a,x,99999999999999999999,1\n", "holds a rank that is none"),
        (HEAD + '"a,x,1,1\n', "is no CSV text"),
    ],
)
def test_bad_rankings_are_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_exported(tmp_path / "x.csv")


def test_bad_paths_end_with_code_2(
    tmp_path: Path, tiny_settings: Settings, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_settings("BPR", **RRD)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "x.pth").write_bytes(b"")
    np.savez(tmp_path / "others.npz", **{**dict(np.load(whole)), "user_ids": [f"z{n}" for n in range(30)]})
    for name, words in {
        "nowhere": "there is no such file or folder", "empty": "the folder holds neither card.json",
        "x.pth": "it is no .npz",
        "text.npz": "no .npz file of plain arrays", "text.parquet": "Parquet",
        "others.npz": "knows none of this run's users",
    }.items():  # fmt: skip
        code = main(["-m", "BPR", "-d", "tiny", *(f"--{key}={value}" for key, value in settings.items()),
                     f"--teacher_export={tmp_path / name}"])  # fmt: skip
        told = capsys.readouterr()
        assert code == 2 and words in told.out + told.err, name
    assert not list(Path(settings["checkpoint_dir"]).rglob("*.pth"))


def test_a_damaged_export_is_refused(tiny_settings: Settings, tmp_path: Path) -> None:
    first = run(tiny_settings("BPR", distillers=[], epochs=1, latency_users=0))
    out = tmp_path / "export"
    export(Request(Path(first["checkpoints"]["student"]), out))
    for name in ("users.npy", "item_ids.jsonl", "card.json"):
        file, before = out / name, (out / name).read_bytes()
        file.write_bytes(before[:-3] + bytes([before[-3] ^ 1]) + before[-2:])
        with pytest.raises(DistillError, match="damaged"):
            read_exported(out)
        file.write_bytes(before)
    assert read_exported(out).card


@pytest.mark.slow
def test_an_export_teaches_on_ml_100k(tmp_path: Path) -> None:
    """The wide model's export in 4 bits lifts a narrow student above the plain one."""
    common = {"checkpoint_dir": str(tmp_path / "saved"), "record_dir": str(tmp_path / "records"), "epochs": 15,
              "latency_users": 0, "show_progress": False, "state": "WARNING"}  # fmt: skip
    wide = run_recbole_derrd("BPR", "ml-100k", config_dict={**common, "distillers": [], "embedding_size": 64})
    export(Request(Path(wide["checkpoints"]["student"]), tmp_path / "export", bits=4))
    full = {"distillers": ["de", "rrd"], "de_sample": 1, "rrd_sample": 1}
    narrow = {**common, **full, "embedding_size": 8, "teacher_export": str(tmp_path / "export")}
    record = run_recbole_derrd("BPR", "ml-100k", config_dict=narrow)
    teacher, student, distilled = (record[role]["test"]["ndcg@10"] for role in ("teacher", "student", "distilled"))
    assert teacher > distilled > student + 0.01
