"""Seconds of an epoch with distillation, against RecBole's own epoch of the same plain student.

    python tests/benchmarks/epochs.py                                         # made-up data of CiteULike's size
    python tests/benchmarks/epochs.py --data_path=dataset --dataset=citeulike --benchmark_filename

All variants run in one process on one thread, one epoch each in turn, so that the ratios hold on a noisy machine.
The teacher is untrained: its quality does not change the time.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from power_law import write_power_law
from recbole.trainer import Trainer
from tabulate import tabulate

from recbole_derrd.adapters import adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.model_cache.building import build_model, freeze
from recbole_derrd.report.environment import peak_rss_bytes, versions
from recbole_derrd.student.model import build_student
from recbole_derrd.teacher import BuildSettings, GivenTeacher, StoredKnowledge
from recbole_derrd.training.trainer import trainer_for

METHODS: dict[str, list[str]] = {
    "RRD": ["rrd"], "DE": ["de"], "DE-RRD": ["de", "rrd"],
    "CD": ["cd"], "DCD": ["dcd"], "RD": ["rd"], "IR-RRD": ["ir_rrd"], "listwise": ["listwise"], "RCE-KD": ["rce_kd"],
    "UnKD": ["unkd"], "FTD": ["ftd"], "HTD": ["htd"], "FreqD": ["freqd"], "NKD": ["nkd"], "CPD": ["cpd"],
    "SLD": ["sld"], "HetComp": ["hetcomp"], "HetComp's last phase": ["hetcomp"],
}  # fmt: skip
#: Settings of one variant alone. Without a trajectory HetComp's first phase is over at once.
OWN: dict[str, dict[str, Any]] = {"HetComp's last phase": {"hetcomp_trajectory": False}}
#: Snapshots of the teacher, for HetComp.
SNAPSHOTS = 4


_CLOCK = time.perf_counter


def settings(given: argparse.Namespace, size: int, distillers: list[str], fast: str, temporary: str) -> dict[str, Any]:
    """Settings of one variant."""
    return {
        "data_path": given.data_path, "load_col": {"inter": ["user_id", "item_id"]}, "embedding_size": size,
        "train_batch_size": 1024, "distillers": distillers, "checkpoint_dir": temporary, "show_progress": False,
        "de_temperature_start": given.temperature, "cpd_temperature_start": given.temperature,
        "htd_temperature_start": given.temperature, "gpu_id": given.gpu_id, "fast": fast, "n_layers": 2,
        "listwise_top_n": given.listwise_top_n, "rd_start_epoch": 0, **shares(given), **given.options,
        "benchmark_filename": ["train", "valid", "test"] if given.benchmark_filename else None,
    }  # fmt: skip


def shares(given: argparse.Namespace) -> dict[str, Any]:
    """Return the share of a batch that every method looks at, where it is not the default."""
    if given.sample is None:
        return {}
    return {f"{name}_sample": given.sample for names in METHODS.values() for name in names} | {"ir_rrd_max_items": 0}


def knowledge_of_untrained(
    given: argparse.Namespace, model: str, temporary: str
) -> tuple[StoredKnowledge, dict[str, float]]:
    """Return the knowledge of an untrained teacher, and the seconds that it took."""
    config = DistillConfig(model, given.dataset, config_dict=settings(given, given.teacher_size, [], "all", temporary))
    data = prepare_data(config)
    adapter = adapter_of(freeze(build_model(config, data)))
    folder = Path(temporary) / f"knowledge-{model}"
    # Its earlier snapshots are itself.
    teacher = GivenTeacher(lambda: adapter, adapter.hints, earlier=(lambda: adapter,) * (SNAPSHOTS - 1))
    knowledge = StoredKnowledge(folder, teacher, data.history, BuildSettings(snapshots=SNAPSHOTS))
    seconds = {}
    for what, make in (
        ("rankings", lambda: knowledge.top_items(500)),
        (
            "embeddings",
            lambda: (knowledge.embeddings("user", adapter.hints[0]), knowledge.embeddings("item", adapter.hints[0])),
        ),
    ):
        started = time.perf_counter()
        make()
        seconds[what] = time.perf_counter() - started
    return knowledge, seconds


def measure(
    given: argparse.Namespace, model: str, temporary: str
) -> tuple[list[list[Any]], list[list[Any]], list[Any]]:
    """Return the tables' rows of one model: epochs, validations, knowledge."""
    knowledge, built = knowledge_of_untrained(given, model, temporary)
    small, large = given.student_size, given.teacher_size
    trainers: dict[str, tuple[Any, Any]] = {}
    for name, size, distillers, fast in (
        ("student, stock RecBole", small, [], "none"),
        ("student, quick steps", small, [], "all"),
        ("teacher, stock RecBole", large, [], "none"),
        ("teacher, quick steps", large, [], "all"),
        *(
            (f"student + {method}", small, names, "all")
            for method, names in METHODS.items()
            if method in given.methods.split(",")
        ),
    ):
        own_settings = OWN.get(name.replace("student + ", ""), {})
        wanted = {**settings(given, size, distillers, fast, temporary), **own_settings}
        config = DistillConfig(model, given.dataset, config_dict=wanted)
        own = prepare_data(config)
        if fast == "none":
            trainers[name] = Trainer(config, build_model(config, own)), own
        else:
            trainers[name] = trainer_for(config, build_student(config, own, knowledge)), own
    epochs: dict[str, list[float]] = {name: [] for name in trainers}
    validations: dict[str, list[float]] = {name: [] for name in trainers if "+" not in name}
    for epoch in range(given.epochs + 1):
        for name, (trainer, data) in trainers.items():
            begun: list[float] = []
            if hasattr(trainer.model, "begin_epoch"):
                trainer.model.begin_epoch = functools.partial(begin, type(trainer.model), trainer.model, begun)
            seconds = timed(functools.partial(trainer._train_epoch, data.train, epoch))
            if epoch:
                epochs[name].append(seconds)
            print(f"{model} epoch {epoch} {name}: {seconds:.2f} s", flush=True)
            if begun:
                print(f"{model} before epoch {epoch}'s batches {name}: {begun[0]:.2f} s of it", flush=True)
            if name in validations and epoch < 3:
                trainer.eval_collector.data_collect(data.train)
                seconds = timed(functools.partial(trainer.evaluate, data.valid, load_best_model=False))
                if epoch:
                    validations[name].append(seconds)
                print(f"{model} validation {epoch} {name}: {seconds:.2f} s", flush=True)
    if model == "BPR":
        data = trainers["student, stock RecBole"][1]
        for experts in (30, 1):
            seconds = products_alone(given, data.train, experts)
            print(f"matrix products alone of {experts} experts a row: {seconds:.2f} s an epoch", flush=True)
    return rows_of(model, epochs), rows_of(model, validations), [model, *(f"{value:.2f}" for value in built.values())]


def begin(of: Any, model: Any, begun: list[float], epoch: int) -> None:
    """Begin an epoch, and append the seconds that it took."""
    begun.append(timed(functools.partial(of.begin_epoch, model, epoch)))


def timed(work: Any) -> float:
    """Return the seconds that this takes."""
    started = _CLOCK()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return _CLOCK() - started


def rows_of(model: str, times: dict[str, list[float]]) -> list[list[Any]]:
    """Return a row a variant: its median, and the median of its ratios to the stock student and the stock teacher."""
    rows = []
    for name, own in times.items():
        ratios = [
            statistics.median(one / other for one, other in zip(own, times[f"{role}, stock RecBole"]))
            for role in ("student", "teacher")
        ]
        rows.append([model, name, f"{statistics.median(own):.2f}", *(f"{ratio:.2f}x" for ratio in ratios)])
    return rows


def products_alone(given: argparse.Namespace, train: Any, experts: int) -> float:
    """Return the seconds of DE's six matrix products in an epoch, on the distinct entities of its first batch."""
    batch = next(iter(train))
    rows = sum(len(batch[column].unique()) for column in ("user_id", "item_id", "neg_item_id"))
    small, large = given.student_size, given.teacher_size
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
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="DE's and CPD's first temperature; small is late"
    )
    parser.add_argument("--sample", type=float, help="share of a batch that every method looks at; default: its own")
    parser.add_argument("--methods", default=",".join(METHODS), help="which students with distillation to measure")
    parser.add_argument("--listwise_top_n", type=int, default=0, help="the teacher's list that listwise reads")
    parser.add_argument("--options", type=yaml.safe_load, default={}, help="more settings of all, {key: value, ...}")
    parser.add_argument("--gpu_id", default="")
    parser.add_argument(
        "--cpu", action="store_true", help="CPU seconds of the process, which a busy machine disturbs less"
    )
    given = parser.parse_args()
    global _CLOCK
    _CLOCK = time.process_time if given.cpu else time.perf_counter
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        data_path = given.data_path or str(write_power_law(Path(temporary), given.dataset, 5_219, 25_181, 125_580))
        given.data_path = os.path.abspath(data_path)
        os.chdir(temporary)
        epochs, validations, built = [], [], []
        for model in given.models.split(","):
            own_epochs, own_validations, own_built = measure(given, model, temporary)
            epochs += own_epochs
            validations += own_validations
            built.append(own_built)
    against = ["against stock student", "against stock teacher"]
    print(tabulate(epochs, headers=["model", "epoch of", "seconds (median)", *against]))
    print()
    print(tabulate(validations, headers=["model", "validation (full ranking) of", "seconds (median)", *against]))
    print()
    print(tabulate(built, headers=["teacher", "top-500 rankings (s)", "embeddings (s)"]))
    print(f"\npeak memory {peak_rss_bytes() / 2**20:.0f} MiB, {given.epochs} epochs, one thread, {versions()}")


if __name__ == "__main__":
    main()
