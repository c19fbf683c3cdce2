"""A graph student in few bits: what is propagated is what its codes stand for, and it is saved as what it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_few_bits import Settings, built, keys_of

from recbole_derrd.adapters import ADAPTERS
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes, parameter_count
from recbole_derrd.exporting.folder import export
from recbole_derrd.exporting.request import Request
from recbole_derrd.model_cache.building import load_model
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.recbole_compat.models import missing_package
from recbole_derrd.serving.recommender import Recommender
from recbole_derrd.student.propagated import readers_of
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.trainer import trainer_for

pytestmark = [pytest.mark.whole_run, pytest.mark.usefixtures("few_rounds")]
GRAPHS = ("LightGCN", "NGCF", "SGL")
MORE: dict[str, dict[str, Any]] = {"NGCF": {"hidden_size_list": [8, 8]}}


def graph_keys(tiny_settings: Settings, model: str, **more: Any) -> dict[str, Any]:
    return keys_of(tiny_settings, model, **{**MORE.get(model, {}), "n_layers": 2, "teacher_model": "BPR", **more})


@pytest.mark.parametrize("model", [name for name, adapter in ADAPTERS.items() if adapter.propagates])
def test_every_reader_of_the_items_sees_codes(tiny_settings: Settings, model: str) -> None:
    if missing_package(model):
        pytest.skip(f"{model} needs a package that is not here")
    bits = 1 if model == "LightGCN" else 2
    student, data, _ = built(graph_keys(tiny_settings, model, student_bits=bits), model)
    student.eval()
    items = student.adapter.item_embeddings()
    assert all(len(row.unique()) <= 2**bits for row in items[1:])
    users = torch.tensor([1, 2])
    wanted = student.adapter.user_embeddings(users) @ items.T
    torch.testing.assert_close(student.adapter.score_all(users), wanted)
    asked = next(iter(data.test))[0][:2]
    ranked = student.full_sort_predict(asked.to(student.device)).view(len(asked), -1)
    torch.testing.assert_close(ranked, student.adapter.score_all(asked[student.USER_ID]))


@pytest.mark.parametrize("model", GRAPHS)
def test_every_loss_trains_the_graphs_tables_and_the_steps(tiny_settings: Settings, model: str) -> None:
    student, data, _ = built(graph_keys(tiny_settings, model, distillers=["de", "rrd"]), model)
    student.begin_epoch(0)
    losses = student.calculate_loss(next(iter(data.train)).to(student.device))
    reader = readers_of(student)["item"]
    for loss in losses[:3]:
        tables, steps = torch.autograd.grad(loss, [student.item_embedding.weight, reader.log_ratios], retain_graph=True)
        assert tables.abs().sum() > 0 and steps.abs().sum() > 0


@pytest.mark.parametrize("model", GRAPHS)
def test_the_saved_student_is_a_bpr_with_the_same_metrics(tiny_settings: Settings, model: str) -> None:
    keys = graph_keys(tiny_settings, model, student_bits=2, user_bits=4)
    record = run_recbole_derrd(model, "tiny", config_dict=keys)
    path = Path(record["checkpoints"]["student"])
    content = read_checkpoint(path)
    assert content["config"]["model"] == "BPR"
    own = {key: value for key, value in keys.items() if key not in MORE.get(model, {})}
    own.update(distillers=[], student_bits=32, user_bits=32, embedding_size=content["config"]["embedding_size"])
    config = DistillConfig("BPR", "tiny", config_dict=own)
    data = prepare_data(config)
    plain = load_model(config, data, path)
    trainer = trainer_for(config, plain, plain=True)
    trainer.eval_collector.data_collect(data.train)
    assert dict(trainer.evaluate(data.test, load_best_model=False)) == record["distilled"]["test"]
    for side, bits in (("user", 4), ("item", 2)):
        table = content["state_dict"][f"{side}_embedding.weight"]
        assert all(len(row.unique()) <= 2**bits for row in table)
        assert content["table_steps"][f"{side}_embedding"]["bits"] == bits


def test_a_lightgcn_learns_in_few_bits(tiny_settings: Settings) -> None:
    keys = graph_keys(tiny_settings, "LightGCN", student_bits=1, epochs=12, eval_step=3, stopping_step=20)
    student = run_recbole_derrd("LightGCN", "tiny", config_dict=keys)["distilled"]
    untrained = run_recbole_derrd("LightGCN", "tiny", config_dict={**keys, "epochs": 1, "learning_rate": 1e-9})
    assert student["valid"]["recall@5"] > untrained["distilled"]["valid"]["recall@5"]


def test_codes_and_steps_come_back_from_the_checkpoint_exactly(tiny_settings: Settings) -> None:
    keys = graph_keys(tiny_settings, "LightGCN", user_bits=8, epochs=3)
    record = run_recbole_derrd("LightGCN", "tiny", config_dict=keys)
    path = Path(record["checkpoints"]["student"])
    content = read_checkpoint(path)
    student, _, config = built(keys, "LightGCN")
    trainer_for(config, student).load_best(path)
    for side, reader in readers_of(student).items():
        assert torch.equal(student.adapter.embeddings(side), content["state_dict"][f"{side}_embedding.weight"])
        assert torch.equal(reader.steps(), content["table_steps"][f"{side}_embedding"]["steps"])


def test_it_is_exported_as_its_own_codes(tiny_settings: Settings, tmp_path: Path) -> None:
    keys = graph_keys(tiny_settings, "LightGCN", student_bits=2, embedding_size=8)
    path = Path(run_recbole_derrd("LightGCN", "tiny", config_dict=keys)["checkpoints"]["student"])
    export(Request(path, tmp_path / "out"))
    items = Recommender.load(tmp_path / "out")._item_vectors
    table = read_checkpoint(path)["state_dict"]["item_embedding.weight"]
    assert items.bits == 2
    assert (items.rows(slice(None)) == table[1:].numpy()).all()


def test_a_checkpoint_without_the_graphs_weights_or_steps_is_refused(tiny_settings: Settings, tmp_path: Path) -> None:
    from recbole_derrd.training.checkpointing import load_weights

    keys = graph_keys(tiny_settings, "LightGCN", epochs=1)
    path = Path(run_recbole_derrd("LightGCN", "tiny", config_dict=keys)["checkpoints"]["student"])
    student, _, _ = built(keys, "LightGCN")
    content = read_checkpoint(path)
    load_weights(student, content, path)
    for spoilt in (
        {**content, "graph_student": 3},
        {**content, "table_steps": {}},
        {**content, "table_steps": {"item_embedding": {"bits": 2, "steps": torch.zeros(3)}}},
    ):
        with pytest.raises(CheckpointError, match=r"Train it again|Train the student again"):
            load_weights(student, spoilt, path)


def test_bytes_are_those_of_what_is_served(tiny_settings: Settings) -> None:
    keys = graph_keys(tiny_settings, "LightGCN", embedding_size=10, student_bits=2, user_bits=8)
    student, _, _ = built(keys, "LightGCN")
    users, items = student.n_users, student.n_items
    assert bytes_per_item(student) == 3 + 2
    assert model_bytes(student) == items * (3 + 2) + users * (10 + 2)
    assert parameter_count(student) == 10 * (users + items)


def test_a_rotation_leaves_the_scores_of_a_start(tiny_settings: Settings) -> None:
    more = {"teacher": {"embedding_size": 8, "epochs": 3}, "embedding_size": 6, "warm_start": "svd"}
    plain, _, _ = built(graph_keys(tiny_settings, "LightGCN", student_bits=32, **more), "LightGCN")
    coded, _, _ = built(graph_keys(tiny_settings, "LightGCN", student_bits=8, **more), "LightGCN")
    users = torch.arange(1, plain.n_users)
    wanted = plain.adapter.score_all(users)[:, 1:]
    torch.testing.assert_close(coded.adapter.score_all(users)[:, 1:], wanted, rtol=0.05, atol=0.02)
    assert (coded.adapter.user_embeddings() - plain.adapter.user_embeddings())[1:].abs().max() > 0.01
