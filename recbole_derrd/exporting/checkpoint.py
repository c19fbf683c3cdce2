"""A checkpoint of ours or of stock RecBole, with the data that it was trained on, as its own settings say."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole.utils import dataset_arguments

from recbole_derrd.adapters import Adapter, adapter_of
from recbole_derrd.config.distill_config import DistillConfig, model_settings
from recbole_derrd.config.known_keys import mentions
from recbole_derrd.config.options.evaluation import measured_names
from recbole_derrd.config.settings import read_command_line
from recbole_derrd.data.fingerprint import Fingerprint
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import CheckpointError, DataError, OptionError, did_you_mean, shown
from recbole_derrd.exporting.protocol import (
    OF_THE_SPLIT,
    mode_of_the_run,
    options_of_the_run,
    refuse_other_candidates,
)
from recbole_derrd.exporting.request import Asked
from recbole_derrd.model_cache.building import build_model, freeze
from recbole_derrd.teacher.checkpoint_settings import checkpoint_settings, loads_a_file
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.checkpointing import ENTRIES, load_weights

#: Settings of the data, their split and an evaluation. Columns of vectors that a data set preloads are left out.
_OF_THE_DATA = (
    *(key for key in dataset_arguments if key not in ("preload_weight", "additional_feat_suffix")),
    "encoding", "eval_args", "seed", "reproducibility", "metrics", "topk", "valid_metric",
    "repeatable", "eval_batch_size", "metric_decimal_place",
)  # fmt: skip
#: Those of them that are always stated.
_OF_THE_PROTOCOL = ("eval_args", "seed", "metrics", "topk", "valid_metric")
#: Further settings that a user may give.
_OF_THE_USER = ("data_path", "dataset", *OF_THE_SPLIT, "use_gpu", "gpu_id")
#: The commands' own options, which a misspelt setting may have been meant for.
_OF_THE_COMMAND = {
    "export": ("out", "format", "bits", "top", "index", "keep-seen", "force", "model"),
    "evaluate": ("split", "records", "trusted", "model"),
    "recommend": ("users", "k", "out", "keep-seen", "model"),
    "shrink": ("bytes", "size", "times", "out", "compare_student"),
}
_QUIET = {"show_progress": False, "state": "ERROR", "log_wandb": False}
_LONGEST = 10_000
#: Ids that an error names.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Trained:
    """A checkpoint's model, frozen in its adapter, and its data."""

    adapter: Adapter
    data: Data
    config: DistillConfig
    content: dict[str, Any]

    @property
    def distillers(self) -> list[str] | None:
        """The methods that the model was distilled by; None where its file does not say."""
        ours = self.content.get("derrd")
        names = ours.get("distillers") if isinstance(ours, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        return [name[:200] for name in names]

    @property
    def table_entries(self) -> dict[str, dict[str, Any]]:
        """Bits and steps, or codes and codebooks, of the tables of a coded student; empty in float32."""
        found = self.content.get(ENTRIES)
        known = isinstance(found, dict) and all(isinstance(one, dict) for one in found.values())
        return found if known else {}  # type: ignore[return-value]

    @property
    def tokens(self) -> tuple[list[str], list[str]]:
        """The own ids of users and items, without the padding."""
        tokens = self.data.tokens
        return tokens["user"], tokens["item"]


class Preparation:
    """Prepares the data of checkpoints, once for several in a row whose settings of them are equal."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._key: str | None = None
        self._data: Data | None = None

    def data_of(self, config: DistillConfig) -> Data:
        """Return the data of a configuration.

        Raises:
            DataError: they are not there, or cannot be used.
        """
        key = data_key(config)
        if self._data is None or key != self._key:
            # Two data sets are never in memory at once.
            self._data = None
            self._key, self._data = key, prepare_data(config)
        return self._data


def data_key(config: DistillConfig) -> str:
    """Return a text that two configurations share if RecBole makes the same data and loaders of both.

    Models that draw no negatives may have loaders of their own.
    """
    negatives = config["train_neg_sample_args"]
    drawn = bool(negatives) and negatives.get("distribution") not in (None, "none")
    modes = config["eval_args"]["mode"].values()
    parts = {
        **{key: config[key] for key in (*_OF_THE_DATA, *_OF_THE_USER, "device", "MODEL_TYPE", "MODEL_INPUT_TYPE")},
        "negatives": negatives if drawn else config["model"],
        "fast": sorted(config.fast),
        "options": [config.run_options.split_seed, config.run_options.candidates_file, config.candidates_seed],
        # Fixed candidates are kept there.
        "cache": config.cache_dir if any(mode.startswith("fixed") for mode in modes) else None,
    }
    return json.dumps(parts, sort_keys=True, default=str)


def load_trained(request: Asked, preparation: Preparation | None = None) -> Trained:
    """Read a checkpoint, prepare its data and build its model, seeded as RecBole does.

    Args:
        request: the checkpoint.
        preparation: what has prepared the data of another one, where several are read.

    Raises:
        CheckpointError: it is no usable checkpoint, or belongs to other data.
        DataError: its data are not there.
        OptionError: a setting that cannot be.
    """
    config, content = described_by(request)
    data = (preparation or Preparation()).data_of(config)
    _refuse_other_data(content, data, request.checkpoint)
    refuse_other_candidates(content, data, request.checkpoint, _given(request))
    model = build_model(config, data)
    _refuse_other_sizes(model, content, request.checkpoint)
    load_weights(model, content, request.checkpoint)
    return Trained(adapter_of(freeze(model)), data, config, content)


def described_by(request: Asked) -> tuple[DistillConfig, dict[str, Any]]:
    """Read a checkpoint; return the configuration that it describes, and its content.

    Raises:
        CheckpointError: it is no usable checkpoint.
        DataError: its data are not there.
        OptionError: a setting that cannot be.
    """
    content = read_checkpoint(request.checkpoint)
    config = _config_of(request, content)
    _refuse_missing_data(config, request)
    return config, content


def of_the_data(settings: Iterable[str]) -> tuple[str, ...]:
    """Return those of some settings ``--key=value`` that are of the data and their evaluation."""
    known = {*_OF_THE_DATA, *_OF_THE_USER}
    return tuple(setting for setting in settings if setting.partition("=")[0].lstrip("-") in known)


def run_settings(config: DistillConfig, content: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run on a checkpoint's data and split: all but those of its model.

    RecBole's own defaults are left out, since a report shows what a run was given.
    """
    usual = config.internal_config_dict
    stated = _stated(content["config"])
    own = {key: config[key] for key in stated if key in _OF_THE_PROTOCOL or config[key] != usual.get(key)}
    options = ((key, getattr(config.run_options, key)) for key in OF_THE_SPLIT)
    own.update({key: value for key, value in options if value is not None})
    return {"dataset": config["dataset"], **_data_path({"data_path": config["data_path"]}, config["dataset"]), **own}


def _config_of(request: Asked, content: dict[str, Any]) -> DistillConfig:
    """Return the checkpoint's own configuration: plain settings of its model and data, the user's over them."""
    described = content["config"]
    if not described:
        raise CheckpointError(
            f"'{request.checkpoint}' holds weights, but no settings. Give the .pth file that a training of RecBole or "
            "of this plugin has saved."
        )
    name = _model_of(described, request)
    dataset = described.get("dataset")
    if not (isinstance(dataset, str) and re.fullmatch(r"[^\\/\0\r\n]{1,200}", dataset) and dataset.strip(".")):
        raise CheckpointError(f"The settings in '{request.checkpoint}' name no data set, but {shown(dataset)}.")
    given = _given(request)
    _refuse_unknown(given, name, request.doing)
    of_data = {key: value for key, value in _stated(described).items() if key not in given}
    unfit = next((key for key, value in of_data.items() if not _plain(value)), None)
    if unfit is not None:
        raise CheckpointError(
            f"The setting {unfit} in '{request.checkpoint}' is {shown(described[unfit])}, which is no plain value. "
            f"Give your own: --{unfit}=VALUE."
        )
    mode = None if "eval_args" in given else mode_of_the_run(content, request.checkpoint)
    if mode is not None and isinstance(of_data.get("eval_args"), dict):
        of_data["eval_args"] = {**of_data["eval_args"], "mode": mode}
    of_data.update(options_of_the_run(content, request.checkpoint, given))
    of_model = checkpoint_settings(name, content, request.checkpoint, dict.fromkeys(given))
    of_model = {key: value for key, value in of_model.items() if key not in given}
    # RecBole's trainer makes the folder of its checkpoints, and an evaluation needs none.
    quiet = {**_QUIET, "checkpoint_dir": str(request.checkpoint.parent)}
    settings = {**_data_path(described, dataset), **of_data, **of_model, **_negatives(described), **quiet}
    settings.update(_valid_metric(settings, read_command_line(request.settings)))
    return DistillConfig(name, None, config_dict={"dataset": dataset, **settings}, command_line=request.settings)


def _stated(described: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the data and their evaluation that a checkpoint states; of data none is a value too."""
    there = {key: described[key] for key in _OF_THE_DATA if key in described}
    return {key: value for key, value in there.items() if value is not None or key in dataset_arguments}


def _given(request: Asked) -> set[str]:
    return {setting.partition("=")[0].lstrip("-") for setting in request.settings}


def _valid_metric(settings: dict[str, Any], given: dict[str, Any]) -> dict[str, str]:
    """Return the first metric as valid_metric where the user asks for metrics among which the checkpoint's is not."""
    wanted = {**settings, **given}
    if "valid_metric" in given or not {"metrics", "topk"} & set(given) or not {"metrics", "topk"} <= set(wanted):
        return {}
    try:
        names = measured_names(wanted)
    except AttributeError:  # metrics are no names, which is refused with all other settings
        return {}
    own = wanted.get("valid_metric")
    return {"valid_metric": names[0]} if names and not (isinstance(own, str) and own.lower() in names) else {}


def _model_of(described: dict[str, Any], request: Asked) -> str:
    name = described.get("model")
    if not (isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()):
        raise CheckpointError(f"The settings in '{request.checkpoint}' name no model, but {shown(name)}.")
    if request.model is not None and request.model.rpartition(".")[2] != name.rpartition(".")[2]:
        raise CheckpointError(f"'{request.checkpoint}' is of a {name}, not a {request.model}. Take out --model.")
    if "." in name and request.model is None:
        # The author of a checkpoint must not choose which modules are imported.
        raise CheckpointError(
            f"'{request.checkpoint}' is of a {name}, which is none of RecBole's models. Say so yourself if you know "
            f"it: --model={name}."
        )
    return request.model or name


def _refuse_unknown(given: set[str], model: str, doing: str) -> None:
    known = {*_OF_THE_DATA, *_OF_THE_USER, *(key for key in model_settings(model) if not loads_a_file(key))}
    for key in sorted(key for key in given - known if not mentions(model, key)):
        raise OptionError(f"Unknown option '--{key}' of {doing}.{did_you_mean(key, {*known, *_OF_THE_COMMAND[doing]})}")


def _plain(value: Any, depth: int = 4) -> bool:
    if isinstance(value, (list, tuple)):
        return depth > 0 and len(value) <= _LONGEST and all(_plain(one, depth - 1) for one in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and _plain(list(value.values()), depth)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int)) or (isinstance(value, str) and len(value) <= _LONGEST)


def _data_path(described: dict[str, Any], dataset: str) -> dict[str, str]:
    """Return the folder in which the data set's lies: RecBole adds the data set's name to it."""
    path = described.get("data_path")
    if not isinstance(path, str) or not path or "\0" in path:
        return {}
    folder = Path(path)
    return {"data_path": str(folder.parent if folder.name == dataset else folder)}


def _negatives(described: dict[str, Any]) -> dict[str, Any]:
    """Models that train on whole users take no negatives, and RecBole wants that said."""
    given = described.get("train_neg_sample_args")
    none = isinstance(given, dict) and given.get("distribution") in (None, "none")
    return {"train_neg_sample_args": None} if none else {}


def _refuse_missing_data(config: DistillConfig, request: Asked) -> None:
    """Refuse before RecBole would download another data set of this name."""
    folder = Path(config["data_path"])
    if not folder.is_dir():
        raise DataError(
            f"The data set '{config['dataset']}' of '{request.checkpoint}' is not in '{folder}'. It is needed "
            "for ids and seen items: --data_path=FOLDER names the folder in which its folder lies."
        )


def fingerprint_in(content: dict[str, Any]) -> Fingerprint | None:
    """Return the fingerprint of the data that a model was trained on, where its checkpoint holds one."""
    ours = content.get("derrd")
    theirs = ours.get("fingerprint") if isinstance(ours, dict) else None
    names = [field.name for field in dataclasses.fields(Fingerprint)]
    if not isinstance(theirs, dict) or not all(isinstance(theirs.get(name), str) for name in names):
        return None
    return Fingerprint(**{name: theirs[name] for name in names})


def _refuse_other_data(content: dict[str, Any], data: Data, checkpoint: Path) -> None:
    """Refuse data of which a checkpoint of this plugin says that they are not its own."""
    theirs = fingerprint_in(content)
    difference = theirs.difference(data.fingerprint) if theirs else None
    if difference:
        absent = _absent(content["derrd"], data)
        raise DataError(
            f"'{checkpoint}' was not trained on these data: {difference}{absent}. Give the data that it "
            f"was trained on (--data_path=FOLDER){_or_split_seed(content)}."
        )


def _or_split_seed(content: dict[str, Any]) -> str:
    """Return what else may be missing: older checkpoints of this plugin do not hold the seed of their split."""
    return "" if "split_seed" in content["derrd"] else ", and its --split_seed=N if its run had one"


def _absent(ours: Any, data: Data) -> str:
    """Return which ids of a checkpoint these data do not have, in words; nothing where it holds no ids."""
    tokens = ours.get("tokens")
    parts = []
    for side, own in data.tokens.items():
        theirs = tokens.get(side) if isinstance(tokens, dict) else None
        if not isinstance(theirs, list) or not all(isinstance(token, str) for token in theirs):
            continue
        known = set(own)
        missing = [token for token in theirs if token not in known]
        if missing:
            named = ", ".join(shown(token) for token in missing[:_NAMED])
            more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
            parts.append(f"{len(missing):,} of its {len(theirs):,} {side}s are not in them: {named}{more}")
    return f" ({'; '.join(parts)})" if parts else ""


def _refuse_other_sizes(model: Any, content: dict[str, Any], checkpoint: Path) -> None:
    for name, own in model.state_dict().items():
        theirs = content["state_dict"].get(name)
        if theirs is None or getattr(theirs, "ndim", 0) != 2 or theirs.shape[1:] != own.shape[1:]:
            continue
        if len(theirs) != len(own):
            raise DataError(
                f"'{checkpoint}' was trained on other data: its '{name}' has {len(theirs) - 1:,} rows beside the "
                f"padding, and these data need {len(own) - 1:,}. Give the data that it was trained on: "
                "--data_path=FOLDER."
            )
