"""Stored tables evaluated as every other model is: RecBole's evaluation on both splits."""

from __future__ import annotations

from recbole_derrd.compression.model import CompressedModel
from recbole_derrd.compression.recipe import Tables
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data
from recbole_derrd.model_cache.building import freeze
from recbole_derrd.model_cache.results import TrainResult, both_splits
from recbole_derrd.training.trainer import trainer_for


def evaluate_tables(config: DistillConfig, data: Data, tables: Tables, *, role: str, seconds: float) -> TrainResult:
    """Evaluate stored tables on the validation and the test split.

    Args:
        config: configuration of the model that the tables are made from.
        data: its data.
        tables: what is stored.
        role: sub-folder of the TensorBoard logs.
        seconds: how long they took to make.
    """
    model = freeze(CompressedModel(config, data.train._dataset, tables).to(config["device"]))
    # It is only evaluated: the trainer that its model was trained by is not asked for.
    trainer = trainer_for(config, model, role=role, plain=True)
    trainer.eval_collector.data_collect(data.train)
    valid, test = both_splits(trainer, config, data)
    return TrainResult(trainer, model, valid, test, seconds)
