"""The distilled student: stock RecBole's training when nothing is distilled, named terms when something is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import BPR
from recbole.utils import get_trainer, init_seed

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.distillers.rrd import relaxed_ranking_loss
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment import student as student_training
from recbole_derrd.experiment.preflight import check_roles
from recbole_derrd.quick_start import knowledge_of, run_recbole_derrd
from recbole_derrd.recbole_compat.models import model_class
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.student.model import build_student, distilled, step_batch
from recbole_derrd.teacher import NoTeacher, StoredKnowledge, Teacher
from recbole_derrd.training.trainer import trainer_for

Settings = Callable[..., dict[str, Any]]
SMALL = {"rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "de_num_experts": 3, "latency_users": 0}


def stock_weights(settings: dict[str, Any], model: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Train as ``recbole.quick_start.run_recbole`` does, with RecBole's own classes."""
    config = DistillConfig(model, "tiny", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    network = model_class(model)(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
    trainer.fit(train, valid, saved=False)
    return network.state_dict(), trainer.evaluate(test, load_best_model=False)


def student_of(settings: dict[str, Any], model: str) -> tuple[DistillConfig, Any, Any]:
    config = DistillConfig(model, "tiny", config_dict=settings)
    data = prepare_data(config)
    if config.run_options.distillers:
        knowledge = knowledge_of(config, Teacher.of(config, data), data)
        data = prepare_data(config)
    else:
        knowledge = StoredKnowledge(Path(), NoTeacher(), data.history)
    return config, data, build_student(config, data, knowledge)


def test_the_weight_of_the_base_loss_holds_while_no_method_is_at_work(
    tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method's weight may be 0 for a part of the training."""
    _, data, student = student_of(tiny_settings("BPR", distillers=["rrd"], base_weight=0.25, **SMALL), "BPR")
    batch = next(iter(data.train))
    student.begin_epoch(0)
    losses = student.calculate_loss(batch)
    monkeypatch.setattr(type(student.distillers[0]), "weight", 0.0)
    (alone,) = student.calculate_loss(batch)
    assert torch.equal(alone, losses[-1]) and student.loss_names == ["base"]
    student.base_weight = 1
    student.loss_names, student.last_terms = ["rrd", "base"], {"rrd": alone}
    assert torch.equal(student.calculate_loss(batch) * 0.25, alone)
    assert student.loss_names == ["base"] and not student.last_terms, "it is logged as what it is"


@pytest.mark.parametrize("model", ["BPR", "NeuMF", "LightGCN", "MultiVAE", "NGCF", "SGL"])
@pytest.mark.parametrize("distillers", [[], ["de", "rrd"]], ids=["none", "weightless"])
def test_without_distillation_it_is_stock_recbole_to_the_bit(
    tiny_settings: Settings, model: str, distillers: list[str]
) -> None:
    if model == "MultiVAE" and distillers:
        distillers = ["rrd"]
    settings = tiny_settings(model, epochs=3, **SMALL, de_weight=0.0, rrd_weight=0.0)
    expected, expected_test = stock_weights(settings, model)
    exact = ["batches", "ranking"]
    config, data, student = student_of(
        {**settings, "distillers": distillers, "fast": exact if distillers else "auto"}, model
    )
    trainer = trainer_for(config, student)
    trainer.fit(data.train, data.valid, saved=False)
    found = {key: value for key, value in student.state_dict().items() if not key.startswith("distillers.")}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    assert trainer.evaluate(data.test, load_best_model=False) == expected_test


def test_the_terms_are_named_weighted_and_added_to_the_base_loss(tiny_settings: Settings) -> None:
    settings = tiny_settings("BPR", **SMALL, distillers=["de", "rrd"], de_weight=0.5, rrd_weight=0.25)
    _, data, student = student_of(settings, "BPR")
    batch = next(iter(data.train))
    student.begin_epoch(0)
    de, rrd = student.distillers
    state = de.generator.get_state()
    losses = student.calculate_loss(batch)
    assert student.loss_names == ["de", "rrd", "base"]
    de.generator.set_state(state)
    entities = step_batch(student, batch)
    assert losses[0].item() == pytest.approx(0.5 * de(entities).item())
    assert losses[1].item() == pytest.approx(0.25 * rrd(entities).item())
    assert torch.equal(losses[2], super(type(student).__mro__[1], student).calculate_loss(batch))


def test_the_graph_is_propagated_once_per_step(tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second propagation for the distillers would cost a third of an epoch."""
    _, data, student = student_of(tiny_settings("LightGCN", **SMALL, distillers=["de", "rrd"]), "LightGCN")
    calls = []
    propagate = type(student).__mro__[2].forward
    monkeypatch.setattr(type(student).__mro__[2], "forward", lambda self: (calls.append(1), propagate(self))[1])
    student.begin_epoch(0)
    for batch in data.train:
        calls.clear()
        losses = student.calculate_loss(batch)
        sum(losses).backward()
        assert len(calls) == 1
    with torch.no_grad():
        before = student.full_sort_predict(batch)
        student.user_embedding.weight.mul_(2)
        student.calculate_loss(batch)
        assert not torch.equal(before, student.full_sort_predict(batch)), "a step must clear what evaluation cached"


def test_pointwise_batches_split_by_label(tiny_settings: Settings) -> None:
    _, data, student = student_of(tiny_settings("NeuMF"), "NeuMF")
    batch = next(iter(data.train))
    entities = step_batch(student, batch)
    label, items = batch[student.LABEL], batch[student.ITEM_ID]
    assert entities.positives.tolist() == sorted(set(items[label == 1].tolist()))
    assert entities.negatives.tolist() == sorted(set(items[label == 0].tolist()))
    assert entities.rows == len(batch) and entities.users.tolist() == sorted(set(batch[student.USER_ID].tolist()))


def test_at_the_authors_scale_training_is_that_by_sums(tiny_settings: Settings) -> None:
    """The settings of docs/methods/README.md, "To the authors' scale"."""
    rows, weight, decay, rate = 32, 0.3, 0.001, 0.01
    scaled = {"train_batch_size": rows, "base_weight": rows, "rrd_weight": weight * rows, "weight_decay": decay}
    settings = tiny_settings("BPR", **SMALL, distillers=["rrd"], teacher={"embedding_size": 16}, learning_rate=rate)
    _, data, student = student_of({**settings, **scaled}, "BPR")
    published = copy.deepcopy(student)
    term = student.distillers[0]
    student.begin_epoch(0)
    ours, theirs = (torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay) for model in (student, published))
    full = [batch for batch in data.train if len(batch) == rows]
    assert len(full) > 5
    for batch in full:
        ours.zero_grad()
        sum(student.calculate_loss(batch)).backward()
        ours.step()
        theirs.zero_grad()
        users, (positive, negative) = batch["user_id"], (batch["item_id"], batch["neg_item_id"])
        factors, table = published.user_embedding.weight, published.item_embedding.weight
        margins = (factors[users] * (table[positive] - table[negative])).sum(dim=1)
        loss = -torch.log(1e-10 + margins.sigmoid()).sum()
        for user in users.unique().tolist():
            scores = table[term.items[user].long()] @ factors[user]
            loss = loss + weight * relaxed_ranking_loss(scores[None, :4], scores[None, 4:]).sum()
        loss.backward()
        theirs.step()
    for one, other in zip(student.parameters(), published.parameters()):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("model", ["BPR", "NeuMF", "MultiVAE"])
def test_the_padding_user_and_item_take_no_part_in_a_step(tiny_settings: Settings, model: str) -> None:
    """Loaders of whole users list user 0; a distiller would train on its row."""
    _, data, student = student_of(tiny_settings(model), model)
    batch = next(iter(data.train))
    batch[student.USER_ID][0] = 0
    columns = [column for column in (student.ITEM_ID, student.NEG_ITEM_ID) if column in batch.columns]
    for column in columns if model != "MultiVAE" else ():
        batch[column][:2] = 0
    entities = step_batch(student, batch)
    for ids in (entities.positives, entities.negatives):
        assert ids is None or (len(ids) > 0 and (ids > 0).all() and len(ids.unique()) == len(ids))
    assert entities.users.tolist() == sorted(set(batch[student.USER_ID].tolist()) - {0})
    assert entities.rows == len(batch)


def test_the_teacher_is_no_part_of_the_student_and_stays_as_it_was(tiny_settings: Settings) -> None:
    settings = tiny_settings("BPR", **SMALL, distillers=["de", "rrd"], epochs=2, teacher={"embedding_size": 16})
    config = DistillConfig("BPR", "tiny", config_dict=settings)
    data = prepare_data(config)
    teacher = Teacher.of(config, data)
    knowledge = knowledge_of(config, teacher, data)
    before = {key: value.clone() for key, value in knowledge.teacher.model.state_dict().items()}
    file = teacher.trained.checkpoint.read_bytes()
    student = build_student(config, prepare_data(config), knowledge)
    shapes = {tuple(tensor.shape) for name, tensor in student.state_dict().items() if not name.startswith("distillers")}
    assert shapes == {(31, 8), (41, 8)}, "nothing of width 16"
    trainer_for(config, student).fit(data.train, data.valid, saved=False)
    model = knowledge.teacher.model
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert teacher.trained.checkpoint.read_bytes() == file


def test_the_experts_are_trained_with_the_student(tiny_settings: Settings) -> None:
    config, data, student = student_of(tiny_settings("BPR", **SMALL, distillers=["de"]), "BPR")
    before = {name: value.clone() for name, value in student.named_parameters()}
    trainer_for(config, student).fit(data.train, data.valid, saved=False)
    still = [name for name, value in student.named_parameters() if torch.equal(value, before[name])]
    assert not still


def test_a_class_is_made_once() -> None:
    assert distilled(BPR) is distilled(BPR) and distilled(BPR).__name__ == "DistilledBPR"


@pytest.mark.parametrize(
    ("student", "teacher", "distillers", "words"),
    [
        ("EASE", "BPR", ["rrd"], "cannot be a student"),
        ("BPR", "EASE", ["de"], "the teacher EASE has none"),
        ("MultiVAE", "BPR", ["rrd", "de"], "the student MultiVAE has none"),
        ("ENMF", "BPR", ["de"], "whole users"),
    ],
)
def test_what_models_cannot_do_is_refused_before_training(
    student: str, teacher: str, distillers: list[str], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        check_roles(student, [teacher], distillers)


def test_every_method_is_listed_with_its_options() -> None:
    for name in METHODS:
        method = method_class(name)
        assert method.name == name and method.options_class.prefix == f"{name}_" and method.needs


@pytest.mark.parametrize("hint", ["gmf", "mlp", "concat", "gmf+mlp"])
def test_neumf_offers_its_hint_layers(tiny_settings: Settings, hint: str) -> None:
    _, data, student = student_of(tiny_settings("NeuMF", **SMALL, distillers=["de"], de_hint=hint), "NeuMF")
    student.begin_epoch(0)
    losses = student.calculate_loss(next(iter(data.train)))
    sum(losses).backward()
    moved = {
        name for name, value in student.named_parameters() if value.grad is not None and name.startswith("distillers")
    }
    assert len(moved) == 12 * (2 if "+" in hint else 1)


def test_an_unknown_hint_layer_is_named(tiny_settings: Settings) -> None:
    with pytest.raises(OptionError, match="no hint layer 'final'"):
        student_of(tiny_settings("NeuMF", **SMALL, distillers=["de"], de_hint="final"), "NeuMF")


def test_mixed_precision_keeps_the_terms_in_float32(tiny_settings: Settings) -> None:
    _, data, student = student_of(tiny_settings("BPR", **SMALL, distillers=["de", "rrd"]), "BPR")
    student.begin_epoch(300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = student.calculate_loss(next(iter(data.train)))
    assert losses[0].dtype == losses[1].dtype == torch.float32 and torch.isfinite(sum(losses))


@pytest.mark.parametrize("epoch", [0, 120, 600])
def test_the_fused_experts_are_a_switch_and_change_nothing_but_the_time(tiny_settings: Settings, epoch: int) -> None:
    gradients = []
    for fused in (False, True):
        _, data, student = student_of(
            tiny_settings("BPR", **SMALL, distillers=["de"], fast="auto" if fused else "none", de_weight=1.0), "BPR"
        )
        student.begin_epoch(epoch)
        sum(student.calculate_loss(next(iter(data.train)))).backward()
        gradients.append({name: value.grad for name, value in student.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-5 * gradient.abs().max()), name


@pytest.mark.parametrize(("method", "needed"), [("de", False), ("cd", True)])
def test_a_teacher_whose_knowledge_is_written_is_freed_before_the_training(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, needed: bool
) -> None:
    told: list[str] = []
    forget, trainer = StoredKnowledge.forget_teacher, student_training.trainer_for
    monkeypatch.setattr(StoredKnowledge, "forget_teacher", lambda self: told.append("freed") or forget(self))
    monkeypatch.setattr(student_training, "trainer_for", lambda *a, **k: told.append("training") or trainer(*a, **k))
    small = {"de_num_experts": 2, "cd_n_distill": 3, "record_dir": str(tmp_path), "latency_users": 0}
    run_recbole_derrd("BPR", "tiny", config_dict={**tiny_settings("BPR", distillers=[method]), **small})
    assert told == (["training", "freed"] if needed else ["freed", "training", "freed"])
