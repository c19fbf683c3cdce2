"""Folds given as files: every experiment runs on each, and the report averages them, each row over the folds it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import yaml
from synthetic_records import groups_of, made, part, written

from recbole_derrd.benchmark import runner
from recbole_derrd.benchmark.frontier import read_frontier
from recbole_derrd.benchmark.plan import Plan, read_plan
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.fingerprint import content_digest
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.report.document import report_of
from recbole_derrd.report.reading import read_records

Settings = Callable[..., dict[str, Any]]
NAMES = ["fold0", "fold1", "fold2"]
PARTS = ["train", "valid", "test"]


def plan_of(folder: Path, *arguments: str, **content: Any) -> Plan:
    base = {"model": "BPR", "dataset": "tiny", "data_path": "data", "benchmark_filename": PARTS}
    experiments = [{"name": "plain", "distillers": []}, {"name": "RRD", "distillers": ["rrd"]}]
    whole = {"base": base, "experiments": experiments, "seeds": [1, 2], "folds": NAMES, **content}
    (folder / "toy.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    return read_plan(folder / "toy.yaml", [f"--record_dir={folder / 'records'}", *arguments])


def test_every_experiment_runs_on_every_fold(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    found = [(one.seed, one.fold, one.name) for one in plan.experiments]
    assert found == [(seed, fold, name) for seed in (1, 2) for fold in NAMES for name in ("plain", "RRD")]
    assert len({one.key for one in plan.experiments}) == 12
    assert str(plan.experiments[3]) == "RRD, seed 1, fold 'fold1'"
    for one in plan.experiments:
        assert one.settings["data_path"] == f"data/{one.fold}" and one.settings["benchmark_filename"] == PARTS
        assert one.settings["benchmark"]["fold"] == one.fold and one.settings["benchmark"]["folds"] == NAMES
    rows = {(one.name, one.settings["benchmark"]["settings"]) for one in plan.experiments}
    assert len(rows) == 2, "a row of the table is over all folds"


def test_a_fold_may_be_three_files(tmp_path: Path) -> None:
    files = [[f"{name}{fold}" for name in PARTS] for fold in (0, 1)]
    plan = plan_of(tmp_path, base={"model": "BPR", "dataset": "tiny", "data_path": "data"}, folds=files)
    assert [one.settings["benchmark_filename"] for one in plan.experiments[:4]] == [*[files[0]] * 2, *[files[1]] * 2]
    assert plan.experiments[0].fold == "train0, valid0, test0" and plan.experiments[0].settings["data_path"] == "data"
    assert len({one.settings["benchmark"]["settings"] for one in plan.experiments}) == 2


def test_records_are_known_where_the_data_have_moved(tmp_path: Path) -> None:
    here, there = plan_of(tmp_path), plan_of(tmp_path, "--data_path=elsewhere")
    assert [one.key for one in here.experiments] == [one.key for one in there.experiments]
    assert there.experiments[0].settings["data_path"] == "elsewhere/fold0"
    others = plan_of(tmp_path, folds=["fold0", "fold3", "fold1"])
    keys = {one.key for one in here.experiments}
    # Those of folds that both have; a record that lacks a fold's name is another.
    assert sum(one.key in keys for one in others.experiments) == 8
    assert not keys & {one.key for one in plan_of(tmp_path, folds=[]).experiments}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"folds": [1]}, "must be a folder (a data_path), or the three names of a benchmark_filename"),
        ({"folds": [["train", "test"]]}, "but one is ['train', 'test']"),
        ({"folds": ["a", "./a/"]}, "'folds' names 'a' twice."),
        ({"base": {"model": "BPR", "dataset": "tiny"}}, "is a folder, so 'base' needs benchmark_filename"),
        ({"grid": {"data_path": ["x", "y"]}}, "'folds' chooses the data, so 'data_path' of the experiment"),
        (
            {"experiments": [{"name": "x", "benchmark_filename": PARTS}]},
            "so 'benchmark_filename' of the experiment 'x'",
        ),
        ({"vary": "split"}, "benchmark_filename holds it fixed"),
    ],
)
def test_wrong_folds_are_a_sentence(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        plan_of(tmp_path, **content)
    assert words in str(caught.value)


TEACHER = {"model": "BPR", "dataset": "tiny", "data_path": "data", "benchmark_filename": PARTS}


@pytest.mark.parametrize(
    "brought",
    [
        {"teacher_checkpoint": "x.pth"},
        {"teachers": ["BPR", {"checkpoint": "x.pth"}]},
        {"teachers": ["BPR", {"checkpoint": "x.pth", "trusted": False}], "teacher_trusted": True},
    ],
)
def test_a_teacher_of_one_split_is_refused_once(tmp_path: Path, brought: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"'x.pth' of the experiment 'RRD' .* cannot teach on 3 folds"):
        plan_of(tmp_path, base={**TEACHER, **brought})
    # Of one fold a run sees by itself whether it is that of the teacher.
    assert plan_of(tmp_path, base={**TEACHER, **brought}, folds=NAMES[:1]).experiments
    assert plan_of(tmp_path, base={**TEACHER, **brought}, experiments=[{"name": "plain", "distillers": []}]).experiments
    codes = {"name": "codes", "compress_method": "svd", "compress_size": 4}
    with pytest.raises(OptionError, match="of the experiment 'codes'"):
        plan_of(tmp_path, base={**TEACHER, **brought}, experiments=[codes])


@pytest.mark.parametrize(
    "brought",
    [
        {"teacher_checkpoint": "x.pth", "teacher_trusted": True},
        {"teachers": ["BPR", {"checkpoint": "x.pth", "trusted": True}]},
        {"teacher_checkpoint": None, "teachers": "what the experiment refuses"},
    ],
)
def test_a_trusted_teacher_may_teach_on_all_folds(tmp_path: Path, brought: dict[str, Any]) -> None:
    assert len(plan_of(tmp_path, base={**TEACHER, **brought}).experiments) == 12


def on_fold(method: str, fold: str, score: float, seed: int = 1, content: str = "same", **more: Any) -> dict[str, Any]:
    """A record of a fold, whose files number users and items in an order of their own."""
    record = made(method, seed, score, **more)
    record["split_seed"] = None
    record["data"] = {
        "users": 9, "items": 9, "training_interactions": 80 + int(fold[-1]), "interactions": f"i{fold}",
        "content": content, "fingerprint": {name: f"{name}{fold}" for name in ("ids", *PARTS)},
    }  # fmt: skip
    record["benchmark"].update(fold=fold, folds=NAMES, key=f"{method}{fold}{seed}")
    for role in ("teacher", "student", "distilled"):
        record[role]["settings"]["benchmark_filename"] = [f"{name}{fold}" for name in PARTS]
    record["teacher"] = part("BPR", 0.5 + int(fold[-1]) / 100, 1000, f"teacher{fold}")
    record["student"] = part("BPR", 0.3 + int(fold[-1]) / 100, 100, f"student{fold}{seed}")
    return record


def scores(records: list[dict[str, Any]]) -> list[dict[str, list[float]]]:
    return [{row.label: row.values("ndcg@10") for row in group.ordered()} for group in groups_of(records)]


def test_the_report_averages_folds(tmp_path: Path) -> None:
    records = [on_fold(method, fold, base + place / 50) for method, base in (("DE", 0.4), ("RRD", 0.45))
               for place, fold in enumerate(NAMES)]  # fmt: skip
    (found,) = scores(records)
    assert found["DE"] == pytest.approx([0.4, 0.42, 0.44]) and len(found["RRD"]) == 3
    assert found["Teacher"] == pytest.approx([0.5, 0.51, 0.52]) and len(found["Student alone"]) == 3
    text = report_of(written(tmp_path / "records", records), "md")
    assert "toy, test split, full ranking, seed 1 on 3 folds" in text
    # The mean and the sample standard deviation of 0.40, 0.42 and 0.44.
    assert "0.4200 ± 0.0200" in text and "standard deviation over folds (" in text
    assert "Folds share most of their training data" in text and "Not on all folds" not in text
    seeds = [*records, *(on_fold(method, fold, 0.43, seed=2) for method in ("DE", "RRD") for fold in NAMES)]
    more = report_of(written(tmp_path / "more", seeds), "md")
    assert "2 seeds on 3 folds" in more and "standard deviation over seeds and folds" in more


def test_a_row_that_lacks_a_fold_is_named_and_not_ranked(tmp_path: Path) -> None:
    records = [*(on_fold("DE", fold, 0.4) for fold in NAMES), *(on_fold("RRD", fold, 0.49) for fold in NAMES[:2])]
    text = report_of(written(tmp_path / "records", records), "md")
    assert "Not on all folds of this table: 'RRD' lacks fold2." in text
    assert "**0.4000 ± 0.0000**" in text and "**0.4900" not in text
    some = report_of(written(tmp_path / "some", records[:2]), "md")
    assert "seed 1 on 2 of 3 folds (fold0, fold1)" in some


def test_what_is_not_of_the_same_interactions_is_not_averaged() -> None:
    folds = [on_fold("DE", fold, 0.4) for fold in NAMES]
    assert len(groups_of(folds)) == 1
    assert len(groups_of([*folds[:2], on_fold("DE", "fold2", 0.4, content="others")])) == 2
    changed = on_fold("RRD", "fold0", 0.4)
    changed["data"]["fingerprint"]["train"] = "drawn anew"
    assert len(groups_of([*folds, changed])) == 2, "one fold has one training part"
    unlike = on_fold("DE", "fold2", 0.4)
    unlike["benchmark"]["folds"] = [*NAMES, "fold3"]
    assert len(groups_of([*folds[:2], unlike])) == 2
    # A run on the files of a fold that is of no benchmark.
    alone = on_fold("RRD", "fold1", 0.4)
    del alone["benchmark"]["fold"], alone["benchmark"]["folds"]
    assert len(groups_of([*folds, alone])) == 2


def test_folds_that_score_alike_are_several_runs() -> None:
    records = [on_fold("DE", fold, 0.4) for fold in NAMES]
    for record in records:
        record["teacher"]["test"] = {"ndcg@10": 0.5}
    (found,) = scores(records)
    assert found["Teacher"] == [0.5] * 3


def rows_of_folds(home: Path) -> None:
    """Two folds of one data set, whose files name users and items in another order."""
    draw = np.random.default_rng(0)
    rows = [(user, int(item)) for user in range(40) for item in draw.permutation(30)[:12]]
    parts = np.array_split(draw.permutation(len(rows)), 4)
    for fold in range(2):
        held = {"test": parts[fold], "valid": parts[fold + 1]}
        held["train"] = np.concatenate([part for place, part in enumerate(parts) if place not in (fold, fold + 1)])
        folder = home / f"fold{fold}" / "toy"
        folder.mkdir(parents=True)
        for name, places in held.items():
            lines = [f"u{rows[place][0]}\ti{rows[place][1]}" for place in draw.permutation(places)]
            (folder / f"toy.{name}.inter").write_text("\n".join(["user_id:token\titem_id:token", *lines]) + "\n")


def test_a_hash_of_the_interactions_by_their_own_ids(tmp_path: Path, tiny_settings: Settings) -> None:
    rows_of_folds(tmp_path)

    def prepared(fold: str) -> Any:
        settings = tiny_settings("BPR", data_path=str(tmp_path / fold), dataset="toy", benchmark_filename=PARTS)
        return prepare_data(DistillConfig("BPR", config_dict=settings))

    one, other = prepared("fold0"), prepared("fold1")
    assert one.fingerprint.ids != other.fingerprint.ids, "RecBole numbers them in the order of the files"
    assert content_digest(one.dataset) == content_digest(other.dataset)
    file = tmp_path / "fold1" / "toy" / "toy.train.inter"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert content_digest(prepared("fold1").dataset) != content_digest(one.dataset)


@pytest.mark.slow
def test_a_benchmark_on_folds_is_one_table(tmp_path: Path, tiny_settings: Settings) -> None:
    rows_of_folds(tmp_path / "data")
    base = {**tiny_settings("BPR", data_path=str(tmp_path / "data"), dataset="toy", epochs=2), "model": "BPR"}
    base["benchmark_filename"] = PARTS
    for key in ("seed", "record_dir"):
        base.pop(key, None)
    experiments = [{"name": "plain", "distillers": []}, {"name": "RRD", "distillers": ["rrd"], "rrd_k": 3, "rrd_l": 3}]
    plan = plan_of(tmp_path, base=base, experiments=experiments, folds=["fold0", "fold1"], seeds=[1])
    logged: list[str] = []
    assert runner.run_benchmark(plan, ["test"], logged.append) == 0, logged
    records, unread = read_records(plan.record_dir)
    assert len(records) == 4 and not unread
    text = report_of(plan.record_dir, "md")
    assert len(re.findall("^## .* on 2 folds$", text, flags=re.MULTILINE)) >= 1 and "on 1 of 2" not in text
    logged.clear()
    assert runner.run_benchmark(plan, ["test"], logged.append) == 0 and "4 of 4 experiments are recorded" in logged[0]
    # The test items of one fold are others now.
    file = tmp_path / "data" / "fold1" / "toy" / "toy.test.inter"
    file.write_text(file.read_text() + "u0\ti99\n")
    assert len(runner.recorded(plan, logged.append)) == 2


def test_a_fold_without_files_is_refused_before_the_first_is_run(tmp_path: Path) -> None:
    base = {"model": "BPR", "dataset": "tiny", "data_path": str(tmp_path / "data"), "benchmark_filename": PARTS}
    plan = plan_of(tmp_path, base=base, folds=["fold0"])
    folder = tmp_path / "data" / "fold0" / "tiny"
    folder.mkdir(parents=True)
    for name in PARTS[:2]:
        (folder / f"tiny.{name}.inter").write_text("user_id:token\titem_id:token\n")
    with pytest.raises(OptionError, match=r"on the fold 'fold0': There is no file '.*tiny\.test\.inter'"):
        runner.check_experiments(plan.experiments)


def test_a_frontier_takes_its_sizes_from_a_fold(tmp_path: Path, tiny_data: Path) -> None:
    rows = (tiny_data / "tiny" / "tiny.inter").read_text().splitlines()
    for name in NAMES[:2]:
        folder = tmp_path / "data" / name / "tiny"
        folder.mkdir(parents=True)
        for part_name, of_it in zip(PARTS, (rows[1:-60], rows[-60:-30], rows[-30:])):
            (folder / f"tiny.{part_name}.inter").write_text("\n".join([rows[0], *of_it]) + "\n")
    base = {
        "model": "BPR", "dataset": "tiny", "data_path": str(tmp_path / "data"), "benchmark_filename": PARTS,
        "teacher": {"embedding_size": 16},
    }  # fmt: skip
    whole = {"base": base, "bytes": [2], "kinds": ["trained"], "ways": 1, "seeds": [1], "folds": NAMES[:2]}
    (tmp_path / "front.yaml").write_text(yaml.safe_dump(whole))
    plan = read_frontier(tmp_path / "front.yaml")
    assert [one.fold for one in plan.experiments] == NAMES[:2]
    runner.check_experiments(plan.experiments)
