"""Keys that are no longer read, each with what to write instead: the user's own value, translated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Callable

Settings = Mapping[str, Any]

#: This package's own options that have another name since.
RENAMED = {
    **{f"{method}_sharpness": f"{method}_decay" for method in ("rrd", "ir_rrd", "ir_rrd_item", "cpd", "sld")},
    "teacher_versions": "teacher_snapshots",
    "ensemble_importance": "ensemble_weighting",
    "de_selection": "de_gating",
    "cpd_list_weight": "cpd_ranking_weight",
    "hetcomp_lists_n": "hetcomp_top_n",
}
#: This package's own options that are read no more, and what to do instead.
GONE = {
    **{
        f"{method}_fused": "'fast' switches all quicker ways; a list without kernels computes terms by plain autograd"
        for method in ("de", "rrd", "ir_rrd", "listwise", "hetcomp")
    },
    "ensemble_decay": "ensemble_weighting exponential is exp(-r / 10), and power, the default, has ensemble_power",
    "hetcomp_fine_lists": "write hetcomp_fine: parts (K/2 and K/10) or whole (all K)",
    "hetcomp_move": "write hetcomp_variant: first_release for 'closer', and take it out for 'closer_or_further'",
    "hetcomp_finish": "write hetcomp_variant: published for 'rounded', and take it out for 'all'",
    "hetcomp_discrepancy": "rankings are compared by overlap, as the published code does",
}


def retired(key: str, settings: Settings) -> str | None:
    """Say what to write instead of a key that is no longer read; None where it is read.

    Args:
        key: the key.
        settings: all settings that it was given with, since old keys were often read together.
    """
    if key in _OLDER_RECBOLE:
        return f"'{key}' is a key of an older RecBole, and RecBole 1.2 ignores it: {_OLDER_RECBOLE[key](settings)}."
    if key in RENAMED:
        return f"'{key}' is called '{RENAMED[key]}' now: write {RENAMED[key]}: {settings[key]}."
    if key in GONE:
        return f"'{key}' is gone: {GONE[key]}."
    if key == "MODEL_TYPE":
        return "'MODEL_TYPE' is no setting: RecBole takes it from the model. Take it out."
    return None


def retired_keys() -> frozenset[str]:
    """Return every key that is no longer read."""
    return frozenset({*_OLDER_RECBOLE, *RENAMED, *GONE, "MODEL_TYPE"})


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _between(low: Any, high: Any) -> str:
    """Write the closed interval of an old minimum and maximum, either of which may be missing."""
    left = "(-inf" if low is None else f"[{_number(low)}"
    right = "inf)" if high is None else f"{_number(high)}]"
    return f'"{left},{right}"'


def _counts(side: str) -> Callable[[Settings], str]:
    def sentence(settings: Settings) -> str:
        low, high = (settings.get(f"{end}_{side}_inter_num") for end in ("min", "max"))
        return f"write {side}_inter_num_interval: {_between(low or 0, high)}"

    return sentence


def _values(settings: Settings) -> str:
    """Write the four old filters by value, of which a column may have several, as one."""
    old = [settings.get(name) or {} for name in ("lowest_val", "highest_val", "equal_val", "not_equal_val")]
    lowest, highest, equal, unequal = [one if isinstance(one, Mapping) else {} for one in old]
    shown = {}
    for column in dict.fromkeys([*lowest, *highest, *equal, *unequal]):
        if column in equal:
            shown[column] = _between(equal[column], equal[column])
        elif column in unequal:
            apart = _number(unequal[column])
            shown[column] = f'"(-inf,{apart});({apart},inf)"'
        else:
            shown[column] = _between(lowest.get(column), highest.get(column))
    columns = ", ".join(f"{column}: {interval}" for column, interval in shown.items())
    return f"write val_interval: {{{columns or 'rating: ' + _between(3, None)}}}"


def _evaluation(settings: Settings) -> str:
    """Write the old keys of a split as eval_args, e.g. of ``eval_setting: RO_RS,full``."""
    words = re.findall(r"[A-Za-z]+\d*", str(settings.get("eval_setting", "")))
    order = next((word.upper() for word in words if word.upper() in ("RO", "TO")), "RO")
    kind = next((word.upper() for word in words if word.upper() in ("RS", "LS")), None)
    if kind is None:
        kind = "LS" if "leave_one_num" in settings and "split_ratio" not in settings else "RS"
    mode = next((word for word in words if re.fullmatch(r"full|(uni|pop)\d+", word)), "full")
    part = settings.get("split_ratio")
    if not isinstance(part, (list, tuple)) or len(part) != 3:
        # A run needs all three splits.
        part = [0.8, 0.1, 0.1]
    if kind == "LS":
        # A run needs all three splits.
        part = "valid_and_test"
    group = "user" if settings.get("group_by_user", True) else "none"
    return f"write eval_args: {{split: {{{kind}: {part}}}, order: {order}, group_by: {group}, mode: {mode}}}"


def _negatives(settings: Settings) -> str:
    """Write the old keys of negative sampling in training as train_neg_sample_args."""
    distribution = settings.get("training_neg_sample_distribution") or "uniform"
    number = settings.get("training_neg_sample_num", settings.get("neg_sample_num", 1))
    for key in ("neg_sampling", "negative_sampling"):
        if key in settings:
            given = settings[key]
            if isinstance(given, Mapping) and given:
                distribution, number = next(iter(given.items()))
            else:
                number = given
    if not number or number == "None":
        return "write train_neg_sample_args: null"
    if not isinstance(number, int):
        number = 1
    return f"write train_neg_sample_args: {{distribution: {distribution}, sample_num: {number}}}"


def _aliases(settings: Settings) -> str:
    return "write alias_of_user_id or alias_of_item_id with a list of the columns whose ids are the same users or items"


def _gone(why: str) -> Callable[[Settings], str]:
    return lambda settings: f"{why}. Take it out"


_UNUSED = _gone("columns that filters have read stay, and unused_col: {inter: [COLUMN]} drops them")
_EVALUATED = ("eval_setting", "split_ratio", "leave_one_num", "group_by_user")
_SAMPLED = (
    "training_neg_sample_num",
    "training_neg_sample_distribution",
    "neg_sampling",
    "negative_sampling",
    "neg_sample_num",
)

#: Keys of RecBole 0.1 to 1.1 that 1.2 does not read, and what to write instead.
_OLDER_RECBOLE: dict[str, Callable[[Settings], str]] = {
    **{f"{end}_{side}_inter_num": _counts(side) for side in ("user", "item") for end in ("min", "max")},
    **dict.fromkeys(("lowest_val", "highest_val", "equal_val", "not_equal_val"), _values),
    **dict.fromkeys(_EVALUATED, _evaluation),
    **dict.fromkeys(_SAMPLED, _negatives),
    "eval_neg_sample_args": _gone("the mode in eval_args says it, e.g. mode: uni100"),
    "real_time_process": _gone("negatives are drawn with each batch"),
    "drop_filter_field": _UNUSED,
    "drop_preload_weight": _UNUSED,
    "fields_in_same_space": _aliases,
    "SOURCE_ID_FIELD": _gone("social networks are read no more"),
    "TARGET_ID_FIELD": _gone("social networks are read no more"),
    "draw_loss_pic": _gone("losses are drawn by TensorBoard, in log_tensorboard/"),
    "multi_gpus": _gone("several GPUs are nproc and gpu_id, e.g. nproc: 2 and gpu_id: '0,1'"),
}
