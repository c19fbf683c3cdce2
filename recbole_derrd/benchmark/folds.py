"""The folds of a benchmark: the splits, given as files, that each experiment is run on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from recbole_derrd.errors import OptionError


@dataclasses.dataclass(frozen=True)
class Fold:
    """One split of the data: its name, and the settings that choose its files."""

    name: str
    settings: dict[str, Any]


def folds_of(given: list[Any], base: Mapping[str, Any]) -> list[Fold]:
    """Return the folds that a benchmark names; none if it names none.

    A text is a folder, which lies in the data_path of ``base`` where there is one. A list is a benchmark_filename. A
    fold's name is what was written, so that the records stay known where the data are moved.

    Raises:
        OptionError: one is neither, or two are the same.
    """
    folds = []
    for one in given:
        if isinstance(one, str) and one:
            name = os.path.normpath(one)
            folds.append(Fold(name, {"data_path": os.path.join(str(base.get("data_path") or ""), name)}))
        elif isinstance(one, list) and len(one) == 3 and all(isinstance(part, str) for part in one):
            folds.append(Fold(", ".join(one), {"benchmark_filename": one}))
        else:
            raise OptionError(
                "Each of 'folds' must be a folder (a data_path), or the three names of a benchmark_filename, e.g. "
                f"[train1, valid1, test1], but one is {one!r}."
            )
    names = [fold.name for fold in folds]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"'folds' names '{name}' twice.")
    return folds


def on_fold(fold: Fold, settings: Mapping[str, Any], experiment: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment's settings on a fold.

    Args:
        fold: the fold.
        settings: the experiment's whole settings.
        experiment: its name.
        own: those of them that are not the base's.

    Raises:
        OptionError: the experiment chooses its files by itself, or the fold's folder is not split by files.
    """
    for key in ("data_path", "benchmark_filename"):
        if key in own:
            raise OptionError(f"'folds' chooses the data, so '{key}' of the experiment '{experiment}' must go.")
    whole = {**settings, **fold.settings}
    if not whole.get("benchmark_filename"):
        raise OptionError(
            f"The fold '{fold.name}' is a folder, so 'base' needs benchmark_filename, e.g. [train, valid, test]: the "
            "names of its training, validation and test files. Without them the split would be drawn, not the fold's."
        )
    return whole


def refuse_one_teacher(folds: list[Fold], settings: Mapping[str, Any], experiment: str) -> None:
    """Refuse a checkpoint that would teach on several folds: it was trained on one split, and has seen the others'.

    Raises:
        OptionError: which, and what to do.
    """
    compressed = settings.get("compress_method", "none") != "none"
    if len(folds) < 2 or not (settings.get("distillers") or compressed):
        return
    trusted, several = settings.get("teacher_trusted", False), settings.get("teachers")
    entries = [one for one in several if isinstance(one, Mapping)] if isinstance(several, list) else []
    brought = [settings.get("teacher_checkpoint") if not trusted else None]
    brought += [one.get("checkpoint") for one in entries if not one.get("trusted", trusted)]
    for checkpoint in filter(None, brought):
        raise OptionError(
            f"The teacher '{checkpoint}' of the experiment '{experiment}' was trained on one split and cannot teach on "
            f"{len(folds)} folds: it has seen what the others hold out. Name a teacher_model, so that each fold has a "
            "teacher of its own, or one fold. If it has seen no held-out item of any fold, set teacher_trusted: True "
            "(of several teachers: trusted: True beside checkpoint)."
        )
