"""The trainer: exact resumption, safe checkpoints that stock RecBole reads, and a loss that is not a number."""

from __future__ import annotations

import importlib.machinery
import os
import sys
import threading
import types
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from recbole.trainer import Trainer

from recbole_derrd.config.distill_config import WHOLE_USER_MODELS, DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, TrainingError
from recbole_derrd.quick_start import knowledge_of, run_recbole_derrd
from recbole_derrd.student.model import build_student
from recbole_derrd.teacher import Teacher
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.trainer import trainer_for

Settings = Callable[..., dict[str, Any]]
SMALL = {"rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "de_num_experts": 3, "latency_users": 0, "distillers": ["de", "rrd"]}


def make(settings: dict[str, Any], model: str, checkpoint: Path, role: str = "") -> tuple[Any, Any]:
    config = DistillConfig(model, "tiny", config_dict=settings)
    data = prepare_data(config)
    knowledge = knowledge_of(config, Teacher.of(config, data), data)
    data = prepare_data(config)
    return trainer_for(config, build_student(config, data, knowledge), checkpoint=checkpoint, role=role), data


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    "model", ["BPR", "LINE", "NeuMF", "LightGCN", "MultiVAE", "MacridVAE", "DiffRec", "LDiffRec", "RecVAE", "SGL"]
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(
    tiny_settings: Settings, tmp_path: Path, model: str
) -> None:
    settings = tiny_settings(model, **{**SMALL, "distillers": ["rrd"] if model in WHOLE_USER_MODELS else ["de", "rrd"]})
    settings.update(epochs=6, checkpoint_step=1, dropout_prob=0.2)
    whole, data = make(settings, model, tmp_path / "whole.pth")
    score, valid = whole.fit(data.train, data.valid)

    def kill(epoch: int, _: float) -> None:
        if epoch == 2:
            raise KilledError

    first, data = make(settings, model, tmp_path / "part.pth")
    with pytest.raises(KilledError):
        first.fit(data.train, data.valid, callback_fn=kill)
    torch.manual_seed(12345)
    second, data = make(settings, model, tmp_path / "part.pth")
    second.resume_checkpoint(second.training_file)
    assert second.start_epoch == 3
    assert second.fit(data.train, data.valid) == (score, valid)
    assert second.train_loss_dict == whole.train_loss_dict
    for key, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value), key


@pytest.mark.parametrize("ending", [{"epochs": 3}, {"epochs": 50, "stopping_step": 1, "learning_rate": 0.3}])
def test_a_finished_run_is_not_trained_on(tiny_settings: Settings, tmp_path: Path, ending: dict[str, Any]) -> None:
    """RecBole's own fit would save the last weights over the best ones."""
    settings = tiny_settings("BPR", **{**SMALL, "checkpoint_step": 1, **ending})
    first, data = make(settings, "BPR", tmp_path / "a.pth")
    result = first.fit(data.train, data.valid)
    test, best = first.evaluate(data.test), (tmp_path / "a.pth").read_bytes()
    second, data = make(settings, "BPR", tmp_path / "a.pth")
    second.resume_checkpoint(second.training_file)
    assert second.fit(data.train, data.valid) == result
    assert (tmp_path / "a.pth").read_bytes() == best and second.evaluate(data.test) == test


def test_a_run_that_goes_on_without_a_validation_keeps_its_best_weights(
    tiny_settings: Settings, tmp_path: Path
) -> None:
    """Three epochs, validated after the second: what is left of a run killed in the third has nothing to compare."""
    settings = tiny_settings("BPR", **{**SMALL, "checkpoint_step": 1, "epochs": 3, "eval_step": 2})
    whole, data = make(settings, "BPR", tmp_path / "whole.pth")
    whole.fit(data.train, data.valid)

    def kill(_: int, __: float) -> None:
        raise KilledError

    first, data = make(settings, "BPR", tmp_path / "part.pth")
    with pytest.raises(KilledError):
        first.fit(data.train, data.valid, callback_fn=kill)
    second, data = make(settings, "BPR", tmp_path / "part.pth")
    second.resume_checkpoint(second.training_file)
    second.fit(data.train, data.valid)
    for trainer in (whole, second):
        trainer.load_best()
    assert second.evaluate(data.test, load_best_model=False) == whole.evaluate(data.test, load_best_model=False)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value), key


def test_a_training_checkpoint_of_another_run_is_refused(tiny_settings: Settings, tmp_path: Path) -> None:
    first, data = make(tiny_settings("BPR", **SMALL, checkpoint_step=1), "BPR", tmp_path / "a.pth")
    first.fit(data.train, data.valid)
    other, _ = make(tiny_settings("BPR", **{**SMALL, "de_num_experts": 4}), "BPR", tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="another model or other distillers"):
        other.resume_checkpoint(first.training_file)
    first.training_file.write_bytes(first.training_file.read_bytes()[:300])
    with pytest.raises(CheckpointError, match="damaged"):
        other.resume_checkpoint(first.training_file)


def test_a_loss_that_is_not_a_number_names_its_term_and_epoch(tiny_settings: Settings, tmp_path: Path) -> None:
    trainer, data = make(tiny_settings("BPR", **SMALL), "BPR", tmp_path / "a.pth")
    with torch.no_grad():
        trainer.model.distillers[0].banks[0]["user"].second.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"'de' is not a finite number in epoch 0"):
        trainer.fit(data.train, data.valid)
    assert not (tmp_path / "a.pth").exists()


def test_the_logs_name_the_terms_as_means(tiny_settings: Settings, tmp_path: Path) -> None:
    trainer, data = make(tiny_settings("BPR", **SMALL), "BPR", tmp_path / "a.pth")
    seen: dict[str, float] = {}
    trainer.tensorboard.add_scalar = lambda tag, value, step: seen.update({tag: value})
    trainer.fit(data.train, data.valid)
    assert {"Loss/Train/base", "Loss/Train/de", "Loss/Train/rrd", "Loss/Train/sum"} <= seen.keys()
    assert seen["Loss/Train/base"] == pytest.approx(0.693, abs=0.01), "the mean of a fresh BPR's loss is ln 2"
    line = trainer._generate_train_loss_output(0, 0.0, 1.0, (1.0, 2.0, 3.0))
    assert line.index("base") < line.index("de") < line.index("rrd")


class FakeWandb(types.ModuleType):
    """What RecBole's logger uses of the package wandb."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.run: Any = None
        self.logged: list[dict[str, Any]] = []
        self.steps: dict[str, str] = {}

    def init(self, **_: Any) -> None:
        self.run = types.SimpleNamespace(summary={})

    def define_metric(self, name: str, step_metric: str) -> None:
        self.steps[name] = step_metric

    def log(self, metrics: dict[str, Any], commit: bool) -> None:
        self.logged.append(metrics)


def test_wandb_gets_each_term_as_a_number_under_the_trainings_role(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    trainer, data = make(
        tiny_settings("BPR", **SMALL, log_wandb=True, epochs=2), "BPR", tmp_path / "a.pth", role="distilled"
    )
    trainer.fit(data.train, data.valid)
    trainer.evaluate(data.test)
    losses = [row for row in wandb.logged if "distilled/train/train_loss" in row]
    terms = [f"distilled/train/train_loss/{name}" for name in ("base", "de", "rrd")]
    assert [row["train_step"] for row in losses] == [0, 1]
    for row in losses:
        assert row["distilled/train/train_loss"] == pytest.approx(sum(row[term] for term in terms))
    assert losses[0][terms[0]] == pytest.approx(0.693, abs=0.01), "the mean of a fresh BPR's loss is ln 2"
    teachers = [row["teacher/train/train_loss"] for row in wandb.logged if "teacher/train/train_loss" in row]
    assert teachers[0] == pytest.approx(0.693, abs=0.01)
    assert any("distilled/valid/ndcg@5" in row for row in wandb.logged)
    assert wandb.steps["distilled/train/*"] == "train_step" and wandb.steps["distilled/valid/*"] == "valid_step"
    assert "distilled/eval/ndcg@5" in wandb.run.summary


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NeuMF"])
def test_stock_recbole_evaluates_the_students_checkpoint_to_the_last_digit(
    tiny_settings: Settings, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(model, **SMALL, epochs=3, record_dir=str(tmp_path / "records"))
    record = run_recbole_derrd(model, "tiny", config_dict=settings)
    file = record["checkpoints"]["student"]
    content = read_checkpoint(file)
    assert not any(key.startswith("distillers") for key in content["state_dict"])
    assert content["config"]["model"] == model and "distillers" not in content["config"]

    # RecBole's own readers call torch.load with its defaults; this tells torch to accept the file.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(sys, "argv", ["stock"])
    config = torch.load(file, weights_only=False)["config"]
    assert type(config).__module__ == "recbole.config.configurator"
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    from recbole_derrd.recbole_compat.models import model_class

    network = model_class(model)(config, train._dataset)
    trainer = Trainer(config, network)
    trainer.eval_collector.data_collect(train)
    assert dict(trainer.evaluate(test, model_file=file)) == record["distilled"]["test"]
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


@pytest.mark.parametrize("model", ["BPR", "NeuMF"])
def test_recboles_load_data_and_model_takes_the_students_checkpoint(
    tiny_settings: Settings, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="recbole.quick_start imports ray")
    try:
        from recbole.quick_start import load_data_and_model
    except (ImportError, AttributeError) as error:
        pytest.skip(f"recbole.quick_start does not import here: {error}")
    record = run_recbole_derrd(model, "tiny", config_dict=tiny_settings(model, **SMALL, record_dir=str(tmp_path)))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(sys, "argv", ["stock"])
    config, network, _, train, _, test = load_data_and_model(record["checkpoints"]["student"])
    trainer = Trainer(config, network)
    trainer.eval_collector.data_collect(train)
    assert dict(trainer.evaluate(test, load_best_model=False)) == record["distilled"]["test"]


def test_large_state_that_has_changed_is_kept_and_what_has_not_is_not(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCL's centroids of many clusters, LINE's order of users; not the interactions of every user."""
    import recbole_derrd.training.attributes as attributes_module

    monkeypatch.setattr(attributes_module, "_COUNTER_SIZE", 3)
    trainer, _ = make(tiny_settings("BPR", **SMALL), "BPR", tmp_path / "student.pth")
    model = trainer.model
    model.history, model.order = torch.arange(9.0), np.arange(9)
    trainer.as_built = attributes_module.marks_of(model)
    model.centroids, model.restore_user_e, model.few = torch.ones(9), torch.ones(9), torch.ones(2)
    assert {"few", "centroids"} <= attributes_module.kept_attributes(model, trainer.as_built).keys()
    assert (
        not {"history", "order", "restore_user_e"} & attributes_module.kept_attributes(model, trainer.as_built).keys()
    )
    model.history[3] = 7
    np.random.shuffle(model.order)
    kept = attributes_module.kept_attributes(model, trainer.as_built)
    assert torch.equal(kept["history"], model.history) and kept["order"].tolist() == model.order.tolist()
    order = model.order.copy()
    # As after an epoch.
    trainer.train_loss_dict, trainer.best_valid_score = {0: 1.0}, 0.1
    trainer.best_valid_result = {trainer.config["valid_metric"].lower(): 0.1}
    trainer._train_data = None
    trainer.save_training(0)
    model.order = np.arange(9)
    trainer.resume_checkpoint(trainer.training_file)
    assert isinstance(model.order, np.ndarray) and model.order.tolist() == order.tolist()


def test_a_trainer_leaves_no_threads(tiny_settings: Settings, tmp_path: Path) -> None:
    """A search over hundreds of settings would pile up thousands."""
    before = set(threading.enumerate())
    for role in ("", "student"):
        trainer, data = make(tiny_settings("BPR", **SMALL), "BPR", tmp_path / f"{role}.pth", role)
        trainer.fit(data.train, data.valid)
        trainer.evaluate(data.test, load_best_model=False)
    diverging, data = make(tiny_settings("BPR", **SMALL), "BPR", tmp_path / "diverging.pth")
    with torch.no_grad():
        diverging.model.user_embedding.weight.fill_(float("nan"))
    with pytest.raises(TrainingError):
        diverging.fit(data.train, data.valid)
    # tqdm keeps one thread for all of its bars.
    left = {thread for thread in threading.enumerate() if thread.name != "tqdm_monitor"}
    assert left <= before
