"""Seeded made-up interactions with the long tails of real ones, in RecBole's format, written in chunks."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def write_power_law(
    folder: Path, name: str, users: int, items: int, interactions: int, exponent: float = 0.8, seed: int = 0
) -> Path:
    """Write <folder>/<name>/<name>.inter with about this many distinct interactions, at least five a user.

    Args:
        folder: data folder.
        name: name of the data set.
        users: number of users.
        items: number of items.
        interactions: interactions to draw; doubles are dropped.
        exponent: popularity of the r-th item is proportional to r^-exponent; so is the activity of users.
        seed: seed of the draw.
    """
    rng = np.random.default_rng(seed)
    activity = (np.arange(1, users + 1) ** -exponent)[rng.permutation(users)]
    lengths = 5 + rng.multinomial(max(interactions - 5 * users, 0), activity / activity.sum())
    popularity = np.cumsum(np.arange(1, items + 1) ** -exponent)
    popularity /= popularity[-1]
    names = rng.permutation(items)
    target = Path(folder) / name
    target.mkdir(parents=True, exist_ok=True)
    with open(target / f"{name}.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\n")
        for start in range(0, users, 10_000):
            chunk = lengths[start : start + 10_000]
            user = np.repeat(np.arange(start, start + len(chunk)), chunk)
            item = names[np.searchsorted(popularity, rng.random(len(user)))]
            pairs = np.unique(user.astype(np.int64) * items + item)
            np.savetxt(file, np.stack([pairs // items, pairs % items], axis=1), fmt="%d", delimiter="\t")
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
