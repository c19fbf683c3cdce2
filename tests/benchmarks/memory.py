"""Peak memory of an epoch with distillation, against the same epoch of the plain student, each in a process of its own.

    python tests/benchmarks/memory.py --data_path=dataset --dataset=citeulike --benchmark_filename
    python tests/benchmarks/memory.py                                         # made-up data of CiteULike's size

The teacher's knowledge is on disk before the measured process starts, as in a second run on the same teacher.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from epochs import knowledge_of_untrained, settings
from power_law import write_power_law
from tabulate import tabulate

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.report.environment import peak_rss_bytes
from recbole_derrd.student.model import build_student
from recbole_derrd.teacher import GivenTeacher, StoredKnowledge
from recbole_derrd.training.trainer import trainer_for


def one_epoch(given: argparse.Namespace, model: str, distillers: list[str], temporary: str, answer: Any) -> None:
    """Train an epoch and tell this process's peak memory and the bytes of its experts."""
    os.chdir(temporary)
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    config = DistillConfig(
        model, given.dataset, config_dict=settings(given, given.student_size, distillers, "all", temporary)
    )
    data = prepare_data(config)
    knowledge = StoredKnowledge(
        Path(temporary) / f"knowledge-{model}", GivenTeacher(lambda: None, ("embedding",)), data.history
    )
    trainer = trainer_for(config, build_student(config, data, knowledge))
    trainer._train_epoch(data.train, 0)
    experts = sum(parameter.numel() for parameter in trainer.model.distillers.parameters())
    answer.put((peak_rss_bytes(), 4 * experts))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="powerlaw")
    parser.add_argument("--data_path")
    parser.add_argument("--benchmark_filename", action="store_true")
    parser.add_argument("--student_size", type=int, default=20)
    parser.add_argument("--teacher_size", type=int, default=200)
    given = parser.parse_args()
    given.temperature, given.sample, given.listwise_top_n, given.gpu_id = 1.0, 1.0, 0, ""
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        if given.data_path is None:
            write_power_law(Path(temporary), given.dataset, 5_219, 25_181, 125_580)
        given.data_path = os.path.abspath(given.data_path or temporary)
        here = os.getcwd()
        os.chdir(temporary)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            knowledge, _ = knowledge_of_untrained(given, "BPR", temporary)
            rankings = knowledge.top_items(500).nbytes
            embeddings = sum(knowledge.embeddings(side, "embedding").nbytes for side in ("user", "item"))
        os.chdir(here)
        rows: list[list[Any]] = []
        plain = 0
        for name, distillers in (("student", []), ("RRD", ["rrd"]), ("DE", ["de"]), ("DE-RRD", ["de", "rrd"])):
            answer = processes.SimpleQueue()
            process = processes.Process(target=one_epoch, args=(given, "BPR", distillers, temporary, answer))
            process.start()
            peak, experts = answer.get()
            process.join()
            plain = plain or peak
            kept = (rankings if "rrd" in distillers else 0) + experts
            extra = peak - plain
            shown = [f"{value / 2**20:.0f}" for value in (peak, extra, kept, embeddings if "de" in distillers else 0)]
            rows.append([name, *shown, f"{extra / kept:.1f}x" if kept else "-"])
    headers = ["BPR epoch of", "peak (MiB)", "over the student", "rankings + experts", "teacher's embeddings", "ratio"]
    print(tabulate(rows, headers=headers))


if __name__ == "__main__":
    main()
