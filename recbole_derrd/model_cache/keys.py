"""Cache keys: which settings, data and files distinguish one trained model, or its results, from another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from recbole_derrd.adapters import adapter_class
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.run import FAST_ROUNDED
from recbole_derrd.config.settings import candidate_count
from recbole_derrd.data.atomic_files import data_files, file_digest
from recbole_derrd.data.fingerprint import Fingerprint
from recbole_derrd.data.loaders import columns_beside
from recbole_derrd.model_cache.named_files import with_contents
from recbole_derrd.recbole_compat.models import model_class, own_sources, recbole_ancestor
from recbole_derrd.runtime.artifact_cache import ArtifactCache
from recbole_derrd.runtime.processes import world_size

#: Raised whenever what is stored changes: older cache entries are then not found.
CACHE_FORMAT = 2

# Settings of RecBole that change where output goes, and not the trained model.
_WITHOUT_EFFECT = frozenset(
    """
    checkpoint_dir show_progress state log_wandb wandb_project data_path device gpu_id use_gpu save_dataset
    dataset_save_path save_dataloaders dataloaders_save_path config_files loss_decimal_place local_rank single_spec
    nproc world_size ip port offset group_offset
    """.split()
)
# Settings of a finished model's evaluation; the metric that stops its training early is another setting.
_EVALUATION_SETTINGS = frozenset({"metrics", "topk"})


def cache_key(config: DistillConfig, fingerprint: Fingerprint, more: Any = None) -> str:
    """Return the cache key of a model: of its settings, its data, the format, and ``more``.

    Where a setting names a file, the key depends on the file's content and not on its name. Evaluation settings have no
    part in the key, unless RecBole draws the candidates: then two evaluations must not stand in one table.

    Args:
        config: the model's configuration.
        fingerprint: of its data.
        more: further plain values that distinguish it.
    """
    ours = set(config.parameters.get("Distillation", ()))
    modes = config["eval_args"]["mode"].values()
    drawn_anew = any(mode.startswith(("uni", "pop")) for mode in modes)
    without = _WITHOUT_EFFECT if drawn_anew else _WITHOUT_EFFECT | _EVALUATION_SETTINGS
    settings = {
        key: repr(with_contents(key, value, config["data_path"]))
        for key, value in config.final_config_dict.items()
        if key not in without and key not in ours
    }
    if any(candidate_count(mode) for mode in modes):
        file = config.run_options.candidates_file
        # The content of the file, and not its name; where there is a file, no seed has a part in the candidates.
        settings["candidates"] = repr(file_digest(file) if file else (config.candidates_seed, None))
    settings.update(_contents_beside_settings(config))
    rounded = _rounded_ways(config)
    content = [CACHE_FORMAT, config["model"], settings, rounded, world_size(), dataclasses.asdict(fingerprint), more]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def _rounded_ways(config: DistillConfig) -> list[str]:
    """Return the quicker ways that change a model within rounding; others give RecBole's numbers to the bit."""
    kind = model_class(config["model"])
    rounded = config.fast.intersection(FAST_ROUNDED)
    return sorted(rounded if adapter_class(kind).catalogue_at_once(kind) else rounded - {"scores"})


def _contents_beside_settings(config: DistillConfig) -> dict[str, str]:
    """Return hashes of source code and files that a model depends on, and that no setting or fingerprint covers."""
    found, own = {}, "." in config["model"]
    if own:
        # The name stays the same while the class, or what it calls, is edited.
        found["source"] = repr(own_sources(model_class(config["model"])))
    if own or columns_beside(config):
        # The fingerprint covers pairs and labels alone.
        found["files"] = repr(data_files(config))
    if recbole_ancestor(config["model"]) == "LDiffRec" and config["n_cate"] != 1:
        # The one file of RecBole's models that no setting names.
        found["item_emb"] = repr(file_digest(Path(config["data_path"]) / "item_emb.npy"))
    return found


def evaluation_settings(config: DistillConfig) -> list[str]:
    """Return the settings that belong into a cache key of results, beside those of :func:`cache_key`."""
    return [repr(config[key]) for key in sorted(_EVALUATION_SETTINGS)]


def cache_entry(config: DistillConfig, key: str, model: str | None = None) -> str:
    """Return the name of the cache entry that belongs to a cache key, readable for the user.

    Args:
        config: the model's configuration.
        key: the cache key.
        model: what the model is called; the configuration's model if None.
    """
    return f"{model or config['model']}-{config['dataset']}-{key}"


def model_cache(config: DistillConfig) -> ArtifactCache:
    """Return the cache of plain models and of their results."""
    return ArtifactCache(config.cache_dir)
