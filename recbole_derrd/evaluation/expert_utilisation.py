"""Which of DE's experts users of much and of little activity choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

#: Groups of users by activity, of equal size.
_GROUPS = 5


@torch.no_grad()
def expert_utilisation(model: Any, activity: np.ndarray[Any, Any]) -> dict[str, Any] | None:
    """Return the mean probability of each expert of DE's first hint layer, by group of users; None without DE.

    The softmax of the selection network's output is the probability with which Gumbel noise chooses each expert, at
    any temperature. It is that of the last epoch: the student's checkpoint, of the best one, holds no experts.

    Args:
        model: the distilled student.
        activity: training items of each user, padding user 0 included.
    """
    experts = next((one for one in getattr(model, "distillers", ()) if getattr(one, "name", None) == "de"), None)
    if experts is None:
        return None
    users = np.argsort(activity[1:], kind="stable") + 1
    chosen = experts.banks[0]["user"].logits(experts.targets[0]["user"]).softmax(dim=1)
    groups = [group for group in np.array_split(users, _GROUPS) if len(group)]
    return {
        "side": "user",
        "activity": [[int(activity[group].min()), int(activity[group].max())] for group in groups],
        "mean_choice": [
            [round(share, 6) for share in chosen[torch.from_numpy(group).to(chosen.device)].mean(dim=0).tolist()]
            for group in groups
        ],
    }
