"""Users with fewer unobserved items than a method asks of each: a few are taught less; nearly all are a mistake."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from recbole_derrd.data.prepare import History
from recbole_derrd.errors import OptionError

#: Share of users who may be short; where more are, it is the options that do not fit the data.
MOST = 0.9


@dataclasses.dataclass(frozen=True)
class Shortage:
    """How many users have fewer unobserved items than they should.

    Attributes:
        asked: what asks for them, e.g. "rrd_k + rrd_l".
        wanted: how many it asks for.
        users: number of users.
        short: how many of these have fewer.
        fewest: what one of them has.
        fitting: what all users but a tenth have.
    """

    asked: str
    wanted: int
    users: int
    short: int
    fewest: int
    fitting: int

    def refuse(self, lower: str, side: str = "user", reason: str = "unobserved items", more: str = "") -> None:
        """Refuse options that nearly no user has items for.

        Args:
            lower: which options to lower, and to what, e.g. "rrd_k and rrd_l to 5 together".
            side: whose rankings they are.
            reason: what is too few.
            more: one more way out.

        Raises:
            OptionError: nearly all users are short.
        """
        if self.short <= MOST * self.users:
            return
        if not self.fitting:
            raise OptionError(
                f"Nearly all {side}s ({self.short} of {self.users}) have too few {reason}, one has {self.fewest}: "
                f"nothing is left to distil. Filter such {side}s out ({side}_inter_num_interval){more}."
            )
        raise OptionError(
            f"{self.asked} = {self.wanted} is more than the catalogue allows: {self.short} of {self.users} {side}s "
            f"have fewer, and one has only {self.fewest} {reason}. Lower {lower}, or filter {side}s "
            f"({side}_inter_num_interval){more}."
        )

    def note(self, consequence: str, side: str = "user", reason: str = "unobserved items") -> str | None:
        """Say what becomes of the users that are short; None where none is."""
        if not self.short:
            return None
        asked = f"fewer than {self.asked} = {self.wanted}" if self.wanted > 1 else "no"
        return f"{self.short} of {self.users} {side}s have {asked} {reason}: {consequence}."


def shortage(history: History, wanted: int, asked: str) -> Shortage:
    """Return how many users have fewer than ``wanted`` unobserved items."""
    unobserved = np.sort(history.n_items - 1 - history.lengths[1:])
    short = int(np.searchsorted(unobserved, wanted))
    fitting = unobserved[int((1 - MOST) * len(unobserved))]
    return Shortage(asked, wanted, len(unobserved), short, int(unobserved[0]), int(fitting))


def short_users(history: History, wanted: int) -> Tensor | None:
    """Return which users have fewer than ``wanted`` unobserved items [n_users]; None where none has."""
    short = torch.from_numpy(history.n_items - 1 - history.lengths < wanted)
    return short if bool(short.any()) else None
