"""RecBole's evaluation settings, checked together when they are read; RecBole meets their mistakes after an epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from recbole_derrd.errors import OptionError, did_you_mean

_SPLITS = ("training", "validation", "test")
_LEAVE_ONE_OUT = ("valid_and_test", "valid_only", "test_only")
_SHOWN_MODES = ("full", "uni100", "pop100", "labeled", "fixed499")
#: Metrics of all scores at once, whatever topk says.
WITHOUT_CUTOFF = ("gauc", "auc", "mae", "rmse", "logloss")


def check_evaluation(settings: Mapping[str, Any], metric_kinds: Mapping[str, str]) -> None:
    """Refuse evaluation settings that cannot work, or that RecBole would take for others.

    Args:
        settings: every setting, as the user gave it.
        metric_kinds: "ranking" or "value" by the name of each of RecBole's metrics.

    Raises:
        OptionError: what is wrong and what to do.
    """
    kind = _kind_of(settings["metrics"], metric_kinds)
    _check_cutoffs(settings["topk"], kind)
    _check_valid_metric(settings)
    given = settings["eval_args"]
    if not isinstance(given, dict):
        raise OptionError(f"eval_args must be a dict, e.g. {{mode: full}}, but is {given!r}.")
    _refuse_unknown_keys(given, ("split", "order", "group_by", "mode"), "eval_args")
    _check_modes(_modes(given.get("mode", "full")), kind)
    files = settings.get("benchmark_filename")
    if files is None:
        _check_splitting(given)
    elif not isinstance(files, list) or len(files) != len(_SPLITS):
        raise OptionError(f"benchmark_filename must name three files, e.g. [train, valid, test], but is {files}.")
    if isinstance(settings.get("repeatable"), str):
        raise OptionError(f"repeatable must be True or False, but is '{settings['repeatable']}'.")


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _kind_of(metrics: Any, kinds: Mapping[str, str]) -> str:
    """Return the one kind, ranking or value, of all metrics."""
    names = _as_list(metrics)
    if not names or not all(isinstance(name, str) for name in names):
        raise OptionError("metrics must name at least one metric, e.g. [NDCG, Recall].")
    by_lower = {name.lower(): kind for name, kind in kinds.items()}
    for name in names:
        if name.lower() not in by_lower:
            raise OptionError(f"RecBole has no metric '{name}'.{did_you_mean(name, kinds)}")
    value = [name for name in names if by_lower[name.lower()] == "value"]
    if value and len(value) < len(names):
        ranking = [name for name in names if name not in value]
        raise OptionError(
            f"metrics mixes metrics of single scores ({', '.join(value)}) with metrics of ranked lists "
            f"({', '.join(ranking)}), which RecBole evaluates in different ways: keep one kind."
        )
    return "value" if value else "ranking"


def _check_cutoffs(cutoffs: Any, kind: str) -> None:
    given = cutoffs if isinstance(cutoffs, list) else [cutoffs]
    whole = all(isinstance(cutoff, int) and not isinstance(cutoff, bool) and cutoff >= 1 for cutoff in given)
    # Metrics of single scores have no cutoffs.
    if not whole or not (given or kind == "value"):
        raise OptionError(f"topk must hold at least one whole number from 1 on, e.g. [10, 20], but is {cutoffs!r}.")


def measured_names(settings: Any) -> list[str]:
    """Return what the results of an evaluation are called, e.g. ``ndcg@10``."""
    cutoffs, found = _as_list(settings["topk"]), []
    for metric in _as_list(settings["metrics"]):
        name = metric.lower()
        found += [name] if name in WITHOUT_CUTOFF else [f"{name}@{cutoff}" for cutoff in cutoffs]
    return found


def _check_valid_metric(settings: Mapping[str, Any]) -> None:
    metrics, cutoffs, given = _as_list(settings["metrics"]), _as_list(settings["topk"]), settings["valid_metric"]
    if not isinstance(given, str) or given.lower() not in measured_names(settings):
        example = metrics[0] if metrics[0].lower() in WITHOUT_CUTOFF else f"{metrics[0]}@{cutoffs[0]}"
        raise OptionError(
            f"valid_metric '{given}' is not measured. It must be one of metrics {metrics} at one of topk {cutoffs}, "
            f"e.g. {example}."
        )


def _refuse_unknown_keys(given: Mapping[Any, Any], known: Iterable[str], place: str) -> None:
    known = tuple(known)
    for key in given:
        if key not in known:
            raise OptionError(f"{place} has no '{key}'.{did_you_mean(str(key), known)}")


def _modes(mode: Any) -> dict[str, Any]:
    """Return the mode of each split, as RecBole fills in the one that is not given."""
    if isinstance(mode, str):
        return {"valid": mode, "test": mode}
    if not isinstance(mode, dict):
        raise OptionError(f"mode in eval_args must be a text, e.g. full, or a dict of valid and test, but is {mode!r}.")
    _refuse_unknown_keys(mode, ("valid", "test"), "mode in eval_args")
    default = mode.get("valid", mode.get("test", "full"))
    return {"valid": mode.get("valid", default), "test": mode.get("test", default)}


def _check_modes(modes: Mapping[str, Any], kind: str) -> None:
    for mode in modes.values():
        _check_mode(mode)
    for mode in modes.values():
        if kind == "value" and (mode == "full" or mode.startswith("fixed")):
            raise OptionError(
                f"The mode '{mode}' in eval_args ranks items, and metrics names metrics of single scores only. Set "
                "mode: uni100 or labeled in eval_args, or metrics of ranked lists, e.g. [NDCG, Recall]."
            )
        if kind == "ranking" and mode == "labeled":
            raise OptionError(
                "The mode 'labeled' in eval_args compares scores with labels and ranks nothing: set metrics to some of "
                "AUC, LogLoss, MAE and RMSE, or another mode, e.g. full."
            )
    if modes["valid"] == "labeled" != modes["test"]:
        raise OptionError(
            "RecBole cannot evaluate the validation split by its labels where the test split is evaluated otherwise: "
            "set mode: labeled for both splits, or for none."
        )


def _check_mode(mode: Any) -> None:
    if not isinstance(mode, str):
        raise OptionError(f"mode in eval_args must be a text, e.g. full, but is {mode!r}.")
    if mode in ("full", "labeled"):
        return
    word, count = re.fullmatch(r"(uni|pop|fixed)?(.*)", mode, re.S).groups()  # type: ignore[union-attr]
    if word is None or count[:1].isalpha():
        known = ", ".join(("full", "uniN", "popN", "labeled", "fixedN"))
        raise OptionError(f"eval_args has no mode '{mode}'.{_mode_meant(mode)} Known are: {known}.")
    if not re.fullmatch(r"0*[1-9][0-9]*", count):
        what = "candidates" if word == "fixed" else "negatives"
        raise OptionError(
            f"The mode '{mode}' in eval_args must say how many {what}, at least one and in digits, e.g. {word}"
            f"{499 if word == 'fixed' else 100}."
        )


def _mode_meant(mode: str) -> str:
    """Return a question where the mode is almost a known one, with the user's own number."""
    digits = re.search(r"[0-9]+$", mode)
    shown = [re.sub(r"[0-9]+", digits.group() if digits else r"\g<0>", known) for known in _SHOWN_MODES]
    meant = did_you_mean(mode, shown)
    return meant if "Did you mean" in meant else ""


def _check_splitting(given: Mapping[str, Any]) -> None:
    order, group_by = given.get("order", "RO"), given.get("group_by", "user")
    if order not in ("RO", "TO"):
        raise OptionError(f"order in eval_args must be RO (random) or TO (by time), but is {order!r}.")
    if group_by is not None and not (isinstance(group_by, str) and (group_by == "user" or group_by.lower() == "none")):
        raise OptionError(f"group_by in eval_args must be user or none, but is {group_by!r}.")
    split = given.get("split", {"RS": [0.8, 0.1, 0.1]})
    if not isinstance(split, dict) or len(split) != 1:
        raise OptionError(
            f"split in eval_args must be one of RS, LS and TS, e.g. {{RS: [0.8, 0.1, 0.1]}}, but is {split!r}."
        )
    _refuse_unknown_keys(split, ("RS", "LS", "TS"), "split in eval_args")
    ((way, parts),) = split.items()
    if way == "LS":
        _check_leave_one_out(parts)
    else:
        _check_ratios(way, parts)


def left_out(settings: Any) -> frozenset[str]:
    """Return which of the splits "validation" and "test" eval_args leave out on purpose.

    Args:
        settings: checked ones, or RecBole's configuration made of them.
    """
    if settings["benchmark_filename"] is not None:
        return frozenset()
    ((way, parts),) = settings["eval_args"]["split"].items()
    of_one = {"valid_only": (1, 0), "test_only": (0, 1)}
    shares = of_one.get(parts, (1, 1)) if way == "LS" else tuple(parts[1:])
    return frozenset(split for split, share in zip(_SPLITS[1:], shares) if not share)


def _check_leave_one_out(way: Any) -> None:
    if way not in _LEAVE_ONE_OUT:
        raise OptionError(f"LS in eval_args cannot be {way!r}.{did_you_mean(str(way), _LEAVE_ONE_OUT)}")


def _check_ratios(way: str, parts: Any) -> None:
    if not isinstance(parts, list) or len(parts) != len(_SPLITS):
        raise OptionError(
            f"eval_args splits into training, validation and test, e.g. {way}: [0.8, 0.1, 0.1], not {way}: {parts}."
        )
    for split, part in zip(_SPLITS, parts):
        number = isinstance(part, (int, float)) and not isinstance(part, bool)
        if not number or not math.isfinite(part) or part < 0:
            raise OptionError(f"{way} in eval_args must hold three numbers, e.g. [0.8, 0.1, 0.1], not {part!r}.")
        if part == 0 and split == "training":
            raise OptionError(
                f"{way}: {parts} in eval_args leaves the training split empty. Set e.g. {way}: [0.8, 0.1, 0.1]; a 0 "
                "for validation or test leaves that split out."
            )
