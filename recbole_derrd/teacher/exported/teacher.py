"""A teacher of a run that comes as files: matched with the run's data, evaluated where it scores every item."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_derrd.adapters import Adapter, adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.evaluation import measured_names
from recbole_derrd.data.fingerprint import Fingerprint
from recbole_derrd.data.prepare import Data
from recbole_derrd.errors import DataError
from recbole_derrd.model_cache.evaluated import evaluate_model
from recbole_derrd.model_cache.results import TrainedModel
from recbole_derrd.model_cache.same_split import FINGERPRINT, TRUSTED
from recbole_derrd.runtime.processes import is_main_process
from recbole_derrd.teacher.exported.matching import Array, Matched, matched
from recbole_derrd.teacher.exported.model import EmbeddingsModel, ExportedEmbeddings, ExportModel, RankingsModel
from recbole_derrd.teacher.exported.reading import Exported, read_exported
from recbole_derrd.teacher.source import Load
from recbole_derrd.teacher.specs import EXPORT, TeacherSpec


@dataclasses.dataclass(eq=False)
class ExportTeacher:
    """A :class:`~recbole_derrd.teacher.source.TeacherSource` made of files.

    Attributes:
        config: of a plain model on the same data, for evaluation.
        trained: its metrics, as of any teacher; undefined where it has rankings alone.
        path: the folder or file.
        known: which users and items it knows, by side; a side of which it knows all is left out.
        hints: hint layers that its embeddings can be read from; empty for rankings.
    """

    config: DistillConfig
    trained: TrainedModel
    path: str
    known: Mapping[str, Array]
    hints: tuple[str, ...]
    _data: Data
    _digest: str
    _size: int
    _matched: Matched | None = None

    @classmethod
    def of(cls, config: DistillConfig, data: Data, spec: TeacherSpec) -> ExportTeacher:
        """Read a teacher's files, match them with this run's data and evaluate it.

        Raises:
            DataError: they cannot be a teacher, or know none of this run's users or items.
        """
        exported = read_exported(str(spec.export))
        found = matched(exported, data)
        if is_main_process():
            getLogger().info(found.note)
        own = config.derived(str(config["model"]), {}, teacher=True)
        trained = _evaluated(own, data, exported, found)
        size = 0 if found.embeddings is None else found.embeddings["item"].shape[1]
        hints = ExportedEmbeddings.hints if found.embeddings is not None else ()
        return cls(own, trained, str(spec.export), found.known, hints, data, exported.digest, size, found)

    @property
    def size(self) -> int:
        """Dimensions of its embeddings; 0 for rankings."""
        return self._size

    def load(self) -> Adapter:
        """Return the teacher in its adapter.

        Raises:
            DataError: its files have changed since the run began.
        """
        if self._matched is None:
            exported = read_exported(self.path)
            if exported.digest != self._digest:
                raise DataError(f"The teacher '{self.path}' has changed since this run began. Start the run again.")
            self._matched = matched(exported, self._data)
        return adapter_of(_model(self.config, self._data, self._matched))

    def snapshots(self, count: int) -> contextlib.AbstractContextManager[Sequence[Load]]:
        """Give none: files hold the finished teacher alone."""
        return contextlib.nullcontext(())

    def forget(self) -> None:
        """Free the memory of the files' arrays; they are read again if they are needed again."""
        self._matched = None


def _model(config: DistillConfig, data: Data, found: Matched) -> ExportModel:
    kind = EmbeddingsModel if found.embeddings is not None else RankingsModel
    model = kind(config, data.train._dataset, found)
    model.to(config["device"])
    model.eval()
    return model


def _evaluated(config: DistillConfig, data: Data, exported: Exported, found: Matched) -> TrainedModel:
    """Return the teacher's entry; its key depends on what the files hold and on the numbering of the data."""
    key = hashlib.sha256(f"{EXPORT}|{exported.digest}|{data.fingerprint.ids}".encode()).hexdigest()[:16]
    card = exported.card or {}
    about: dict[str, Any] = {"export": str(exported.path), "digest": exported.digest[:16]}
    about.update({name: card[name] for name in ("model",) if isinstance(card.get(name), str)})
    check = {"by": FINGERPRINT if _same_split(card, data.fingerprint) else TRUSTED}
    if found.embeddings is None:
        result = _of_rankings(config, exported, key)
    else:
        build = lambda: _model(config, data, found)  # noqa: E731
        result = evaluate_model(config, data, EXPORT, identity=exported.digest, build=build)
    return dataclasses.replace(
        result, key=key, checkpoint=exported.path, settings=about, split_check=check, found=result.found
    )


def _of_rankings(config: DistillConfig, exported: Exported, key: str) -> TrainedModel:
    """Return an entry without metrics: rankings have no score for every item, which RecBole's evaluation ranks."""
    assert exported.rankings is not None
    undefined = dict.fromkeys(measured_names(config), math.nan)
    entries = len(exported.rankings.items)
    return TrainedModel(EXPORT, key, Path(exported.path), 0, 4 * entries, undefined, dict(undefined), 0.0, [], None, {})


def _same_split(card: Mapping[str, Any], fingerprint: Fingerprint) -> bool:
    """Say whether an export's card names this run's very split as that of its training."""
    data = card.get("data")
    theirs = data.get("fingerprint") if isinstance(data, dict) else None
    return theirs == dataclasses.asdict(fingerprint)
