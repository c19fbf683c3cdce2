"""Seconds of an epoch with distillation, against RecBole's own epoch of the same plain student.

    python tests/benchmarks/epochs.py                                         # made-up data of CiteULike's size
    python tests/benchmarks/epochs.py --data_path=dataset --dataset=citeulike --benchmark_filename

All variants run in one process on one thread, one epoch each in turn, so that the ratios hold on a noisy machine.
The teacher is untrained: its quality does not change the time.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from power_law import write_power_law
from recbole.trainer import Trainer
from tabulate import tabulate

from recbole_derrd.backbones import backbone_of
from recbole_derrd.config import DistillConfig
from recbole_derrd.data import prepare_data
from recbole_derrd.model import build_student
from recbole_derrd.record import peak_rss_bytes, versions
from recbole_derrd.teacher import Knowledge
from recbole_derrd.trained import build_model, freeze
from recbole_derrd.trainer import trainer_for

METHODS: dict[str, list[str]] = {"RRD": ["rrd"], "DE": ["de"], "DE-RRD": ["de", "rrd"]}


def settings(given: argparse.Namespace, size: int, distillers: list[str], temporary: str) -> dict[str, Any]:
    """Settings of one variant."""
    return {
        "data_path": given.data_path, "load_col": {"inter": ["user_id", "item_id"]}, "embedding_size": size,
        "train_batch_size": 1024, "distillers": distillers, "checkpoint_dir": temporary, "show_progress": False,
        "de_temperature_start": given.temperature, "gpu_id": given.gpu_id,
        "benchmark_filename": ["train", "valid", "test"] if given.benchmark_filename else None,
    }  # fmt: skip


def measure(given: argparse.Namespace, model: str, temporary: str) -> tuple[list[list[Any]], dict[str, float]]:
    """Return the table's rows of one model, and the seconds of building its knowledge."""
    teacher_config = DistillConfig(model, given.dataset, config_dict=settings(given, given.teacher_size, [], temporary))
    data = prepare_data(teacher_config)
    teacher = freeze(build_model(teacher_config, data))
    adapter = backbone_of(teacher)
    knowledge = Knowledge(
        Path(temporary) / f"knowledge-{model}", lambda: adapter, data.history, teacher_hints=adapter.hints
    )
    seconds = {}
    for what, make in (
        ("lists", lambda: knowledge.top_items(500)),
        ("vectors", lambda: (knowledge.vectors("user", adapter.hints[0]), knowledge.vectors("item", adapter.hints[0]))),
    ):
        started = time.perf_counter()
        make()
        seconds[what] = time.perf_counter() - started

    trainers: dict[str, tuple[Any, Any]] = {}
    for name, size, distillers in (
        ("stock student", given.student_size, []),
        ("stock teacher", given.teacher_size, []),
        *((method, given.student_size, names) for method, names in METHODS.items()),
    ):
        config = DistillConfig(model, given.dataset, config_dict=settings(given, size, distillers, temporary))
        own = prepare_data(config)
        if name.startswith("stock"):
            trainers[name] = Trainer(config, build_model(config, own)), own.train
        else:
            trainers[name] = trainer_for(config, build_student(config, own, knowledge)), own.train
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for epoch in range(given.epochs + 1):
        for name, (trainer, train) in trainers.items():
            started = time.perf_counter()
            trainer._train_epoch(train, epoch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if epoch:
                times[name].append(time.perf_counter() - started)
            print(f"{model} epoch {epoch} {name}: {time.perf_counter() - started:.2f} s", flush=True)
    if model == "BPR":
        print(
            f"DE's matrix products alone: {products_alone(given, trainers['stock student'][1]):.1f} s an epoch",
            flush=True,
        )
    base = times["stock student"]
    rows = []
    for name, own_times in times.items():
        ratio = statistics.median(one / other for one, other in zip(own_times, base))
        rows.append([model, name, f"{statistics.median(own_times):.2f}", f"{ratio:.2f}x"])
    return rows, seconds


def products_alone(given: argparse.Namespace, train: Any) -> float:
    """Return the seconds of DE's six matrix products in an epoch, on the distinct entities of its first batch."""
    batch = next(iter(train))
    rows = sum(len(batch[column].unique()) for column in ("user_id", "item_id", "neg_item_id"))
    small, large, experts = given.student_size, given.teacher_size, 30
    width = experts * ((small + large) // 2)
    shapes = [
        (rows, small, width), (rows, width, large),
        (rows, large, width), (width, rows, large), (rows, width, small), (small, rows, width),
    ]  # fmt: skip
    seconds = 0.0
    for left, inner, right in shapes:
        one, other, out = torch.randn(left, inner), torch.randn(inner, right), torch.empty(left, right)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            torch.mm(one, other, out=out)
            times.append(time.perf_counter() - started)
        seconds += statistics.median(times)
    return seconds * len(train)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="powerlaw")
    parser.add_argument("--data_path")
    parser.add_argument("--benchmark_filename", action="store_true")
    parser.add_argument("--models", default="BPR,LightGCN")
    parser.add_argument("--student_size", type=int, default=20)
    parser.add_argument("--teacher_size", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=1.0, help="DE's first temperature; small is late training")
    parser.add_argument("--gpu_id", default="")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        data_path = given.data_path or str(write_power_law(Path(temporary), given.dataset, 5_219, 25_181, 125_580))
        given.data_path = os.path.abspath(data_path)
        os.chdir(temporary)
        rows, built = [], []
        for model in given.models.split(","):
            own, seconds = measure(given, model, temporary)
            rows += own
            built.append([model, *(f"{value:.2f}" for value in seconds.values())])
    print(tabulate(rows, headers=["model", "epoch of", "seconds (median)", "against stock student"]))
    print()
    print(tabulate(built, headers=["teacher", "top-500 lists (s)", "vectors (s)"]))
    print(f"\npeak memory {peak_rss_bytes() / 2**20:.0f} MiB, {given.epochs} epochs, one thread, {versions()}")


if __name__ == "__main__":
    main()
