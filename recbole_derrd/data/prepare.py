"""RecBole's data for one model, with a fingerprint that tells whether two models have seen the same."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import EvaluatorType, init_seed

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.error_translation import FAULTS
from recbole_derrd.config.settings import candidate_count
from recbole_derrd.data.atomic_files import data_paths
from recbole_derrd.data.candidates import among_candidates, candidates_digest, kept_candidates
from recbole_derrd.data.file_checks import check_files, explained
from recbole_derrd.data.loaders import CatalogueSizedLoader, catalogue_sized, shared_out, whole_batches
from recbole_derrd.errors import DataError
from recbole_derrd.runtime.machine_errors import refuse_limit
from recbole_derrd.runtime.processes import is_distributed, world_size

# RecBole reads by default what any earlier run left in checkpoint_dir, whatever that run's data and settings were.
_NO_FILE = os.path.join(os.devnull, "none")


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Hashes of the id maps and of each split's pairs, with their labels where there are any."""

    ids: str
    train: str
    valid: str
    test: str

    def difference(self, other: Fingerprint) -> str | None:
        """Say in words what differs, or None."""
        if self.ids != other.ids:
            return "its users or items, or their order, are others"
        if self.train != other.train:
            return "its training interactions are others (another split or seed), so it may have seen the test items"
        if self.valid != other.valid:
            return "its validation interactions are others, so its best epoch may have been chosen by the test items"
        return None


@dataclasses.dataclass(frozen=True)
class History:
    """Training items of each user: ``items[indptr[u]:indptr[u + 1]]``, sorted; int64."""

    indptr: np.ndarray[Any, Any]
    items: np.ndarray[Any, Any]
    n_items: int

    @property
    def n_users(self) -> int:
        """Number of users, padding id 0 included."""
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Training items of each user, counted."""
        return np.diff(self.indptr)


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

    @property
    def seen(self) -> dict[str, Any]:
        """What a checkpoint says of the data that its model was trained on."""
        counts = {"users": self.history.n_users - 1, "items": self.history.n_items - 1}
        return {"fingerprint": dataclasses.asdict(self.fingerprint), **counts}


def _digest(*arrays: np.ndarray[Any, Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(b"|")
    return digest.hexdigest()[:32]


def pairs_of(dataset: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the users and the items of a data set's interactions."""
    feat = dataset.inter_feat
    return feat[dataset.uid_field].numpy(), feat[dataset.iid_field].numpy()


def _labels(dataset: Any) -> np.ndarray[Any, Any] | None:
    """Return the labels of a data set's interactions, where they have any of their own."""
    feat, field = dataset.inter_feat, dataset.config["LABEL_FIELD"]
    return feat[field].numpy() if field in feat else None


def interactions_digest(data: Data) -> str:
    """Return a hash of all interactions with their labels, whatever their order and however they are split."""
    users, items = pairs_of(data.dataset)
    return _split_digest(users.astype(np.int64) * data.dataset.item_num + items, _labels(data.dataset))


def _split_digest(keys: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None) -> str:
    """Return a hash of a split's pairs and labels, whatever their order."""
    if labels is None:
        return _digest(np.sort(keys))
    order = np.lexsort((labels, keys))
    return _digest(keys[order], labels[order])


def _history(users: np.ndarray[Any, Any], items: np.ndarray[Any, Any], n_users: int, n_items: int) -> History:
    keys = np.unique(users.astype(np.int64) * n_items + items)
    indptr = np.searchsorted(keys, np.arange(n_users + 1, dtype=np.int64) * n_items)
    return History(indptr.astype(np.int64), keys % n_items, n_items)


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
    modes = dict(config["eval_args"]["mode"])
    counts = {phase: candidate_count(mode) for phase, mode in modes.items()}
    if config.run_options.candidates_file and len(set(filter(None, counts.values()))) > 1:
        raise DataError(
            "candidates_file holds one number of candidates a user, and mode in eval_args names two. Take "
            "candidates_file out, or set one number for both splits."
        )
    alone, saved = config["single_spec"], config["dataset_save_path"]
    # Told that it is alone, RecBole builds whole loaders; they are shared out here, without its padding.
    config["single_spec"] = True
    config["dataset_save_path"], config["dataloaders_save_path"] = saved or _NO_FILE, _NO_FILE
    config["eval_args"]["mode"].update({phase: "full" for phase, count in counts.items() if count})
    try:
        dataset = _created(config)
        train, valid, test = data_preparation(config, dataset)
        for loader in (train, valid, test):
            _with_generator(loader, config["seed"])
        loaders = {"training": train, "validation": valid, "test": test}
        splits = {name: pairs_of(loader._dataset) for name, loader in loaders.items()}
    except (*FAULTS, OSError, EOFError, pickle.UnpicklingError) as error:
        refuse_limit(error)
        fault = explained(config, error)
        if fault:
            raise DataError(f"The data set '{config['dataset']}' cannot be used: {fault}") from error
        said = error.strerror if isinstance(error, OSError) else error.args[0] if error.args else error
        message = " ".join(str(said).split()) or type(error).__name__
        raise DataError(
            f"The data set '{config['dataset']}' under '{config['data_path']}' cannot be used: {message.rstrip('.')}. "
            "Check data_path, the .inter file, the filters and eval_args (no split may be empty)."
        ) from error
    finally:
        config["single_spec"], config["dataset_save_path"], config["dataloaders_save_path"] = alone, saved, None
        config["eval_args"]["mode"].update(modes)
    for name, (users, _) in splits.items():
        if len(users) == 0:
            raise DataError(
                f"The {name} split of '{config['dataset']}' is empty. Check eval_args, benchmark_filename and filters."
            )
    n_users, n_items = dataset.user_num, dataset.item_num
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
    ids = _digest(
        np.array("\0".join(map(str, dataset.field2id_token[dataset.uid_field])).encode()),
        np.array("\0".join(map(str, dataset.field2id_token[dataset.iid_field])).encode()),
    )
    labels = {phase: _labels(loader._dataset) for phase, loader in (("train", train), ("valid", valid), ("test", test))}
    hashes = [
        _split_digest(users.astype(np.int64) * n_items + items, own)
        for (users, items), own in zip(splits.values(), labels.values())
    ]
    for phase, mode in modes.items():
        if mode == "labeled" and labels[phase] is None:
            raise DataError(
                f"eval_args ranks by labels (mode: labeled), and '{config['dataset']}' has none: set threshold, e.g. "
                "{rating: 4} for positives from 4 on, with the column in load_col, or another mode."
            )
    if "batches" in config.fast:
        train = whole_batches(train)
    if is_distributed():
        train = shared_out(train)
    history = _history(*splits["training"], n_users, n_items)
    fingerprint = Fingerprint(ids, *hashes)
    evaluated = {"valid": valid, "test": test}
    among = {
        count: _candidates(config, splits, dataset, fingerprint, count) for count in set(filter(None, counts.values()))
    }
    judging = counts["test"] or counts["valid"]
    file, candidates = among[judging] if judging else (None, None)
    digest = None if candidates is None else candidates_digest(candidates)
    for phase, count in counts.items():
        if "ranking" in config.fast or is_distributed() or count:
            evaluated[phase] = catalogue_sized(evaluated[phase])
            _refuse_idle_processes(phase, evaluated[phase])
        if count:
            kept_in, drawn = among[count]
            evaluated[phase] = among_candidates(evaluated[phase], drawn)
            # RecBole has just logged mode: full, which is what it was told.
            getLogger().info(
                f"Held-out items of the {phase} split are ranked among {count} candidates a user, kept in '{kept_in}'."
            )
    data = Data(dataset, train, evaluated["valid"], evaluated["test"], history, fingerprint, digest, file)
    # A trainer that is given this loader writes it into its checkpoints.
    train.seen = data.seen
    return data


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
    key = _digest(np.array(f"{dataclasses.asdict(fingerprint)} {count} {seed}".encode()))[:16]
    file = Path(config.run_options.candidates_file or config.cache_dir / f"candidates-{config['dataset']}-{key}.npy")
    own = config.run_options.candidates_file is not None
    return file, kept_candidates(file, users, items, dataset.user_num, dataset.item_num, count, seed, own=own)
