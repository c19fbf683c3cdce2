"""A frozen teacher: trained here, found, or brought by the user."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from recbole_derrd.backbones import Backbone, backbone_of
from recbole_derrd.checkpoint import read_checkpoint
from recbole_derrd.config import DistillConfig, model_keys
from recbole_derrd.data import Data, prepare_data
from recbole_derrd.errors import CheckpointError, DataError
from recbole_derrd.trained import TrainedModel, judge_checkpoint, load_model, train_or_find

# Settings of a stock checkpoint that describe the model itself, and nothing of the run.
_NOT_THE_MODEL = frozenset(
    """
    model dataset seed checkpoint_dir data_path show_progress device gpu_id use_gpu state eval_args metrics topk
    valid_metric eval_batch_size eval_type MODEL_TYPE MODEL_INPUT_TYPE single_spec local_rank valid_metric_bigger
    valid_neg_sample_args test_neg_sample_args wandb_project log_wandb epochs
    """.split()
)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model that teaches, and the data it was trained on."""

    config: DistillConfig
    data: Data
    trained: TrainedModel

    @classmethod
    def of(cls, config: DistillConfig, student_data: Data) -> Teacher:
        """Train, find or load the teacher of a run.

        Args:
            config: the run's configuration.
            student_data: the student's data; the teacher's must be the same.

        Raises:
            CheckpointError: the teacher's checkpoint is unusable or of other data.
            DataError: the teacher's settings give another split than the student's.
        """
        options = config.run_options
        name = teacher_name(config)
        if options.teacher_checkpoint is None:
            own = config.derived(name, options.teacher)
            data = prepare_data(own)
            cls._refuse_other_split(data, student_data)
            return cls(own, data, train_or_find(own, data, role="teacher"))
        path = Path(options.teacher_checkpoint)
        settings = read_checkpoint(path)["config"]
        described = {
            key: value
            for key, value in settings.items()
            if key not in _NOT_THE_MODEL
            and isinstance(value, (int, float, str, bool, list, dict))
            and key in model_keys(name)
        }
        own = config.derived(name, {**described, **options.teacher})
        data = prepare_data(own)
        cls._refuse_other_split(data, student_data)
        return cls(own, data, judge_checkpoint(own, data, path))

    @staticmethod
    def _refuse_other_split(data: Data, student_data: Data) -> None:
        difference = data.fingerprint.difference(student_data.fingerprint)
        if difference:
            raise DataError(
                f"The teacher's data are not the student's: {difference}. Take seed, eval_args, filters and the like "
                "out of 'teacher'; both must see the same training interactions."
            )

    def load(self) -> Backbone:
        """Return the frozen model in its adapter.

        Raises:
            CheckpointError: its file is damaged.
        """
        try:
            return backbone_of(load_model(self.config, self.data, self.trained.checkpoint))
        except CheckpointError as error:
            if self.config.cache_dir not in self.trained.checkpoint.parents:
                raise
            folder = self.trained.checkpoint.parent
            raise CheckpointError(f"{error} Remove the folder '{folder}'; the teacher is then trained anew.") from error


def teacher_name(config: DistillConfig) -> str:
    """Return the RecBole model of a run's teacher.

    Raises:
        CheckpointError: the teacher's checkpoint is of another model than ``teacher_model``.
    """
    options = config.run_options
    if options.teacher_checkpoint is None:
        return options.teacher_model or str(config["model"])
    found = read_checkpoint(options.teacher_checkpoint)["config"].get("model")
    if not isinstance(found, str):
        found = None
    if found and options.teacher_model and found != options.teacher_model:
        raise CheckpointError(
            f"The teacher '{options.teacher_checkpoint}' is a {found}, not a {options.teacher_model}. "
            "Take out teacher_model, or give another checkpoint."
        )
    return options.teacher_model or found or str(config["model"])
