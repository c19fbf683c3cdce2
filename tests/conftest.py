"""What every test shares: one thread, a scratch working directory, and a tiny data set."""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from hypothesis import HealthCheck, settings

from recbole_derrd.ops.rotation import learned_rotation

# How long an example takes says more of the machine than of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

_AUTOENCODER = {"mlp_hidden_size": [16], "latent_dimension": 8}
_DIFFUSION = {"dims_dnn": [16], "embedding_size": 6, "steps": 3}

#: What makes each model small enough to train in a fraction of a second.
_SMALL: dict[str, dict[str, Any]] = {
    "CDAE": {"embedding_size": 8},
    "ConvNCF": {"embedding_size": 8, "cnn_channels": [1, 4, 4], "cnn_kernels": [4, 2], "cnn_strides": [4, 2]},
    "DiffRec": _DIFFUSION,
    "DMF": {"user_embedding_size": 8, "item_embedding_size": 8, "user_hidden_size_list": [8, 8],
            "item_hidden_size_list": [8, 8]},
    "GCMC": {"gcn_output_dim": 12},
    "LDiffRec": {**_DIFFUSION, "in_dims": [12]},
    "MacridVAE": {"encoder_hidden_size": [16], "kfac": 2},
    "MultiDAE": _AUTOENCODER,
    "MultiVAE": _AUTOENCODER,
    "NAIS": {"weight_size": 6},
    "NCEPLRec": {"rank": 6},
    "NCL": {"num_clusters": 4, "warm_up_step": 0, "n_layers": 2},
    "NeuMF": {"mf_embedding_size": 8, "mlp_embedding_size": 8, "mlp_hidden_size": [12, 6]},
    "NGCF": {"hidden_size_list": [8, 8]},
    "NNCF": {"ui_embedding_size": 8, "neigh_embedding_size": 6, "num_conv_kernel": 4, "neigh_num": 12,
             "mlp_hidden_size": [8], "conv_kernel_size": 3, "pool_kernel_size": 2},
    "RaCT": {**_AUTOENCODER, "pretrain_epochs": 1, "save_step": 1, "critic_layers": [4]},
    "RecVAE": {"hidden_dimension": 12, "latent_dimension": 8, "n_enc_epochs": 1},
}  # fmt: skip


_BEGUN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen", action="store_true", help="write what is generated in the documentation")
    parser.addoption("--begin-within", type=float, metavar="SECONDS", help="skip the tests that begin later than this")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave whole runs out of the quick tests."""
    if item.get_closest_marker("whole_run"):
        item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Spare the collector of garbage what has been imported, which stays."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("--begin-within")
    if seconds is not None and time.monotonic() - _BEGUN > seconds:
        pytest.skip(f"{seconds:.0f} s were over")


@pytest.fixture(scope="session", autouse=True)
def scratch_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """RecBole writes log/ and log_tensorboard/ into the working directory."""
    home, scratch = Path.cwd(), tmp_path_factory.mktemp("cwd")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    os.chdir(scratch)
    yield scratch
    os.chdir(home)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def nothing_to_wait_for() -> Iterator[None]:
    """Do not wait for the disk, which no test sees, nor keep a stack for each seed of a card that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        # As fsync does, it refuses a file that is closed.
        patch.setattr(os, "fsync", lambda file: os.fstat(file if isinstance(file, int) else file.fileno()) and None)
        cards = [name for name in ("cuda", "xpu", "mtia") if hasattr(torch, name)]
        if not any(getattr(torch, name).is_available() for name in cards):
            for module in [f"torch.{name}{part}" for name in cards for part in ("", ".random")]:
                if hasattr(sys.modules.get(module), "_lazy_call"):
                    patch.setattr(f"{module}._lazy_call", lambda *_, **__: None)
        yield


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give learned rotations 4 rounds, where others are tested than they: 50 take longer than a tiny training."""
    monkeypatch.setattr(learned_rotation, "__defaults__", (4,))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the data set ``tiny``: 30 users, 40 items, two tastes, rating and timestamp."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(7)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(30):
        taste = [item for item in range(40) if (item + user) % 2 == 0]
        items = draw.sample(taste, 9) + draw.sample(range(40), 3)
        lines += [f"u{user}\ti{item}\t{draw.randint(3, 5)}\t{time}" for time, item in enumerate(dict.fromkeys(items))]
    # Every item occurs, so that the catalogue is 40 whatever was drawn.
    lines += [
        f"u{item % 30}\ti{item}\t4\t50" for item in range(40) if not any(f"\ti{item}\t" in line for line in lines)
    ]
    (folder / "tiny").mkdir()
    (folder / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def tiny_settings(tiny_data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return the settings of a model on the tiny data, writing under the test's own folder; more settings on top."""

    def make(model: str, **more: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "data_path": str(tiny_data),
            "checkpoint_dir": str(tmp_path / "saved"),
            "embedding_size": 8,
            "epochs": 1,
            "train_batch_size": 128,
            "eval_batch_size": 4000,
            "metrics": ["NDCG", "Recall"],
            "topk": [5],
            "valid_metric": "NDCG@5",
            "show_progress": False,
            "state": "WARNING",
            **_SMALL.get(model, {}),
        }
        return {**settings, **more}

    return make
