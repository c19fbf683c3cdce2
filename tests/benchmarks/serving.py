"""One user's top 10 from an export, against the obvious product of numpy: ``python tests/benchmarks/serving.py``.

One core (``OMP_NUM_THREADS=1``), random vectors of 64 dimensions; milliseconds of single requests.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from recbole_derrd.compression.tables import QuantizedTable
from recbole_derrd.serving import Recommender
from recbole_derrd.serving.writing import write_card, write_identities, write_seen, write_vectors

USERS, SIZE, REQUESTS, SEEN = 500, 64, 200, 20


def write(folder: Path, tables: dict[str, np.ndarray[Any, Any]], bits: int) -> Recommender:
    """Write an export of these vectors and open it."""
    folder.mkdir()
    units = {}
    for side, table in tables.items():
        arrays = {"embeddings": table}
        if bits != 32:
            made = QuantizedTable.of(torch.from_numpy(table), bits)
            arrays = {"codes": made.packed.numpy(), "scales": made.scales.numpy()}
            units[side] = float(made.unit)
        write_vectors(folder, side, arrays, "npy")
    counts = {side: len(table) for side, table in tables.items()}
    write_identities(folder, *([str(row) for row in range(count)] for count in counts.values()))
    write_seen(folder, np.arange(USERS + 1) * SEEN, np.tile(np.arange(SEEN), USERS))
    embedding = {"size": SIZE, "bits": bits, "format": "npy", "units": units}
    write_card(folder, {"model": "BPR", "users": USERS, "items": counts["item"], "embedding": embedding})
    return Recommender.load(folder)


def milliseconds(ask: Callable[[int], Any]) -> str:
    """Return the median and the 99th percentile of single requests."""
    ask(0)
    taken = []
    for user in range(REQUESTS):
        started = time.perf_counter()
        ask(user)
        taken.append(1000 * (time.perf_counter() - started))
    return f"p50 {np.percentile(taken, 50):7.2f}  p99 {np.percentile(taken, 99):7.2f}"


def obvious(tables: dict[str, np.ndarray[Any, Any]], user: int) -> np.ndarray[Any, Any]:
    """Score, hide, sort the ten best of ``argpartition``."""
    scores = tables["item"] @ tables["user"][user]
    scores[:SEEN] = -np.inf
    best = np.argpartition(-scores, 10)[:10]
    found: np.ndarray[Any, Any] = best[np.argsort(-scores[best])]
    return found


def asked(model: Recommender, user: int) -> Any:
    """Ask an export for the ten best."""
    return model.recommend(str(user), 10)


def main() -> int:
    """Print a table."""
    draw = np.random.default_rng(0)
    for items in (25_000, 200_000):
        sides = {"user": USERS, "item": items}
        tables = {side: draw.normal(size=(count, SIZE)).astype(np.float32) for side, count in sides.items()}
        print(f"{items:,} items x {SIZE}\n  numpy, obvious  {milliseconds(functools.partial(obvious, tables))}")
        with tempfile.TemporaryDirectory() as home:
            for bits in (32, 8, 4, 1):
                model = write(Path(home) / str(bits), tables, bits)
                print(f"  {bits:2} bits         {milliseconds(functools.partial(asked, model))}")
                if bits == 32:
                    same = all(
                        [int(one.item) for one in model.recommend(str(user))] == obvious(tables, user).tolist()
                        for user in range(50)
                    )
                    print(f"  the same rankings: {same}")
                started = time.perf_counter()
                for _ in model.recommend_many(model.user_ids):
                    pass
                print(f"  {bits:2} bits, blocks {1000 * (time.perf_counter() - started) / USERS:11.2f} a user")
    return 0


if __name__ == "__main__":
    sys.exit(main())
