"""Models of the user's own: a class, or its dotted path, wherever RecBole's names go."""

from __future__ import annotations

import linecache
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest
from recbole.model.general_recommender import BPR, ENMF, LightGCN, RecVAE

from recbole_derrd.adapters import adapter_class
from recbole_derrd.adapters.factors import TwoTablesAdapter
from recbole_derrd.cli import main
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, OptionError
from recbole_derrd.experiment.preflight import check_roles
from recbole_derrd.model_cache.keys import cache_key
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.recbole_compat.models import model_class, name_of, recbole_ancestor
from recbole_derrd.report.reading import records_of
from recbole_derrd.teacher import teacher_specs

Settings = Callable[..., dict[str, Any]]
RRD = {"distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "latency_users": 0}

OWN = """
from recbole.model.general_recommender import BPR


class Mine(BPR):
    calls = 0

    def calculate_loss(self, interaction):
        type(self).calls += 1
        Mine.calls += 1
        return {scale} * super().calculate_loss(interaction)
"""


class Graph(LightGCN):
    """A LightGCN with a loss of its own, on whichever scipy."""

    def calculate_loss(self, interaction: Any) -> Any:
        return super().calculate_loss(interaction)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_models.py").write_text(OWN.format(scale=2.0))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "my_models", raising=False)
    model_class.__globals__["_GIVEN"].clear()
    return "my_models.Mine"


def test_a_dotted_path_is_student_and_teacher(own: str, tiny_settings: Settings, tmp_path: Path) -> None:
    settings = tiny_settings("BPR", record_dir=str(tmp_path / "records"), teacher={"embedding_size": 16}, **RRD)
    record = run_recbole_derrd(own, "tiny", config_dict=settings)
    assert record["model"] == own and record["teacher"]["model"] == own
    assert model_class(own).calls > 0  # type: ignore[attr-defined]
    stock = run_recbole_derrd("BPR", "tiny", config_dict=settings)
    assert stock["teacher"]["test"] != record["teacher"]["test"] or stock["student"]["key"] != record["student"]["key"]


def test_a_class_is_the_model_and_not_recboles_of_its_name(tiny_settings: Settings, tmp_path: Path) -> None:
    called = []

    class BPRLike(BPR):
        def calculate_loss(self, interaction: Any) -> Any:
            called.append(1)
            return super().calculate_loss(interaction)

    BPRLike.__name__ = "BPR"
    run_recbole_derrd(BPRLike, "tiny", config_dict=tiny_settings("BPR", record_dir=str(tmp_path / "records"), **RRD))
    assert called
    assert name_of(BPR) == "BPR" and model_class("BPR") is BPR


def test_defaults_adapter_and_graph_are_the_ancestors(own: str, tiny_settings: Settings) -> None:
    settings = tiny_settings("BPR")
    del settings["embedding_size"]
    assert recbole_ancestor(own) == "BPR" and adapter_class(model_class(own)) is TwoTablesAdapter
    assert DistillConfig(own, "tiny", config_dict=settings)["embedding_size"] == 64
    config = DistillConfig(Graph, "tiny", config_dict=tiny_settings("LightGCN"))
    assert config["n_layers"] == 2
    model = config.model_class(config, prepare_data(config).dataset)
    assert isinstance(model, Graph) and model.norm_adj_matrix.shape == (72, 72)


def test_another_source_is_another_model(
    own: str, tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DistillConfig(own, "tiny", config_dict=tiny_settings("BPR"))
    data = prepare_data(config)
    before = cache_key(config, data.fingerprint)
    (tmp_path / "my_models.py").write_text(OWN.format(scale=3.25))
    monkeypatch.delitem(__import__("sys").modules, "my_models")
    __import__("importlib").invalidate_caches()
    __import__("linecache").clearcache()
    again = DistillConfig(own, "tiny", config_dict=tiny_settings("BPR"))
    assert cache_key(again, data.fingerprint) != before


@pytest.mark.parametrize(
    ("name", "words"),
    [("no.such.Model", "Cannot load the model"), ("pathlib.Path", "subclass of RecBole's GeneralRecommender")],
)
def test_what_is_no_model_is_a_sentence(name: str, words: str, tiny_settings: Settings) -> None:
    with pytest.raises(OptionError, match=words):
        DistillConfig(name, "tiny", config_dict=tiny_settings("BPR"))


class Autoencoder(RecVAE):
    """RecBole trains it as a RecVAE, one epoch's losses added up to another's."""


class WholeUsers(ENMF):
    """Its embeddings are of no pair."""


def test_a_model_of_whole_users_is_its_ancestors(tiny_settings: Settings, tmp_path: Path) -> None:
    """It takes no negatives, of which its teacher has its own, and its trainer no tuple of losses."""
    more = {"train_neg_sample_args": None, "teacher_model": "BPR", "teacher": {"embedding_size": 16}, **RRD}
    settings = tiny_settings("RecVAE", record_dir=str(tmp_path), **more, compare_student=False)
    record = run_recbole_derrd(Autoencoder, "tiny", config_dict={**settings, "distillers": ["listwise"]})
    assert record["distillers"] == ["listwise"] and record["teacher"]["model"] == "BPR"
    with pytest.raises(OptionError, match="is trained on whole users"):
        check_roles(name_of(WholeUsers), ["BPR"], ["de"])


def test_a_checkpoint_does_not_say_which_modules_are_imported(own: str, tiny_settings: Settings) -> None:
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", teacher_checkpoint="some.pth", **RRD))
    (spec,) = teacher_specs(config)
    with pytest.raises(CheckpointError, match=r"--teacher_model=evil\.Model"):
        spec.checkpoint_model(config, {"model": "evil.Model"})


def test_data_and_source_of_ones_own_are_in_the_key(
    own: str, tiny_settings: Settings, tiny_data: Path, tmp_path: Path
) -> None:
    """A model of one's own may read any column, and call any function of its module."""
    shutil.copytree(tiny_data, tmp_path / "data")
    rated = {"inter_matrix_type": "rating", "load_col": {"inter": ["user_id", "item_id", "rating"]}}
    wanted = {own: {}, "DMF": rated, "BPR": {}}

    def keys() -> dict[str, str]:
        made = {}
        for model, more in wanted.items():
            settings = tiny_settings("BPR", data_path=str(tmp_path / "data"), **more)
            config = DistillConfig(model, "tiny", config_dict=settings)
            made[model] = cache_key(config, prepare_data(config).fingerprint)
        return made

    before = keys()
    file = tmp_path / "data" / "tiny" / "tiny.inter"
    head, *lines = file.read_text().splitlines()
    place = [column.split(":")[0] for column in head.split("\t")].index("rating")
    changed = [line.split("\t") for line in lines]
    for columns in changed:
        columns[place] = "4.5"
    file.write_text("\n".join([head, *map("\t".join, changed)]) + "\n")
    after = keys()
    assert after["BPR"] == before["BPR"] and after[own] != before[own] and after["DMF"] != before["DMF"]
    module = tmp_path / "my_models.py"
    module.write_text(module.read_text() + "\n\ndef called():\n    return 1\n")
    linecache.checkcache()
    assert keys()[own] != after[own]


def test_a_checkpoint_of_an_own_model_is_evaluated_and_asked_for_rankings(
    own: str, tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    record = run_recbole_derrd(own, "tiny", config_dict=tiny_settings("BPR", record_dir="runs", **RRD))
    student = record["checkpoints"]["student"]
    for command in (["evaluate", student], ["recommend", student, "--users=u1", "--k=3"]):
        assert main(command) == 2
        assert f"Say so yourself if you know it: --model={own}." in capsys.readouterr().err
        assert main([*command, f"--model={own}"]) == 0
    assert "u1,1," in capsys.readouterr().out
    (evaluated,), _ = records_of(tmp_path / "records")
    assert evaluated.model == own and evaluated.distilled.test == record["distilled"]["test"]


TURNED = """
from recbole.model.general_recommender import BPR


class Turned(BPR):
    \"\"\"It ranks the other way round where a setting of its own says so.\"\"\"

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.power = config["power"] or 1

    def full_sort_predict(self, interaction):
        return (-1) ** (self.power + 1) * super().full_sort_predict(interaction)
"""


def test_a_checkpoint_of_an_own_model_keeps_the_models_own_settings(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "turned_models.py").write_text(TURNED)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = tiny_settings("BPR", record_dir="runs", latency_users=0, epochs=2)
    model = "turned_models.Turned"
    alone = run_recbole_derrd(model, "tiny", config_dict={**settings, "distillers": [], "power": 2})
    checkpoint = alone["checkpoints"]["student"]
    taught = {**settings, **RRD, "teacher_model": model, "teacher_checkpoint": checkpoint, "compare_student": False}
    for student, more in ((model, {"power": 1}), ("BPR", {})):
        found = run_recbole_derrd(student, "tiny", config_dict={**taught, **more})["teacher"]
        assert found["test"] == alone["distilled"]["test"] and found["settings"]["power"] == 2
    # What the user says of the teacher goes over it.
    other = run_recbole_derrd("BPR", "tiny", config_dict={**taught, "teacher": {"power": 1}})["teacher"]
    assert other["test"] != alone["distilled"]["test"]
    tests = []
    for number, more in enumerate(([], ["--power=1"])):
        assert main(["evaluate", checkpoint, f"--model={model}", f"--records=r{number}", *more]) == 0
        tests.append(records_of(tmp_path / f"r{number}")[0][0].distilled.test)
    assert tests == [alone["distilled"]["test"], other["test"]]
    assert main(["evaluate", checkpoint, f"--model={model}", "--strength=1"]) == 2
    assert "Unknown option '--strength'" in capsys.readouterr().err
