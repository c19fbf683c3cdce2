"""Types and ranges of RecBole's own settings, which RecBole itself does not check."""

from __future__ import annotations

import dataclasses
from typing import Any

from recbole_derrd.config.options.schema import Options, option
from recbole_derrd.errors import OptionError, did_you_mean

Number = (int, type(None))
_CLIPPING = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")


@dataclasses.dataclass(frozen=True)
class RecBoleOptions(Options):
    """Those settings of RecBole whose mistakes would surface as a traceback, some of them after an hour."""

    epochs: int = option(300, "Training epochs.", low=1)
    train_batch_size: int = option(2048, "Training rows a batch.", low=1)
    eval_batch_size: int = option(4096, "Scores a batch of evaluation.", low=1)
    learning_rate: float = option(0.001, "Learning rate.", above=0)
    weight_decay: float = option(0.0, "L2 penalty.", low=0)
    eval_step: int = option(1, "Epochs between two validations.", low=0)
    stopping_step: int = option(10, "Validations without improvement before training stops.", low=0)
    seed: int = option(2020, "Random seed.", low=0, high=2**32 - 1)
    embedding_size: int | None = option(64, "Dimensions of the embeddings.", low=1, kind=Number)
    loss_decimal_place: int | None = option(4, "Decimals of the loss in the log.", low=0, kind=Number)
    metric_decimal_place: int = option(4, "Decimals of metrics.", low=1)
    nproc: int = option(1, "Processes on this machine.", low=1)
    world_size: int = option(-1, "Processes on all machines; nproc if -1.", low=-1)
    ip: str = option("localhost", "Address of the first machine.")
    group_offset: int = option(0, "Number of the first process of this machine.", low=0)
    worker: int = option(0, "Processes that load data.", low=0)
    clip_grad_norm: dict[str, Any] | None = option(
        None, "Arguments of clip_grad_norm_, e.g. {max_norm: 5}.", kind=(dict, type(None))
    )
    learner: str = option(
        # RecBole's sparse_adam refuses the gradients of RecBole's models.
        "adam",
        "Optimizer.",
        choices=("adam", "adamw", "sgd", "adagrad", "rmsprop"),
        kind=str,
    )
    state: str | None = option("INFO", "Level of the log.", kind=(str, type(None)))
    checkpoint_dir: str = option("saved", "Folder of checkpoints.")
    data_path: str = option("dataset/", "Folder of data sets.")
    encoding: str = option("utf-8", "Encoding of data files.")
    log_wandb: bool = option(False, "Log to Weights & Biases.")
    enable_amp: bool = option(False, "Mixed precision.")
    shuffle: bool = option(True, "Shuffle the training data.")
    show_progress: bool = option(True, "Progress bars.")
    valid_metric: str = option("MRR@10", "Metric of early stopping.")

    def __post_init__(self) -> None:
        """Check what has parts."""
        super().__post_init__()
        for key in self.clip_grad_norm or ():
            if key not in _CLIPPING:
                raise OptionError(f"clip_grad_norm has no '{key}'.{did_you_mean(str(key), _CLIPPING)}")
