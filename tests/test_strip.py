"""A checkpoint without the optimiser's state: smaller, and still a checkpoint of stock RecBole's."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from stock import ring_rows, settings_on, stock_checkpoint, stock_model, write_rows

from recbole_derrd.cli import main
from recbole_derrd.errors import CheckpointError, OptionError
from recbole_derrd.exporting.strip import strip
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.training.checkpoint import read_checkpoint

Settings = Callable[..., dict[str, Any]]
RRD: dict[str, Any] = {"distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "latency_users": 0}


@pytest.fixture
def student(tiny_settings: Settings) -> Path:
    settings = tiny_settings("BPR", **RRD, compare_student=False)
    return Path(run_recbole_derrd("BPR", "tiny", config_dict=settings)["checkpoints"]["student"])


@pytest.fixture(scope="module")
def stock_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    home = tmp_path_factory.mktemp("stock")
    write_rows(ring_rows(), home / "data" / "ring" / "ring.inter")

    def make(model: str) -> Path:
        file = home / f"{model}.pth"
        if not file.exists():
            more = {"train_neg_sample_args": None} if model == "MultiVAE" else {}
            stock_checkpoint(model, settings_on(home / "data", home, epochs=2, **more), file)
        return file

    return make


def loaded(file: Path) -> tuple[Any, Any]:
    """What stock RecBole makes of a file, as its load_data_and_model does, and its evaluation."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_trainer, init_seed

    content = torch.load(file)
    config = content["config"]
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    model = stock_model(config, train)
    model.load_state_dict(content["state_dict"])
    model.load_other_parameter(content.get("other_parameter"))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train)
    metrics = dict(trainer.evaluate(test, load_best_model=False))
    trainer.resume_checkpoint(file)
    trainer.fit(train, valid, saved=False)
    return metrics, content


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "MultiVAE"])
def test_stock_recbole_loads_evaluates_and_resumes_it(
    stock_file: Callable[[str], Path], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # RecBole's evaluation asks for it; Config's constructor, which a pickled one never runs, sets it.
    monkeypatch.setattr(np, "float", float, raising=False)
    # Since torch 2.6 stock RecBole resumes from none of its own checkpoints without this.
    monkeypatch.setattr(torch, "load", functools.partial(torch.load, weights_only=False))
    out = tmp_path / "stripped.pth"
    before, after = strip(stock_file(model), out)
    assert after == out.stat().st_size < 0.75 * before
    (wanted, whole), (found, part) = loaded(stock_file(model)), loaded(out)
    assert found == wanted and part["optimizer"]["state"] == {}
    assert part["optimizer"]["param_groups"] == whole["optimizer"]["param_groups"]
    one, other = (vars(content["config"]) for content in (whole, part))
    assert {**one, "final_config_dict": 0} == {**other, "final_config_dict": 0}
    assert one["final_config_dict"] == other["final_config_dict"]


def test_a_student_keeps_its_ids_and_teaches_on(student: Path, tmp_path: Path, tiny_settings: Settings) -> None:
    out = tmp_path / "stripped.pth"
    strip(student, out)
    whole, part = read_checkpoint(student), read_checkpoint(out)
    assert part["derrd"] == whole["derrd"] and part["config"] == whole["config"]
    users, items = (part["derrd"]["tokens"][side] for side in ("user", "item"))
    assert (len(users), len(items)) == (part["derrd"]["users"], part["derrd"]["items"])
    assert all(torch.equal(value, whole["state_dict"][name]) for name, value in part["state_dict"].items())
    for file in (student, out):
        settings = tiny_settings("BPR", **RRD, teacher_checkpoint=str(file), embedding_size=4, compare_student=False)
        assert run_recbole_derrd("BPR", "tiny", config_dict=settings)["teacher"]["trusted"] is False
    assert main(["export", str(out), f"--out={tmp_path / 'export'}"]) == 0


def test_stock_recbole_loads_a_student_with_its_ids(student: Path) -> None:
    content = torch.load(student, weights_only=False)
    assert type(content["config"]).__module__ == "recbole.config.configurator"
    assert {"config", "epoch", "cur_step", "best_valid_score", "state_dict", "other_parameter", "optimizer"} < set(
        content
    )


def test_other_data_are_named_by_their_ids(
    student: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (tiny_data / "tiny" / "tiny.inter").read_text().splitlines()
    head, rows = lines[0], [line.split("\t") for line in lines[1:]]
    first = rows[0][0]
    rows = [["someone", *row[1:]] if row[0] == first else row for row in rows]
    (tmp_path / "other" / "tiny").mkdir(parents=True)
    (tmp_path / "other" / "tiny" / "tiny.inter").write_text("\n".join([head, *("\t".join(row) for row in rows)]) + "\n")
    assert main(["export", str(student), f"--out={tmp_path / 'out'}", f"--data_path={tmp_path / 'other'}"]) == 2
    assert f"1 of its 30 users are not in them: '{first}'" in capsys.readouterr().err


def test_what_cannot_be_stripped_is_a_sentence(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stock_file: Callable[[str], Path]
) -> None:
    out, before = tmp_path / "out.pth", student.read_bytes()
    for given, words in (
        ([str(student), "--strip"], "--out=FILE"),
        ([str(student), "--strip", f"--out={tmp_path}"], "is a folder"),
        ([str(student), "--strip", f"--out={out}", "--bits=4", "--top=3"], "--bits, --top cannot change it"),
        ([str(student), "--strip", f"--out={out}", "--seed=3"], "--seed cannot change it"),
        ([str(tmp_path / "no.pth"), "--strip", f"--out={out}"], "no.pth"),
        ([str(stock_file("ItemKNN")), "--strip", f"--out={out}"], "cannot be written again"),
    ):
        assert main(["export", *given]) == 2
        assert words in capsys.readouterr().err and not out.exists(), given
    out.write_text("mine")
    with pytest.raises(OptionError, match="exists"):
        strip(student, out)
    assert out.read_text() == "mine"
    strip(student, out, force=True)
    strip(out, out, force=True)
    assert read_checkpoint(out)["state_dict"] and student.read_bytes() == before
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(CheckpointError):
        strip(tmp_path / "text.pth", out, force=True)
    assert read_checkpoint(out)["state_dict"]
