"""The teachers that a configuration names: one, or several."""

from __future__ import annotations

import dataclasses
from typing import Any

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.errors import CheckpointError, OptionError, shown
from recbole_derrd.training.checkpoint import read_checkpoint

#: What a teacher that comes as files is called in the place of a model.
EXPORT = "Export"


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """One teacher, as the user describes it.

    Attributes:
        model: its RecBole model; the checkpoint's, or else the student's, if None.
        settings: RecBole keys that differ from the student's.
        checkpoint: file of a trained teacher; if None, it is trained here or read from the cache.
        trusted: whether that file is accepted without proof that its model was trained on this run's split.
        export: folder or file of its embeddings or rankings, which then are all that there is of it.
    """

    model: str | None
    settings: dict[str, Any]
    checkpoint: str | None
    trusted: bool = False
    export: str | None = None

    @property
    def trained_here(self) -> bool:
        """Whether the run trains it, or finds it in the cache."""
        return self.checkpoint is None and self.export is None

    def name(self, config: DistillConfig) -> str:
        """Return the RecBole model of this teacher.

        Raises:
            CheckpointError: the checkpoint holds another model than the user names.
        """
        if self.export is not None:
            return EXPORT
        if self.checkpoint is None:
            return self.model or str(config["model"])
        return self.checkpoint_model(config, read_checkpoint(self.checkpoint)["config"])

    def embedding_size(self, config: DistillConfig) -> int | None:
        """Return the dimensions that are set for this teacher; None for one that is brought."""
        if not self.trained_here:
            return None
        size: int | None = config.derived(self.name(config), self.settings, teacher=True)["embedding_size"]
        return size

    def checkpoint_model(self, config: DistillConfig, settings: dict[str, Any]) -> str:
        """Return the model that a checkpoint's settings name; the user must not contradict it."""
        found = settings.get("model")
        if found is not None and not (isinstance(found, str) and 0 < len(found) <= 200 and found.isprintable()):
            raise CheckpointError(
                f"The settings in '{self.checkpoint}' name no model, but {shown(found)}. Give another checkpoint."
            )
        if found and self.model and found != self.model:
            raise CheckpointError(
                f"The teacher '{self.checkpoint}' is a {found}, not a {self.model}. "
                "Take out the teacher's model, or give another checkpoint."
            )
        if found and "." in found and not self.model:
            # The author of the checkpoint must not choose which modules are imported.
            raise CheckpointError(
                f"The teacher '{self.checkpoint}' is a {found}, which is none of RecBole's models. Say so yourself if "
                f"you know it: --teacher_model={found}."
            )
        return self.model or found or str(config["model"])


def teacher_specs(config: DistillConfig) -> list[TeacherSpec]:
    """Return the teachers that a configuration names, in its order; ``teacher`` holds for all that are trained here."""
    options = config.run_options
    if options.teacher_export is not None:
        return [TeacherSpec(None, {}, None, export=options.teacher_export)]
    if not options.teachers:
        return [
            TeacherSpec(options.teacher_model, options.teacher, options.teacher_checkpoint, options.teacher_trusted)
        ]
    specs = []
    for given in options.teachers:
        own = {"model": given} if isinstance(given, str) else dict(given)
        model, checkpoint, export = (own.pop(key, None) for key in ("model", "checkpoint", "export"))
        trusted = bool(own.pop("trusted", options.teacher_trusted))
        shared = {} if checkpoint or export else options.teacher
        specs.append(TeacherSpec(model, {**shared, **own}, checkpoint, trusted, export))
    return specs


def only_spec(config: DistillConfig) -> TeacherSpec:
    """Return the one teacher that a configuration names.

    Raises:
        OptionError: it names several.
    """
    specs = teacher_specs(config)
    if len(specs) > 1:
        raise OptionError("This takes one teacher: name it with teacher_model and teacher, not with teachers.")
    return specs[0]
