"""Parts of ``fast`` within rounding, for every model that is trained by gradients: they end at the scores of stock.

Steps that round otherwise drift apart, so a fixed bound on weights would say nothing: what moves no score drifts freely
(FISM's user biases have no gradient but noise, which Adam makes steps of). Measured over 50 steps on small data, scores
of all models but DMF's end within 5e-5 of their spread, SpectralCF's the farthest; DMF's end 1e-2 away, and so do
those of stock RecBole itself if its first weights are moved by half of float32's last bit.
"""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch

from recbole_derrd.adapters import ADAPTERS, adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.run import AMPLIFYING, FAST_EXACT
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.recbole_compat.models import general_models, missing_package
from recbole_derrd.training.trainer import trainer_for

Settings = Callable[..., dict[str, Any]]
MODELS = sorted(name for name in general_models() if ADAPTERS[name].trainable)
#: Of the spread of a model's scores: twenty times what the farthest of them drifts.
DRIFT = 1e-3


def scores_of(settings: dict[str, Any], model: str, *, moved: bool = False) -> Any:
    """Train a model and return all its scores.

    Args:
        settings: its settings.
        model: its name.
        moved: move its first weights by at most half of their last bit.
    """
    config = DistillConfig(model, "tiny", config_dict=settings)
    data = prepare_data(config)
    built = build_model(config, data)
    if moved:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weights in built.parameters():
                weights.mul_(1 + (torch.rand(weights.shape, generator=generator) - 0.5) * 2**-23)
    trainer_for(config, built).fit(data.train, None, saved=False, verbose=False)
    built.eval()
    adapter = adapter_of(built)
    torch.manual_seed(0)
    with torch.no_grad(), adapter.shared():
        return adapter.score_all(torch.arange(1, adapter.n_users)).double()


def drift(one: torch.Tensor, other: torch.Tensor) -> float:
    finite = one.isfinite() & other.isfinite()
    assert torch.equal(one.isfinite(), other.isfinite()) and finite.any()
    return float((one - other)[finite].abs().max() / one[finite].std())


def small(tiny_settings: Settings, model: str, **more: Any) -> dict[str, Any]:
    whole_users = {"train_neg_sample_args": None} if model == "ENMF" else {}
    return tiny_settings(model, **{"epochs": 5, "train_batch_size": 64, **whole_users, **more})


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_quick_training_ends_at_the_scores_of_stock(tiny_settings: Settings, model: str) -> None:
    if missing_package(model):
        pytest.skip(missing_package(model))
    stock = scores_of(small(tiny_settings, model, fast="none"), model)
    quick = scores_of(small(tiny_settings, model, fast="all"), model)
    assert drift(stock, quick) <= (0 if model in AMPLIFYING else DRIFT)


@pytest.mark.slow
def test_dmf_amplifies_rounding_whoever_rounds(tiny_settings: Settings) -> None:
    """The reason why it takes exact ways only: gates of its ReLUs turn on the last bit, for all rows of an item.

    Of which weights they do depends on the machine's own rounding, hence several.
    """

    def amplifies(seed: int) -> bool:
        own = small(tiny_settings, "DMF", fast="none", epochs=15, seed=seed)
        return drift(scores_of(own, "DMF"), scores_of(own, "DMF", moved=True)) > DRIFT

    assert any(map(amplifies, range(1, 9)))


def test_what_amplifies_rounding_takes_exact_ways_only(tiny_settings: Settings) -> None:
    def parts(model: str, **more: Any) -> frozenset[str]:
        return DistillConfig(model, "tiny", config_dict=tiny_settings(model, **more)).fast

    for fast in ("auto", "all", ["batches", "ranking", "adam", "rows"]):
        assert parts("DMF", fast=fast) == set(FAST_EXACT)
    assert parts("DMF", fast=["adam"]) == parts("DMF", fast="none") == set()
    assert "adam" in parts("BPR", fast="all")
    # There is no distilled student in stock RecBole that it could be compared with.
    run = DistillConfig("DMF", "tiny", config_dict=tiny_settings("DMF", distillers=["rrd"]))
    assert "adam" in run.fast
    assert run.derived("DMF", {}, teacher=True).fast == run.derived("DMF", {}).fast == set(FAST_EXACT)
