"""Benchmarks: a file becomes experiments; what is recorded is skipped; an experiment may die and stops nothing."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import pytest
import yaml
from filelock import FileLock

from recbole_derrd.benchmark import runner
from recbole_derrd.benchmark.plan import Plan, read_plan
from recbole_derrd.cli import main
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.settings import (
    ReadSettings,
    read_settings,
    read_written,
    settings_under,
    written_settings,
)
from recbole_derrd.errors import OptionError
from recbole_derrd.report.reading import read_records

pytestmark = pytest.mark.whole_run

ROOT = Path(__file__).resolve().parent.parent
Settings = Callable[..., dict[str, Any]]
EXPERIMENTS = [{"name": "plain", "distillers": []}, {"name": "RRD", "distillers": ["rrd"]}]

#: Stands in for a training: a minimal record for a good experiment; a bad one says why, a deadly one is killed.
FAKE = """
import json, os, sys, pathlib
from recbole_derrd.config.settings import read_written
job = json.loads(sys.stdin.readline())
settings = read_written(job["settings"])
print("training", flush=True)
if settings.get("rrd_k") == 1:
    sys.exit("recbole-derrd: This experiment cannot work.")
if settings.get("rrd_k") == 2:
    os.kill(os.getpid(), 9)
if settings.get("rrd_k") == 3:
    raise MemoryError
if settings.get("rrd_k") == 4:
    sys.exit(0)
record = {"schema": 2, "model": "BPR", "dataset": "tiny", "seed": settings["seed"], "protocol": {"mode": "full"},
          "valid_metric": "ndcg@5", "distilled": {"model": "BPR", "test": {"ndcg@5": 0.1}},
          "data": {"fingerprint": {"ids": "i", "test": "t"}}, "benchmark": settings["benchmark"],
          "options": {"threads": settings["threads"], "own": repr(settings.get("own"))},
          "command": " ".join(job["command"])}
name = f"{settings['benchmark']['experiment']}-{settings['seed']}.json"
(pathlib.Path(settings["record_dir"]) / name).write_text(json.dumps(record))
"""


def plan_of(folder: Path, *arguments: str, **content: Any) -> Plan:
    file = folder / "toy.yaml"
    whole = {"base": {"model": "BPR", "dataset": "tiny"}, "experiments": EXPERIMENTS, "seeds": [1, 2], **content}
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return read_plan(file, [f"--record_dir={folder / 'records'}", *arguments])


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(runner, "WORKER", [sys.executable, "-c", FAKE])
    monkeypatch.setattr(runner, "check_experiments", lambda experiments: None)
    return []


def test_experiments_seeds_and_grid_are_multiplied_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid={"embedding_size": [4, 8], "model": ["BPR", "LightGCN"]}, proposed=["RRD"])
    assert len(plan.experiments) == 2 * 4 * 2 and len({experiment.key for experiment in plan.experiments}) == 16
    assert str(plan.experiments[0]) == "plain, embedding_size=4, BPR, seed 1" and not plan.experiments[0].proposed
    assert plan.experiments[-1].settings["distillers"] == ["rrd"] and plan.experiments[-1].proposed
    assert plan.experiments[-1].settings["model"] == "LightGCN" and plan.experiments[-1].settings["resume"] is True
    alone = plan_of(tmp_path, experiments=[], grid={"distillers": [[], ["de", "rrd"]]})
    assert [str(experiment) for experiment in alone.experiments][:3] == [
        "plain, seed 1",
        "DE-RRD, seed 1",
        "plain, seed 2",
    ]


def test_only_some_experiments_are_run_as_they_would_be_among_all(tmp_path: Path, logged: list[str]) -> None:
    whole, some = plan_of(tmp_path), plan_of(tmp_path, "--only=[RRD]")
    assert (
        some.experiments == [experiment for experiment in whole.experiments if experiment.name == "RRD"]
        and len(some.experiments) == 2
    )
    assert runner.run_benchmark(some, [], logged.append) == 0
    assert len(read_records(whole.record_dir)[0]) == 2 and runner.recorded(whole, logged.append) == {
        experiment.key for experiment in some.experiments
    }
    with pytest.raises(OptionError, match=r"unknown experiment 'RDD'. Did you mean 'RRD'\?"):
        plan_of(tmp_path, "--only=[RDD]")


def test_what_the_seeds_vary(tmp_path: Path) -> None:
    def second_seed(**changes: Any) -> Any:
        return next(experiment for experiment in plan_of(tmp_path, **changes).experiments if experiment.seed == 2)

    first, second = plan_of(tmp_path).experiments[0], second_seed()
    assert (first.settings["seed"], second.settings["seed"]) == (1, 2)
    assert second.settings["split_seed"] == 1 and second.settings["teacher"] == {"seed": 1}
    second = second_seed(base={"teacher": {"embedding_size": 64}, "split_seed": 5})
    assert second.settings["split_seed"] == 5 and second.settings["teacher"] == {"embedding_size": 64, "seed": 1}
    assert "teacher" not in second_seed(teacher_seed="varies").settings
    second = second_seed(vary="split")
    assert second.settings["seed"] == 2 and not {"split_seed", "teacher"} & second.settings.keys()


def test_a_seed_without_a_value_is_one_left_out(tmp_path: Path) -> None:
    """As in a file for single runs: the split, and the teacher, stay those of the first seed all the same."""
    base = {"model": "BPR", "dataset": "tiny", "split_seed": None, "teacher": {"seed": None, "embedding_size": 64}}
    for experiment in plan_of(tmp_path, base=base).experiments:
        assert experiment.settings["split_seed"] == 1
        assert experiment.settings["teacher"] == {"seed": 1, "embedding_size": 64}


def test_experiments_are_proposed_by_numbers_and_by_points_of_the_grid(tmp_path: Path) -> None:
    named = [{"name": 8, "distillers": ["rrd"]}, {"name": "RRD", "distillers": ["rrd"], "rrd_k": 3}]
    plan = plan_of(tmp_path, experiments=named, proposed=[8])
    assert {one.name for one in plan.experiments if one.proposed} == {"8"}
    grid = {"distillers": [[], "de", "de, rrd", ["rrd"]]}
    plan = plan_of(tmp_path, experiments=[], grid=grid, proposed=["DE-RRD"], seeds=[1])
    assert [(one.name, one.proposed) for one in plan.experiments] == [
        ("plain", False), ("DE", False), ("DE-RRD", True), ("RRD", False),
    ]  # fmt: skip
    with pytest.raises(OptionError, match=r"'proposed' names the unknown experiment 'DERRD'. Did you mean 'DE-RRD'\?"):
        plan_of(tmp_path, experiments=[], grid=grid, proposed=["DERRD"])


def test_an_experiments_key_is_its_settings_and_nothing_else(tmp_path: Path) -> None:
    keys = {experiment.key for experiment in plan_of(tmp_path).experiments}
    same = plan_of(
        tmp_path, "--jobs=2", "--checkpoint_dir=elsewhere", "--threads=3", "--data_path=there", name="another"
    )
    assert {experiment.key for experiment in same.experiments} == keys
    assert not keys & {experiment.key for experiment in plan_of(tmp_path, "--epochs=3").experiments}
    # The seeds before and after do not matter, so that a benchmark can grow.
    assert keys < {experiment.key for experiment in plan_of(tmp_path, seeds=[1, 2, 3]).experiments}


def test_config_files_lie_under_the_base(tmp_path: Path) -> None:
    (tmp_path / "under.yaml").write_text("epochs: 7\nlearning_rate: 0.01\n")
    plan = plan_of(tmp_path, config_files="under.yaml", base={"model": "BPR", "epochs": 9})
    assert plan.experiments[0].settings["epochs"] == 9 and plan.experiments[0].settings["learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"seds": [1]}, "Did you mean 'seeds'"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds": []}, "at least one"),
        ({"vary": "both"}, "training, split"),
        ({"experiments": []}, "needs 'experiments'"),
        ({"experiments": [{"distillers": []}]}, "needs a name"),
        ({"experiments": [*EXPERIMENTS, {"name": "again", "distillers": ["rrd"]}]}, "have the same settings"),
        ({"experiments": [*EXPERIMENTS, {"name": "RRD", "distillers": ["de"]}]}, "the name 'RRD'"),
        ({"cells": []}, "'cells' is called 'experiments' now."),
        ({"ours": ["RRD"]}, "'ours' is called 'proposed' now."),
        ({"proposed": ["RDR"]}, "Did you mean 'RRD'"),
        ({"base": {"seed": 3}}, "seeds: [...]"),
        ({"experiments": [{"name": "a", "seed": 3}]}, "seeds: [...]"),
        ({"grid": {"embedding_size": 8}}, "must be a list"),
        ({"vary": "split", "base": {"benchmark_filename": ["a", "b", "c"]}}, "benchmark_filename holds it fixed"),
        ({"vary": "split", "base": {"split_seed": 3}}, "split_seed holds it fixed"),
        ({"vary": "split", "base": {"teachers": ["Pop", {"checkpoint": "x"}]}}, "a checkpoint in 'teachers' holds it"),
        ({"vary": "split", "base": {"teachers": ["Pop", {"seed": 3}]}}, "a seed in 'teachers' holds it fixed"),
        ({"teacher_seed": "varies", "base": {"teacher": {"seed": 3}}}, "take one of them out"),
        ({"jobs": 0}, "at least 1"),
        ({"config_files": "nowhere.yaml"}, "nowhere.yaml"),
    ],
    ids=str,
)
def test_a_mistake_is_a_sentence(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as error:
        plan_of(tmp_path, **content)
    assert words in str(error.value)


def test_a_mistake_in_an_experiment_is_found_before_anything_is_trained(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    plan = plan_of(tmp_path, base={**tiny_settings("BPR"), "model": "BPR", "dataset": "tiny", "rrd_wieght": 1})
    with pytest.raises(OptionError, match=r"The experiment 'plain' cannot run: .*Did you mean 'rrd_weight'"):
        runner.run_benchmark(plan, [], print)


def test_the_commands_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        ([], "needs a name"),
        (["a.yaml", "b.yaml"], "needs one name"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["a.yaml", "--jobs"], "--jobs=VALUE"),
    ):
        assert main(["benchmark", *arguments]) == 2 and words in capsys.readouterr().err


def test_options_that_no_experiment_reads_are_told_once(tmp_path: Path, logged: list[str]) -> None:
    base = {"model": "BPR", "dataset": "tiny", "rrd_k": 5, "de_weight": 1}
    own = [{"name": "cd", "distillers": "CD", "rd_k": 5}, {"name": "svd", "compress_method": "svd", "rd_weight": 1}]
    plan = plan_of(tmp_path, base=base, experiments=[*EXPERIMENTS, *own])
    assert runner.run_benchmark(plan, [], logged.append) == 0
    (said,) = [line for line in logged if "no effect" in line]
    assert said == (
        "No experiment has de among its distillers, so de_weight has no effect: add such an experiment, or take it "
        "out. 'cd' and 'svd': without rd among the distillers, rd_k and rd_weight have no effect. Add rd there, "
        "or take them out."
    )
    logged.clear()
    # Config files and the base are for experiments that are not run today, too.
    (tmp_path / "under.yaml").write_text("cd_weight: 1\n")
    plan = plan_of(tmp_path, "--only=[RRD]", base=base, config_files="under.yaml")
    assert runner.run_benchmark(plan, [], logged.append) == 0 and not [one for one in logged if "no effect" in one]


def test_options_of_the_command_line_that_no_experiment_reads_are_refused(tmp_path: Path, logged: list[str]) -> None:
    plan = plan_of(tmp_path, "--de_weight=1", "--rrd_k=5")
    with pytest.raises(OptionError, match="No experiment has de among its distillers, so --de_weight has no effect"):
        runner.run_benchmark(plan, [], logged.append)
    assert runner.run_benchmark(plan_of(tmp_path, "--rrd_k=5"), [], logged.append) == 0


def test_experiments_run_once_and_failures_stop_nothing(tmp_path: Path, logged: list[str]) -> None:
    experiments = [*EXPERIMENTS, {"name": "bad", "rrd_k": 1}, {"name": "deadly", "rrd_k": 2}]
    plan = plan_of(tmp_path, "--jobs=3", experiments=experiments)
    assert runner.run_benchmark(plan, ["-m", "x"], logged.append) == 1
    records, _ = read_records(plan.record_dir)
    assert {(record.benchmark.experiment, record.seed) for record in records if record.benchmark} == {
        (name, seed) for name in ("plain", "RRD") for seed in (1, 2)
    }
    assert records[0].command == "-m x"
    told = "\n".join(logged)
    assert "0 of 8 experiments are recorded, 8 to run" in told and "[8/8]" in told and "4 failed" in told
    assert "failed: bad, seed 1: This experiment cannot work." in told
    assert "failed: deadly, seed 2: killed by signal 9" in told and re.search(r"deadly-seed2-\w{6}\.log", told)
    logged.clear()
    assert runner.run_benchmark(plan, [], logged.append) == 1
    assert "4 of 8 experiments are recorded, 4 to run" in logged[0] and "plain" not in "\n".join(logged)
    # What could not work is mended; a damaged record is made anew.
    (plan.record_dir / "plain-1.json").write_text("{")
    mended = plan_of(tmp_path, experiments=[*EXPERIMENTS, {"name": "bad", "rrd_k": 8}])
    logged.clear()
    assert runner.run_benchmark(mended, [], logged.append) == 0
    assert (
        "plain-1.json' counts as missing: it is no JSON" in logged[0]
        and "3 to run" in logged[1]
        and "All 6 experiments" in logged[-1]
    )


def test_experiments_whose_names_look_alike_have_logs_of_their_own(tmp_path: Path, logged: list[str]) -> None:
    names = ["a b", "a_b", "蒸馏"]
    experiments = [{"name": name, "rrd_weight": 0.1 * place} for place, name in enumerate(names)]
    plan = plan_of(tmp_path, experiments=experiments, seeds=[1])
    assert runner.run_benchmark(plan, [], logged.append) == 0
    assert len(list((tmp_path / "records" / "log").glob("*.log"))) == 3


def test_a_config_file_may_have_a_space_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "my base.yaml").write_text("epochs: 7", encoding="utf-8")
    plan = plan_of(tmp_path, config_files="my base.yaml")
    assert plan.experiments[0].settings["epochs"] == 7


@pytest.mark.parametrize("teacher", ["BPR", 5, ["BPR"]])
def test_a_teacher_that_is_no_dict_is_the_experiments_mistake(tmp_path: Path, teacher: Any) -> None:
    for options in ({}, {"vary": "split", "teacher_seed": "varies"}):
        plan = plan_of(
            tmp_path, base={"model": "BPR", "dataset": "tiny", "teacher": teacher, "eval_args": "x"}, **options
        )
        assert len(plan.experiments) == 4


def test_a_benchmark_called_records_does_not_wait_for_itself(tmp_path: Path, logged: list[str]) -> None:
    """An experiment's record is written under the lock ``.records.lock`` of the same folder."""
    plan = plan_of(tmp_path, name="records", seeds=[1], experiments=EXPERIMENTS[:1])
    taken = FileLock(plan.record_dir / ".records.lock")

    def run_all(*_: Any) -> list[Any]:
        with taken.acquire(timeout=0):
            return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_run_all", run_all)
        assert runner.run_benchmark(plan, [], logged.append) == 1


def test_dates_reach_the_experiments_and_mixed_keys_are_a_sentence(tmp_path: Path, logged: list[str]) -> None:
    plan = plan_of(tmp_path, base={"wandb_project": datetime.date(2024, 1, 1)})
    assert len({experiment.key for experiment in plan.experiments}) == len(plan.experiments)
    with pytest.raises(OptionError, match="keys of several kinds"):
        plan_of(tmp_path, base={"threshold": {"rating": 3, 4: 1}})


def test_settings_are_of_the_same_kinds_in_a_run_and_in_a_benchmark(
    tmp_path: Path, logged: list[str], tiny_settings: Settings
) -> None:
    """A text in quotes stays a text, and a dict keeps its keys: a model of the user's own reads what it would alone."""
    own = {"mode": "on", "version": "12", "at": datetime.date(2024, 1, 1), "sizes": {1: 64, 2: 32}, "rate": 1e-05}
    plan = plan_of(tmp_path, base={"model": "BPR", "dataset": "tiny", "own": own}, seeds=[1])
    assert runner.run_benchmark(plan, [], logged.append) == 0
    assert {record.options["own"] for record in read_records(plan.record_dir)[0]} == {repr(dict(sorted(own.items())))}
    own = {"rate": "1e-3", "none": "None", "lines": "a\nb: c", "place": tmp_path, "many": (1, 2), **own}
    written = {**own, "place": str(tmp_path), "many": [1, 2]}
    assert repr(read_written(written_settings(own))) == repr(ReadSettings(written))
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**tiny_settings("BPR"), "model": "BPR", "dataset": "tiny", "own_mode": "on"}))
    alone = DistillConfig(config_file_list=[file])
    asked = DistillConfig(config_dict=ReadSettings(read_settings(file)))
    assert asked["own_mode"] == alone["own_mode"] == "on"
    assert settings_under(ReadSettings({"own_mode": "on"}), {"nproc": 2}) == {"own_mode": "on", "nproc": 2}
    assert isinstance(settings_under(ReadSettings(), {}), ReadSettings)
    assert DistillConfig(config_dict={**read_settings(file)})["own_mode"] is True, "as RecBole does with a dict"


def test_dry_only_tells(tmp_path: Path, logged: list[str]) -> None:
    plan = plan_of(tmp_path, experiments=[*EXPERIMENTS, {"name": "bad", "rrd_k": 1}])
    runner.run_benchmark(plan, [], logged.append)
    logged.clear()
    dry = plan_of(tmp_path, "--dry=True", experiments=[*EXPERIMENTS, {"name": "bad", "rrd_k": 1}])
    assert runner.run_benchmark(dry, [], logged.append) == 0
    assert [line.split("  ")[0] for line in logged[:-1]] == ["recorded", "recorded", "to run"] * 2
    assert logged[-1] == "4 of 6 experiments are recorded."


def test_each_experiment_has_its_share_of_the_threads(
    tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for arguments, share in ((("--jobs=2",), 4), (("--jobs=2", "--threads=3"), 3), (("--jobs=9",), 1)):
        folder = tmp_path / str(share)
        folder.mkdir()
        plan = plan_of(folder, *arguments)
        runner.run_benchmark(plan, [], logged.append)
        assert {record.options["threads"] for record in read_records(plan.record_dir)[0]} == {share}


def test_the_files_that_come_along_are_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Whether it is installed here says nothing of the files.
    monkeypatch.setitem(sys.modules, "faiss", ModuleType("faiss"))
    files = sorted((ROOT / "configs" / "benchmark").glob("*.yaml"))
    assert {file.stem for file in files} >= {"quick", "citeulike-bpr"}
    for file in files:
        plan = read_plan(file)
        assert plan.experiments and plan.record_dir == Path("records") / file.stem
        runner.check_experiments(plan.experiments)


def test_what_a_line_of_another_file_records_is_not_run_again(tmp_path: Path, logged: list[str]) -> None:
    """Committed records are lines of one file; a copy of it in record_dir counts."""
    plan = plan_of(tmp_path)
    assert runner.run_benchmark(plan, [], logged.append) == 0
    files = sorted(plan.record_dir.glob("*.json"))
    lines = [json.dumps(json.loads(file.read_text())) for file in files]
    for file in files:
        file.unlink()
    (plan.record_dir / "toy.jsonl").write_text("\n".join([*lines[:3], "{"]))
    logged.clear()
    assert runner.run_benchmark(plan, [], logged.append) == 0
    assert "The record in line 4 of '" in logged[0] and "toy.jsonl' counts as missing: it is no JSON" in logged[0]
    assert "3 of 4 experiments are recorded, 1 to run" in logged[1]


def test_folds_are_experiments_of_their_own(tmp_path: Path) -> None:
    folds = plan_of(tmp_path, grid={"data_path": ["fold0", "fold1"]}).experiments
    assert len({experiment.key for experiment in folds}) == 8, "two experiments, two seeds, two folds"
    assert len({experiment.settings["benchmark"]["settings"] for experiment in folds}) == 4
    assert {experiment.key for experiment in plan_of(tmp_path, grid={"data_path": ["fold0"]}).experiments} < {
        experiment.key for experiment in folds
    }
    with pytest.raises(OptionError, match="have the same settings but for data_path, which changes no result"):
        plan_of(tmp_path, grid={"data_path": ["fold0", "./fold0/"]})
    with pytest.raises(OptionError, match="have the same settings but for threads, which changes no result"):
        plan_of(tmp_path, grid={"threads": [1, 2]})


def test_a_failure_says_why_and_where_its_log_is(tmp_path: Path, logged: list[str]) -> None:
    experiments = [{"name": name, "rrd_k": place} for place, name in ((2, "killed"), (3, "large"), (4, "silent"))]
    assert runner.run_benchmark(plan_of(tmp_path, experiments=experiments, seeds=[1]), [], logged.append) == 1
    failed = [line for line in logged if line.startswith("failed: ")]
    for line, words in zip(failed, ("killed by signal 9 (SIGKILL: ", "out of memory: MemoryError", "left no record")):
        assert words in line and "-seed1-" in line
    assert len(failed) == 3
