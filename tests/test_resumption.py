"""A training checkpoint with wrong values inside is a sentence that names the file, what is wrong and what to do."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, DistillError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.training.checkpoint import read_plain, write_plain
from recbole_derrd.training.trainer import trainer_for


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files need not reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


Place = tuple[Any, ...]


@pytest.fixture(scope="module")
def begun(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return what makes a trainer, with its loaders, and the content of the checkpoint that it finds."""
    home = tmp_path_factory.mktemp("begun")
    settings = {
        "data_path": str(tiny_data), "checkpoint_dir": str(home), "embedding_size": 8, "epochs": 3, "metrics": ["NDCG"],
        "topk": [5], "valid_metric": "NDCG@5", "show_progress": False, "state": "WARNING", "checkpoint_step": 1,
        "mlp_hidden_size": [16], "latent_dimension": 8, "train_neg_sample_args": None, "eval_batch_size": 4000,
    }  # fmt: skip

    def make(epochs: int = 4) -> Any:
        config = DistillConfig("MultiVAE", "tiny", config_dict={**settings, "epochs": epochs})
        data = prepare_data(config)
        trainer = trainer_for(config, build_model(config, data), checkpoint=home / "model.pth")
        return trainer, data

    trainer, data = make(3)
    trainer.fit(data.train, data.valid)
    return make, read_plain(trainer.training_file)


def put(content: Any, place: Place, value: Any) -> None:
    for key in place[:-1]:
        content = content[key]
    if value is KeyError:
        del content[place[-1]]
    else:
        content[place[-1]] = value


def gone_on(begun: Any, place: Place, value: Any) -> None:
    """Go on from a checkpoint with this value at this place."""
    make, content = begun
    trainer, data = make()
    changed = copy.deepcopy(content)
    put(changed, place, value)
    write_plain(trainer.training_file, changed)
    trainer.resume_checkpoint(trainer.training_file)
    trainer.fit(data.train, data.valid)


def test_what_is_sound_goes_on(begun: Any) -> None:
    gone_on(begun, ("epoch",), 2)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("epoch",), -5, "epoch cannot be -5"),
        (("epoch",), 10**18, "epoch cannot be"),
        (("epoch",), "2", "epoch cannot be '2'"),
        (("epoch",), 2.0, "epoch cannot be 2.0"),
        (("epoch",), True, "epoch cannot be True"),
        (("epoch",), KeyError, "has no epoch"),
        (("cur_step",), -1, "cur_step"),
        (("cur_step",), 10**18, "cur_step"),
        (("best_valid_score",), float("nan"), "best_valid_score cannot be nan"),
        (("best_valid_score",), float("inf"), "best_valid_score"),
        (("best_valid_score",), None, "best_valid_score"),
        (("best_valid_result",), [1], "best_valid_result"),
        (("best_valid_result",), {}, "has no ndcg@5"),
        (("best_valid_result",), {"x": 1.0}, "has no ndcg@5"),
        (("best_valid_result",), {"ndcg@5": "x"}, "best_valid_result"),
        (("train_loss",), {"0": 1.0}, "train_loss"),
        (("train_loss",), {0: 1.0}, "epoch"),
        (("train_loss", 1), float("nan"), "train_loss"),
        (("epoch_seconds",), 3, "epoch_seconds"),
        (("epoch_seconds", 0), -1.0, "epoch_seconds"),
        (("valid_scores",), [[0]], "valid_scores"),
        (("valid_scores", 0), ["a", "b"], "valid_scores"),
        (("progress",), {"x": [1]}, "progress"),
        (("progress",), [], "progress"),
        (("progress",), {"x": []}, "progress"),
        (("streams",), [], "written by 0 processes"),
        (("streams", 0), 7, "streams"),
        (("streams", 0, "random"), {}, "random states"),
        (("streams", 0, "random", "torch"), torch.zeros(3), "random states"),
        (("streams", 0, "random", "torch"), "x", "random states"),
        (("streams", 0, "random", "python"), (3, (1, 2), None), "random states"),
        (("streams", 0, "random", "numpy"), ["MT19937", [1.5], 0, 0, 0.0], "random states"),
        (("streams", 0, "random", "numpy", 2), 10**6, "random states"),
        (("loader",), torch.zeros(2), "random states"),
        (("loader",), [1], "random states"),
        (("model",), None, "no weights"),
        (("model", "encoder.0.weight"), torch.zeros(2, 2), "another model"),
        (("model", "encoder.0.weight"), "x", "another model"),
        (("model", "encoder.0.bias"), torch.full((16,), float("nan")), "not finite"),
        (("optimizers",), 5, "another model"),
        (("optimizers",), {}, "another model"),
        (("optimizers", "optimizer", "state"), [1], "another model"),
        (("optimizers", "optimizer", "state", 0, "exp_avg"), torch.zeros(1), "'exp_avg' does not fit"),
        (("optimizers", "optimizer", "state", 0, "exp_avg"), KeyError, "lacks 'exp_avg'"),
        (("optimizers", "optimizer", "state", 0, "exp_avg_sq"), None, "'exp_avg_sq' does not fit"),
        (("optimizers", "optimizer", "state", 0, "step"), torch.tensor(-1.0), "'step' does not fit"),
        (("optimizers", "optimizer", "state", 0, "step"), "x", "another model"),
        (("optimizers", "optimizer", "state", 0), 7, "another model"),
        (("optimizers", "optimizer", "state", 99), {"step": 1}, "parameters that there are not"),
        (("optimizers", "optimizer", "param_groups", 0, "lr"), "fast", "lr cannot be"),
        (("optimizers", "optimizer", "param_groups", 0, "lr"), float("nan"), "lr cannot be"),
        (("optimizers", "optimizer", "param_groups", 0, "betas"), (0.9,), "betas cannot be"),
        (("optimizers", "optimizer", "param_groups"), [], "another model"),
        (("counters",), 5, "no counters"),
        (("counters", "update"), "x", "counter 'update'"),
        (("counters", "update"), torch.zeros(2), "counter 'update'"),
        (("counters", "update"), float("nan"), "counter 'update'"),
        (("counters", "forward"), 1, "counter 'forward'"),
        (("counters", "encoder"), 1, "counter 'encoder'"),
        (("counters", "_modules"), 1, "counter '_modules'"),
        (("counters", 5), 1, "counter 5"),
        (("counters", "n_items"), 7, "counter 'n_items'"),
        (("optimizers", "optimizer", "param_groups", 0, "amsgrad"), True, "amsgrad cannot be"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else str(value)[:20],
)  # fmt: skip
def test_a_wrong_value_is_a_sentence(begun: Any, place: Place, value: Any, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        gone_on(begun, place, value)
    said = str(caught.value)
    assert words in said and "model.training.pth" in said and "emove it to start anew" in said


def positions(content: Any, place: Place = ()) -> list[Place]:
    """Every place of a nested content, short of single numbers of long lists."""
    keys = (
        list(content) if isinstance(content, dict) else range(min(len(content), 4)) if isinstance(content, list) else []
    )
    return [found for key in keys for found in [(*place, key), *positions(content[key], (*place, key))]]


@pytest.mark.slow
def test_no_value_anywhere_ends_in_a_traceback(begun: Any) -> None:
    draw = random.Random(1)
    wrong: list[Any] = [
        None, "x", -1, 10**18, float("nan"), [], {}, [None], {"a": 1}, torch.zeros(3), torch.zeros(()), True, KeyError,
        torch.zeros(2, 2, dtype=torch.bool), (1,), 10**400,
    ]  # fmt: skip
    refused = 0
    # Which of a model's numbers its training changes is the model's own.
    every = [place for place in positions(begun[1]) if place[:1] != ("counters",)]
    for _ in range(40):
        place, value = draw.choice(every), draw.choice(wrong)
        try:
            gone_on(begun, place, value)
        except DistillError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{place} = {value!r}") from error
    assert refused > 20
