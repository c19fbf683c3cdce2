"""A frozen teacher: trained here, read from the cache, or given as a checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, ClassVar

from recbole.utils import dataset_arguments

from recbole_derrd.adapters import Adapter, adapter_class, adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.atomic_files import content_digest
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import CheckpointError, DataError
from recbole_derrd.model_cache.building import load_model
from recbole_derrd.model_cache.evaluated import evaluate_checkpoint, find_evaluated
from recbole_derrd.model_cache.keys import cache_key
from recbole_derrd.model_cache.replay import earlier_snapshots
from recbole_derrd.model_cache.results import TrainedModel
from recbole_derrd.model_cache.same_split import proof_of_split
from recbole_derrd.model_cache.train_or_find import find_trained, train_or_find
from recbole_derrd.recbole_compat.models import model_class
from recbole_derrd.teacher.checkpoint_settings import checkpoint_seed, checkpoint_settings
from recbole_derrd.teacher.source import Known
from recbole_derrd.teacher.specs import TeacherSpec, only_spec
from recbole_derrd.training.checkpoint import read_checkpoint

#: Settings that may give a teacher another split; so may its seed, unless the run has a split_seed.
_OF_THE_DATA = frozenset(dataset_arguments)
#: Settings of a training, which change nothing of a finished model.
_OF_A_TRAINING = (
    "embedding_size", "epochs", "eval_step", "stopping_step", "learning_rate", "weight_decay", "train_batch_size",
)  # fmt: skip


@dataclasses.dataclass(eq=False)
class Teacher:
    """A trained model that teaches, and the data that it was trained on, which are prepared when they are needed."""

    config: DistillConfig
    trained: TrainedModel
    student_data: Data
    _data: Data | None = None
    #: It was trained on these data, so it knows all of their users and items.
    known: ClassVar[Known] = MappingProxyType({})

    @classmethod
    def of(
        cls, config: DistillConfig, student_data: Data, spec: TeacherSpec | None = None, snapshots: int = 1
    ) -> Teacher:
        """Train the teacher of a run, or read it from the cache or from a checkpoint.

        The cache is asked first for a teacher of these settings on the student's own split: such a teacher was trained
        on that split, so that its data need not be prepared.

        Args:
            config: the run's configuration.
            student_data: the student's data; the teacher's must be the same.
            spec: which of the run's teachers; its only one if None.
            snapshots: how many snapshots :meth:`snapshots` will be asked for; a teacher that is trained now keeps
                them.

        Raises:
            CheckpointError: the teacher's checkpoint is unusable or belongs to other data.
            DataError: the teacher's settings give another split than the student's.
            OptionError: the run has several teachers, and ``spec`` is None.
        """
        spec = spec or only_spec(config)
        if spec.checkpoint is None:
            own = config.derived(spec.name(config), spec.settings, teacher=True)
            found = find_trained(own, student_data.fingerprint)
            if found is not None:
                return cls(own, found, student_data)
            data = cls._prepared(own, student_data)
            kept = snapshots if _by_epochs(own) else 1
            return cls(own, train_or_find(own, data, role="teacher", snapshots=kept), student_data, data)
        return cls._of_checkpoint(config, student_data, spec)

    @classmethod
    def _of_checkpoint(cls, config: DistillConfig, student_data: Data, spec: TeacherSpec) -> Teacher:
        path = Path(str(spec.checkpoint))
        content = read_checkpoint(path)
        own = _config_of_checkpoint(config, spec, content)
        proof = proof_of_split(content, own, student_data.fingerprint, path, trusted=spec.trusted)
        found = find_evaluated(own, student_data.fingerprint, path, proof)
        if found is not None:
            return cls(own, found, student_data)
        data = cls._prepared(own, student_data)
        return cls(own, evaluate_checkpoint(own, data, path, content, proof), student_data, data)

    @staticmethod
    def check(config: DistillConfig, student_data: Data, spec: TeacherSpec) -> str:
        """Refuse a teacher of other data before any is trained; return a key that distinguishes it from other teachers.

        Raises:
            CheckpointError: its checkpoint is unusable or belongs to other data.
            DataError: its settings give another split than the student's.
        """
        if spec.checkpoint is not None:
            Teacher._of_checkpoint(config, student_data, spec)
            return content_digest(spec.checkpoint)
        own = config.derived(spec.name(config), spec.settings, teacher=True)
        seeded = "seed" in spec.settings and config.run_options.split_seed is None
        if (seeded or _OF_THE_DATA & spec.settings.keys()) and find_trained(own, student_data.fingerprint) is None:
            Teacher._prepared(own, student_data)
        return cache_key(own, student_data.fingerprint)

    @property
    def data(self) -> Data:
        """The data that it was trained on; preparing them seeds every random state anew."""
        if self._data is None:
            self._data = self._prepared(self.config, self.student_data)
        return self._data

    @property
    def hints(self) -> tuple[str, ...]:
        """Hint layers that its embeddings can be read from, default first; empty where it has none."""
        return adapter_class(model_class(self.config["model"])).hints

    def forget(self) -> None:
        """Free the memory of its data; they are prepared again if they are needed again."""
        self._data = None

    @classmethod
    def _prepared(cls, own: DistillConfig, student_data: Data) -> Data:
        data = prepare_data(own)
        cls.refuse_other_split(data, student_data)
        return data

    @staticmethod
    def refuse_other_split(data: Data, student_data: Data) -> None:
        """Refuse the data of a teacher that are not the student's.

        Raises:
            DataError: how they differ.
        """
        difference = data.fingerprint.difference(student_data.fingerprint)
        if difference:
            raise DataError(
                f"The teacher's data are not the student's: {difference}. Take seed, eval_args, filters and the like "
                "out of its settings; both must see the same training interactions. With a split_seed, seeds may "
                "differ."
            )

    def load(self) -> Adapter:
        """Return the frozen model in its adapter.

        Raises:
            CheckpointError: its file is damaged.
        """
        try:
            return self._loaded(self.trained.checkpoint)
        except CheckpointError as error:
            if self.config.cache_dir not in self.trained.checkpoint.parents:
                raise
            folder = self.trained.checkpoint.parent
            raise CheckpointError(f"{error} Remove the folder '{folder}'; the teacher is then trained anew.") from error

    def _loaded(self, checkpoint: Path) -> Adapter:
        return adapter_of(load_model(self.config, self.data, checkpoint))

    @contextlib.contextmanager
    def snapshots(self, count: int) -> Iterator[list[Callable[[], Adapter]]]:
        """Give what loads each snapshot that the teacher passed through before its final one, oldest first.

        They are removed when the block has succeeded. A checkpoint, or a teacher that is not trained by epochs, has
        none.

        Args:
            count: how many snapshots are wanted, the final one included.
        """
        if count == 1 or self.config.cache_dir not in self.trained.checkpoint.parents or not _by_epochs(self.config):
            yield []
            return
        with earlier_snapshots(self.config, self.trained, count) as paths:
            yield [functools.partial(self._loaded, path) for path in paths]


def _config_of_checkpoint(config: DistillConfig, spec: TeacherSpec, content: dict[str, Any]) -> DistillConfig:
    """Return the configuration of a teacher checkpoint, with the model's settings from its file."""
    name = spec.checkpoint_model(config, content["config"])
    settings = {
        **_training_of(content["config"], spec.settings),
        **checkpoint_settings(name, content, str(spec.checkpoint), spec.settings),
    }
    seed = checkpoint_seed(content)
    if "seed" not in settings and seed not in (None, config["seed"]):
        split_seed = config.run_options.split_seed
        settings.update(seed=seed, split_seed=config["seed"] if split_seed is None else split_seed)
    return config.derived(name, settings, teacher=True)


def _training_of(described: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a checkpoint's model was trained, as its file says.

    A student's settings must not take their place: one checkpoint would be another teacher for each of its students.
    """
    found = {key: described[key] for key in _OF_A_TRAINING if type(described.get(key)) in (int, float)}
    return {key: value for key, value in found.items() if key not in given}


def _by_epochs(config: DistillConfig) -> bool:
    """Return whether more epochs make another model: RecBole runs some closed forms through its epochs as well."""
    return adapter_class(model_class(config["model"])).trainable
