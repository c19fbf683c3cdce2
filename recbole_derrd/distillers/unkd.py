r"""UnKD: pairs of items of like popularity, in the teacher's order.

Gang Chen, Jiawei Chen, Fuli Feng, Sheng Zhou, Xiangnan He: "Unbiased Knowledge Distillation for Recommendation", WSDM
2023. A teacher ranks popular items too high, and a student that learns whole rankings learns that first. Pairs of items
of similar popularity tell the teacher's taste without it:

- Items in order of falling popularity (their training interactions) are cut into G groups of equal interaction mass.
  Items without training interactions are in no group.
- For each user and group, P pairs of items are drawn from the group's part of the teacher's N best unobserved items.
  The two items of a pair are drawn one after the other without replacement, position p of the part with probability
  proportional to exp(-p / T). i is the one that the teacher ranks higher, j the other.

    L_UnKD = - sum_u sum_g sum_{(i, j) in S_ug} log sigmoid(s_i - s_j)

over the batch's distinct users, s being the student's logits. Pairs are drawn once an epoch for all users. A group with
fewer than two items for a user has no pairs for this user.

An item belongs to the group in which its interactions begin, if those of all items are laid in a row: so groups differ
in mass by no more than two items do, and a group is empty only where one item is larger than a group.

Paper and code: the paper's text was not accessible; this follows a description of the authors' code and of a public
re-implementation. That both draw a pair's two items as different ones, and count p within the part, is our reading. The
authors take the mean over a batch's pairs, beside a mean base loss, the re-implementation each user's mean and the sum
over the rows, beside a summed one. This is the sum over pairs divided by the batch's rows, so that one share in P G of
either weight carries over. User weights, which the authors' code computes and never uses, are left out.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_derrd.adapters import Adapter
from recbole_derrd.config.options.schema import Options, option, published, share_of_users
from recbole_derrd.data.history import History
from recbole_derrd.distillers.base import Distiller, Need
from recbole_derrd.distillers.preconditions import LEFT_OUT, Requirement, require_unobserved
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.distillers.subsampling import Work, epoch_seed, listed_work
from recbole_derrd.errors import OptionError
from recbole_derrd.teacher import Knowledge

#: KDs: 2 pairs a user, one of each group, and a weight of 0.5 on their mean.
_PRESETS = {"citeulike-bpr-kds": {"weight": 0.25, "groups": 2, "pairs": 1}}


@dataclasses.dataclass(frozen=True)
class UnKDOptions(Options):
    """Popularity-unbiased distillation (WSDM 2023)."""

    prefix: ClassVar[str] = "unkd_"

    preset: str | None = published(_PRESETS)
    # Weight, pairs and groups are the re-implementation's numbers, which go by other means: see the preset.
    weight: float = option(0.5, "Weight of the term in the loss.", low=0)
    groups: int = option(
        2, "Groups of items of similar popularity, each with the same share of all interactions (G).", low=1, high=200
    )
    pairs: int = option(2, "Pairs of items that are drawn for each user, group and epoch (P).", low=1)
    top_n: int = option(1000, "Length of the teacher's ranking that pairs are drawn from (N).", low=2)
    decay: float = option(
        20.0, "Position p of a group's part is drawn with probability proportional to exp(-p / decay) (T).", above=0
    )
    sample: float | str = share_of_users(auto=True)

    def __post_init__(self) -> None:
        """Check the options against each other."""
        super().__post_init__()
        if self.groups > self.top_n // 2:
            raise OptionError(
                f"unkd_groups = {self.groups} is more than half of unkd_top_n = {self.top_n}: a group needs two items "
                "of that ranking. Raise unkd_top_n or lower unkd_groups."
            )


#: Entries of the rankings that are drawn from at once; bounds the memory of drawing to some 20 MB.
_DRAWN_AT_ONCE = 1 << 19


def popularity_groups(interactions: Tensor, count: int) -> Tensor:
    """Return the group of each item: floor(count * interactions of all more popular items / all interactions).

    Args:
        interactions: of each item [n_items], int64, the padding item's first; of equally popular items the first comes
            first.
        count: groups.

    Returns:
        [n_items], uint8, 0 for the most popular items; ``count``, which is no group, for items without an interaction
        and the padding item.
    """
    order = interactions[1:].sort(descending=True, stable=True)
    before = order.values.cumsum(0) - order.values
    # Items without an interaction come after all interactions.
    found = count * before // interactions[1:].sum().clamp(min=1)
    found[order.values == 0] = count
    groups = torch.full_like(interactions, count, dtype=torch.uint8)
    groups[1 + order.indices] = found.to(torch.uint8)
    return groups


def drawn_positions(uniform: Tensor, lengths: Tensor, decay: float) -> Tensor:
    """Return floor(-T ln(1 - x (1 - exp(-m / T)))): position p below m with probability proportional to exp(-p / T).

    Args:
        uniform: random numbers x in [0, 1), float64, of any shape.
        lengths: m, float64, of the same shape; of no positions the result is 0 and means nothing.
        decay: T.

    Returns:
        Whole numbers from 0, float64.
    """
    found = (-decay * torch.log1p(uniform * torch.expm1(-lengths / decay))).floor()
    return found.minimum(lengths - 1).clamp_(min=0)


def drawn_pairs(uniform: Tensor, lengths: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Return two different positions, drawn one after the other in proportion to exp(-p / T), the smaller one first.

    After position a, the positions before it have mass 1 - exp(-a / T) in units of the first one's, and those after it
    exp(-(a + 1) / T) - exp(-m / T). One of the two sides is drawn by these, and a position on it as if it were alone.

    Args:
        uniform: random numbers in [0, 1) [..., 3], float64.
        lengths: m [...], float64; of fewer than two positions the result means nothing.
        decay: T.

    Returns:
        Two tensors [...], float64.
    """
    first = drawn_positions(uniform[..., 0], lengths, decay)
    left = lengths - first - 1
    before = -torch.expm1(-first / decay)
    after = -torch.expm1(-left / decay) * torch.exp(-(first + 1) / decay)
    # Not divided: both may be 0 where T is small, and then what comes after is what is left.
    earlier = uniform[..., 1] * (before + after) < before
    second = drawn_positions(uniform[..., 2], torch.where(earlier, first, left), decay)
    second = torch.where(earlier, second, first + 1 + second)
    return first.minimum(second), first.maximum(second)


def pair_loss(better: Tensor, worse: Tensor, held: Tensor) -> Tensor:
    r"""Return each user's -sum log sigmoid(s_i - s_j) of the pairs that there are.

    Args:
        better: logits s_i [n, m].
        worse: logits s_j [n, m].
        held: which pairs there are [n, m].

    Returns:
        Loss of each user [n]; 0 at best, ln 2 for each pair where both logits are equal.
    """
    return functional.softplus(worse - better).masked_fill(~held, 0).sum(dim=1)


class UnbiasedDistillation(Distiller[UnKDOptions]):
    """UnKD as a loss term; see the file's head for the formula."""

    name = "unkd"
    options_class = UnKDOptions
    needs = frozenset({Need.TOP_ITEMS})
    citation = (
        "Gang Chen, Jiawei Chen, Fuli Feng, Sheng Zhou, Xiangnan He: Unbiased Knowledge Distillation for "
        "Recommendation, WSDM 2023"
    )
    test_settings: ClassVar = {"groups": 2, "pairs": 3, "top_n": 25, "decay": 4.0}

    def __init__(self, options: UnKDOptions, knowledge: Knowledge, student: Adapter, seed: int) -> None:
        """Read the teacher's rankings, and group the items.

        Raises:
            OptionError: nearly all users have fewer than two unobserved items.
        """
        super().__init__(options, knowledge, student, seed)
        self.check(options, knowledge.history)
        self.rankings = torch.from_numpy(knowledge.top_items(options.top_n))
        history = knowledge.history
        #: Training interactions of each item, and its group.
        self.interactions = torch.from_numpy(np.bincount(history.items, minlength=history.n_items))
        self.groups = popularity_groups(self.interactions, options.groups)
        #: Users who have pairs in each group.
        self.users_with_pairs = [0] * options.groups
        # One row a user: the higher items of the pairs, group by group, then the lower ones; 0 for none.
        self.items: Tensor | None = None

    @classmethod
    def requirements(cls, options: UnKDOptions, history: History) -> list[Requirement]:
        """Ask for two unobserved items of each user."""
        return [require_unobserved(history, 2, "one pair", "", LEFT_OUT, each=2)]

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's pairs for all users."""
        options = self.options
        # Drawn on the CPU, so that a GPU run draws the same items.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        n_users, width = self.rankings.shape
        items = torch.zeros(n_users, 2 * options.groups * options.pairs, dtype=torch.int32)
        with_pairs = torch.zeros(options.groups, dtype=torch.int64)
        users_at_once = max(1, _DRAWN_AT_ONCE // max(width, items.shape[1]))
        for start in range(1, n_users, users_at_once):
            stop = min(start + users_at_once, n_users)
            items[start:stop], held = self._draw(self.rankings[start:stop], generator)
            with_pairs += held.sum(dim=0)
        self.users_with_pairs = with_pairs.tolist()
        self.items = items.to(self.student.device)

    def _draw(self, rankings: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the pairs' items of users with these rankings, and which groups have pairs for them [n, G]."""
        count, pairs = self.options.groups, self.options.pairs
        groups = self.groups[rankings.long()]
        # Each ranking group by group, in its own order within each; numpy's stable sort of bytes is a radix sort.
        order = torch.from_numpy(np.argsort(groups.numpy(), axis=1, kind="stable"))
        sizes = torch.zeros(len(rankings), count + 1, dtype=torch.int64)
        sizes.scatter_add_(1, groups.long(), torch.ones_like(order))
        starts, sizes = (sizes.cumsum(1) - sizes)[:, :count], sizes[:, :count]
        starts, lengths = (part.repeat_interleave(pairs, dim=1) for part in (starts, sizes))
        uniform = torch.rand(*lengths.shape, 3, dtype=torch.float64, generator=generator)
        positions = torch.cat(
            [starts + part.long() for part in drawn_pairs(uniform, lengths.double(), self.options.decay)], 1
        )
        places = order.gather(1, positions.clamp_(max=order.shape[1] - 1))
        return rankings.gather(1, places).masked_fill_((lengths < 2).repeat(1, 2), 0), sizes >= 2

    def diagnostics(self, activity: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Return each group's items, their training interactions, and the users who have pairs in it."""
        held, count = self.interactions > 0, self.options.groups
        real = self.groups[held].long()
        interactions = torch.zeros(count, dtype=torch.int64).scatter_add_(0, real, self.interactions[held])
        groups = {
            "items": real.bincount(minlength=count).tolist(),
            "interactions": interactions.tolist(),
            "users": self.users_with_pairs,
        }
        return {"popularity_groups": groups}

    def work(self) -> Work:
        """Return the work of a user's pairs of items."""
        options = self.options
        return Work(listed_work(self.student, 2 * options.groups * options.pairs, passes=8))

    def forward(self, batch: StepBatch) -> Tensor:
        """Return L_UnKD of the batch divided by its rows.

        Under mixed precision the scores come as the student gives them; the loss is float32.
        """
        scores, scale, (items,) = self.drawn_scores(batch, self.items)
        half = items.shape[1] // 2
        with torch.autocast(device_type=self.student.device.type, enabled=False):
            scores = scores.float()
            losses = pair_loss(scores[:, :half], scores[:, half:], items[:, :half] > 0)
            return scale * losses.sum() / batch.rows
