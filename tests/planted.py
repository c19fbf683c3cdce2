"""A data set with a known right answer: every user likes the items of one group, and nothing else but noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GROUPS, USERS_A_GROUP, ITEMS_A_GROUP = 8, 24, 24


def group_of_user(token: str) -> int:
    """Return the planted group of a user token "u<number>"."""
    return int(token[1:]) // USERS_A_GROUP


def group_of_item(token: str) -> int:
    """Return the planted group of an item token "i<number>"."""
    return int(token[1:]) // ITEMS_A_GROUP


def write_planted(folder: Path, liked: int = 8, noise: int = 2, seed: int = 0) -> Path:
    """Write planted/planted.inter: ``liked`` items of the user's own group and ``noise`` of any group each."""
    rng = np.random.default_rng(seed)
    lines = ["user_id:token\titem_id:token"]
    for user in range(GROUPS * USERS_A_GROUP):
        own = np.arange(ITEMS_A_GROUP) + user // USERS_A_GROUP * ITEMS_A_GROUP
        items = set(rng.choice(own, liked, replace=False)) | set(
            rng.choice(GROUPS * ITEMS_A_GROUP, noise, replace=False)
        )
        lines += [f"u{user}\ti{item}" for item in sorted(items)]
    target = Path(folder) / "planted"
    target.mkdir(parents=True, exist_ok=True)
    (target / "planted.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Path(folder)
