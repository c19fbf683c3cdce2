"""Options of the whole run: which methods, which teacher, where results go."""

from __future__ import annotations

import dataclasses
from typing import Any

from recbole_derrd.options.schema import Options, option

Text = (str, type(None))


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
    """Options without a method's prefix."""

    distillers: list[str] = option([], "Distillation methods, e.g. [de, rrd]; empty is plain RecBole training.")
    teacher_model: str | None = option(None, "Teacher's RecBole model; the student's where none is given.", kind=Text)
    teacher: dict[str, Any] = option({}, "RecBole keys of the teacher that differ from the student's.")
    teacher_checkpoint: str | None = option(
        None, "A trained teacher: our checkpoint or a stock RecBole .pth file.", kind=Text
    )
    compare_student: bool = option(True, "Also train the same student without distillation, for comparison.")
    record_dir: str = option("records", "Folder of the run records (one JSON file a run).")
    cache_dir: str | None = option(
        None,
        "Folder of trained teachers, plain students and knowledge; <checkpoint_dir>/cache if none.",
        kind=Text,
    )
    knowledge_batch_size: int = option(
        0, "Users scored at once while the teacher's lists are built; 0 sizes it to the catalogue.", low=0
    )
    threads: int = option(0, "CPU threads of torch; 0 leaves it its choice. One is fastest for small data.", low=0)
    resume: bool = option(False, "Go on from the training checkpoint of an interrupted run, if there is one.")
    checkpoint_step: int = option(10, "Validations between two training checkpoints.", low=1)
    distill_seed: int | None = option(
        None, "Seed of the distillers' own sampling; the run's seed if none.", kind=(int, type(None))
    )
    latency_users: int = option(200, "Users whose single request is timed for the table; 0 leaves latency out.", low=0)
