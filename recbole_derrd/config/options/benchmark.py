"""What a benchmark file may say beside the settings of its experiments."""

from __future__ import annotations

import dataclasses
from typing import Any

from recbole_derrd.config.options.schema import Options, option

Text = (str, type(None))


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(Options):
    """The keys of a benchmark file; each may also be given as ``--key=value``."""

    name: str | None = option(None, "Name of the benchmark; the file's name if none.", kind=Text)
    config_files: str | list[str] = option(
        [], "Config files under `base`, later ones win; from the working directory, or beside the benchmark file.",
        kind=(str, list),
    )  # fmt: skip
    base: dict[str, Any] = option({}, "Settings of all experiments: RecBole's keys and this plugin's.")
    experiments: list[Any] = option(
        [], "Experiments: each a name and the keys in which it differs, {name: DE, distillers: [de]}."
    )
    grid: dict[str, Any] = option({}, "Lists that are multiplied out, with each other and with the experiments.")
    seeds: list[Any] = option([2020, 2021, 2022, 2023, 2024], "Seeds of each experiment.")
    folds: list[Any] = option(
        [],
        "Splits in files, each experiment is run on all of them, and the report averages: folders in data_path, or "
        "lists of three names (benchmark_filename).",
    )
    vary: str = option(
        "training",
        "What the seeds vary: the training on one split, or the split and everything after it, the teacher too.",
        choices=("training", "split"),
    )
    teacher_seed: str = option(
        "fixed",
        "With vary: training: one teacher for all seeds, as published, or one for each seed.",
        choices=("fixed", "varies"),
    )
    proposed: list[Any] = option(
        [], "Experiments that the report tests against the best of all others; every distilled one if none."
    )
    record_dir: str | None = option(None, "Folder of the records; records/<name> if none.", kind=Text)
    jobs: int = option(1, "Experiments that run at once, each in a process with its share of the threads.", low=1)
    only: list[Any] = option([], "Experiments to run, by name, e.g. [DE, RRD]; all if empty.")
    dry: bool = option(False, "Only say which experiments there are and which are recorded.")
