"""Shrinking: the ways to spend a budget, the plans, and a whole one from a checkpoint to what is served."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_derrd.cli import main
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options import RunOptions
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.experiment.plans import Sizes, refining
from recbole_derrd.experiment.refine import OF_THE_PLANS
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.serving import Recommender
from recbole_derrd.shrinking import Budget, shrink
from recbole_derrd.shrinking.budget import Codebooks, Split, read_size, splits_of_bytes, splits_of_total
from recbole_derrd.shrinking.outcome import Row
from recbole_derrd.shrinking.plan import coded_settings, plain_settings
from recbole_derrd.shrinking.shrink import _of_the_settings, _Shrinking
from recbole_derrd.training.checkpoint import read_checkpoint

pytestmark = [pytest.mark.whole_run, pytest.mark.usefixtures("few_rounds")]

# -- budgets


@given(item_bytes=st.integers(1, 256), most=st.integers(8, 256))
def test_no_split_takes_more_than_its_bytes_or_leaves_more_than_a_quarter_of_them(item_bytes: int, most: int) -> None:
    try:
        splits = splits_of_bytes(item_bytes, most)
    except OptionError as error:
        # The sentence names all that can be: one byte more cannot.
        last = int(re.search(r"give from 1 to (\d+) ", str(error))[1])  # type: ignore[index]
        assert item_bytes > last >= most
        assert splits_of_bytes(last, most) and splits_of_bytes(1, most)
        with pytest.raises(OptionError, match=f"give from 1 to {last} "):
            splits_of_bytes(last + 1, most)
        return
    for split in splits:
        assert 3 * item_bytes <= 4 * split.item_bytes <= 4 * item_bytes and 4 <= split.size <= most
    assert [split.bits for split in splits] == sorted({split.bits for split in splits})


def test_splits_by_hand() -> None:
    assert splits_of_bytes(10, 200) == [Split(80, 1), Split(40, 2), Split(20, 4), Split(10, 8)]
    # One bit of 64 dimensions would leave more than half of 20 bytes.
    assert splits_of_bytes(20, 64) == [Split(64, 2), Split(40, 4), Split(20, 8)]
    assert splits_of_bytes(2, 200) == [Split(16, 1), Split(8, 2), Split(4, 4)]


def test_teachers_of_few_dimensions_by_hand() -> None:
    with pytest.raises(
        OptionError, match="40 bytes an item are too many for a teacher of 16 dimensions: give from 1 to 21"
    ):
        splits_of_bytes(40, 16)
    # 4 dimensions take 1, 2 or 4 bytes, and at most a quarter of the bytes is left over.
    with pytest.raises(
        OptionError, match=r"3 bytes an item cannot be spent for a teacher of 4 .*: give one of 1, 2, 4, 5"
    ):
        splits_of_bytes(3, 4)
    for ways in (lambda: splits_of_bytes(2, 3), lambda: splits_of_total(10**6, 10, 10, 3)):
        with pytest.raises(OptionError, match="has 4 dimensions or more, and a teacher of 3"):
            ways()


@given(users=st.integers(2, 500), items=st.integers(2, 500), most=st.integers(4, 64), share=st.floats(0.01, 1.2))
def test_splits_of_a_whole_fit_and_one_dimension_more_would_not(
    users: int, items: int, most: int, share: float
) -> None:
    total = int(share * 4 * most * (users + items))
    try:
        splits = splits_of_total(total, users, items, most)
    except OptionError:
        assert Split(4, 1, 8).total(users, items) > total
        return
    for split in splits:
        assert split.total(users, items) <= total
        assert split.size == most or Split(split.size + 1, split.bits, 8).total(users, items) > total


@pytest.mark.parametrize(
    ("text", "size"),
    [(2000, 2000), ("1MB", 10**6), ("250kB", 250_000), ("1.5 mb", 1_500_000), ("4096", 4096), ("2GB", 2 * 10**9)],
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert read_size(text) == size
    Budget(size=text).check()


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1TB", "0", "1e6", "nan", 0, -1, True])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(OptionError, match="--size cannot be"):
        read_size(text)


def test_how_many_times_smaller_can_be_is_said() -> None:
    """Of 4,608 bytes the smallest student's 309 are a 14.9th."""
    with pytest.raises(
        OptionError, match=r"has 4,608 bytes. 9 bytes are too few .* takes 309. Give --times=14.9 or less"
    ):
        Budget(times=500.0).splits(31, 41, 4608, 16)
    assert Budget(times=14.9).splits(31, 41, 4608, 16)
    with pytest.raises(OptionError, match=r"takes 309\.$"):
        Budget(times=2.0).splits(31, 41, 310, 16)


@pytest.mark.parametrize("given_budget", [{}, {"item_bytes": 8, "times": 2.0}, {"size": "1MB", "times": 2.0}])
def test_one_budget_is_given(given_budget: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="one of --bytes"):
        Budget(**given_budget).check()


# -- plans


@given(
    users=st.integers(10, 10**6), items=st.integers(40, 10**6), per_user=st.floats(2, 200),
    teacher=st.one_of(st.none(), st.integers(4, 512)),
)  # fmt: skip
def test_plans_are_options_that_a_run_takes(users: int, items: int, per_user: float, teacher: int | None) -> None:
    sizes = Sizes(users, items, int(users * per_user), teacher)
    refined = refining(sizes)
    assert refined["embedding_size"] <= min(teacher or 128, 256, users, items)
    if "ir_rrd" in refined["distillers"]:
        assert refined.get("ir_rrd_k", 40) + refined.get("ir_rrd_l", 40) <= items
    coded = coded_settings(sizes, Split(8, 1))
    steps = sizes.interactions / coded["train_batch_size"]
    # All users pass by once an epoch, some 512 a step or more, but for rows and scores that are too many.
    assert steps <= max(min(12, users / 512 + 1), sizes.interactions / 2**20 + 1)
    assert coded["train_batch_size"] <= 2**20
    assert 0 < coded["listwise_sample"] <= 1
    for plan in (refined, {**coded, "embedding_size": 8}):
        DistillConfig("BPR", "ml-100k", config_dict={**plan, "teacher": {"embedding_size": 512}})


def test_an_epoch_is_one_of_minutes_on_large_data() -> None:
    """As many users as 4e9 scores allow, and a step's rows in memory: of a million users or a million items too."""
    for users, items, rows in (
        (1_000_000, 500_000, 100_000_000),
        (140_000, 27_000, 20_000_000),
        (30_000, 41_000, 700_000),
    ):
        plan = coded_settings(Sizes(users, items, rows, 128), Split(64, 2))
        steps = math.ceil(rows / plan["train_batch_size"])
        # As many of the users are in a batch of these rows.
        distinct = users * (1 - (1 - 1 / users) ** plan["train_batch_size"])
        looked_at = steps * plan["listwise_sample"] * distinct
        # 512 a step are the fewest; a share has four digits.
        assert looked_at * items <= max(4e9, 512 * steps * items) + steps * 1e-4 * distinct * items
        assert looked_at >= 0.9 * min(users, 4e9 / items)


def test_many_interactions_teach_more_than_the_teachers_order() -> None:
    """On Gowalla the refined teacher of the other plan is no better than the teacher; CiteULike's few stay with it."""
    few, many = Sizes(5_000, 25_000, 100_000, 64), Sizes(30_000, 40_000, 700_000, 64)
    assert refining(few)["distillers"] == ["ir_rrd", "listwise"] and "base_weight" not in refining(few)
    own = refining(many)
    assert own["distillers"] == ["listwise"] and own["listwise_labels"] > 0 and own["base_weight"] == 0
    # A model without embeddings gives no start, and the student's own loss has to find one.
    from_chance = refining(dataclasses.replace(many, teacher=None))
    assert from_chance["warm_start"] == "none" and "base_weight" not in from_chance
    # Codes of many bits are soon at their best, but not where there is much to learn.
    assert coded_settings(few, Split(64, 4))["epochs"] < coded_settings(many, Split(64, 4))["epochs"]
    assert (
        plain_settings(few, 8, users=False)["train_batch_size"]
        < plain_settings(many, 8, users=False)["train_batch_size"]
    )
    assert coded_settings(few, Split(64, 2))["epochs"] == coded_settings(many, Split(64, 2))["epochs"]


# -- a whole shrinking


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> tuple[Path, list[str]]:
    """A model of 16 dimensions on the tiny data, and settings under which shrinking it is quick."""
    folder = tmp_path_factory.mktemp("shrinking")
    keys = {
        "data_path": str(tiny_data), "checkpoint_dir": str(folder / "teacher"), "record_dir": str(folder / "records"),
        "distillers": [], "embedding_size": 16, "epochs": 30, "train_batch_size": 128, "latency_users": 0,
        "metrics": ["NDCG", "Recall"], "topk": [5], "valid_metric": "NDCG@5", "show_progress": False,
    }  # fmt: skip
    record = run_recbole_derrd("BPR", "tiny", config_dict=keys)
    own = [f"--{key}={folder / key}" for key in ("checkpoint_dir", "record_dir")]
    return Path(record["checkpoints"]["student"]), [*own, f"--data_path={tiny_data}", "--epochs=3"]


def test_a_model_is_shrunk_and_served(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    checkpoint, settings = trained
    said: list[str] = []
    outcome = shrink(checkpoint, Budget(item_bytes=2), tmp_path / "small", settings, tell=said.append)
    assert outcome.shrunk.item_bytes == 2 + 2
    assert [row.name.split(":")[0] for row in outcome.rows] == [
        "Teacher", "Student alone, 2 dimensions in 8 bits", "Teacher, untrained", "Refined teacher", "Shrunk",
    ]  # fmt: skip
    assert any("this is trained" in choice for choice in outcome.choices)
    assert all(choice in said for choice in outcome.choices)
    # A report shows what the teacher was given, and not all that its checkpoint states.
    stated = json.loads(Path(outcome.record).read_text(encoding="utf-8"))["teacher"]["settings"]
    assert {"eval_args", "metrics", "topk", "valid_metric"} < set(stated)
    assert not {"USER_ID_FIELD", "field_separator", "repeatable", "load_col"} & set(stated)
    # What is served are the student's own codes.
    content = read_checkpoint(outcome.checkpoint)
    served = Recommender.load(tmp_path / "small")
    items = content["state_dict"]["item_embedding.weight"][1:]
    users = content["state_dict"]["user_embedding.weight"][1:]
    steps = content["table_steps"]["item_embedding"]
    assert len(items[0].unique()) <= 2 ** steps["bits"]
    wanted = (users @ items.T).numpy()
    for row, user in enumerate(served.user_ids[:5]):
        _, scores = zip(*served.recommend(user, k=5, exclude_seen=False))
        np.testing.assert_allclose(sorted(scores, reverse=True), np.sort(wanted[row])[::-1][:5], rtol=1e-5)
    assert "Shrunk" in outcome.table() and "bytes an item" in outcome.table()


@pytest.mark.parametrize(
    ("item_bytes", "items", "most", "found"),
    [
        (10, 327_680, 128, (10, 128)),  # 10 * 256 * 128 numbers of 2 bytes are 2 bytes an item
        (10, 327_679, 128, (10, 127)),
        (10, 204_800, 128, (10, 80)),  # as many as signs
        (10, 204_799, 128, None),
        (1, 10_000_000, 128, (1, 32)),
        (20, 10_000_000, 64, None),  # 2 bits and a half a dimension
        (16, 10_000_000, 64, (16, 64)),
    ],
)
def test_codebooks_that_take_no_more_than_scales(
    item_bytes: int, items: int, most: int, found: tuple[int, int] | None
) -> None:
    assert Budget(item_bytes=item_bytes).codebooks(items, most) == (found and Codebooks(*found))
    assert Budget(times=10).codebooks(items, most) is None


def test_a_large_catalogue_is_shrunk_to_codebooks_too(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the tiny one were large, and the codes in bits much worse."""
    checkpoint, settings = trained
    monkeypatch.setattr(Budget, "codebooks", lambda self, items, most: Codebooks(2, 6))
    monkeypatch.setattr(_Shrinking, "_worth_a_training", lambda self, found: [])
    outcome = shrink(checkpoint, Budget(item_bytes=2), tmp_path / "small", settings, compare_student=False)
    assert outcome.rows[-1].name == "Shrunk: 2 codebooks of 6 dimensions" and outcome.shrunk.item_bytes == 2
    assert any("codebooks hardly count" in choice for choice in outcome.choices)
    content = read_checkpoint(outcome.checkpoint)
    assert content["table_steps"]["item_embedding"]["codes"].shape[1] == 2
    served = Recommender.load(tmp_path / "small")
    wanted = (content["state_dict"]["user_embedding.weight"] @ content["state_dict"]["item_embedding.weight"][1:].T)[1]
    (best, *_) = served.recommend(served.user_ids[0], k=5, exclude_seen=False)
    assert best.score == pytest.approx(float(wanted.max()), rel=1e-5)


def test_a_checkpoint_is_one_teacher_for_all_of_its_students(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Plans of several splits have several batches and rates: the refined teacher is trained once."""
    checkpoint, settings = trained
    own = [one for one in settings if "_dir=" not in one] + [f"--checkpoint_dir={tmp_path}", f"--record_dir={tmp_path}"]
    shrink(checkpoint, Budget(item_bytes=2), None, own, compare_student=False)
    folders = [path for path in (tmp_path / "cache").iterdir() if (path / "result.json").exists()]
    assert sorted(path.name.split("-")[0] for path in folders) == ["BPR", "Refined"]


def test_the_command_shrinks_to_a_size_of_the_whole(
    trained: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, settings = trained
    arguments = ["shrink", str(checkpoint), "--times=6", f"--out={tmp_path / 'small'}", "--without-plain", *settings]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "Shrunk" in said and f"Export:  {tmp_path / 'small'}" in said and "Student alone" not in said
    content = read_checkpoint(checkpoint)["state_dict"]
    whole = sum(4 * table.numel() for table in content.values() if isinstance(table, torch.Tensor))
    assert sum(file.stat().st_size for file in (tmp_path / "small").glob("*s.*.npy") if "seen" not in file.name) < whole


def test_the_teachers_of_a_runs_settings_are_shrunk(
    trained: tuple[Path, list[str]], tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a config file: a teacher that is trained first, by the settings of the file and not by those of the plan."""
    _, settings = trained
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: NeuMF\ndataset: tiny\nteacher_model: LightGCN\nteacher: {embedding_size: 16, n_layers: 1}\n"
        "learning_rate: 0.03\ndistillers: [de]\nmetrics: [NDCG]\ntopk: [5]\nvalid_metric: NDCG@5\nlatency_users: 0\n"
        "show_progress: False\n"
    )
    own = [one for one in settings if not one.startswith("--record_dir")]
    records = tmp_path / "r"
    arguments = [f"--config_files={file}", "--bytes=2", "--without-plain", f"--record_dir={records}", *own]
    assert main(["shrink", *arguments]) == 0
    said = capsys.readouterr().out
    assert "Refined teacher" in said and "Shrunk" in said and "none of their distillers, learning_rate;" in said
    (record,) = [json.loads(path.read_text()) for path in sorted(records.glob("*.json"))][-1:]
    assert record["teacher"]["model"] == "LightGCN" and record["teacher"]["settings"]["learning_rate"] == 0.03
    assert main(["shrink", f"--config_files={file}", "saved/BPR.pth", "--bytes=2"]) == 2
    file.write_text("model: BPR\ndataset: tiny\n")
    assert main(["shrink", f"--config_files={file}", f"--data_path={tiny_data}", "--bytes=2"]) == 2
    assert "Which model?" in capsys.readouterr().err


@pytest.fixture
def of_a_file(tiny_data: Path, tmp_path: Path) -> list[str]:
    """Name a file of a run that leaves most settings of its teacher to RecBole."""
    (tmp_path / "run.yaml").write_text(
        f"model: BPR\ndataset: tiny\ndata_path: {tiny_data}\nteacher: {{embedding_size: 16, epochs: 2}}\n"
        "metrics: [NDCG]\ntopk: [5]\nvalid_metric: NDCG@5\nlatency_users: 0\nshow_progress: False\n"
        f"checkpoint_dir: {tmp_path / 'saved'}\nrecord_dir: {tmp_path / 'r'}\nteacher_refine: {{epochs: 4}}\n"
    )
    return ["shrink", f"--config_files={tmp_path / 'run.yaml'}", "--bytes=2", "--epochs=2"]


def _records(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "r").glob("*.json"))]


def test_the_teacher_of_the_table_is_that_of_the_runs(of_a_file: list[str], tmp_path: Path) -> None:
    """A plan has settings that the file leaves to RecBole: no teacher may take them over."""
    assert main([*of_a_file, "--without-plain"]) == 0
    models = sorted(path.parent.name.split("-")[0] for path in (tmp_path / "saved" / "cache").glob("*/model.pth"))
    assert models == ["BPR", "Refined"]
    assert all(record["teacher"]["found"] and record["refined"]["found"] for record in _records(tmp_path))


def test_settings_of_files_that_do_not_hold_are_named(tiny_settings: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: NeuMF\nteacher_model: BPR\nepochs: 2\nteacher_refine: {epochs: 3}\n")
    (tmp_path / "b.yaml").write_text("learning_rate: 0.1\nlistwise_labels: 0.5\nrrd_k: 3\nmetrics: [NDCG]\n")
    data = prepare_data(DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR")))
    said: list[str] = []
    shrinking = _Shrinking.__new__(_Shrinking)
    shrinking.files, shrinking._tell = [tmp_path / "a.yaml", tmp_path / "b.yaml"], said.append
    shrinking.given = {"learning_rate": 0.2}
    shrinking._tell_of_the_files(data)
    assert len(said) == 1 and "takes none of their epochs, listwise_labels;" in said[0]
    shrinking.files = []
    shrinking._tell_of_the_files(data)
    assert len(said) == 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that nobody may write")
def test_a_place_that_cannot_be_is_refused_at_once() -> None:
    """To the caller of the function, too: no export is worth trainings that it cannot keep."""
    with pytest.raises(OptionError, match=r"Cannot write to --out = '/proc/nope/small': .*\. Choose another folder"):
        shrink("absent.pth", Budget(item_bytes=4), "/proc/nope/small")


def test_a_teachers_name_is_enough(tiny_settings: Any) -> None:
    """The student of a shrinking is a BPR, whoever teaches."""
    keys = {key: value for key, value in tiny_settings("BPR").items() if key not in ("metrics", "topk")}
    given = [f"--{key}={value}" for key, value in {**keys, "valid_metric": "NDCG@10"}.items()]
    for model in ("LightGCN", "BPR"):
        assert _of_the_settings([], (*given, "--dataset=tiny", f"--teacher_model={model}"))["teacher_model"] == model
    assert _of_the_settings([], (*given, "--dataset=tiny", "--teacher={epochs: 2}"))["teacher_model"] == "BPR"
    own = (*given, "--dataset=tiny", "--model=NeuMF", "--teacher={epochs: 2}")
    assert _of_the_settings([], own)["teacher_model"] == "NeuMF"


def test_what_is_worth_a_training() -> None:
    shrinking = _Shrinking.__new__(_Shrinking)
    shrinking.metric, shrinking.sign = "ndcg@5", 1
    rows = [(Row(str(value), {}, {"ndcg@5": value}, None, None, None, None), Split(8, bits))
            for value, bits in ((0.5, 2), (0.49, 4), (0.1, 8), (math.nan, 1))]  # fmt: skip
    assert sorted(reversed(rows), key=lambda one: shrinking._rank(one[0])) == rows
    assert [split.bits for split in shrinking._worth_a_training(rows)] == [2, 4]
    with pytest.raises(DataError, match="No codes have a ndcg@5 on the validation split"):
        shrinking._worth_a_training(rows[3:])


def test_the_split_of_a_file_is_that_of_the_export(
    of_a_file: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seed is no setting of RecBole's; and an export that fails takes no table with it."""
    with open(tmp_path / "run.yaml", "a") as file:
        file.write("split_seed: 5\n")
    arguments = [*of_a_file, "--without-plain", f"--out={tmp_path / 'small'}"]
    assert main(arguments) == 0
    assert f"Export:  {tmp_path / 'small'}" in capsys.readouterr().out

    def failing(request: Any) -> None:
        raise OptionError("The disk is full.")

    monkeypatch.setattr(sys.modules["recbole_derrd.shrinking.shrink"], "export", failing)
    assert main([*arguments, "--force"]) == 2
    said = capsys.readouterr()
    assert "The disk is full." in said.err and "Shrunk: " in said.out and "Student: " in said.out


@pytest.mark.slow
def test_settings_of_the_refined_teacher_are_the_files_and_the_commands(of_a_file: list[str], tmp_path: Path) -> None:
    assert main([*of_a_file, "--without-plain"]) == 0
    assert {record["refined"]["epochs"] for record in _records(tmp_path)} == {4}
    assert main([*of_a_file, "--teacher_refine={epochs: 3}"]) == 0
    taught = [record for record in _records(tmp_path) if record["distillers"]]
    assert {record["refined"]["epochs"] for record in taught} == {3, 4}
    assert all(record["distilled"]["epochs"] == 2 for record in taught)


def test_methods_of_the_command_line_leave_the_student_alone_alone(
    of_a_file: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*of_a_file, "--distillers=[de]"]) == 0
    assert {tuple(record["distillers"]) for record in _records(tmp_path)} == {(), ("de",)}
    said = capsys.readouterr().out
    assert "learns by de." in said and "learns by listwise" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--teacher_refine=False"], "learns from the refined teacher"),
        (["--teacher_refine=perhaps"], "must be bool or dict"),
        (["--embedding_size=8"], "The bytes decide 'embedding_size'"),
        (["--student_bits=8"], "The bytes decide 'student_bits'"),
        (["--rrd_weight=1"], "Not among the distillers: rrd. So --rrd_weight has no effect"),
        (["--teacher_refine={distillers: [de], de_weight: -1}"], "de_weight"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_a_teacher_is_trained(
    of_a_file: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([*of_a_file, *arguments]) == 2
    assert words in capsys.readouterr().err and not list((tmp_path / "saved").glob("cache/*/model.pth"))


@pytest.mark.parametrize("budget", ["--bytes=64", "--size=90", "--times=500"])
def test_a_budget_that_cannot_be_is_refused_before_a_teacher_is_trained(
    of_a_file: list[str], tmp_path: Path, budget: str
) -> None:
    assert main([*(one for one in of_a_file if not one.startswith("--bytes")), budget]) == 2
    assert not list((tmp_path / "saved").glob("cache/*/model.pth"))


def test_teachers_are_given_all_that_plans_set() -> None:
    sizes = Sizes(1000, 1000, 20_000, 64)
    ours = {*RunOptions.keys()}
    for plan in (refining(sizes), coded_settings(sizes, Split(8, 4)), plain_settings(sizes, 8, users=True)):
        assert {key for key in plan if not key.startswith(("ir_rrd_", "listwise_"))} - ours <= {*OF_THE_PLANS}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bytes=8", "--times=2"], "one of --bytes"),
        ([], "one of --bytes"),
        (["--bytes=0"], "--bytes must be a whole number"),
        (["--bytes=400"], "too many for"),
        (["--size=nothing"], "--size cannot be"),
        (["--size=90"], "too few for"),
        (["--times=1"], "above 1"),
        (["--times=much"], "--times must be a number"),
        (["--bytes=2", "--out=."], "--out must name a new folder"),
        (["--bytes=2", f"--out={__file__}/small"], "Not a directory. Choose another folder."),
        (["--bytes=2", f"--out={'a' * 300}"], "File name too long. Choose another folder."),
        (["--bytes=2", "--nproc=2"], "one process"),
        (["--bytes=2", "--eval_args={split: {RS: [0.8, 0, 0.2]}}"], "eval_args leaves none. Take a teacher whose run"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    trained: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    checkpoint, settings = trained
    assert main(["shrink", str(checkpoint), *arguments, *settings]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and "Traceback" not in captured.err


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pth").write_text("no model")
    assert main(["shrink", str(tmp_path / "text.pth"), "--bytes=8"]) == 2
    assert main(["shrink", str(tmp_path / "absent.pth"), "--bytes=8"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("interactions", "methods"), [(149_999, ["ir_rrd", "listwise"]), (150_000, ["listwise"])])
def test_a_refined_teacher_of_enough_interactions_learns_from_the_users(interactions: int, methods: list[str]) -> None:
    plan = refining(Sizes(5_551, 16_980, interactions, 64))
    assert plan["distillers"] == methods and plan.get("base_weight", 1) == len(methods) - 1
    # Without a start there is nothing that large steps could go on from.
    assert refining(Sizes(5_551, 16_980, interactions, None))["distillers"] == ["ir_rrd", "listwise"]
