"""Speed of serving: the top 10 of an export, of the obvious product of numpy, and of faiss's flat indexes.

    OMP_NUM_THREADS=1 python tests/benchmarks/serving.py --out=results/performance/serving.json      # 10 minutes
    OMP_NUM_THREADS=1 python tests/benchmarks/serving.py --sizes=25000 --rounds=2                    # a look

It needs faiss (``pip install 'recbole_derrd[ann]'``). Vectors of 64 dimensions, made up: items lie in groups, have a
common direction, and lengths that differ, as a model's do. All ways take turns, one user at a time and then a block of
users, and the percentiles are over the turns. Each user has seen 20 items, which are left out: faiss is asked for 30
and its answers are looked through. Memory is the peak of a process of its own a way, ids included. With ``--inter`` the
recall is also that of real vectors, the truncated SVD of the interactions of a file of RecBole's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np

from recbole_derrd.serving import Recommender
from recbole_derrd.serving.signs import Signs

SIZE, K, USERS, SEEN, GROUPS = 64, 10, 256, 20, 500
ALL_BITS = (32, 8, 4, 2, 1)
#: Users of a block, and single requests of a round, of each size.
PLAN = {25_000: (256, 20), 200_000: (128, 10), 1_000_000: (32, 4)}
Ask = Callable[["list[int]"], Any]
Tables = dict[str, "np.ndarray[Any, Any]"]


class BothSigns(Signs):
    """The same estimate with one bit a dimension of the query as well: the Hamming distance. For comparison."""

    def __init__(self, vectors: Any) -> None:
        super().__init__(vectors)
        padded = np.pad(self._words, ((0, -len(self._words) % 4), (0, 0)))
        self._rows = np.ascontiguousarray(padded.T).view(np.uint64)

    def products(self, query: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        turned = self._turned(query)
        packed = np.packbits(turned > 0, bitorder="little")
        signs = np.pad(packed, (0, 8 * self._rows.shape[1] - len(packed))).view(np.uint64)
        apart = sum(ones(column ^ sign) for column, sign in zip(self._rows.T, signs))
        found: np.ndarray[Any, Any] = len(query) - 2 * apart.astype(np.float32)
        found *= self._factors * np.abs(turned).mean()
        return found + query @ self._centre


def ones(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return how many bits of each word of 64 are set."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    halves, quarters, bytes_, all_ones = (np.uint64(int(f"{byte:02x}" * 8, 16)) for byte in (0x55, 0x33, 0x0F, 0x01))
    words = words - ((words >> np.uint64(1)) & halves)
    words = (words & quarters) + ((words >> np.uint64(2)) & quarters)
    return ((((words + (words >> np.uint64(4))) & bytes_) * all_ones) >> np.uint64(56)).astype(np.uint8)


def planted(items: int) -> Tables:
    """Vectors in groups; half of a vector's variance is its group's."""
    draw = np.random.default_rng(0)
    groups = draw.normal(size=(GROUPS, SIZE)).astype(np.float32)
    tables = {}
    for side, count in (("user", USERS), ("item", items)):
        made = groups[draw.integers(GROUPS, size=count)] + draw.standard_normal((count, SIZE), np.float32)
        tables[side] = made
    tables["item"] += draw.standard_normal(SIZE, np.float32) / 2
    tables["item"] *= np.exp(0.3 * draw.standard_normal((items, 1), np.float32))
    return tables


def truncated_svd(inter: Path) -> Tables:
    """Vectors of a file of interactions, (U S, V) of its matrix of ones; 256 users of all."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    pairs = [line.split("\t")[:2] for line in inter.read_text("utf-8").splitlines()[1:]]
    rows, columns = (np.unique(side, return_inverse=True)[1] for side in zip(*pairs))
    left, values, right = svds(csr_matrix((np.ones(len(rows), np.float32), (rows, columns))), SIZE, random_state=0)
    some = np.random.default_rng(0).permutation(len(left))[:USERS]
    return {"user": (left * values)[some].astype(np.float32), "item": np.ascontiguousarray(right.T, np.float32)}


def export(folder: Path, tables: Tables, bits: int) -> Path:
    """Write an export of these vectors."""
    import torch

    from recbole_derrd.compression.tables import QuantizedTable
    from recbole_derrd.serving.signs import rotation
    from recbole_derrd.serving.writing import write_card, write_identities, write_seen, write_vectors

    folder.mkdir()
    units, turn = {}, rotation(SIZE)
    for side, table in tables.items():
        arrays = {"embeddings": table}
        if bits != 32:
            made = QuantizedTable.of(torch.from_numpy(table @ turn), bits)
            arrays = {"codes": made.packed.numpy(), "scales": made.scales.numpy()}
            units[side] = float(made.unit)
        write_vectors(folder, side, arrays, "npy")
    write_identities(folder, *([str(row) for row in range(len(tables[side]))] for side in ("user", "item")))
    write_seen(folder, np.arange(len(tables["user"]) + 1) * SEEN, seen_items(tables).reshape(-1))
    embedding = {"size": SIZE, "bits": bits, "format": "npy", "units": units}
    counts = {f"{side}s": len(table) for side, table in tables.items()}
    write_card(folder, {"model": "BPR", **counts, "embedding": embedding})
    return folder


def seen_items(tables: Tables) -> np.ndarray[Any, Any]:
    """Return 20 items of each user, ascending: every fifth of the best 100."""
    best = []
    for user in tables["user"]:
        scores = tables["item"] @ user
        first = np.argpartition(-scores, 100)[:100]
        best.append(np.sort(first[np.argsort(-scores[first])][::5]))
    return np.array(best)


def obvious(tables: Tables, seen: np.ndarray[Any, Any]) -> Ask:
    """The product of a block, the seen hidden, ``argpartition``, and the ten sorted."""

    def ask(users: list[int]) -> list[Any]:
        scores = tables["user"][users] @ tables["item"].T
        np.put_along_axis(scores, seen[users], -np.inf, axis=1)
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1).tolist()

    return ask


def faiss_of(kind: str, tables: Tables, seen: np.ndarray[Any, Any]) -> tuple[Ask, int]:
    """One of faiss's flat indexes, asked for more than ten, without the seen; and its bytes."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(SIZE, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(tables["item"])
    index.add(tables["item"])

    def ask(users: list[int]) -> list[list[int]]:
        _, found = index.search(tables["user"][users], K + SEEN)
        return [[item for item in row if item not in own][:K]
                for row, own in zip(found.tolist(), map(set, seen[users].tolist()))]  # fmt: skip

    return ask, index.sa_code_size() * index.ntotal


def asked(model: Recommender) -> Ask:
    """Ask an export."""
    return lambda users: [
        [int(one.item) for one in ranking] for _, ranking in model.recommend_many([str(user) for user in users], K)
    ]


#: Name of each way: (what answers, bits of the item's vectors).
WAYS: dict[str, tuple[str, int]] = {
    "numpy: product, argpartition, sort": ("numpy", 32),
    "faiss IndexFlatIP": ("Flat", 32),
    "faiss scalar quantizer, 8 bits": ("SQ8", 8),
    "faiss scalar quantizer, 4 bits": ("SQ4", 4),
    **{f"exact, {'float32' if bits == 32 else f'{bits} bits'}": ("exact", bits) for bits in ALL_BITS},
    **{f"two stages, {'float32' if bits == 32 else f'{bits} bits'}": ("two_stage", bits) for bits in ALL_BITS},
}


def open_way(name: str, home: Path) -> tuple[Ask, int]:
    """Return a way ready to be asked, and the bytes of the items' vectors (ids are not counted)."""
    kind, bits = WAYS[name]
    if kind in ("exact", "two_stage"):
        model = Recommender.load(home / str(bits), search=kind, check=False)
        held = sum(path.stat().st_size for path in (home / str(bits)).glob("items.*npy"))
        if kind == "two_stage":
            signs = model._search._signs  # type: ignore[attr-defined]
            held += signs._words.nbytes + signs._factors.nbytes
        return asked(model), held
    tables = {side: np.load(home / "32" / f"{side}s.npy") for side in ("user", "item")}
    seen = np.load(home / "32" / "seen.items.npy").reshape(-1, SEEN)
    if kind == "numpy":
        return obvious(tables, seen), tables["item"].nbytes
    return faiss_of(kind, tables, seen)


def peak_memory(name: str, home: Path, block: int) -> float:
    """Return the peak of a process that opens a way, asks it for one user and for a block, in bytes."""
    call = [sys.executable, __file__, f"--peak-of={name}", f"--home={home}", f"--block={block}"]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def shared(left: list[list[int]], right: list[list[int]]) -> float:
    """Return the share of the left rankings' items that the right ones have."""
    return float(np.mean([len({*one} & {*other}) / len(one) for one, other in zip(left, right)]))


def recalls(home: Path) -> dict[str, dict[str, float]]:
    """Return recall@10 of two stages against the exact search of the same bits, by bits and candidates."""
    everyone = list(range(len(np.load(home / "32" / "users.npy", mmap_mode="r"))))
    found: dict[str, dict[str, float]] = {}
    for bits in ALL_BITS:
        exact = asked(Recommender.load(home / str(bits), check=False))(everyone)
        row = {}
        for candidates in (10, 30, 100):
            two = Recommender.load(home / str(bits), check=False, search="two_stage", candidates=candidates)
            row[str(candidates)] = shared(exact, asked(two)(everyone))
            if candidates == 10:
                two._search._signs = BothSigns(two._item_vectors)  # type: ignore[attr-defined]
                row["10, both sides one bit"] = shared(exact, asked(two)(everyone))
        found[str(bits)] = row
    return found


def turns(ways: dict[str, Ask], rounds: int, block: int, requests: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Let all ways take turns, and yield the milliseconds of each: one user's, and a user's of a block."""
    single: dict[str, list[float]] = {name: [] for name in ways}
    blocks: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, ask in ways.items():
            ask([0])
            for request in range(requests):
                started = time.perf_counter()
                ask([(turn * requests + request) % USERS])
                single[name].append(1000 * (time.perf_counter() - started))
            started = time.perf_counter()
            ask(list(range(block)))
            blocks[name].append(1000 * (time.perf_counter() - started) / block)
    for name in ways:
        half, most = np.percentile(single[name], [50, 99])
        yield name, {"p50_ms": half, "p99_ms": most, "block_ms": float(np.median(blocks[name]))}


def both_signs(home: Path, rounds: int, requests: int) -> dict[str, float]:
    """Return the milliseconds of the first stage alone: the query in float32, and in one bit."""
    model = Recommender.load(home / "32", check=False)
    query = model._user_vectors.rows(np.arange(1))[0]
    kinds = {"query_float32_ms": Signs(model._item_vectors), "query_one_bit_ms": BothSigns(model._item_vectors)}
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds * requests):
        for name, signs in kinds.items():
            started = time.perf_counter()
            signs.products(query)
            taken[name].append(1000 * (time.perf_counter() - started))
    return {name: float(np.median(values)) for name, values in taken.items()}


def measured(items: int, rounds: int) -> dict[str, Any]:
    """Measure all ways in a catalogue of this size."""
    block, requests = PLAN.get(items, (128, 10))
    tables = planted(items)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for bits in ALL_BITS:
            export(home / str(bits), tables, bits)
        del tables
        opened = {name: open_way(name, home) for name in WAYS}
        exact = opened["exact, float32"][0](list(range(32)))
        same = {name: shared(exact, opened[name][0](list(range(32)))) for name in WAYS}
        rows = dict(turns({name: ask for name, (ask, _) in opened.items()}, rounds, block, requests))
        for name, row in rows.items():
            row.update(vectors_bytes=opened[name][1], peak_bytes=peak_memory(name, home, block), same=same[name])
            print(f"{items:9,}  {name:36} {json.dumps({key: round(value, 3) for key, value in row.items()})}")
        opened.clear()
        first = both_signs(home, rounds, requests)
        found = recalls(home)
        print(json.dumps({"first_stage": first, "recall": found}))
    return {"items": items, "block": block, "requests": rounds * requests, "rows": rows, "first_stage": first,
            "recall": found}  # fmt: skip


def recall_of(inter: Path) -> dict[str, Any]:
    """Measure the recall of real vectors."""
    tables = truncated_svd(inter)
    with tempfile.TemporaryDirectory() as folder:
        for bits in ALL_BITS:
            export(Path(folder) / str(bits), tables, bits)
        return {"data": inter.stem, "items": len(tables["item"]), "recall": recalls(Path(folder))}


def versions() -> dict[str, str]:
    """Return what was measured with."""
    import faiss

    return {"python": sys.version.split()[0], "numpy": np.__version__, "faiss": faiss.__version__}


def main() -> int:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, PLAN)), help="items, with commas")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--inter", type=Path, nargs="*", default=[], help="files of interactions, for recall")
    parser.add_argument("--out", type=Path, help="write the record to this file")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--block", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak_of:
        ask, _ = open_way(given.peak_of, given.home)
        ask([0]), ask(list(range(given.block)))
        # getrusage would count the parent's memory, from which this process was forked.
        status = Path("/proc/self/status").read_text("ascii")
        print(1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]))  # type: ignore[index]
        return 0
    if os.environ.get("OMP_NUM_THREADS") != "1":
        print("Set OMP_NUM_THREADS=1: the numbers are those of one core.", file=sys.stderr)
        return 2
    record = {
        "versions": versions(), "size": SIZE, "k": K, "seen": SEEN,
        "catalogues": [measured(int(items), given.rounds) for items in given.sizes.split(",")],
        "real": [recall_of(inter) for inter in given.inter],
    }  # fmt: skip
    if given.out:
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
