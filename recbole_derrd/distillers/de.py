r"""Distillation Experts (DE).

Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: "DE-RRD: A Knowledge Distillation Framework for Recommender
System", CIKM 2020, section 3.1.

For each entity e (user or item) the student's vector h_s(e) is mapped to the teacher's h_t(e) by one of M experts. A
selection network on the teacher's vector chooses the expert by a Gumbel-softmax whose temperature falls towards 0, so
that entities of one kind come to share an expert:

    s(e) = softmax((log softmax(S h_t(e)) + g) / tau),   g_m ~ Gumbel(0, 1), fresh for each entity and step
    l(e) = || h_t(e) - sum_m s_m(e) E_m(h_s(e)) ||^2,    E_m(x) = W2_m relu(W1_m x + b1_m) + b2_m
    L_DE = sum_{users} l(u) + 1/2 (sum_{positives} l(i) + sum_{negatives} l(j))       over a batch's distinct entities

Paper and code: the paper's text writes the norm unsquared, the authors' code squares it (``de_norm``). The factor 1/2
and the distinct entities are the code's. The code lowers the temperature after an epoch, so that epochs 0 and 1 share
the first value; so does :func:`temperature`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import option, published, share_of_entities
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.hint_embeddings import HintEmbeddings, HintOptions
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import (
    DRAWN,
    NUMBER,
    Work,
    epoch_seed,
    of_parameters,
    subsampled_entities,
)
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.experts import expert_error_sum
from recbole_derrd.teacher import Knowledge

#: Operations on each hidden unit, forward and backward.
_HIDDEN_PASSES = 8
#: Groups of users by activity, of equal size.
_GROUPS = 5


#: The authors' code (CiteULike), the best weights of the paper's grid for DE-RRD (Foursquare), and KDs.
_PRESETS = {
    "citeulike-bpr": {"weight": 0.01, "num_experts": 30},
    "foursquare-bpr": {"weight": 0.01},
    "foursquare-neumf": {"weight": 0.0001},
    "citeulike-bpr-kds": {"weight": 0.05, "num_experts": 30},
    "citeulike-lightgcn-kds": {"weight": 0.005, "num_experts": 20},
    "gowalla-bpr-kds": {"weight": 0.005, "num_experts": 5},
    "gowalla-lightgcn-kds": {"weight": 0.5, "num_experts": 10},
    "yelp2018-bpr-kds": {"weight": 0.005, "num_experts": 5},
    "yelp2018-lightgcn-kds": {"weight": 0.5, "num_experts": 10},
}


@dataclasses.dataclass(frozen=True)
class DEOptions(HintOptions):
    """Distillation Experts (CIKM 2020, section 3.1)."""

    prefix: ClassVar[str] = "de_"
    several_layers: ClassVar[bool] = True

    preset: str | None = published(_PRESETS)
    weight: float = option(0.01, "Weight of the term in the loss (lambda_DE).", low=0)
    num_experts: int = option(30, "Experts for users, and as many for items (M).", low=1, high=1000)
    hidden_size: int | None = option(
        None,
        "Hidden units of an expert; (student size + teacher size) // 2 if none.",
        low=1,
        kind=(int, type(None)),
    )
    gating: str = option(
        "gumbel",
        "How experts are combined: relaxed one-hot choice, or plain attention (the paper's ablation).",
        choices=("gumbel", "attention"),
    )
    temperature_start: float = option(1.0, "Temperature of the choice at the first epoch.", above=0)
    temperature_end: float = option(1e-10, "Temperature that the schedule falls to.", above=0)
    temperature_epochs: int = option(1000, "Epochs of the geometric fall, whatever `epochs` is.", low=1)
    norm: str = option(
        "squared",
        "Reconstruction error: squared L2 (authors' code) or L2 (the paper's text).",
        choices=("squared", "l2"),
    )
    sample: float | str = share_of_entities(auto=True)
    hint: str | None = option(
        None,
        "Student's hint layer, several joined by '+'; the model's first if none (see the table of models).",
        kind=(str, type(None)),
    )

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.temperature_end > self.temperature_start:
            raise OptionError("de_temperature_end must not be above de_temperature_start: the temperature falls.")


def temperature(epoch: int, start: float, end: float, epochs: int) -> float:
    r"""Return the temperature of an epoch: start * (end / start)^((epoch - 1) / epochs), from epoch 1, never below end.

    Args:
        epoch: 0-based epoch; epochs 0 and 1 both have ``start``.
        start: temperature at first.
        end: temperature after ``epochs`` epochs.
        epochs: length of the schedule, whatever the length of the training.

    Example:
        >>> round(temperature(101, 1.0, 1e-10, 1000), 6)
        0.1
    """
    fraction = min(max(epoch - 1, 0) / epochs, 1.0)
    return float(start * (end / start) ** fraction)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard Gumbel noise of this shape, -log(-log(uniform)), on the generator's device.

    Three times faster than ``exponential_``. Uniform numbers are multiples of 2^-24; 0 becomes half of the next.
    """
    uniform = torch.rand(shape, generator=generator, device=generator.device).clamp_(min=2**-25)
    return uniform.log_().neg_().log_().neg_()


def gating_weights(logits: Tensor, tau: float, noise: Tensor | None = None) -> Tensor:
    r"""Return softmax((log softmax(logits) + noise) / tau) over the experts.

    The normaliser of the inner softmax is the same for all experts and cancels. The largest entry is taken off before
    the division, so that differences survive a temperature of 1e-10 in float32.

    Args:
        logits: selection network's output [n, M].
        tau: temperature, above 0.
        noise: Gumbel noise [n, M]; None chooses without noise (attention at tau = 1).

    Returns:
        Weights [n, M], each row sums to 1.
    """
    keys = logits if noise is None else logits + noise
    keys = keys - keys.detach().max(dim=1, keepdim=True).values
    return (keys / tau).softmax(dim=1)


def mixed_experts(
    embeddings: Tensor, weights: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor
) -> Tensor:
    r"""Return sum_m weights[:, m] * E_m(embeddings) for M two-layer experts, in two matrix products.

    All first layers are one product. Since the second layer is linear, weighting the hidden units before it and
    multiplying once gives the weighted sum of the experts' outputs; no [n, M, d_t] tensor is made.

    Args:
        embeddings: student's embeddings [n, d_s].
        weights: expert weights [n, M].
        first: first layers side by side [d_s, M * h].
        first_bias: [M * h].
        second: second layers one below the other [M * h, d_t].
        second_bias: [M, d_t].

    Returns:
        [n, d_t].
    """
    hidden = torch.addmm(first_bias, embeddings, first).relu()
    n_experts, width = weights.shape[1], first.shape[1]
    # Sizes in full: of no rows at all, -1 would be anything.
    weighted = (hidden.view(-1, n_experts, width // n_experts) * weights.unsqueeze(2)).view(-1, width)
    return torch.addmm(weights @ second_bias, weighted, second)


def reconstruction_errors(teacher: Tensor, reconstructed: Tensor, norm: str = "squared") -> Tensor:
    r"""Return each row's error [n]: the squared L2 distance (authors' code), or the L2 distance (paper's text).

    Args:
        teacher: teacher's embeddings [n, d_t].
        reconstructed: [n, d_t].
        norm: "squared" or "l2".
    """
    if norm == "l2":
        distances: Tensor = torch.linalg.vector_norm(teacher - reconstructed, dim=1)
        return distances
    return (teacher - reconstructed).square().sum(dim=1)


def experts_work(student_size: int, teacher_size: int, experts: int, hidden: int) -> Work:
    """Return the work of M two-layer experts for an entity, and of the optimizer's steps on those of both sides."""
    units, sizes = experts * hidden, student_size + teacher_size
    parameters = units * (sizes + 1) + 2 * experts * (teacher_size + 1)
    # Forward, and backward by the layers' inputs and by their weights.
    entity = 3 * units * sizes + NUMBER * (_HIDDEN_PASSES * units + 2 * sizes) + DRAWN * experts
    return Work(entity, of_parameters(2 * parameters))


class ExpertBank(nn.Module):
    """M experts and their selection network, for the users or the items of one hint layer.

    Args:
        student_size: width of the student's embeddings.
        teacher_size: width of the teacher's embeddings.
        options: DE's options.
        generator: source of the initial weights.
    """

    def __init__(self, student_size: int, teacher_size: int, options: DEOptions, generator: torch.Generator) -> None:
        """Draw the weights as torch.nn.Linear draws those of its layers."""
        super().__init__()
        experts = options.num_experts
        self.sizes = (student_size, teacher_size)
        # Equal sizes are self-distillation, where the authors' code halves the hidden layer.
        default = student_size // 2 if student_size == teacher_size else (student_size + teacher_size) // 2
        hidden = options.hidden_size or max(default, 1)

        def uniform(fan_in: int, *shape: int) -> nn.Parameter:
            bound = 1 / math.sqrt(fan_in)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))

        self.first = uniform(student_size, student_size, experts * hidden)
        self.first_bias = uniform(student_size, experts * hidden)
        self.second = uniform(hidden, experts * hidden, teacher_size)
        self.second_bias = uniform(hidden, experts, teacher_size)
        self.select = uniform(teacher_size, teacher_size, experts)
        self.select_bias = uniform(teacher_size, experts)

    def forward(self, student: Tensor, weights: Tensor) -> Tensor:
        """Return the experts' weighted reconstruction [n, d_t]."""
        return mixed_experts(student, weights, self.first, self.first_bias, self.second, self.second_bias)

    def error_sum(self, student: Tensor, weights: Tensor, teacher: Tensor, norm: str) -> Tensor:
        """Return the sum of the rows' reconstruction errors, without keeping what lies between."""
        parts = (self.first, self.first_bias, self.second, self.second_bias)
        return expert_error_sum(student, weights, teacher, *parts, norm)

    def logits(self, teacher: Tensor) -> Tensor:
        """Return the selection network's output [n, M]."""
        return torch.addmm(self.select_bias, teacher, self.select)


class DistillationExperts(Distiller[DEOptions]):
    """DE as a loss term; see the file's head for the formula."""

    name = "de"
    options_class = DEOptions
    needs = frozenset({Need.EMBEDDINGS})
    citation = (
        "Seongku Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu: DE-RRD: A Knowledge Distillation Framework for "
        "Recommender System, CIKM 2020"
    )
    # The best of the paper's grid, like the default, which is that of BPR.
    student_defaults: ClassVar = {"NeuMF": {"weight": 0.0001}}
    test_settings: ClassVar = {"num_experts": 3, "hidden_size": 5}

    def __init__(self, options: DEOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Make a bank for the users and one for the items of each hint layer.

        Raises:
            OptionError: a hint layer is unknown.
        """
        super().__init__(options, knowledge, student, seed)
        self.layers = [student.layer(layer) for layer in options.layers()]
        teacher_layers = options.teacher_layers()
        if len(teacher_layers) == 1:
            teacher_layers = teacher_layers * len(self.layers)
        self.hints = [HintEmbeddings(student, knowledge, *pair) for pair in zip(self.layers, teacher_layers)]
        self.targets = [hints.targets for hints in self.hints]
        # Another stream than the noise's, which starts at the seed itself.
        initial = torch.Generator().manual_seed(epoch_seed(seed, -1))
        self.banks: Any = nn.ModuleList(
            nn.ModuleDict({side: ExpertBank(*sizes, options, initial) for side, sizes in hints.sizes().items()})
            for hints in self.hints
        )
        self.tau = options.temperature_start
        self.to(student.device)

    def begin_epoch(self, epoch: int) -> None:
        """Set the epoch's temperature."""
        options = self.options
        self.tau = temperature(epoch, options.temperature_start, options.temperature_end, options.temperature_epochs)

    def work(self) -> Work:
        """Return the work of an entity in the experts of all hint layers."""
        experts = self.options.num_experts
        each = []
        for bank in self.banks:
            student_size, teacher_size = bank["user"].sizes
            hidden = bank["user"].first.shape[1] // experts
            each.append(experts_work(student_size, teacher_size, experts, hidden))
        return Work(sum(one.entity for one in each), sum(one.step for one in each))

    def _error_sum(self, bank: Any, student: Tensor, teacher: Tensor) -> Tensor:
        tau, noise = 1.0, None
        if self.options.gating == "gumbel":
            tau, noise = self.tau, gumbel_noise((len(teacher), self.options.num_experts), self.generator)
        weights = gating_weights(bank.logits(teacher), tau, noise)
        if self.student.fused:
            total: Tensor = bank.error_sum(student, weights, teacher, self.options.norm)
            return total
        return reconstruction_errors(teacher, bank(student, weights), self.options.norm).sum()

    @torch.no_grad()
    def diagnostics(self, activity: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Return the mean probability of each expert of the first hint layer, by groups of users of like activity.

        The softmax of the selection network's output is the probability with which Gumbel noise chooses each expert, at
        any temperature. It is that of the last epoch: the student's checkpoint, of the best one, holds no experts.
        """
        users = np.argsort(activity[1:], kind="stable") + 1
        chosen = self.banks[0]["user"].logits(self.targets[0]["user"]).softmax(dim=1).cpu()
        groups = [group for group in np.array_split(users, _GROUPS) if len(group)]
        utilisation = {
            "side": "user",
            "activity": [[int(activity[group].min()), int(activity[group].max())] for group in groups],
            "mean_utilisation": [
                [round(share, 6) for share in chosen[torch.from_numpy(group)].mean(dim=0).tolist()] for group in groups
            ],
        }
        return {"expert_utilisation": utilisation}

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_DE of the batch divided by its rows; float32 under mixed precision as well."""
        share = self.share(batch.entities, batch.rows)
        entities = subsampled_entities("DE", batch, share, self.generator)
        total = torch.zeros((), device=self.student.device)
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            for hints, banks in zip(self.hints, self.banks):
                for side, ids, weight in entities:
                    wanted = hints.targets[side].index_select(0, ids)
                    total = total + weight * self._error_sum(banks[side], hints.embeddings(side, ids), wanted)
        return total / batch.rows
