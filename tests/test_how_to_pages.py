"""The commands and the Python of the pages that tune, extend and spread a run: as they stand there, on tiny data."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml
from test_page_commands import ROOT, blocks_of, commands_of

from recbole_derrd.adapters import ADAPTERS
from recbole_derrd.cli import main
from recbole_derrd.command_line.arguments import read_arguments
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.settings import read_command_line
from recbole_derrd.recbole_compat.models import model_class
from recbole_derrd.report.reading import records_of
from recbole_derrd.runtime.processes import rendezvous
from recbole_derrd.testing.contract import gaps

Settings = Callable[..., dict[str, Any]]
HOW_TO = "docs/how-to/"
LISTS = {"rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8}

#: A model of one's own, without a table that RecBole's models have.
MODEL = """
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.loss import BPRLoss
from recbole.utils import InputType
from torch import nn


class MyModel(GeneralRecommender):
    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.user_factors = nn.Embedding(self.n_users, config["embedding_size"])
        self.item_factors = nn.Embedding(self.n_items, config["embedding_size"])
        self.loss = BPRLoss()

    def scores(self, interaction, items):
        return (self.user_factors(interaction[self.USER_ID]) * self.item_factors(interaction[items])).sum(1)

    def calculate_loss(self, interaction):
        return self.loss(self.scores(interaction, self.ITEM_ID), self.scores(interaction, self.NEG_ITEM_ID))

    def predict(self, interaction):
        return self.scores(interaction, self.ITEM_ID)

    def full_sort_predict(self, interaction):
        return (self.user_factors(interaction[self.USER_ID]) @ self.item_factors.weight.T).view(-1)


"""


class Grid:
    """RecBole's exhaustive HyperTuning, where hyperopt is not installed: every combination, one after the other."""

    def __init__(self, objective: Any, params_dict: Any, fixed_config_file_list: Any, **_: Any) -> None:
        self.objective, self.files = objective, fixed_config_file_list
        self.keys, self.choices = zip(*params_dict["choice"].items())
        self.score_list: list[float] = []
        self.best_params: dict[str, Any] = {}

    def run(self) -> None:
        for values in itertools.product(*self.choices):
            tried = dict(zip(self.keys, values))
            score = self.objective(dict(tried), self.files)["best_valid_score"]
            self.best_params = tried if score > max(self.score_list, default=0) else self.best_params
            self.score_list.append(score)


def arguments_of(command: str) -> list[str]:
    """Return what a page's command gives to the command line."""
    words = shlex.split(command, comments=True)
    for program in (["python", "-m", "recbole_derrd"], ["python", "run_recbole_derrd.py"], ["recbole-derrd"]):
        if words[: len(program)] == program:
            return words[len(program) :]
    raise AssertionError(command)


def commands(page: str) -> list[list[str]]:
    return [arguments_of(command) for command in commands_of(HOW_TO + page)]


@pytest.fixture
def run(tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return what runs a page's command with small settings in place of its own, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_module", "own_method"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(model_class.__globals__, "_GIVEN", {})

    def small(arguments: list[str], **more: Any) -> int:
        settings = {**tiny_settings("BPR"), "dataset": "tiny", "compare_student": False, "latency_users": 0, **more}
        kept = [one for one in arguments if one.partition("=")[0][2:] not in settings]
        return main([*kept, *(f"--{key}={json.dumps(value)}" for key, value in settings.items())])

    return small


def test_tune(tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        import hyperopt  # noqa: F401
    except ModuleNotFoundError:
        monkeypatch.setattr("recbole.trainer.HyperTuning", Grid)
    (block,) = blocks_of(HOW_TO + "tune.md", "python")
    whole = yaml.safe_load((ROOT / "configs" / "methods" / "rrd.yaml").read_text(encoding="utf-8"))
    small = {**whole, **tiny_settings("BPR", teacher={"embedding_size": 16}, dataset="tiny", latency_users=0, **LISTS)}
    Path("small.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    for shown, tried in (('"methods/rrd"', '"small.yaml"'), ('"rrd_k": [20, 40]', '"rrd_k": [2, 4]')):
        assert block.count(shown) == 1
        block = block.replace(shown, tried)
    names: dict[str, Any] = {}
    exec(compile(block, "tune.md", "exec"), names)
    tuning = names["tuning"]
    assert len(tuning.score_list) == 4 and set(tuning.best_params) == {"rrd_weight", "rrd_k"}
    records, _ = records_of(tmp_path / "records")
    # The page: the plain student is left out, and the teacher is trained once and found by the other trials.
    assert len(records) == 4 and all(record.student is None for record in records)
    assert len([one for one in (tmp_path / "saved" / "cache").iterdir() if (one / "model.pth").exists()]) == 1


def test_add_a_model(run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_derrd.adapters.ADAPTERS", dict(ADAPTERS))
    (block,) = blocks_of(HOW_TO + "add-a-model.md", "python")
    (tmp_path / "my_module.py").write_text(MODEL + block, encoding="utf-8")
    student, teacher = commands("add-a-model.md")
    assert run(student, **LISTS) == 0
    # With the page's adapter a method that needs embeddings works too.
    assert run(teacher, distillers=["de", "rrd"], **LISTS) == 0
    first, second = sorted(records_of(tmp_path / "records")[0], key=lambda record: record.model)
    assert (first.model, first.distillers) == ("BPR", ["de", "rrd"]) and first.teacher.model == "my_module.MyModel"
    assert (second.model, second.distillers) == ("my_module.MyModel", ["rrd"]) and second.teacher.model == "BPR"


def test_the_models_page_needs_its_adapter_for_embeddings(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_module.py").write_text(MODEL, encoding="utf-8")
    _, teacher = commands("add-a-model.md")
    assert run(teacher, distillers=["de"]) == 2
    assert "needs user and item embeddings" in capsys.readouterr().err


def test_add_a_method(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "examples" / "own_method.py", tmp_path)
    distilled, shown = commands("add-a-method.md")
    assert run(distilled, hinge_k=4, hinge_l=4) == 0
    (record,), _ = records_of(tmp_path / "records")
    assert record.distillers == ["own_method.HingeDistillation"]
    assert main(shown) == 0
    assert "--hinge_weight=" in capsys.readouterr().out
    # The block of the test class: what it lacks is what the page says.
    (block,) = blocks_of(HOW_TO + "add-a-method.md", "python")
    module = type(sys)("test_of_the_page")
    exec(compile(block, "add-a-method.md", "exec"), vars(module))
    assert len(gaps(module, "own_method.HingeDistillation")) == 5


def test_several_machines_by_their_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine cannot be two: the arguments are read, and say who meets whom."""
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("model: BPR\ndataset: ml-100k\ndistillers: [rrd]\n", encoding="utf-8")
    found = []
    for arguments in commands("machines.md"):
        given = read_arguments("run", arguments)
        files = given.options["config_files"]
        settings = read_command_line(given.settings)
        found.append(rendezvous(DistillConfig("BPR", "ml-100k", config_file_list=files, config_dict=settings)))
    cores, cards, first, second = found
    assert cores["world_size"] == cards["world_size"] == 2
    assert first == {**second, "offset": 0, "group_offset": 0} and second["offset"] == first["nproc"] == 2
    assert first["world_size"] == 4 and first["ip"] == "10.0.0.1"


@pytest.mark.slow
def test_a_script_of_several_processes(tiny_settings: Settings, tmp_path: Path) -> None:
    (block,) = blocks_of(HOW_TO + "machines.md", "python")
    small = tiny_settings("BPR", compare_student=False, latency_users=0, **LISTS)
    shown = '"distillers": ["rrd"]'
    assert block.count('"ml-100k"') == 1 and block.count(shown) == 1
    block = block.replace('"ml-100k"', '"tiny"').replace(shown, f"{shown}, **{small!r}")
    (tmp_path / "script.py").write_text(block, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    (record,), _ = records_of(tmp_path / "records")
    assert record.distillers == ["rrd"]
