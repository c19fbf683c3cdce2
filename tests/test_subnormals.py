"""Numbers below float32's smallest normal one: taken for 0 where rounding is allowed, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
import torch

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.ops import experts
from recbole_derrd.training.subnormals import flushes_subnormals, subnormals_flushed
from recbole_derrd.training.trainer import trainer_for

can_flush = torch.set_flush_denormal(True)
torch.set_flush_denormal(False)
needs_flushing = pytest.mark.skipif(not can_flush, reason="this processor cannot flush subnormal numbers")


@needs_flushing
def test_they_are_flushed_within_the_block_and_kept_behind_it() -> None:
    with subnormals_flushed():
        assert flushes_subnormals()
        with subnormals_flushed():
            assert flushes_subnormals()
        assert flushes_subnormals(), "the inner block must not end the outer one"
    assert not flushes_subnormals()
    with subnormals_flushed(False):
        assert not flushes_subnormals()
    with pytest.raises(KeyError), subnormals_flushed():
        raise KeyError
    assert not flushes_subnormals()


@needs_flushing
@pytest.mark.parametrize(("fast", "flushed"), [("auto", False), ("none", False), ("all", True)])
def test_training_flushes_them_only_where_rounding_is_allowed(
    tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path, fast: str, flushed: bool
) -> None:
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", fast=fast, epochs=2))
    data = prepare_data(config)
    trainer = trainer_for(config, build_model(config, data), checkpoint=tmp_path / "model.pth")
    seen = []
    trainer.fit(data.train, data.valid, callback_fn=lambda epoch, score: seen.append(flushes_subnormals()))
    assert seen == [flushed] * 2 and not flushes_subnormals()


def test_experts_of_negligible_weight_make_no_denormal_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow as they are, only the numbers themselves show in a test."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    weights = torch.tensor([[0.6, 0.4, 1e-38], [0.5, 1e-37, 0.5], [0.2, 0.3, 0.5]])
    seen = []
    blocks = experts._blocks

    def watched(embeddings: Any, weights: Any, *others: Any) -> Any:
        seen.append(weights.detach().clone())
        return blocks(embeddings, weights, *others)

    monkeypatch.setattr(experts, "_blocks", watched)
    experts.expert_error_sum(draw(3, 4), weights, draw(3, 6), draw(4, 15), draw(15), draw(15, 6), draw(3, 6))
    assert torch.equal(seen[0], weights.masked_fill(weights < 1e-9, 0))
