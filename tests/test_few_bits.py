"""A student that is trained in few bits: what each part of a run sees, what is saved, and that it goes on exactly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

from recbole_derrd.adapters import adapter_class
from recbole_derrd.compression.recipe import trained_tables
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, DataError, OptionError
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes, parameter_count
from recbole_derrd.experiment.preflight import check_run
from recbole_derrd.exporting import Request, export
from recbole_derrd.exporting.checkpoint import load_trained
from recbole_derrd.exporting.request import Source
from recbole_derrd.exporting.scores import embeddings_of
from recbole_derrd.model_cache.building import load_model
from recbole_derrd.quick_start import knowledge_of, run_recbole_derrd
from recbole_derrd.student.model import build_student
from recbole_derrd.student.quantized import coded_tables
from recbole_derrd.teacher import Teacher
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.checkpointing import load_weights
from recbole_derrd.training.trainer import trainer_for

pytestmark = [pytest.mark.whole_run, pytest.mark.usefixtures("few_rounds")]
Settings = Callable[..., dict[str, Any]]
RRD = {"rrd_k": 5, "rrd_l": 5, "rrd_top_n": 20}


def keys_of(tiny_settings: Settings, model: str = "BPR", **more: Any) -> dict[str, Any]:
    given = {"distillers": ["rrd"], "student_bits": 2, "latency_users": 0, "compare_student": False, **RRD, **more}
    return tiny_settings(model, **given)


def built(keys: dict[str, Any], model: str = "BPR") -> tuple[Any, Any, DistillConfig]:
    config = DistillConfig(model, "tiny", config_dict=keys)
    check_run(config)
    data = prepare_data(config)
    knowledge = knowledge_of(config, [Teacher.of(config, data)], data)
    return build_student(config, prepare_data(config), knowledge), data, config


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_every_reader_of_the_items_sees_codes(tiny_settings: Settings, bits: int) -> None:
    student, _, _ = built(keys_of(tiny_settings, student_bits=bits))
    table = student.item_embedding.weight
    for row in table[1:]:
        assert len(row.unique()) <= 2**bits
    users, items = torch.tensor([1, 2]), torch.tensor([[3, 4], [5, 6]])
    assert torch.equal(student.adapter.item_embeddings(), table)
    wanted = student.user_embedding.weight[users] @ table.T
    torch.testing.assert_close(student.adapter.score_all(users), wanted)
    torch.testing.assert_close(student.adapter.score(users, items), wanted.gather(1, items))
    assert torch.equal(student.get_item_embedding(items[0]), table[items[0]])
    # The users' table is as RecBole drew it, up to a rotation.
    assert len(student.user_embedding.weight[1].unique()) == student.embedding_size


def test_float32_is_the_ordinary_student_to_the_bit(tiny_settings: Settings) -> None:
    one = run_recbole_derrd("BPR", "tiny", config_dict=keys_of(tiny_settings, student_bits=32, user_bits=32))
    keys = keys_of(tiny_settings)
    del keys["student_bits"]
    other = run_recbole_derrd("BPR", "tiny", config_dict=keys)
    first, second = (read_checkpoint(record["checkpoints"]["student"]) for record in (one, other))
    assert one["checkpoints"]["student"] == other["checkpoints"]["student"]
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name])
    assert "table_steps" not in first


@pytest.mark.parametrize("model", ["BPR", "NeuMF", "LINE"])
def test_the_saved_student_is_the_models_own_with_the_same_metrics(tiny_settings: Settings, model: str) -> None:
    keys = keys_of(tiny_settings, model, student_bits=2, user_bits=4)
    record = run_recbole_derrd(model, "tiny", config_dict=keys)
    path = Path(record["checkpoints"]["student"])
    config = DistillConfig(model, "tiny", config_dict={**keys, "distillers": [], "student_bits": 32, "user_bits": 32})
    data = prepare_data(config)
    plain = load_model(config, data, path)
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    trainer = trainer_for(config, plain, plain=True)
    trainer.eval_collector.data_collect(data.train)
    test = trainer.evaluate(data.test, load_best_model=False)
    assert dict(test) == record["distilled"]["test"]
    for side, bits in (("user", 4), ("item", 2)):
        for name, table in plain.named_parameters():
            if name in [f"{table}.weight" for table in adapter_class(type(plain)).tables[side]]:
                assert all(len(row.unique()) <= 2**bits for row in table)


def test_bytes_are_those_of_codes_and_steps(tiny_settings: Settings) -> None:
    student, _, _ = built(keys_of(tiny_settings, embedding_size=10, student_bits=2, user_bits=8))
    users, items = student.n_users, student.n_items
    # 20 bits are 3 bytes, and 2 of the step.
    assert bytes_per_item(student) == 3 + 2
    assert model_bytes(student) == items * (3 + 2) + users * (10 + 2)
    assert parameter_count(student) == 10 * (users + items)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("BPR", {"user_bits": 8}),
        ("LightGCN", {"user_bits": 8}),
        ("BPR", {"student_bits": 32, "student_codebooks": 3, "warm_start": "svd"}),
    ],
)
def test_a_plain_model_of_its_checkpoint_takes_as_many(
    tiny_settings: Settings, tmp_path: Path, model: str, more: dict[str, Any]
) -> None:
    """As evaluate reads it, or a run whose teacher it is."""
    student, data, config = built(keys_of(tiny_settings, model, embedding_size=10, **more), model)
    trainer = trainer_for(config, student, checkpoint=tmp_path / "student.pth", role="distilled")
    trainer.extra["derrd"] = data.seen
    trainer._save_checkpoint(0, verbose=False)
    loaded = load_trained(Source(tmp_path / "student.pth", "evaluate")).adapter.model
    for size in (bytes_per_item, model_bytes, parameter_count):
        assert size(loaded) == size(student)
    content = torch.load(tmp_path / "student.pth", weights_only=False)
    (entry, *_) = content["table_steps"].values()
    for damage in ({"bits": 99}, {"steps": torch.ones(3)}, {"codes": None}, {"codebooks": torch.ones(2, 2)}):
        if set(damage) <= set(entry):
            with pytest.raises(CheckpointError, match=r"do not fit its table\. Train the student"):
                load_weights(loaded, {**content, "table_steps": {"item_embedding": {**entry, **damage}}}, "a.pth")


def test_float32_is_written_where_it_is_asked_for(tiny_settings: Settings, tmp_path: Path) -> None:
    """Of users in few bits and items that are not; Parquet and an index have nothing else."""
    student, _, config = built(keys_of(tiny_settings, student_bits=32, user_bits=8))
    trainer = trainer_for(config, student, checkpoint=tmp_path / "student.pth", role="distilled")
    trainer._save_checkpoint(0, verbose=False)
    for bits, users in ((None, 8), (32, None)):
        card = export(Request(tmp_path / "student.pth", tmp_path / f"out{bits}", bits=bits))
        assert card["embedding"]["bits"] == 32 and card["embedding"].get("user_bits") == users
    trained = load_trained(Source(tmp_path / "student.pth", "export"))
    wanted = Request(tmp_path / "student.pth", tmp_path / "out", "parquet").wanted_bits
    found = embeddings_of(trained.adapter, wanted, 0, trained.table_entries)
    assert found is not None and set(found.arrays["user"]) == {"embeddings"}
    assert np.array_equal(np.load(tmp_path / "out32" / "users.npy"), found.arrays["user"]["embeddings"])


@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_codes_are_exported_exactly_though_the_largest_step_has_grown(
    tiny_settings: Settings, tmp_path: Path, model: str
) -> None:
    """By 1,024: in a unit as large, float16 has few digits left for the smallest steps."""
    student, _, config = built(keys_of(tiny_settings, model, student_bits=4, user_bits=4), model)
    readers = student.propagated_bits.values() if model == "LightGCN" else [one for _, one, _ in coded_tables(student)]
    with torch.no_grad():
        for reader in readers:
            reader.log_ratios.uniform_(-9, 0)
            reader.log_ratios[-1] = math.log(1024)
    trainer = trainer_for(config, student, checkpoint=tmp_path / "student.pth", role="distilled")
    trainer._save_checkpoint(0, verbose=False)
    trained = load_trained(Source(tmp_path / "student.pth", "export"))
    tables = trained_tables(trained.adapter, trained.table_entries)
    for side, table in (("user", tables.users), ("item", tables.items)):
        assert torch.equal(table.rows()[1:], trained.adapter.embeddings(side)[1:])
    for unit in (torch.zeros(1), torch.full((1,), 1e-9), torch.ones(2), torch.ones(1, dtype=torch.int64), 1.0):
        damaged = {name: {**entry, "unit": unit} for name, entry in trained.table_entries.items()}
        with pytest.raises(DataError, match=r"The unit of 'user_embedding' .* does not fit its steps\. Train the"):
            trained_tables(trained.adapter, damaged)
    earlier = {name: {"bits": one["bits"], "steps": one["steps"]} for name, one in trained.table_entries.items()}
    assert trained_tables(trained.adapter, earlier).items.bytes_a_row == tables.items.bytes_a_row


@pytest.mark.parametrize("bits", [1, 4])
def test_codes_and_steps_come_back_from_the_checkpoint_exactly(tiny_settings: Settings, bits: int) -> None:
    keys = keys_of(tiny_settings, student_bits=bits, user_bits=bits, epochs=3)
    record = run_recbole_derrd("BPR", "tiny", config_dict=keys)
    content = read_checkpoint(record["checkpoints"]["student"])
    student, _, config = built(keys)
    trainer = trainer_for(config, student)
    trainer.load_best(record["checkpoints"]["student"])
    for name in ("user_embedding", "item_embedding"):
        assert torch.equal(student.get_submodule(name).weight, content["state_dict"][f"{name}.weight"])
        assert content["table_steps"][name]["bits"] == bits
    for name, quantizer, _ in coded_tables(student):
        assert torch.equal(quantizer.steps(), content["table_steps"][name]["steps"])


@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    tiny_settings: Settings, tmp_path: Path, model: str
) -> None:
    keys = keys_of(tiny_settings, model, epochs=6, eval_step=1, checkpoint_step=1, stopping_step=20)
    whole = run_recbole_derrd(model, "tiny", config_dict={**keys, "checkpoint_dir": str(tmp_path / "whole")})

    class KilledError(Exception):
        pass

    keys = {**keys, "checkpoint_dir": str(tmp_path / "parts")}
    from recbole_derrd.training.checkpointing import SavingMixin

    saved, real = [], SavingMixin.save_training

    def save_and_die(self: Any, epoch: int) -> None:
        real(self, epoch)
        saved.append(epoch)
        if "distilled" in str(self.tensorboard.log_dir) and epoch == 2:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SavingMixin, "save_training", save_and_die)
        with pytest.raises(KilledError):
            run_recbole_derrd(model, "tiny", config_dict=keys)
    parts = run_recbole_derrd(model, "tiny", config_dict={**keys, "resume": True})
    first, second = (read_checkpoint(record["checkpoints"]["student"]) for record in (whole, parts))
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name])
    assert whole["distilled"]["test"] == parts["distilled"]["test"]


def test_a_warm_start_is_turned_and_its_scores_stay(tiny_settings: Settings) -> None:
    """In 8 bits a start's scores are those of float32; the tables themselves are turned."""
    more = {"teacher": {"embedding_size": 8, "epochs": 3}, "embedding_size": 6, "warm_start": "svd"}
    plain, _, _ = built(keys_of(tiny_settings, student_bits=32, **more))
    coded, _, _ = built(keys_of(tiny_settings, student_bits=8, **more))
    unturned, _, _ = built(keys_of(tiny_settings, student_bits=8, student_rotation="none", **more))
    users = torch.arange(1, plain.n_users)
    wanted = plain.adapter.score_all(users)[:, 1:]
    for student in (coded, unturned):
        torch.testing.assert_close(student.adapter.score_all(users)[:, 1:], wanted, rtol=0.05, atol=0.02)
    torch.testing.assert_close(unturned.user_embedding.weight, plain.user_embedding.weight)
    assert (coded.user_embedding.weight - plain.user_embedding.weight)[1:].abs().max() > 0.01


@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_a_training_that_spoils_its_start_ends_with_it(tiny_settings: Settings, model: str) -> None:
    teacher = {"embedding_size": 16, "epochs": 40, "learning_rate": 0.02, "eval_step": 1}
    more = {"teacher_model": "BPR", "teacher": teacher, "embedding_size": 12, "warm_start": "svd"}
    keys = keys_of(tiny_settings, model, **more, learning_rate=10.0, epochs=1, student_bits=4)
    student, data, config = built(keys, model)
    trainer = trainer_for(config, student)
    trainer.eval_collector.data_collect(data.train)
    start = trainer.evaluate(data.valid, load_best_model=False)
    found = run_recbole_derrd(model, "tiny", config_dict=keys)["distilled"]
    assert found["valid"] == dict(start)
    assert max(score for _, score in found["valid_scores"]) < start[config["valid_metric"].lower()]
    # Where epochs are not validated, the last one is the student, as in RecBole.
    unseen = run_recbole_derrd(model, "tiny", config_dict={**keys, "eval_step": 0})["distilled"]
    assert unseen["valid_scores"] == [] and unseen["valid"] != dict(start)


def test_a_learned_rotation_begins_nearer_than_none(tiny_settings: Settings) -> None:
    more = {"teacher": {"embedding_size": 8, "epochs": 3}, "embedding_size": 6, "warm_start": "svd", "student_bits": 1}
    plain, _, _ = built(keys_of(tiny_settings, **{**more, "student_bits": 32}))
    users = torch.arange(1, plain.n_users)
    wanted = plain.adapter.score_all(users)[:, 1:].detach()
    errors = {}
    for rotation in ("learned", "none"):
        student, _, _ = built(keys_of(tiny_settings, student_rotation=rotation, **more))
        errors[rotation] = float((student.adapter.score_all(users)[:, 1:].detach() - wanted).square().sum())
    assert errors["learned"] < errors["none"]


def test_every_loss_trains_the_latent_rows_and_the_steps(tiny_settings: Settings) -> None:
    student, data, _ = built(keys_of(tiny_settings, distillers=["de", "rrd", "listwise"]))
    student.begin_epoch(0)
    batch = next(iter(data.train)).to(student.device)
    losses = student.calculate_loss(batch)
    ((name, quantizer, _),) = coded_tables(student)
    latent = student.get_parameter(f"{name}.parametrizations.weight.original")
    for loss in losses:
        rows, steps = torch.autograd.grad(loss, [latent, quantizer.log_ratios], retain_graph=True)
        assert rows.abs().sum() > 0 and steps.abs().sum() > 0


def test_models_without_tables_of_their_own_are_refused(tiny_settings: Settings) -> None:
    config = DistillConfig("MultiVAE", "tiny", config_dict=keys_of(tiny_settings, "MultiVAE"))
    with pytest.raises(OptionError, match="cannot train MultiVAE in few bits, only BPR, DGCF, LINE, LightGCN"):
        check_run(config)


def test_the_record_says_in_how_many_bits(tiny_settings: Settings) -> None:
    record = run_recbole_derrd("BPR", "tiny", config_dict=keys_of(tiny_settings, embedding_size=8, student_bits=4))
    assert record["distilled"]["bytes_per_item"] == 6
    assert record["options"]["student_bits"] == 4
    assert json.loads(Path(record["path"]).read_text())["options"]["student_bits"] == 4
