"""Configuration: priorities, YAML types, no eval, no sys.argv, and suggestions for what is misspelt."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.settings import file_names, read_command_line, typed_as_yaml
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment.preflight import check_run
from recbole_derrd.recbole_compat.models import general_models
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.teacher import teacher_specs

Settings = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parent.parent


def test_command_line_beats_dict_beats_files_beats_plugin_beats_recbole(
    tiny_settings: Settings, tmp_path: Path
) -> None:
    settings = tiny_settings("BPR")
    file, later = tmp_path / "a.yaml", tmp_path / "b.yaml"
    file.write_text("learning_rate: 0.1\nrrd_k: 7\nrrd_l: 7\nepochs: 3\n", encoding="utf-8")
    later.write_text("rrd_l: 8\n", encoding="utf-8")
    del settings["epochs"]
    config = DistillConfig(
        "BPR", "tiny", [file, later], {**settings, "epochs": 4}, ["--epochs=5", "--distillers=[rrd]"]
    )
    assert config["epochs"] == 5
    assert (config["learning_rate"], config["rrd_k"], config["rrd_l"]) == (0.1, 7, 8)
    assert config["rrd_weight"] == 0.001, "our default for BPR"
    assert config["weight_decay"] == 0.0, "RecBole's default"
    assert config.method_options["rrd"].k == 7


def test_what_changes_in_one_configuration_stays_there(tiny_settings: Settings) -> None:
    """RecBole's files are read once a process, and its own code changes the lists that are in them."""
    settings = {key: value for key, value in tiny_settings("NeuMF").items() if key != "mlp_hidden_size"}
    first = DistillConfig("NeuMF", "tiny", config_dict=settings)
    usual = list(first["mlp_hidden_size"])
    first["mlp_hidden_size"].append(3)
    first["eval_args"]["split"]["RS"] = [1, 0, 0]
    again = DistillConfig("NeuMF", "tiny", config_dict=settings)
    assert again["mlp_hidden_size"] == usual and again["eval_args"]["split"]["RS"] == [0.8, 0.1, 0.1]


def test_each_backbone_has_its_own_default_weights(tiny_settings: Settings) -> None:
    config = DistillConfig("NeuMF", "tiny", config_dict=tiny_settings("NeuMF"))
    assert (config["de_weight"], config["rrd_weight"]) == (1e-4, 0.1)
    assert DistillConfig("NGCF", "tiny", config_dict=tiny_settings("NGCF"))["de_weight"] == 0.01


def test_values_are_typed_as_yaml_and_never_evaluated(tiny_settings: Settings, tmp_path: Path) -> None:
    planted = tmp_path / "ran"
    attack = f"__import__('pathlib').Path({str(planted)!r}).touch()"
    config = DistillConfig("BPR", "tiny", None, {**tiny_settings("BPR"), "note": attack}, [f"--remark={attack}"])
    assert not planted.exists() and config["remark"] == attack
    read = read_command_line(["--a=1e-3", "--b=[1, 2]", "--c=True", "--d=x=y", "--e={k: 1}", "--f=~", "--g=1/2"])
    assert read == {"a": 0.001, "b": [1, 2], "c": True, "d": "x=y", "e": {"k": 1}, "f": None, "g": "1/2"}


def test_lists_handed_over_as_strings_are_read(tiny_settings: Settings) -> None:
    """HyperTuning hands lists over as strings."""
    settings = {**tiny_settings("NeuMF"), "mlp_hidden_size": "[4, 2]"}
    assert DistillConfig("NeuMF", "tiny", config_dict=settings)["mlp_hidden_size"] == [4, 2]


def test_the_processes_own_arguments_are_not_ours(tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=99", "--cov=x", "-q"])
    assert DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR"))["epochs"] == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"distillers": ["rrdd"]}, "Unknown distiller 'rrdd'. Did you mean 'rrd'"),
        ({"distillers": ["no_such_module.Method"]}, "Cannot load the distiller"),
        ({"rrd_wieght": 1}, "Unknown option 'rrd_wieght'. Did you mean 'rrd_weight'"),
        ({"de_experts": 1}, "Did you mean 'de_num_experts'"),
        ({"embeding_size": 4}, "Did you mean 'embedding_size'"),
        ({"teacher_modell": "BPR"}, "Did you mean 'teacher_model'"),
        ({"teacher": {"embeding_size": 4}}, "in 'teacher'. Did you mean 'embedding_size'"),
        ({"teacher": "BPR"}, "'teacher' must be dict"),
        ({"rrd_k": -1}, "at least 1"),
        ({"metrics": ["NDGC"]}, "no metric 'NDGC'. Did you mean 'NDCG'"),
        ({"topk": [0]}, "at least one whole number from 1 on"),
        ({"eval_args": "full"}, "must be a dict"),
        ({"distillers": 3}, "must be a list of names"),
        ({"distillers": [["de"]]}, "must be a list of names"),
        ({"distillers": ["de", "de"]}, "given twice"),
        ({"distillers": [".foo"]}, "Cannot load the distiller"),
        ({"teacher_embedding_size": 64}, "--teacher='{embedding_size: ...}'"),
        ({"teacher": {"model": "LightGCN"}}, "teacher_model: NAME"),
        ({"teacher": {"eval_args": {"mode": "uni50"}}}, "must be the same for teacher and student"),
        ({"teacher": {"metrics": ["Recall"]}}, "must be the same for teacher and student"),
        ({"teacher": {"de_weight": 1}}, "option of the run"),
        ({"valid_metric": "NDCG@20"}, "is not measured"),
        ({"valid_metric": "MRR@5"}, "is not measured"),
        ({"valid_metric": "NDCG"}, "is not measured"),
        ({"metrics": []}, ""),
        ({"topk": []}, ""),
        ({"topk": [5, "x"]}, ""),
        ({"eval_args": {"split": {"RS": [0.8, 0.2]}}}, "training, validation and test"),
        ({"eval_args": {"mode": "uni"}}, "how many negatives, at least one and in digits, e.g. uni100"),
        ({"benchmark_filename": ["train", "valid"]}, "must name three files"),
        ({"train_neg_sample_args": None}, "leaves it no negatives"),
        ({"epochs": "many"}, "'epochs' must be int"),
        ({"epochs": -1}, "'epochs' must be at least 1"),
        ({"train_batch_size": 0}, "'train_batch_size' must be at least 1"),
        ({"learning_rate": -1}, "'learning_rate' must be above 0"),
        ({"embedding_size": 0}, "'embedding_size' must be at least 1"),
        ({"seed": -1}, "'seed' must be at least 0"),
        ({"learner": "adamm"}, "Did you mean 'adam'"),
        ({"clip_grad_norm": 5}, "must be dict or nothing"),
        ({"rrd_top_n": 5}, "shorter than rrd_k"),
        ({"de_temperature_end": 3.0}, "must not be above"),
        ({"de_hint": "a+b+c", "de_teacher_hint": "a+b"}, "give one or as many"),
    ],
)
def test_mistakes_are_named(tiny_settings: Settings, given: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        DistillConfig("BPR", "tiny", config_dict={**tiny_settings("BPR"), **given})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("BRP", "Did you mean 'BPR'"),
        ("SASRec", "not a general recommender"),
        ("bpr", "Did you mean 'BPR'"),
        ("", "has no general recommender"),
    ],
)
def test_unknown_models_are_named(model: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        DistillConfig(model, "tiny")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"nowhere\.yaml"):
        DistillConfig("BPR", "tiny", [tmp_path / "nowhere.yaml"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2\n", encoding="utf-8")
    with pytest.raises(OptionError, match="not valid YAML"):
        DistillConfig("BPR", "tiny", [broken])
    broken.write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(OptionError, match="key: value"):
        DistillConfig("BPR", "tiny", [broken])
    for arguments in (["epochs=3"], ["--epochs"], ["--epochs=3", "--epochs=4"], ["--a.b=1"], ["--=1"]):
        with pytest.raises(OptionError):
            DistillConfig("BPR", "tiny", command_line=arguments)
    with pytest.raises(OptionError, match="No dataset"):
        DistillConfig("BPR")


def test_a_word_or_a_negative_for_a_number_of_the_model_is_named(tiny_settings: Settings) -> None:
    with pytest.raises(OptionError, match=r"n_layers of LightGCN must be a number, e\.g\. 2, but is 'three'"):
        DistillConfig("LightGCN", "tiny", config_dict=tiny_settings("LightGCN", n_layers="three"))
    with pytest.raises(OptionError, match="n_layers of LightGCN must not be negative, but is -1; RecBole has 2"):
        DistillConfig("LightGCN", "tiny", config_dict=tiny_settings("LightGCN", n_layers=-1))
    assert DistillConfig("LightGCN", "tiny", config_dict=tiny_settings("LightGCN", n_layers=0))["n_layers"] == 0


def test_a_teachers_settings_are_typed_as_the_runs_are(tiny_settings: Settings) -> None:
    given = {"embedding_size": np.int64(16), "learning_rate": "1e-2"}
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", distillers=["rrd"], teacher=given))
    (spec,) = teacher_specs(config)
    assert spec.embedding_size(config) == 16
    assert config["teacher"] == {"embedding_size": 16, "learning_rate": 0.01}
    several = [{"model": "BPR", **given}, {"checkpoint": "1e2"}, "Pop"]
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", distillers=["rrd"], teachers=several))
    assert config["teachers"] == [{"model": "BPR", **config["teachers"][0]}, {"checkpoint": "1e2"}, "Pop"]
    assert config["teachers"][0]["learning_rate"] == 0.01


def test_numpys_numbers_are_numbers(tiny_settings: Settings) -> None:
    given = tiny_settings("BPR", embedding_size=np.int64(4), learning_rate=np.float32(0.5))
    config = DistillConfig("BPR", "tiny", config_dict=given)
    assert (config["embedding_size"], config["learning_rate"]) == (4, 0.5)
    assert type(config["embedding_size"]) is int and type(config["learning_rate"]) is float


def test_none_and_separators_are_read_as_recboles_users_write_them(tmp_path: Path) -> None:
    assert read_command_line(["--a=None", "--b={x: None}", "--c=,", "--d=|", "--e=5", "--f=~", "--g=x"]) == {
        "a": None, "b": {"x": None}, "c": ",", "d": "|", "e": 5, "f": None, "g": "x",
    }  # fmt: skip


def test_intervals_and_dates_are_text(tmp_path: Path) -> None:
    given = {"a": "[1,2];[4,9]", "b": "[1,2);[4,inf)", "c": "2024-05-01", "d": "2024-05-01 10:00:00"}
    assert read_command_line([f"--{key}={value}" for key, value in given.items()]) == given
    assert read_command_line(["--a=[1,2]"]) == {"a": [1, 2]}


def test_what_recbole_reads_in_any_form_is_read(tiny_settings: Settings, tmp_path: Path) -> None:
    given = tiny_settings("BPR", learner="AdamW", checkpoint_dir=tmp_path / "saved", gpu_id=None)
    config = DistillConfig("BPR", "tiny", config_dict=given)
    assert (config["learner"], config["checkpoint_dir"], config["gpu_id"]) == ("adamw", str(tmp_path / "saved"), "")


def test_a_path_with_a_space_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my conf.yaml").write_text("")
    assert file_names("my conf.yaml") == ["my conf.yaml"]
    assert file_names("a.yaml b.yaml,c.yaml") == ["a.yaml", "b.yaml", "c.yaml"]


def test_negatives_are_dropped_for_the_teacher_of_a_student_on_whole_users_alone(tiny_settings: Settings) -> None:
    """Elsewhere the user has said it of all models: teacher and plain student must be trained as the student is."""
    given = tiny_settings("NeuMF", train_neg_sample_args=None, threshold={"rating": 4})
    config = DistillConfig("NeuMF", "tiny", config_dict=given)
    assert config.derived("NeuMF", {})["train_neg_sample_args"] == config["train_neg_sample_args"]
    autoencoder = DistillConfig("MultiVAE", "tiny", config_dict=tiny_settings("MultiVAE", train_neg_sample_args=None))
    assert autoencoder.derived("BPR", {})["train_neg_sample_args"]["distribution"] == "uniform"


def test_names_of_data_sets_are_no_options(tiny_settings: Settings) -> None:
    """A key that is like nothing known is the user's own, e.g. for a model of theirs."""
    assert DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", foo=1))["foo"] == 1


def test_names_may_come_in_one_string_and_an_empty_teacher_is_no_mistake(tiny_settings: Settings) -> None:
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", distillers="de,rrd", teacher=None))
    assert config.run_options.distillers == ["de", "rrd"] and config.run_options.teacher == {}


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    file = tmp_path / "hostile.yaml"
    file.write_text("a: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(OptionError, match="not valid YAML"):
        DistillConfig("BPR", "tiny", [file])


# Benchmarks are read by test_benchmark.py, frontiers by test_frontier.py.
RUNS = sorted(path for path in ROOT.glob("configs/**/*.yaml") if path.parent.name not in ("benchmark", "frontier"))


@pytest.mark.parametrize("file", RUNS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(file: Path) -> None:
    config = DistillConfig(config_file_list=[file])
    assert config.run_options.distillers and set(config.run_options.distillers) <= set(METHODS)
    teacher = config.derived(config.run_options.teacher_model or config["model"], config.run_options.teacher)
    assert teacher["dataset"] == config["dataset"] and teacher.run_options.distillers == []


@pytest.mark.parametrize("name", METHODS)
def test_every_default_of_a_student_is_an_option_and_may_be_so(name: str) -> None:
    method = method_class(name)
    for student, given in method.student_defaults.items():
        own = method.options_class(**given)
        assert method.defaults_for(student) == {key: own.to_keys()[key] for key in method.defaults_for(student)}
        assert student in general_models()


def preset_config(**settings: Any) -> DistillConfig:
    return DistillConfig("BPR", "ml-100k", config_dict={"distillers": ["rce_kd"], **settings})


@pytest.mark.parametrize(
    ("name", "preset"), [(name, one) for name in METHODS for one in method_class(name).options_class.presets()]
)
def test_every_preset_is_a_configuration(name: str, preset: str) -> None:
    config = preset_config(distillers=[name], **{f"{name}_preset": preset})
    read = config.method_options[name].to_keys()
    given = method_class(name).options_class.presets()[preset]
    assert {**read, **given} == read and read[f"{name}_preset"] == preset
    assert re.fullmatch(r"[a-z0-9]+-(bpr|neumf|lightgcn)(-from-lightgcn)?(-kds)?", preset)


def test_a_preset_stands_in_for_defaults_and_gives_way_to_what_is_written(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("rce_kd_preset: citeulike-bpr\nrce_kd_beta: 7\n", encoding="utf-8")
    config = DistillConfig(
        "BPR", "ml-100k", [file], {"distillers": ["rce_kd"], "rce_kd_k": 20}, command_line=["--rce_kd_m=300"]
    )
    options = config.method_options["rce_kd"]
    assert (options.weight, options.l, options.tau) == (500, 50, 1)
    assert (options.beta, options.k, options.m) == (7, 20, 300)
    assert config["rce_kd_weight"] == 500 and config["rce_kd_preset"] == "citeulike-bpr"
    # What it does not say stays the default, and other methods keep theirs.
    assert options.t == 10 and config["rrd_weight"] == 0.001
    teacher = config.derived("LightGCN", {"embedding_size": 32})
    assert teacher["rce_kd_preset"] is None and teacher["rce_kd_weight"] == 10


def test_a_preset_is_above_the_defaults_of_a_student() -> None:
    settings = {"distillers": ["de"], "de_preset": "citeulike-bpr"}
    config = DistillConfig("NeuMF", "ml-100k", config_dict=settings)
    assert config.method_options["de"].weight == 0.01


def test_an_unknown_preset_is_told_the_known_ones() -> None:
    with pytest.raises(
        OptionError, match=r"'rce_kd_preset' cannot be 'citeulike-bp'.*Did you mean 'citeulike-bpr'"
    ) as error:
        preset_config(rce_kd_preset="citeulike-bp")
    assert all(name in str(error.value) for name in method_class("rce_kd").options_class.presets())
    for method in ("rd", "rce_kd"):
        with pytest.raises(OptionError, match=f"{method}_preset"):
            preset_config(**{f"{method}_preset": 3})


def test_no_preset_is_none() -> None:
    assert preset_config(rce_kd_preset=None).method_options["rce_kd"].weight == 10


def test_the_teacher_inherits_what_the_user_said_and_nothing_of_distillation(tiny_settings: Settings) -> None:
    settings = {**tiny_settings("BPR"), "learning_rate": 0.5, "distillers": ["rrd"], "rrd_k": 3}
    teacher = DistillConfig("BPR", "tiny", config_dict=settings).derived("LightGCN", {"embedding_size": 32})
    assert (teacher["model"], teacher["learning_rate"], teacher["embedding_size"]) == ("LightGCN", 0.5, 32)
    assert teacher["rrd_k"] == 40 and teacher.run_options.distillers == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("|", "|"), (">", ">"), (" ", " "), ("#", "#"), ("-", "-"), ("rec #1", "rec #1"), ("2024-05-01", "2024-05-01"),
        ("a: b: c", "a: b: c"), ("1e-3", 0.001), ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}), ("None", None), ("~", None),
        ("true", True), ("01", "01"), ("7", 7), ("some text", "some text"),
    ],
)  # fmt: skip
def test_a_text_that_says_nothing_but_text_stays_as_it_is(text: str, value: Any) -> None:
    typed = typed_as_yaml(text)
    assert typed == value and type(typed) is type(value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metric_decimal_place": None}, "metric_decimal_place"),
        ({"learner": "sparse_adam"}, "sparse_adam"),
        ({"clip_grad_norm": {"max_norm": 5, "foo": 1}}, "clip_grad_norm has no 'foo'"),
        ({"train_neg_sample_args": {"distribution": "popularity", "sample_num": 0}}, "sample_num"),
        ({"state": 2}, "state"),
    ],
)
def test_recboles_own_mistakes_are_sentences(settings: dict[str, Any], words: str, tiny_settings: Settings) -> None:
    with pytest.raises(OptionError, match=words):
        DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **settings))


def test_one_config_file_may_be_given_as_it_is(tmp_path: Path, tiny_settings: Settings) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("embedding_size: 12\n", encoding="utf-8")
    settings = tiny_settings("BPR")
    del settings["embedding_size"]
    for given in (str(file), file, [file]):
        assert DistillConfig("BPR", "tiny", given, settings)["embedding_size"] == 12


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_trained(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", record_dir=str(tmp_path)))
    with pytest.raises(OptionError, match="Cannot write to record_dir"):
        check_run(config)


def test_an_empty_folder_is_a_sentence_and_texts_in_teacher_refine_are_typed(tiny_settings: Settings) -> None:
    """RecBole would fail on the folder once the data are read."""
    given = {**tiny_settings("BPR", checkpoint_dir=""), "model": "BPR", "dataset": "tiny"}
    with pytest.raises(OptionError, match="checkpoint_dir is empty: name a folder"):
        check_run(DistillConfig(config_dict=given))
    refine = {"epochs": "2", "learning_rate": "1e-2"}
    config = DistillConfig(config_dict={**given, "distillers": ["rrd"], "teacher_refine": refine, "teacher": refine})
    assert config["teacher_refine"] == config["teacher"] == {"epochs": 2, "learning_rate": 0.01}
