"""All methods in whole runs: interrupted and resumed, and in two processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_derrd import run_recbole_derrd
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.student.model import DistilledMixin

from .test_every_adapter import SETTINGS


def more(tmp_path: Path, folder: str) -> dict[str, Any]:
    """Return settings under which every draw of the methods is made, writing under a folder of their own."""
    home = tmp_path / folder
    groups = [method_class(name).options_class for name in METHODS]
    shares = {key: 0.5 for group in groups for key in group.defaults() if key == f"{group.prefix}sample"}
    return {
        **SETTINGS, **shares, "distillers": list(METHODS), "epochs": 5, "checkpoint_step": 1, "latency_users": 0,
        "checkpoint_dir": str(home / "saved"), "record_dir": str(home / "records"), "compare_student": False,
        "cache_dir": str(tmp_path / "cache"), "learning_rate": 0.01,
        "rd_start_epoch": 2, "ir_rrd_max_items": 5, "hetcomp_remainder": 5,
    }  # fmt: skip


def weights(record: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the student's weights."""
    # The run of a test's own making: the whole pickle may be loaded.
    return torch.load(record["checkpoints"]["student"], weights_only=False)["state_dict"]


@pytest.mark.parametrize("model", ["BPR", pytest.param("NeuMF", marks=pytest.mark.slow)])
def test_resumed_run_ends_with_the_same_weights(
    model: str, tiny_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws depend on seed and epoch, the student's own ranking on its weights, shares on a saved generator."""
    whole = run_recbole_derrd(model, "tiny", config_dict=tiny_settings(model, **more(tmp_path, "whole")))
    begin = DistilledMixin.begin_epoch

    def interrupted(self: Any, epoch: int) -> None:
        if epoch == 3 and self.distillers:
            raise KeyboardInterrupt
        begin(self, epoch)

    parts = tiny_settings(model, **more(tmp_path, "parts"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(DistilledMixin, "begin_epoch", interrupted)
        run_recbole_derrd(model, "tiny", config_dict=parts)
    resumed = run_recbole_derrd(model, "tiny", config_dict={**parts, "resume": True})
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
def test_two_processes(tiny_settings: Any, tmp_path: Path) -> None:
    """Each process draws the same rankings and takes its own rows of the batches; the weights stay together."""
    settings = tiny_settings("NeuMF", **more(tmp_path, "two"))
    record = run_recbole_derrd("NeuMF", "tiny", config_dict=settings, command_line=["--nproc=2"])
    assert all(math.isfinite(value) for part in ("valid", "test") for value in record["distilled"][part].values())
