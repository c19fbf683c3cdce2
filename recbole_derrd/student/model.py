"""A RecBole model as a distilled student: the model's own loss, and one term per distiller."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from logging import getLogger
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recbole_derrd.adapters import Adapter, adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data
from recbole_derrd.distillers import Distiller, StepBatch
from recbole_derrd.evaluation.size import Stored
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.recbole_compat.models import model_class
from recbole_derrd.registry import method_class
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.student.bits import Bits
from recbole_derrd.student.propagated import READERS, load_steps, propagated_steps, served_rows, served_weights
from recbole_derrd.student.quantized import (
    load_plain_weights,
    plain_weights,
    quantize_student,
    stored_sizes,
    table_entries,
)
from recbole_derrd.student.warm_start import warm_start
from recbole_derrd.teacher import Knowledge

# RecVAETrainer adds up epochs with +, which a tuple of terms would break; it trains models derived from RecVAE too.
_SUMMED_LOSS = ("RecVAE",)


class DistilledMixin:
    """Mixed in over an unmodified RecBole model class.

    With no distillers it is that model: same losses, same weights, to the bit. The teacher is never a part of it.
    """

    distillers: Any
    base_weight: float
    loss_names: list[str]
    last_terms: dict[str, Tensor]
    adapter: Adapter

    def __init__(self, config: Any, dataset: Any) -> None:
        """Build the model as RecBole does; distillers are attached afterwards."""
        super().__init__(config, dataset)  # type: ignore[call-arg]
        self.adapter = adapter_of(self)
        self.attach(())

    def attach(self, distillers: Iterable[Distiller[Any]], base_weight: float = 1.0) -> None:
        """Add the distillers; before the trainer builds its optimizer.

        Args:
            distillers: the methods.
            base_weight: what the model's own loss is multiplied by where there is any method.
        """
        self.distillers = nn.ModuleList(distillers)
        self.base_weight = base_weight
        self.last_terms = {}
        self.loss_names = [distiller.name for distiller in self._active()] + ["base"]

    def _active(self) -> list[Any]:
        return [distiller for distiller in self.distillers if distiller.weight > 0]

    def begin_epoch(self, epoch: int) -> None:
        """Let every distiller draw what it draws once an epoch."""
        for distiller in self._active():
            distiller.begin_epoch(epoch)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model's own forward, under its adapter's eyes."""
        return self.adapter.observed_forward(super().forward, *args, **kwargs)  # type: ignore[misc]

    def calculate_loss(self, interaction: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the weighted distillation terms and the model's own loss, as RecBole's tuple of terms.

        The base loss comes last: NCL's trainer drops the last term of a tuple while it warms up, and that one is its
        own.
        """
        with parametrize.cached():
            return self._losses(interaction, *args, **kwargs)

    def _losses(self, interaction: Any, *args: Any, **kwargs: Any) -> Any:
        active = self._active()
        if not active and (self.base_weight == 1 or not self.distillers):
            # A method may have a weight of 0 for a part of the training.
            self.loss_names, self.last_terms = ["base"], {}
            return super().calculate_loss(interaction, *args, **kwargs)  # type: ignore[misc]
        with self.adapter.shared():
            base = super().calculate_loss(interaction, *args, **kwargs)  # type: ignore[misc]
            batch = step_batch(self, interaction) if active else None
            terms = [distiller.weight * distiller.term(batch) for distiller in active]
        bases = base if isinstance(base, tuple) else (base,)
        if self.base_weight != 1:
            # Computed even for a weight of 0: trainers of some models count on the term.
            bases = tuple(self.base_weight * term for term in bases)
        names = [distiller.name for distiller in active]
        names += ["base"] if len(bases) == 1 else [f"base{index + 1}" for index in range(len(bases))]
        self.loss_names = names
        losses = (*terms, *bases)
        self.last_terms = {name: loss.detach() for name, loss in zip(names, losses)}
        if any(one.__name__ in _SUMMED_LOSS and one.__module__.startswith("recbole.") for one in type(self).__mro__):
            self.loss_names = ["sum"]
            return sum(losses)
        return losses

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the state under the names of the model's own class; of tables in few bits what the codes stand for."""
        state = plain_weights(self)  # type: ignore[arg-type]
        return {name: value for name, value in state.items() if not name.startswith(f"{READERS}.")}

    def load_plain_weights(self, weights: Mapping[str, Tensor], entries: Mapping[str, Any]) -> None:
        """Load :meth:`plain_weights`, and the codes that :meth:`table_entries` gave."""
        load_plain_weights(self, weights, entries)  # type: ignore[arg-type]
        load_steps(self, entries)  # type: ignore[arg-type]

    def served_weights(self) -> dict[str, Tensor]:
        """Return the state of the BPR that a graph student in few bits serves with; empty for any other student."""
        return served_weights(self, self.adapter)  # type: ignore[arg-type]

    def table_entries(self) -> dict[str, dict[str, Any]]:
        """Return bits and steps, or codes and codebooks, of each coded table; empty in float32."""
        return table_entries(self) | dict(propagated_steps(self))  # type: ignore[arg-type]

    def stored_sizes(self, side: str | None = None) -> dict[str, Stored]:
        """Return what each parameter of the coded tables takes where it is stored, of one side's if one is named."""
        return stored_sizes(self, None if side is None else self.adapter.tables.get(side, ()))  # type: ignore[arg-type]

    def served_rows(self) -> dict[str, tuple[int, int, int]]:
        """Return (rows, numbers of a row, its bytes) of each side of a graph student in few bits; empty otherwise."""
        return served_rows(self, self.adapter)  # type: ignore[arg-type]

    def sampling_state(self) -> dict[str, Tensor]:
        """Return the state of every distiller's generator."""
        return {distiller.name: distiller.generator.get_state() for distiller in self.distillers}

    def load_sampling_state(self, states: dict[str, Tensor]) -> None:
        """Put the generators back to where a training checkpoint found them.

        A state of another kind of device fits no generator here: it seeds this one, and the log says so.
        """
        for distiller in self.distillers:
            state, generator = states[distiller.name].cpu(), distiller.generator
            if len(state) == len(generator.get_state()):
                generator.set_state(state)
                continue
            generator.manual_seed(int.from_bytes(hashlib.sha256(state.numpy().tobytes()).digest()[:7], "little"))
            getLogger().warning(
                f"The training was begun on another kind of device, whose random numbers {generator.device.type} does "
                f"not have: the draws of {distiller.name} start anew, and the run ends a little otherwise."
            )


def step_batch(model: Any, interaction: Any) -> StepBatch:
    """Return the distinct users and items of a RecBole batch, pairwise, pointwise or of whole users."""
    users = interaction[model.USER_ID]
    columns = interaction.columns
    positives = negatives = None
    if model.NEG_ITEM_ID in columns:
        positives, negatives = interaction[model.ITEM_ID], interaction[model.NEG_ITEM_ID]
    elif model.ITEM_ID in columns:
        label = getattr(model, "LABEL", None)
        items = interaction[model.ITEM_ID]
        liked = interaction[label] > 0 if label in columns else torch.ones_like(items, dtype=torch.bool)
        positives, negatives = items[liked], items[~liked]
    return StepBatch.of(users, positives, negatives, rows=len(interaction))


def distilled(model: type[Any]) -> type[Any]:
    """Return the distilled student class of a RecBole model class, made once per class.

    Example:
        >>> from recbole.model.general_recommender import BPR
        >>> distilled(BPR).__name__
        'DistilledBPR'
    """
    if model not in _DISTILLED:
        attributes = {"__module__": __name__, "__doc__": model.__doc__}
        _DISTILLED[model] = type(f"Distilled{model.__name__}", (DistilledMixin, model), attributes)
    return _DISTILLED[model]


_DISTILLED: dict[type[Any], type[Any]] = {}


def build_student(config: DistillConfig, data: Data, knowledge: Knowledge) -> Any:
    """Build the distilled student of a configuration; its own weights start as those of the plain model, or warm.

    Raises:
        OptionError: the student and the distillers do not fit.
    """
    student = build_model(config, data, distilled(model_class(config["model"])))
    options = config.run_options
    seed = options.distill_seed
    seed = config["seed"] if seed is None else seed
    student.adapter.fused = "kernels" in config.fast
    # The student's random stream stays that of the plain model, whatever the distillers draw or read.
    with kept_random_state():
        methods = [
            method_class(name)(own, knowledge, student.adapter, seed + index)
            for index, (name, own) in enumerate(config.method_options.items())
        ]
        student.attach(methods, options.base_weight)
        if options.warm_start == "svd":
            warm_start(student.adapter, knowledge)
        bits = Bits(options.user_bits, options.student_bits, options.student_rotation, options.student_codebooks)
        if bits:
            quantize_student(student, student.adapter, bits, seed)
    return student
