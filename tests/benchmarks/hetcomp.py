r"""How HetComp's rankings, schedule and steps grow with users and items: each size in a process of its own, one thread.

    python tests/benchmarks/hetcomp.py                                        # four sizes, twice the users or the items
    python tests/benchmarks/hetcomp.py --sizes 2000x1000,4000x2000            # a look in seconds
    python tests/benchmarks/hetcomp.py --out=hetcomp.json                     # the numbers as well

Interactions are made up (power_law.py, 20 a user), and so are three teachers, tables of random embeddings, each with
four snapshots, the earlier ones noisier; the student is a BPR. Measured are: making what HetComp asks of the teachers
(the rankings of all snapshots and the order of the training items); one step of the schedule, in which the student's
rankings of all users are compared with two snapshots of each teacher; merging the rankings of all users, as after a
step that moved everybody; and training steps (base loss, term, backward, update, as in scale.py) in phase 1, in phase 2
and in phase 2 with hetcomp_remainder. Seconds are the process's own processor time, as others may work on the machine.

Memory is the peak of each stage by itself, less what was resident once data and student were made; where the system
cannot forget an earlier peak (all but Linux), the largest so far. The rankings are memory-mapped: what has been read of
them counts until the system wants it back. Beside it stands one matrix of users x items, which nothing may grow like:
exponents are those of a fit  number = c users^a items^b. By design b goes to 1 for the seconds of the snapshots'
rankings, of the schedule and of an exact step, which score the whole catalogue.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scale import Factors, made_up_history, step_seconds, timed
from tabulate import tabulate

from recbole_derrd.adapters import Adapter, FactorAdapter
from recbole_derrd.data.history import History
from recbole_derrd.distillers.hetcomp import HetCompOptions
from recbole_derrd.registry import method_class
from recbole_derrd.report.environment import peak_rss_bytes, versions
from recbole_derrd.teacher import (
    BuildSettings,
    Ensemble,
    EnsembleKnowledge,
    GivenTeacher,
    RankWeighting,
    StoredKnowledge,
    knowledge_folder,
)

SIZES = "10000x5000,20000x5000,10000x10000,20000x10000"
TEACHERS, SNAPSHOTS = 3, 4


def teacher(users: int, items: int, size: int, number: int, snapshot: int) -> Adapter:
    """Return a teacher at a snapshot from 0; the last is its own embeddings, those before are more and more noise."""
    model = Factors(users + 1, items + 1, size, seed=number, trained=False)
    draw = torch.Generator().manual_seed(100 * (number + 1) + snapshot)
    for table in (model.user_embedding.weight, model.item_embedding.weight):
        later = SNAPSHOTS - 1 - snapshot
        if later:
            table.data.add_(torch.empty_like(table).normal_(generator=draw), alpha=0.5 * later)
    return FactorAdapter(model)


def knowledge_of(folder: Path, history: History, users: int, items: int, size: int) -> EnsembleKnowledge:
    """Return what the teachers know together."""
    members = []
    for number in range(TEACHERS):
        *earlier, final = (functools.partial(teacher, users, items, size, number, one) for one in range(SNAPSHOTS))
        source = GivenTeacher(final, earlier=tuple(earlier))
        members.append(
            StoredKnowledge(folder / f"teacher{number}", source, history, BuildSettings(snapshots=SNAPSHOTS))
        )
    # Nothing here asks for the ensemble as a model, which is what configuration and data set are for.
    ensemble = Ensemble(members, None, None, RankWeighting(), count=100)
    return EnsembleKnowledge(knowledge_folder(folder, ensemble.key, "made up"), ensemble, history)


def stand_at(method: Any, last: bool) -> None:
    """Put all users at the first or at the last snapshots, as a training checkpoint does."""
    state = method.state_dict()
    state["snapshot"] = (
        (method.counts - 1 if last else torch.zeros_like(method.counts)).int().expand_as(method.snapshot)
    )
    state["stepped"], state["finished"] = torch.tensor(0), torch.tensor(last)
    method.load_state_dict(state)
    method.begin_epoch(0)


def forget_peak() -> None:
    """Let the peak begin anew at what is resident now, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(users: int, items: int, given: argparse.Namespace) -> dict[str, Any]:
    """Measure one size."""
    history = made_up_history(users, items)
    model = Factors(users + 1, items + 1, given.student_size, seed=50, trained=True)
    student = FactorAdapter(model)
    forget_peak()
    before, peaks = peak_rss_bytes() or 0, {}

    def note(stage: str) -> None:
        peaks[stage] = (peak_rss_bytes() or 0) - before
        forget_peak()

    kind, options = method_class("hetcomp"), HetCompOptions()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        knowledge = knowledge_of(Path(temporary), history, users, items, given.teacher_size)
        seconds = {"rankings": timed(lambda: knowledge.trajectories(options.top_n))}
        note("rankings")
        seconds["order"] = timed(knowledge.observed_ranks)
        note("order")
        on_disk = sum(path.stat().st_size for path in Path(temporary).rglob("array.npy"))
        method = kind(options, knowledge, student, 0)
        # The first step only looks at the snapshots; this one also moves users.
        stand_at(method, last=False)
        seconds["schedule"] = timed(lambda: method._step(options.interval))
        note("schedule")
        stand_at(method, last=False)
        method._fused.fill_(-1)
        method._behind = True
        seconds["merge"] = timed(method._catch_up)
        note("merge")
        for stage, last, remainder in (("phase 1", False, 0), ("phase 2", True, 0), ("drawn", True, given.remainder)):
            if remainder:
                method = kind(HetCompOptions(remainder=remainder), knowledge, student, 0)
            stand_at(method, last)
            assert method.in_fine_order == last
            seconds[stage], distinct = step_seconds(method, model, history, given.batch, given.steps)
            note(stage)
    return {
        "users": users, "items": items, "interactions": len(history.items), "bytes_on_disk": on_disk,
        "seconds": seconds, "distinct_users_a_step": distinct, "peak_bytes": peaks,
        "bytes_of_a_matrix": 4 * users * items,
    }  # fmt: skip


def exponents(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return a and b of the fits c users^a items^b; empty where the sizes do not tell the two apart."""
    sizes = np.log([[row["users"], row["items"]] for row in rows])
    design = np.column_stack([np.ones(len(rows)), sizes])
    if np.linalg.matrix_rank(design) < 3:
        return {}
    numbers = {
        "bytes on disk": [row["bytes_on_disk"] for row in rows],
        **{f"seconds, {stage}": [row["seconds"][stage] for row in rows] for stage in rows[0]["seconds"]},
        **{f"memory, {stage}": [row["peak_bytes"][stage] for row in rows] for stage in rows[0]["peak_bytes"]},
        "users x items": [row["bytes_of_a_matrix"] for row in rows],
    }
    fits = {}
    for name, values in numbers.items():
        found = np.linalg.lstsq(design, np.log(np.maximum(values, 1e-9)), rcond=None)[0]
        fits[name] = (round(float(found[1]), 2), round(float(found[2]), 2))
    return fits


def table(rows: list[dict[str, Any]], remainder: int) -> str:
    """Return the table as Markdown."""
    shown = [
        [
            f"{row['users']:,} x {row['items']:,}", f"{row['bytes_on_disk'] / 1e6:.1f}",
            *(f"{row['seconds'][stage]:.2f}" for stage in ("rankings", "order", "schedule", "merge")),
            *(f"{1e3 * row['seconds'][stage]:.0f}" for stage in ("phase 1", "phase 2", "drawn")),
            f"{row['distinct_users_a_step']:,}", *(f"{peak / 2**20:.0f}" for peak in row["peak_bytes"].values()),
            f"{row['bytes_of_a_matrix'] / 2**20:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    drawn = f"phase 2, {remainder} drawn"
    headers = [
        "users x items", "rankings (MB)", "rankings (s)", "order (s)", "schedule step (s)", "merge (s)",
        "step, phase 1 (ms)", "phase 2 (ms)",
        f"{drawn} (ms)", "distinct users a step", "memory: rankings (MiB)", "order (MiB)",
        "schedule (MiB)", "merge (MiB)", "phase 1 (MiB)", "phase 2 (MiB)", f"{drawn} (MiB)",
        "one users x items matrix (MiB)",
    ]  # fmt: skip
    return str(tabulate(shown, headers=headers, tablefmt="github", disable_numparse=True))


def fitted(fits: dict[str, tuple[float, float]]) -> str:
    """Return the exponents as Markdown."""
    return str(tabulate([[name, *both] for name, both in fits.items()], ["", "users", "items"], tablefmt="github"))


def main() -> None:
    """Measure every size in its own process and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES, help="users x items of each size, comma-separated")
    parser.add_argument("--teacher_size", type=int, default=64)
    parser.add_argument("--student_size", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2048, help="rows of a training step")
    parser.add_argument("--steps", type=int, default=10, help="training steps of which the median is taken")
    parser.add_argument("--remainder", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="where the rankings are written for the while")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.one:
        users, items = map(int, given.one.split("x"))
        print(json.dumps(measure(users, items, given)))
        return
    rows = []
    for size in given.sizes.split(","):
        run = [sys.executable, __file__, *sys.argv[1:], f"--one={size}"]
        answer = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(answer.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    fits = exponents(rows)
    print(table(rows, given.remainder))
    if fits:
        print(f"\nExponents of a fit number = c users^a items^b:\n\n{fitted(fits)}")
    if given.out:
        # Folders of this machine are none of the readers' business.
        kept = [argument for argument in sys.argv[1:] if not argument.startswith(("--folder", "--out"))]
        record = {
            "rows": rows, "exponents": fits, "command": " ".join(["python tests/benchmarks/hetcomp.py", *kept]),
            "versions": versions(),
        }  # fmt: skip
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
