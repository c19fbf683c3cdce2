"""A student that is trained in codebooks: what each loss sees, what is saved, and that it goes on exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from test_few_bits import built
from torch.nn.utils import parametrize

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, OptionError
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes, parameter_count
from recbole_derrd.experiment.preflight import check_run
from recbole_derrd.model_cache.building import load_model
from recbole_derrd.ops.residual import codeword_sums
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.student.codewords import CodewordRows
from recbole_derrd.student.quantized import coded_tables
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.checkpointing import SavingMixin
from recbole_derrd.training.trainer import trainer_for

pytestmark = [pytest.mark.whole_run, pytest.mark.usefixtures("few_rounds")]
Settings = Callable[..., dict[str, Any]]


def keys_of(tiny_settings: Settings, model: str = "BPR", **more: Any) -> dict[str, Any]:
    given = {
        "distillers": ["listwise", "rrd"], "rrd_k": 5, "rrd_l": 5, "rrd_top_n": 20, "latency_users": 0,
        "compare_student": False, "embedding_size": 6, "warm_start": "svd", "student_codebooks": 2,
        "teacher_model": "BPR", "teacher": {"embedding_size": 8, "epochs": 3}, **more,
    }  # fmt: skip
    return tiny_settings(model, **given)


def only_reader(student: Any) -> tuple[CodewordRows, Any]:
    ((name, reader, codebooks),) = coded_tables(student)
    assert name == "item_embedding" and isinstance(reader, CodewordRows)
    return reader, codebooks


@pytest.mark.parametrize("model", ["BPR", "LINE"])
def test_every_reader_of_the_items_sees_sums_of_codewords(tiny_settings: Settings, model: str) -> None:
    student, _, _ = built(keys_of(tiny_settings, model), model)
    reader, codebooks = only_reader(student)
    table = student.item_embedding.weight
    assert reader.codes.shape == (student.n_items, 2) and codebooks.shape == (2, student.n_items - 1, 6)
    assert torch.equal(table, codeword_sums(reader.codes, codebooks.half().float()))
    users, items = torch.tensor([1, 2]), torch.tensor([[3, 4], [5, 6]])
    wanted = student.user_embedding.weight[users] @ table.T
    torch.testing.assert_close(student.adapter.score_all(users), wanted)
    torch.testing.assert_close(student.adapter.score(users, items), wanted.gather(1, items))


def test_it_starts_at_the_warm_start(tiny_settings: Settings) -> None:
    """The tiny catalogue has fewer items than a codebook has codewords, so that its rows are found again."""
    plain, _, _ = built(keys_of(tiny_settings, student_codebooks=0))
    coded, _, _ = built(keys_of(tiny_settings))
    torch.testing.assert_close(coded.item_embedding.weight[1:], plain.item_embedding.weight[1:], atol=2e-3, rtol=2e-3)
    assert torch.equal(coded.user_embedding.weight, plain.user_embedding.weight)


def test_every_loss_trains_the_codebooks_through_their_rounding(tiny_settings: Settings) -> None:
    student, data, _ = built(keys_of(tiny_settings))
    _, codebooks = only_reader(student)
    assert [name for name, _ in student.named_parameters() if name.startswith("item_embedding")] == [
        "item_embedding.parametrizations.weight.original"
    ]
    student.begin_epoch(0)
    for loss in student.calculate_loss(next(iter(data.train)).to(student.device)):
        (found,) = torch.autograd.grad(loss, [codebooks], retain_graph=True)
        assert all(book.abs().sum() > 0 for book in found)


def test_training_moves_codebooks_and_leaves_codes(tiny_settings: Settings) -> None:
    keys = keys_of(tiny_settings, epochs=4, learning_rate=0.01)
    start, _, config = built(keys)
    before, codebooks = only_reader(start)
    record = run_recbole_derrd("BPR", "tiny", config_dict=keys)
    entry = read_checkpoint(record["checkpoints"]["student"])["table_steps"]["item_embedding"]
    assert torch.equal(entry["codes"], before.codes)
    assert (entry["codebooks"].float() - codebooks).abs().max() > 1e-3
    assert entry["codes"].dtype == torch.uint8 and entry["codebooks"].dtype == torch.float16
    # What is loaded is what was saved, to the bit.
    trainer_for(config, start).load_best(record["checkpoints"]["student"])
    content = read_checkpoint(record["checkpoints"]["student"])
    assert torch.equal(start.item_embedding.weight, content["state_dict"]["item_embedding.weight"])


def test_the_saved_student_is_the_models_own_with_the_same_metrics(tiny_settings: Settings) -> None:
    keys = keys_of(tiny_settings, user_bits=4)
    record = run_recbole_derrd("BPR", "tiny", config_dict=keys)
    plain_keys = {**keys, "distillers": [], "student_codebooks": 0, "user_bits": 32, "warm_start": "none"}
    config = DistillConfig("BPR", "tiny", config_dict=plain_keys)
    data = prepare_data(config)
    plain = load_model(config, data, Path(record["checkpoints"]["student"]))
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    trainer = trainer_for(config, plain, plain=True)
    trainer.eval_collector.data_collect(data.train)
    assert dict(trainer.evaluate(data.test, load_best_model=False)) == record["distilled"]["test"]
    assert all(len(row.unique()) <= 2**4 for row in plain.user_embedding.weight)
    assert record["options"]["student_codebooks"] == 2


def test_bytes_are_those_of_codes_and_codebooks(tiny_settings: Settings) -> None:
    student, _, _ = built(keys_of(tiny_settings))
    users, items = student.n_users, student.n_items
    codebooks = 2 * (items - 1) * 6
    # Of an item its codes alone count, as of codebooks that are not trained.
    assert bytes_per_item(student) == 2
    assert model_bytes(student) == items * 2 + 2 * codebooks + users * 6 * 4
    assert parameter_count(student) == items * 2 + codebooks + users * 6


def test_an_interrupted_training_goes_on_to_the_same_weights(tiny_settings: Settings, tmp_path: Path) -> None:
    keys = keys_of(tiny_settings, epochs=6, eval_step=1, checkpoint_step=1, stopping_step=20)
    whole = run_recbole_derrd("BPR", "tiny", config_dict={**keys, "checkpoint_dir": str(tmp_path / "whole")})

    class KilledError(Exception):
        pass

    real = SavingMixin.save_training

    def save_and_die(self: Any, epoch: int) -> None:
        real(self, epoch)
        if "distilled" in str(self.tensorboard.log_dir) and epoch == 2:
            raise KilledError

    keys = {**keys, "checkpoint_dir": str(tmp_path / "parts")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SavingMixin, "save_training", save_and_die)
        with pytest.raises(KilledError):
            run_recbole_derrd("BPR", "tiny", config_dict=keys)
    parts = run_recbole_derrd("BPR", "tiny", config_dict={**keys, "resume": True})
    first, second = (read_checkpoint(record["checkpoints"]["student"])["state_dict"] for record in (whole, parts))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert whole["distilled"]["test"] == parts["distilled"]["test"]


def test_codes_that_do_not_fit_are_refused(tiny_settings: Settings) -> None:
    student, _, _ = built(keys_of(tiny_settings))
    reader, codebooks = only_reader(student)
    rows, good = student.item_embedding.weight.detach().clone(), reader.entry(codebooks)
    others = {
        "fewer rows": {**good, "codes": good["codes"][1:]},
        "codes of another kind": {**good, "codes": good["codes"].long()},
        "a codeword that there is not": {**good, "codes": good["codes"] + 100},
        "other codebooks": {**good, "codebooks": good["codebooks"][:1]},
        "codebooks of another kind": {**good, "codebooks": good["codebooks"].float()},
        "no finite numbers": {**good, "codebooks": good["codebooks"] * float("inf")},
        "no codebooks": {"codes": good["codes"]},
        "no entry": [1],
    }
    for entry in others.values():
        with pytest.raises(CheckpointError, match="The codes of 'item_embedding' in the checkpoint do not fit"):
            reader.load(codebooks, rows, entry, "item_embedding")
    reader.load(codebooks, rows, good, "item_embedding")
    assert torch.equal(student.item_embedding.weight, rows)


def test_rows_without_codes_are_coded_by_the_codebooks(tiny_settings: Settings) -> None:
    """As of a checkpoint of stock RecBole."""
    student, _, _ = built(keys_of(tiny_settings))
    reader, codebooks = only_reader(student)
    rows = student.item_embedding.weight.detach().clone()
    turned = torch.cat([rows[:1], rows[1:].flip(0)])
    reader.load(codebooks, turned, None, "item_embedding")
    torch.testing.assert_close(student.item_embedding.weight[1:], turned[1:], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("BPR", {"student_bits": 2}, "student_codebooks and student_bits both say"),
        ("BPR", {"warm_start": "none"}, "set warm_start: svd"),
        ("NeuMF", {}, "student_codebooks cannot train NeuMF, only BPR, LINE"),
        ("LightGCN", {}, "student_codebooks cannot train LightGCN, only BPR, LINE"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tiny_settings: Settings, model: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        check_run(DistillConfig(model, "tiny", config_dict=keys_of(tiny_settings, model, **more)))


def test_codebooks_make_another_student(tiny_settings: Settings) -> None:
    """Its checkpoint is not that of another number of codebooks."""
    paths = {
        number: run_recbole_derrd("BPR", "tiny", config_dict=keys_of(tiny_settings, student_codebooks=number, epochs=1))
        for number in (0, 1, 2)
    }
    assert len({record["checkpoints"]["student"] for record in paths.values()}) == 3
