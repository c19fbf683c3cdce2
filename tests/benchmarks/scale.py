r"""How rankings, epoch draws and steps grow with the users: four sizes, each twice the one before, on one thread.

    python tests/benchmarks/scale.py                                       # up to 1,000,000 users x 200,000 items
    python tests/benchmarks/scale.py --users=20000 --items=5000            # a look in seconds
    python tests/benchmarks/scale.py --search --items=1000000              # exact against approximate search

Each size runs in a process of its own, so that its peak memory is its own. Interactions are made up (power_law.py, 20
a user) and so is the teacher: two tables of random embeddings. RecBole's own reading and loading are left out on
purpose: pandas' Python engine and a Python set for every user decide their memory, not the distillation. A step is the
base loss, its term, backward and update on 8,192 random interactions; the student's user table is updated by rows
(``SparseAdam``), because stock dense Adam's work on the whole table would hide how the terms grow. The number of items
is the same in all sizes, and their table is updated as RecBole does it. Seconds are the process's own processor time:
it has one thread, and others may work on the machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from power_law import draw_power_law
from tabulate import tabulate
from torch import nn
from torch.nn import functional

from recbole_derrd.adapters import FactorAdapter
from recbole_derrd.data.history import History
from recbole_derrd.distillers.de import DEOptions
from recbole_derrd.distillers.rrd import RRDOptions
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.registry import method_class
from recbole_derrd.report.environment import peak_rss_bytes, versions
from recbole_derrd.teacher import GivenTeacher, StoredKnowledge
from recbole_derrd.teacher.exact import ExactSearch
from recbole_derrd.teacher.search import SAMPLE, ApproximateSearch

PER_USER, TOP_N, BATCH, STEPS = 20, 100, 8192, 30


class Factors(nn.Module):
    """Two embedding tables, which is all that the adapter of BPR asks for."""

    device = "cpu"

    def __init__(self, n_users: int, n_items: int, size: int, seed: int, trained: bool) -> None:
        """Draw the tables."""
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        generator = torch.Generator().manual_seed(seed)
        tables = [torch.empty(rows, size).normal_(generator=generator) for rows in (n_users, n_items)]
        self.user_embedding = nn.Embedding.from_pretrained(tables[0], freeze=not trained, sparse=trained)
        self.item_embedding = nn.Embedding.from_pretrained(tables[1], freeze=not trained)


def made_up_history(users: int, items: int) -> History:
    """Return the training items of made-up users."""
    lengths, bought, filled = np.zeros(users + 2, np.int64), np.empty(PER_USER * users, np.int64), 0
    for user, item in draw_power_law(users, items, PER_USER * users):
        lengths[user[0] + 2 : user[-1] + 3] = np.bincount(user - user[0])
        bought[filled : filled + len(item)] = item + 1
        filled += len(item)
    return History(np.cumsum(lengths), bought[:filled], items + 1)


def timed(make: Callable[[], Any]) -> float:
    """Return the processor seconds that it takes."""
    started = time.process_time()
    make()
    return time.process_time() - started


def step_seconds(
    term: Any, student: Factors, history: History, batch_size: int = BATCH, steps: int = STEPS
) -> tuple[float, int]:
    """Return the median seconds of a distilled step, and the median number of distinct users in it."""
    rng = np.random.default_rng(0)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SparseAdam([student.user_embedding.weight], lr=1e-3),
        torch.optim.Adam([student.item_embedding.weight, *term.parameters()], lr=1e-3),
    ]
    times, distinct = [], []
    for _ in range(steps + 5):
        rows = rng.integers(0, len(history.items), batch_size)
        users = torch.from_numpy(np.searchsorted(history.indptr, rows, side="right") - 1)
        positives = torch.from_numpy(history.items[rows])
        negatives = torch.from_numpy(rng.integers(1, history.n_items, batch_size))
        started = time.process_time()
        batch = StepBatch(users.unique(), positives.unique(), negatives.unique(), batch_size)
        user, good, bad = (
            table(ids)
            for table, ids in (
                (student.user_embedding, users),
                (student.item_embedding, positives),
                (student.item_embedding, negatives),
            )
        )
        base = -functional.logsigmoid((user * (good - bad)).sum(dim=1)).mean()
        (base + 1e-3 * term(batch)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        times.append(time.process_time() - started)
        distinct.append(len(batch.users))
    return statistics.median(times[5:]), int(statistics.median(distinct))


def measure(users: int, given: argparse.Namespace) -> dict[str, Any]:
    """Measure one size."""
    history = made_up_history(users, given.items)
    peaks = {"data": peak_rss_bytes()}
    teacher = FactorAdapter(Factors(users + 1, given.items + 1, given.teacher_size, seed=0, trained=False))
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        knowledge = StoredKnowledge(Path(temporary), GivenTeacher(lambda: teacher, teacher.hints), history)
        peaks["teacher"] = peak_rss_bytes()
        started = time.perf_counter()
        rankings = timed(lambda: knowledge.top_items(TOP_N))
        waited = time.perf_counter() - started
        peaks["rankings"] = peak_rss_bytes()
        embeddings = timed(lambda: [knowledge.embeddings(side) for side in ("user", "item")])
        knowledge.forget_teacher()
        on_disk = {
            kind: sum(path.stat().st_size for path in Path(temporary).glob(f"{pattern}/array.npy"))
            for kind, pattern in (("rankings", "top-items-*"), ("embeddings", "*-embeddings-*"))
        }
        model = Factors(users + 1, given.items + 1, given.student_size, seed=1, trained=True)
        student = FactorAdapter(model)
        rrd = method_class("rrd")(RRDOptions(top_n=TOP_N, k=20, l=20), knowledge, student, 0)
        draw = timed(lambda: rrd.begin_epoch(0))
        rrd_step, distinct = step_seconds(rrd, model, history)
        peaks["RRD"] = peak_rss_bytes()
        de = method_class("de")(DEOptions(num_experts=10), knowledge, student, 0)
        de.begin_epoch(0)
        de_step, _ = step_seconds(de, model, history)
        peaks["DE"] = peak_rss_bytes()
    return {
        "users": users, "items": given.items, "interactions": len(history.items), "seconds_lists": rankings,
        "wall_seconds_lists": waited,
        "seconds_vectors": embeddings, "seconds_draw": draw, "seconds_rrd_step": rrd_step, "seconds_de_step": de_step,
        "distinct_users_a_step": distinct, "peak_bytes": peaks, "bytes_on_disk": on_disk,
        "bytes_of_draw": rrd.items.numel() * rrd.items.element_size(),
    }  # fmt: skip


def measure_search(given: argparse.Namespace) -> dict[str, Any]:
    """Measure both searches on items that lie in clusters and differ in length, as trained ones do."""
    users, items, size = 4096, given.items, given.teacher_size
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, size, generator=rng)
    model = Factors(users + 1, items + 1, size, seed=0, trained=False)
    for table in (model.user_embedding, model.item_embedding):
        own = centres[torch.randint(0, len(centres), (len(table.weight),), generator=rng)]
        table.weight.data.mul_(given.spread).add_(own)
    model.item_embedding.weight.data.mul_(torch.empty(items + 1, 1).log_normal_(0, 0.3, generator=rng))
    exact = ExactSearch(FactorAdapter(model), made_up_history(users, items), TOP_N)
    user_embeddings, item_embeddings = model.user_embedding.weight, model.item_embedding.weight
    found: dict[str, Any] = {"items": items, "size": size, "spread": given.spread, "users": users}
    with torch.no_grad():
        exact.chunk = min(exact.chunk, users // 8)
        some = range(1, 1 + 8 * exact.chunk, exact.chunk)
        product = [timed(lambda s=s: user_embeddings[s : s + exact.chunk] @ item_embeddings.T) for s in some]
        whole = [timed(lambda s=s: exact.rankings(s, s + exact.chunk)) for s in some]
        found["users_at_once"] = exact.chunk
        found["product_ms_a_user"] = 1e3 * statistics.median(product) / exact.chunk
        found["exact_ms_a_user"] = 1e3 * statistics.median(whole) / exact.chunk
        made: list[ApproximateSearch] = []
        found["build_seconds"] = timed(lambda: made.append(ApproximateSearch(exact)))
        seconds = [timed(lambda s=s: made[0].rankings(s, s + 512)) for s in range(1, users - 512, 512)]
        found["approximate_ms_a_user"] = 1e3 * statistics.median(seconds) / 512
    return {**found, **made[0].about, "users_in_sample": SAMPLE}


def gradient(rows: list[dict[str, Any]], key: str) -> float:
    """Return the exponent b of the fit key = a * users^b."""
    return float(np.polyfit(np.log([row["users"] for row in rows]), np.log([row[key] for row in rows]), 1)[0])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table as Markdown."""
    shown = [
        [
            f"{row['users']:,}", f"{row['interactions']:,}", f"{row['seconds_lists']:.1f}",
            f"{1e3 * row['seconds_lists'] / row['users']:.3f}", f"{row['seconds_draw']:.2f}",
            f"{1e3 * row['seconds_rrd_step']:.0f}", f"{1e3 * row['seconds_de_step']:.0f}",
            f"{row['distinct_users_a_step']:,}", f"{row['bytes_on_disk']['rankings'] / 1e6:.0f}",
            *(f"{row['peak_bytes'][phase] / 2**20:.0f}" for phase in ("teacher", "rankings", "DE")),
        ]
        for row in rows
    ]  # fmt: skip
    headers = [
        "users", "interactions", "rankings (s)", "rankings (ms a user)", "RRD's draw (s)", "RRD step (ms)",
        "DE step (ms)", "distinct users a step", "rankings (MB)", "peak before rankings (MiB)", "after rankings (MiB)",
        "at the end (MiB)",
    ]  # fmt: skip
    return str(tabulate(shown, headers=headers, tablefmt="github", disable_numparse=True))


def main() -> None:
    """Measure every size in its own process and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000, help="users of the largest size")
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--sizes", type=int, default=4)
    parser.add_argument("--teacher_size", type=int, default=64)
    parser.add_argument("--student_size", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="where the rankings are written for the while")
    parser.add_argument("--record", type=Path, help="JSON file to write")
    parser.add_argument("--search", action="store_true", help="measure the searches instead")
    parser.add_argument("--spread", type=float, default=0.7, help="of the items around their clusters, with --search")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--show", type=Path, help="print the table of a record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.show:
        print(table(json.loads(given.show.read_text(encoding="utf-8"))["rows"]))
        return
    if given.search:
        logging.basicConfig(level=logging.INFO)
        record: dict[str, Any] = {"search": measure_search(given)}
        print(json.dumps(record["search"], indent=1))
    elif given.one:
        print(json.dumps(measure(given.users, given)))
        return
    else:
        rows = []
        for step in reversed(range(given.sizes)):
            users = f"--users={given.users >> step}"
            run = [sys.executable, __file__, *sys.argv[1:], users, "--one"]
            answer = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(answer.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
        fits = {key: gradient(rows, key) for key in rows[0] if key.startswith("seconds_") or key == "bytes_of_draw"}
        print(f"\n{table(rows)}\n\nexponents of users: " + json.dumps({key: round(fits[key], 3) for key in fits}))
        record = {"rows": rows, "exponents": fits}
    record["command"] = " ".join(["python tests/benchmarks/scale.py", *kept(sys.argv[1:])])
    record["versions"] = {**versions(), **({"faiss-cpu": version("faiss-cpu")} if given.search else {})}
    if given.record:
        given.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(record["command"], record["versions"])


def kept(arguments: list[str]) -> list[str]:
    """Return the arguments that decide the result; folders of this machine are none of its readers' business."""
    return [argument for argument in arguments if not argument.startswith(("--folder", "--record"))]


if __name__ == "__main__":
    main()
