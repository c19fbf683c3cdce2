"""RecBole's models in their adapters: scores and gradients on the device against the CPU, and a step as a student."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from conftest import _SMALL as SMALL_MODELS

from device.checks_training import data_of
from device.plan import Bench, Check, SkippedError, kept_environment, relative_error, within
from recbole_derrd.adapters import adapter_class, adapter_of
from recbole_derrd.config.distill_config import WHOLE_USER_MODELS
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.recbole_compat.models import general_models, missing_package, model_class
from recbole_derrd.training.trainer import trainer_for

#: Models that are checked in every form.
FIRST = ("BPR", "NeuMF", "LightGCN")
#: Models that draw random numbers at every prediction, or whose own evaluation does.
_DRAWING = ("Random", "MacridVAE", "DiffRec", "LDiffRec", "ADMMSLIM", "RecVAE", "MultiVAE", "RaCT")
#: Score and gradient, as shares of the largest number.
BOUNDS = {"score": 1e-4, "gradient": 1e-3}


def model_checks(bench: Bench) -> Iterator[Check]:
    """Yield one check for each model."""
    others = [] if bench.small else [name for name in general_models() if name not in FIRST]
    for model in (*FIRST, *others):
        yield Check(f"model/{model}", 3, functools.partial(check_model, bench, model))


def check_model(bench: Bench, model: str) -> dict[str, Any]:
    """Compare a model's scores, train it for an epoch on the device and start it where it can be started."""
    if missing_package(model):
        raise SkippedError(str(missing_package(model)))
    if bench.kind == "pretend" and model != "BPR" and model != "NeuMF":
        raise SkippedError("only the first two are pretended")
    numbers: dict[str, Any] = {}
    sides = [_built(bench, model, on_device) for on_device in (False, True)]
    (_, _, wanted), (config, data, found) = sides
    found.load_state_dict({name: value.to(bench.device) for name, value in wanted.state_dict().items()})
    if model not in _DRAWING:
        numbers = _scores_compared(wanted, found)
    if adapter_class(type(found)).trainable:
        trainer = trainer_for(config, found)
        with kept_environment():
            loss = trainer._train_epoch(data.train, 0)
            metrics = trainer.evaluate(data.valid, load_best_model=False)
        numbers["loss after"] = float(sum(loss) if isinstance(loss, tuple) else loss)
        numbers["NDCG"] = float(metrics["ndcg@10"])
    within(numbers, {name: bound for name, bound in BOUNDS.items() if name in numbers})
    return numbers


def _built(bench: Bench, model: str, on_device: bool) -> tuple[Any, Any, Any]:
    more: dict[str, Any] = {"fast": "all", "dropout_prob": 0.0, **copy.deepcopy(SMALL_MODELS.get(model, {}))}
    if model in WHOLE_USER_MODELS:
        more["train_neg_sample_args"] = None
    small = Bench(bench.kind, bench.device, True, bench.folder)
    settings = data_of(small)
    config = small.config(model_class(model).__name__, on_device=on_device, **{**settings, **more})
    with kept_environment():
        data = prepare_data(config)
        return config, data, build_model(config, data)


def _scores_compared(wanted: Any, found: Any) -> dict[str, float]:
    """Compare the adapters' scores of all items and of rankings, and the gradients of the latter."""
    users = torch.arange(1, 31)
    items = torch.randint(1, wanted.n_items, (30, 12), generator=torch.Generator().manual_seed(1))
    every, listed, gradients = [], [], []
    for model in (wanted, found):
        adapter = adapter_of(model.eval())
        there = users.to(adapter.device)
        with torch.no_grad(), adapter.shared():
            every.append(adapter.score_all(there))
        with adapter.shared():
            scores = adapter.score(there, items.to(adapter.device))
        listed.append(scores)
        if adapter.trainable:
            scores.square().mean().backward()
        gradients.append({name: part.grad for name, part in model.named_parameters() if part.grad is not None})
        model.zero_grad(set_to_none=True)
    dense = [{name: part.to_dense() if part.is_sparse else part for name, part in side.items()} for side in gradients]
    largest = max((float(part.abs().max()) for part in dense[0].values()), default=0.0)
    errors = [relative_error(dense[1][name], part, 1e-3 * largest) for name, part in dense[0].items()]
    score = max(relative_error(every[1], every[0]), relative_error(listed[1], listed[0]))
    return {"score": score, "gradient": max(errors, default=0.0)}
