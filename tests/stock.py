"""Checkpoints that stock RecBole alone has written, and data on a ring: each user likes the items near its place."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from scipy.sparse import dok_matrix

USERS, ITEMS, EACH = 60, 80, 12
Row = tuple[str, str, int]


def stock_config(*args: Any, **given: Any) -> Config:
    """Return RecBole's own configuration, which asks numpy for names that numpy 2 lacks."""
    names = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
    with patch.multiple(np, create=True, **names):
        return Config(*args, **given)


def ring_rows(seed: int = 1) -> list[Row]:
    """Return (user, item, time) of each interaction; every item is drawn by someone."""
    draw, items = np.random.default_rng(seed), np.arange(ITEMS)
    rows = []
    for user in range(USERS):
        place = user * ITEMS / USERS
        near = np.exp(-np.minimum((items - place) % ITEMS, (place - items) % ITEMS) / 6)
        chosen = draw.choice(items, EACH, replace=False, p=near / near.sum())
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(chosen)]
    assert len({item for _, item, _ in rows}) == ITEMS
    return rows


def write_rows(rows: Iterable[Row], file: Path) -> None:
    """Write an .inter file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{user}\t{item}\t{time}\n" for user, item, time in rows]
    file.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(lines), encoding="utf-8")


def settings_on(data: Path, home: Path, **more: Any) -> dict[str, Any]:
    """Return settings of a short run on the ring, for stock RecBole and for this plugin."""
    return {
        "data_path": str(data), "checkpoint_dir": str(home / "saved"), "epochs": 3, "show_progress": False,
        "state": "ERROR", "metrics": ["NDCG", "Recall"], "topk": [5], "valid_metric": "NDCG@5",
        "train_batch_size": 128, "eval_batch_size": 4000, "embedding_size": 16, "learning_rate": 0.05,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, **more,
    }  # fmt: skip


def stock_checkpoint(
    model: str, settings: dict[str, Any], file: Path, *, validated: bool = True, dataset: str = "ring"
) -> float:
    """Train a model as RecBole's own documentation does, save it to a file, and return its best_valid_score."""
    with patch.object(sys, "argv", sys.argv[:1]):
        config = stock_config(model=model, dataset=dataset, config_dict=settings)
    train, valid, _ = _stock_data(config)
    built = stock_model(config, train)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, built)
    file.parent.mkdir(parents=True, exist_ok=True)
    trainer.saved_model_file = str(file)
    best, _ = trainer.fit(train, valid if validated else None, saved=True, show_progress=False)
    return float(best)


def stock_metrics(file: Path, split: str) -> tuple[dict[str, float], Any]:
    """Load a checkpoint and evaluate it on a split as RecBole does: ``load_data_and_model``, ``trainer.evaluate``.

    RecBole's quick_start cannot be imported from Python 3.12 on, so its steps are here. Returns the metrics and the
    model.
    """
    content = torch.load(file, weights_only=False)
    config = content["config"]
    train, valid, test = _stock_data(config)
    model = stock_model(config, train)
    model.load_state_dict(content["state_dict"])
    model.load_other_parameter(content.get("other_parameter"))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    loader = {"valid": valid, "test": test}[split]
    return dict(trainer.evaluate(loader, load_best_model=False, show_progress=False)), model


def _stock_data(config: Config) -> Any:
    init_seed(config["seed"], config["reproducibility"])
    return data_preparation(config, create_dataset(config))


def stock_model(config: Config, train: Any) -> Any:
    """Build the model of a configuration as RecBole does."""
    init_seed(config["seed"], config["reproducibility"])
    # RecBole fills a dok_matrix by a method that newer scipy lacks.
    fill = getattr(dok_matrix, "_update", lambda self, entries: self._dict.update(entries))
    with patch.object(dok_matrix, "_update", fill, create=True):
        return get_model(config["model"])(config, train.dataset).to(config["device"])
