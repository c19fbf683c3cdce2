"""What a method's options ask of the data: so many unobserved items a user. A few users may have fewer."""

from __future__ import annotations

import dataclasses
from logging import getLogger

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.data.history import History
from recbole_derrd.errors import OptionError

#: Share of users who may have too few; where more do, it is the options that do not fit the data.
MOST = 0.9
#: What becomes of who has too few.
SHORTER = "their rankings are as long as they can be"
LEFT_OUT = "they have no part in this term"


@dataclasses.dataclass(frozen=True)
class Requirement:
    """How many users have fewer unobserved items than options ask for.

    Attributes:
        asked: the options, e.g. "rrd_k + rrd_l".
        wanted: how many items they ask for.
        users: number of users.
        short: how many of these have fewer.
        fewest: what one of them has.
        fitting: what all users but a tenth have.
        lower: which options to lower, with {} for the number that fits, e.g. "rrd_k and rrd_l to {} together".
        effect: what becomes of who has fewer.
        side: whose rankings they are: "user" or "item".
        reason: what they have too few of.
        more: one more way out, added to the sentence.
    """

    asked: str
    wanted: int
    users: int
    short: int
    fewest: int
    fitting: int
    lower: str
    effect: str
    side: str
    reason: str
    more: str

    def refuse(self) -> None:
        """Refuse options that hardly any user has items for.

        Raises:
            OptionError: nearly all users have too few.
        """
        if self.short <= MOST * self.users:
            return
        side = self.side
        if not self.fitting:
            raise OptionError(
                f"Nearly all {side}s ({self.short} of {self.users}) have too few {self.reason}, one has {self.fewest}: "
                f"nothing is left to distil. Filter such {side}s out ({side}_inter_num_interval){self.more}."
            )
        raise OptionError(
            f"{self.asked} = {self.wanted} is more than the catalogue allows: {self.short} of {self.users} {side}s "
            f"have fewer, and one has only {self.fewest} {self.reason}. Lower {self.lower.format(self.fitting)}, or "
            f"filter {side}s ({side}_inter_num_interval){self.more}."
        )

    def note(self) -> str | None:
        """Return what becomes of the users who have too few, as a sentence; None where there are none."""
        if not self.short:
            return None
        asked = f"fewer than {self.asked} = {self.wanted}" if self.wanted > 1 else "no"
        return f"{self.short} of {self.users} {self.side}s have {asked} {self.reason}: {self.effect}."


def require_unobserved(
    history: History,
    wanted: int,
    asked: str,
    lower: str,
    effect: str,
    *,
    each: int = 1,
    side: str = "user",
    reason: str = "unobserved items",
    more: str = "",
) -> Requirement:
    """Return what becomes of a method that asks for ``wanted`` unobserved items of each user.

    Args:
        history: training items of each user.
        wanted: how many items.
        asked: the options that ask for them.
        lower: see :class:`Requirement`.
        effect: see :class:`Requirement`.
        each: items that are drawn for each one that the options count.
        side: see :class:`Requirement`.
        reason: see :class:`Requirement`.
        more: see :class:`Requirement`.
    """
    unobserved = np.sort(history.n_items - 1 - history.lengths[1:])
    short = int(np.searchsorted(unobserved, wanted))
    # 1 - 0.9 is a little less than a tenth.
    fitting = int(unobserved[int(round((1 - MOST) * len(unobserved), 6))]) // each
    return Requirement(
        asked, wanted, len(unobserved), short, int(unobserved[0]), fitting, lower, effect, side, reason, more
    )


def short_rankings(rankings: Tensor, wanted: int) -> Tensor | None:
    """Return which users have fewer than ``wanted`` items in their rankings [n_users, N]; None where none has."""
    short = (rankings > 0).sum(dim=1) < wanted
    short[0] = False
    return short if bool(short.any()) else None


def left_out_by_rankings(rankings: Tensor, asked: str, wanted: int, history: History) -> Tensor | None:
    """Return :func:`short_rankings`, and say for how many users it is the teacher's lists that are too short.

    Args:
        rankings: [n_users, N], 0 where there is none.
        asked: the option that asks for so many.
        wanted: items.
        history: training items of each user.
    """
    short = short_rankings(rankings, wanted)
    if short is not None:
        by_data = short_users(history, wanted)
        lists = int((short.cpu() if by_data is None else short.cpu() & ~by_data).sum())
        if lists:
            getLogger().warning(
                f"The teacher ranks fewer than {asked} = {wanted} unobserved items for {lists:,} of "
                f"{history.n_users - 1:,} users: they have no part in this term. Lower {asked}, or give longer lists, "
                "without the users' own items."
            )
    return short


def short_users(history: History, wanted: int) -> Tensor | None:
    """Return which users have fewer than ``wanted`` unobserved items [n_users]; None where none has."""
    short = torch.from_numpy(history.n_items - 1 - history.lengths < wanted)
    return short if bool(short.any()) else None
