"""From a frontier file to its experiments: at each number of bytes an item, ours and what it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recbole_derrd.benchmark.folds import folds_of
from recbole_derrd.benchmark.plan import Plan, base_settings, plan_of, read_options
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.evaluation import left_out
from recbole_derrd.config.options.frontier import FrontierOptions
from recbole_derrd.config.settings import ReadSettings
from recbole_derrd.config.shipped import found_config
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment.log import deprecations_hidden
from recbole_derrd.experiment.plans import Sizes
from recbole_derrd.experiment.refine import check_refining, dimensions_named, refined_config, who_teaches
from recbole_derrd.shrinking.budget import Codebooks, Split, sizes_of_codebooks, splits_of_bytes
from recbole_derrd.shrinking.plan import codebook_settings, coded_settings, plain_settings

#: Dimensions of a codeword at most: more make codebooks larger than the codes of a small catalogue.
_PART = 8
#: Kinds that are made of the refined teacher.
_REFINED = frozenset({"trained", "trained_codebooks", "refined"})
#: What leaves no student's settings in a run that compresses.
_NO_STUDENT = {"distillers": [], "warm_start": "none", "store_bits": 0}


def read_frontier(file: str | Path, arguments: Iterable[str] = ()) -> Plan:
    """Read a frontier file.

    Args:
        file: the YAML file, or the name of one that comes with the package.
        arguments: ``--key=value``; keys of the file, or settings that go over those of every experiment.

    Raises:
        OptionError: what is wrong with it and what to do.
    """
    file = found_config(file)
    options, over = read_options(file, arguments, FrontierOptions)
    if not options.bytes:
        raise OptionError(f"'{file}' does not say how many bytes an item may take: add e.g. bytes: [5, 10, 20].")
    under = base_settings(file, options, over)
    # The plans are made once: folds of one data set have its sizes.
    fold = next(iter(folds_of(options.folds, under)), None)
    config = DistillConfig(config_dict=ReadSettings({**under, **over, **(fold.settings if fold else {})}))
    if "validation" in left_out(config):
        raise OptionError("The best of each size is chosen on the validation split, and eval_args leaves none.")
    with deprecations_hidden():
        data = prepare_data(config)
        sizes = Sizes.of(data, dimensions_named(config, data))
    if not _REFINED.isdisjoint(options.kinds):
        _check_refining(config, data)
    # Whatever settings an experiment has, its teacher is that of the file and of the command line.
    who = who_teaches(config)
    given = over.get("teacher_refine")
    over = {key: value for key, value in over.items() if key not in who and key != "teacher_refine"}
    # Who trains the teacher on says so for those kinds alone that are made of it.
    base = {**options.base, **who}
    base.pop("teacher_refine", None)
    if "teacher_refine" in base_settings(file, dataclasses.replace(options, base=base), over):
        base["teacher_refine"] = False
    refine = config.run_options.teacher_refine or True
    most = refined_config(config, sizes)["embedding_size"]
    made = [
        {"name": name, "compare_student": False, **_refining(settings, refine)}
        for item_bytes in options.bytes
        for name, settings in _experiments(item_bytes, options, sizes, most)
    ]
    # The file's own experiments ask for it by name: True is the training that the file describes.
    others = [_asking(one, refine if given is None else given, given is not None) for one in options.experiments]
    ours = [one["name"] for one in made if one.get("student_bits") or one.get("student_codebooks")]
    whole = dataclasses.replace(options, base=base, experiments=[*made, *others], proposed=options.proposed or ours)
    return plan_of(file, whole, over)


def _check_refining(config: DistillConfig, data: Data) -> None:
    # What the file leaves out is True; False is written by somebody.
    if config.external_config_dict.get("teacher_refine") is False:
        raise OptionError(
            "The kinds trained and refined need the refined teacher, and teacher_refine is False: take it out, or "
            "leave them out of 'kinds'."
        )
    check_refining(config, data)


def _refining(settings: dict[str, Any], refine: Any) -> dict[str, Any]:
    return {**settings, "teacher_refine": refine} if settings.get("teacher_refine") is True else settings


def _asking(experiment: Any, refine: Any, typed: bool) -> Any:
    """Return an experiment of the file's own; what is typed goes over settings of its own, as elsewhere."""
    if typed and isinstance(experiment, dict) and experiment.get("teacher_refine") not in (None, False):
        return {**experiment, "teacher_refine": refine}
    return _refining(experiment, refine) if isinstance(experiment, dict) else experiment


def _experiments(
    item_bytes: int, options: FrontierOptions, sizes: Sizes, most: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, settings) of everything of so many bytes an item, of as many dimensions at most."""
    splits = splits_of_bytes(item_bytes, most)[: options.ways]
    for kind in options.kinds:
        if kind in ("pq", "opq", "rq", "prq"):
            yield from _by_codebooks(kind, item_bytes, sizes)
        elif kind == "trained_codebooks":
            for size in sizes_of_codebooks(item_bytes, most)[: options.ways]:
                name = f"{item_bytes} B: {Codebooks(item_bytes, size)}, trained"
                yield name, {**codebook_settings(sizes, item_bytes, size), "store_bits": 0}
        elif kind == "student":
            yield (
                f"{item_bytes} B: student alone, {item_bytes} dimensions",
                plain_settings(sizes, item_bytes, users=False),
            )
        else:
            for split in splits:
                if kind != "lloyd_max" or 2 <= split.bits <= 4:
                    yield f"{item_bytes} B: {split.dimensions_and_bits}{_WORDS[kind]}", _of_split(kind, split, sizes)


_WORDS = {
    "trained": ", trained", "untrained": " of the teacher", "refined": " of the refined teacher",
    "lloyd_max": " of the teacher, Lloyd-Max",
}  # fmt: skip


def _of_split(kind: str, split: Split, sizes: Sizes) -> dict[str, Any]:
    if kind == "trained":
        return {**coded_settings(sizes, split), "store_bits": 0}
    levels = {"compress_levels": "lloyd_max"} if kind == "lloyd_max" else {}
    refined = {"teacher_refine": True} if kind == "refined" else {}
    size = {} if split.size == sizes.teacher else {"compress_size": split.size}
    own = {"compress_method": "quantized", "compress_bits": split.bits}
    return {**_NO_STUDENT, **own, **size, **levels, **refined}


def _by_codebooks(kind: str, item_bytes: int, sizes: Sizes) -> Iterator[tuple[str, dict[str, Any]]]:
    most = sizes.refined if sizes.teacher is None else min(sizes.teacher, sizes.users, sizes.items)
    part = min(_PART, most // item_bytes)
    if part == 0 or (kind == "prq" and item_bytes % 2):
        return
    own = {"compress_method": "product", "compress_codebooks": kind, "compress_bytes": item_bytes}
    size = part * item_bytes
    yield (
        f"{item_bytes} B: {kind.upper()} of the teacher, {size} dimensions",
        {**_NO_STUDENT, **own, "compress_size": size},
    )
