"""RecBole's data for one model, with a fingerprint that tells whether two models have seen the same."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
from collections.abc import Iterator, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import EvaluatorType, init_seed

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.error_translation import FAULTS
from recbole_derrd.config.options.evaluation import left_out
from recbole_derrd.config.settings import candidate_count
from recbole_derrd.data.atomic_files import data_paths
from recbole_derrd.data.candidates import among_candidates, candidates_digest, kept_candidates
from recbole_derrd.data.file_checks import check_files, explained
from recbole_derrd.data.fingerprint import Fingerprint, digest, labels_of, pairs_of
from recbole_derrd.data.history import History
from recbole_derrd.data.loaders import CatalogueSizedLoader, catalogue_sized, shared_out, whole_batches
from recbole_derrd.errors import DataError
from recbole_derrd.runtime.machine_errors import refuse_limit
from recbole_derrd.runtime.processes import is_distributed, world_size

# RecBole reads by default what any earlier run left in checkpoint_dir, whatever that run's data and settings were.
_NO_FILE = os.path.join(os.devnull, "none")


@dataclasses.dataclass(frozen=True)
class Data:
    """Everything RecBole makes for training and evaluating one model."""

    dataset: Any
    train: Any
    valid: Any
    test: Any
    history: History
    fingerprint: Fingerprint
    #: Hash of what held-out items are ranked among, where these are fixed candidates.
    candidates: str | None = None
    #: The file that keeps them.
    candidates_file: Path | None = None
    #: What the run's own options say of the split and of what held-out items are ranked among.
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def tokens(self) -> dict[str, list[str]]:
        """The own ids of users and items, by side, without the padding: place r of a list is internal id r + 1."""
        fields = {"user": self.dataset.uid_field, "item": self.dataset.iid_field}
        return {
            side: [str(token) for token in self.dataset.field2id_token[field][1:]] for side, field in fields.items()
        }

    @property
    def seen(self) -> dict[str, Any]:
        """What a checkpoint says of the data that its model was trained on."""
        counts = {"users": self.history.n_users - 1, "items": self.history.n_items - 1}
        return {"fingerprint": dataclasses.asdict(self.fingerprint), **counts, **self.protocol}


def prepare_data(config: DistillConfig) -> Data:
    """Load, filter and split the data exactly as stock RecBole does for this configuration.

    The split depends on the seed and on every random number drawn before it, so seeding happens here: by
    ``split_seed`` where there is one. The training loader's own generator follows ``seed`` all the same, and
    ``build_model`` seeds anew what is drawn afterwards.

    Raises:
        DataError: files are missing, or a split is empty.
    """
    split_seed = config.run_options.split_seed
    init_seed(config["seed"] if split_seed is None else split_seed, config["reproducibility"])
    counts = _candidate_counts(config)
    with _prepared_alone(config, counts), _data_errors(config):
        dataset = _created(config)
        train, valid, test = data_preparation(config, dataset)
        for loader in (train, valid, test):
            _with_generator(loader, config["seed"])
        parts = {"training": train._dataset, "validation": valid._dataset, "test": test._dataset}
        splits = {name: pairs_of(part) for name, part in parts.items()}
    _check_splits(config, splits)
    _check_cutoffs(config, dataset.item_num, counts)
    _check_labels(config, valid=valid._dataset, test=test._dataset)
    history = History.of_pairs(*splits["training"], dataset.user_num, dataset.item_num)
    fingerprint = Fingerprint.of(dataset, parts)
    among = {
        count: _candidates(config, splits, dataset, fingerprint, count) for count in set(filter(None, counts.values()))
    }
    loaders = {"valid": valid, "test": test}
    evaluated = {phase: _evaluated(config, phase, loaders[phase], among.get(counts[phase])) for phase in loaders}
    file, candidates = among.get(counts["test"] or counts["valid"], (None, None))
    data = Data(
        dataset,
        _trained(config, train),
        evaluated["valid"],
        evaluated["test"],
        history,
        fingerprint,
        None if candidates is None else candidates_digest(candidates),
        file,
    )
    data = dataclasses.replace(data, protocol=_protocol(config, data.candidates))
    # A trainer that is given this loader writes it into its checkpoints.
    data.train.seen = data.seen
    return data


def _candidate_counts(config: DistillConfig) -> dict[str, int]:
    """Return how many candidates each split's held-out items are ranked among; 0 for the modes of RecBole's own."""
    counts = {phase: candidate_count(mode) or 0 for phase, mode in config["eval_args"]["mode"].items()}
    if config.run_options.candidates_file and len(set(filter(None, counts.values()))) > 1:
        raise DataError(
            "candidates_file holds one number of candidates a user, and mode in eval_args names two. Take "
            "candidates_file out, or set one number for both splits."
        )
    return counts


def _protocol(config: DistillConfig, candidates: str | None) -> dict[str, Any]:
    """Return what a checkpoint, whose settings are those of stock RecBole, says of this plugin's own beside them."""
    options = config.run_options
    stated: dict[str, Any] = {"split_seed": options.split_seed}
    if candidates is not None:
        file = options.candidates_file
        stated.update(
            mode=dict(config["eval_args"]["mode"]),
            candidates=candidates,
            candidates_seed=options.candidates_seed,
            candidates_file=None if file is None else os.path.abspath(file),
        )
    return {key: value for key, value in stated.items() if value is not None}


@contextlib.contextmanager
def _prepared_alone(config: DistillConfig, counts: Mapping[str, int]) -> Iterator[None]:
    """Have RecBole build whole loaders, of no file that the user does not name, and rank where it knows no candidates.

    Told that it is alone, RecBole shares nothing out among processes; that is done here, without its padding.
    """
    modes = dict(config["eval_args"]["mode"])
    alone, saved = config["single_spec"], config["dataset_save_path"]
    config["single_spec"] = True
    config["dataset_save_path"], config["dataloaders_save_path"] = saved or _NO_FILE, _NO_FILE
    config["eval_args"]["mode"].update({phase: "full" for phase, count in counts.items() if count})
    try:
        yield
    finally:
        config["single_spec"], config["dataset_save_path"], config["dataloaders_save_path"] = alone, saved, None
        config["eval_args"]["mode"].update(modes)


@contextlib.contextmanager
def _data_errors(config: DistillConfig) -> Iterator[None]:
    """Turn what RecBole says of data that it cannot use into a sentence."""
    try:
        yield
    except (*FAULTS, OSError, EOFError, pickle.UnpicklingError) as error:
        refuse_limit(error)
        fault = explained(config, error)
        if fault:
            raise DataError(f"The data set '{config['dataset']}' cannot be used: {fault}") from error
        text = error.strerror if isinstance(error, OSError) else error.args[0] if error.args else error
        message = " ".join(str(text).split()) or type(error).__name__
        raise DataError(
            f"The data set '{config['dataset']}' under '{config['data_path']}' cannot be used: {message.rstrip('.')}. "
            "Check data_path, the .inter file, the filters and eval_args (no split may be empty)."
        ) from error


def _check_splits(config: DistillConfig, splits: Mapping[str, Any]) -> None:
    intended = left_out(config)
    for name, (users, _) in splits.items():
        if len(users) == 0 and name not in intended:
            raise DataError(
                f"The {name} split of '{config['dataset']}' is empty. Check eval_args, benchmark_filename and filters."
            )


def _check_cutoffs(config: DistillConfig, n_items: int, counts: Mapping[str, int]) -> None:
    ranks = config["eval_type"] == EvaluatorType.RANKING
    if ranks and max(config["topk"]) >= n_items:
        raise DataError(
            f"topk reaches to {max(config['topk'])}, but '{config['dataset']}' has only {n_items - 1} items."
        )
    for count in counts.values():
        if count and max(config["topk"]) > count:
            raise DataError(
                f"topk reaches to {max(config['topk'])}, but eval_args ranks among {count} candidates only."
            )


def _check_labels(config: DistillConfig, **parts: Any) -> None:
    for phase, mode in config["eval_args"]["mode"].items():
        if mode == "labeled" and labels_of(parts[phase]) is None:
            raise DataError(
                f"eval_args ranks by labels (mode: labeled), and '{config['dataset']}' has none: set threshold, e.g. "
                "{rating: 4} for positives from 4 on, with the column in load_col, or another mode."
            )


def _trained(config: DistillConfig, loader: Any) -> Any:
    """Return the training loader in its quicker form where that is wanted, and this process's share of it."""
    loader = whole_batches(loader) if "batches" in config.fast else loader
    return shared_out(loader) if is_distributed() else loader


def _evaluated(config: DistillConfig, phase: str, loader: Any, candidates: tuple[Path, torch.Tensor] | None) -> Any:
    """Return a split's loader in its quicker form where that is wanted, and of the candidates that it ranks among."""
    if not len(loader):
        # RecBole passes over a loader without batches.
        return loader
    if "ranking" in config.fast or is_distributed() or candidates:
        loader = catalogue_sized(loader)
        _refuse_idle_processes(phase, loader)
    if candidates is None:
        return loader
    file, drawn = candidates
    # RecBole has just logged mode: full, which is what it was told.
    getLogger().info(
        f"Held-out items of the {phase} split are ranked among {candidate_count(config['eval_args']['mode'][phase])} "
        f"candidates a user, kept in '{file}'."
    )
    return among_candidates(loader, drawn)


def _refuse_idle_processes(phase: str, loader: Any) -> None:
    """Refuse more processes than a split has users: one without a batch leaves, and the others wait for it."""
    if isinstance(loader, CatalogueSizedLoader) and len(loader.user_df) < world_size():
        raise DataError(
            f"The {phase} split has {len(loader.user_df)} users, fewer than the {world_size()} processes that share "
            "them. Lower nproc."
        )


def _created(config: DistillConfig) -> Any:
    """Create the data set by RecBole, from the files or from a saved one that this configuration names."""
    saved = Path(config["dataset_save_path"])
    _refuse_outdated(saved, config)
    folder, settings = Path(config["data_path"]), config.final_config_dict
    there = folder.is_dir()
    # Left as it came, missing or not: the settings are part of a model's key.
    before = {key: settings[key] for key in ("encoding",) if key in settings}
    try:
        config["encoding"] = check_files(config, saved=saved.is_file())
        try:
            dataset = create_dataset(config)
        except (RuntimeError, ValueError):
            # After a download RecBole waits for other processes, though there are none.
            if there or not folder.is_dir():
                raise
            config["encoding"] = check_files(config)
            dataset = create_dataset(config)
    finally:
        settings.pop("encoding", None)
        settings.update(before)
    # RecBole compares most settings of a saved data set, but not how it is split.
    dataset.config = config
    return dataset


def _refuse_outdated(saved: Path, config: DistillConfig) -> None:
    if not saved.is_file():
        return
    written = saved.stat().st_mtime_ns
    for file in data_paths(config):
        if file.stat().st_mtime_ns > written:
            raise DataError(
                f"The data set saved in '{saved}' is older than '{file}': it may hold other data. Remove it, or take "
                "out dataset_save_path."
            )


def _with_generator(loader: Any, seed: int) -> None:
    """Give a loader the generator that RecBole takes away from it where it saves it."""
    if loader.generator is None:
        loader.generator = loader.sampler.generator = torch.Generator().manual_seed(seed)


def _candidates(
    config: DistillConfig, splits: dict[str, Any], dataset: Any, fingerprint: Fingerprint, count: int
) -> tuple[Path, torch.Tensor]:
    """Find or draw what held-out items are ranked among; the same for validation and test, and for every model."""
    seed = config.candidates_seed
    users, items = (torch.from_numpy(np.concatenate(part)) for part in zip(*splits.values()))
    key = digest(np.array(f"{dataclasses.asdict(fingerprint)} {count} {seed}".encode()))[:16]
    file = Path(config.run_options.candidates_file or config.cache_dir / f"candidates-{config['dataset']}-{key}.npy")
    own = config.run_options.candidates_file is not None
    return file, kept_candidates(file, users, items, dataset.user_num, dataset.item_num, count, seed, own=own)
