"""Seeded made-up interactions with the long tails of real ones, made in chunks: as arrays, or in RecBole's format."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

#: Users whose interactions are drawn at once.
_USERS_AT_ONCE = 10_000


def draw_power_law(
    users: int, items: int, interactions: int, exponent: float = 0.8, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (users, items) of about this many distinct interactions, at least one a user, both counted from 0.

    Sorted by user, then item; memory is bounded by the interactions of some thousand users.

    Args:
        users: number of users.
        items: number of items.
        interactions: interactions to draw, at least five a user; doubles are dropped.
        exponent: popularity of the r-th item is proportional to r^-exponent; so is the activity of users.
        seed: seed of the draw.
    """
    rng = np.random.default_rng(seed)
    activity = (np.arange(1, users + 1) ** -exponent)[rng.permutation(users)]
    lengths = 5 + rng.multinomial(max(interactions - 5 * users, 0), activity / activity.sum())
    popularity = np.cumsum(np.arange(1, items + 1) ** -exponent)
    popularity /= popularity[-1]
    names = rng.permutation(items)
    for start in range(0, users, _USERS_AT_ONCE):
        chunk = lengths[start : start + _USERS_AT_ONCE]
        user = np.repeat(np.arange(start, start + len(chunk)), chunk)
        item = names[np.searchsorted(popularity, rng.random(len(user)))]
        pairs = np.unique(user.astype(np.int64) * items + item)
        yield pairs // items, pairs % items


def write_power_law(
    folder: Path, name: str, users: int, items: int, interactions: int, exponent: float = 0.8, seed: int = 0
) -> Path:
    """Write such interactions to <folder>/<name>/<name>.inter.

    Args:
        folder: data folder.
        name: name of the data set.
        users: see :func:`draw_power_law`, as for all that follow.
        items: number of items.
        interactions: interactions to draw.
        exponent: of popularity and activity.
        seed: seed of the draw.
    """
    target = Path(folder) / name
    target.mkdir(parents=True, exist_ok=True)
    with open(target / f"{name}.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\n")
        for pair in draw_power_law(users, items, interactions, exponent, seed):
            np.savetxt(file, np.stack(pair, axis=1), fmt="%d", delimiter="\t")
    return Path(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="powerlaw")
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--items", type=int, default=25_000)
    parser.add_argument("--interactions", type=int, default=120_000)
    given = parser.parse_args()
    print(write_power_law(given.folder, given.name, given.users, given.items, given.interactions))
