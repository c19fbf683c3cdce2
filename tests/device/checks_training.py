"""Whole runs: the device against the CPU from the same start, checkpoints and resumption, several processes."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmarks.power_law import write_power_law
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import init_seed

from device.plan import Bench, Check, FailedError, SkippedError, kept_environment, relative_error, within
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.experiment.teachers import knowledge_of, teachers_of
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.recbole_compat.models import model_class
from recbole_derrd.runtime.processes import start
from recbole_derrd.student.model import DistilledMixin, build_student
from recbole_derrd.training.checkpoint import read_checkpoint
from recbole_derrd.training.trainer import trainer_for

#: Steps from one start whose losses are compared, and how far they may be apart: rounding grows with each step.
STEPS, LOSS_BOUND = 20, 1e-3
#: How far NDCG@10 and Recall@10 may be apart after a few epochs on ml-100k. Seeds differ by 0.003 to 0.01 there.
METRIC_BOUND = 0.01
#: How far resumed weights may be from uninterrupted ones where an operation of the device is not deterministic.
RESUMED_BOUND = 1e-3

#: Whole runs: the student's model and further settings.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "BPR + DE + RRD": ("BPR", {"distillers": ["de", "rrd"]}),
    "BPR": ("BPR", {}),
    "NeuMF": ("NeuMF", {"fast": "all", "dropout_prob": 0.0, "mf_embedding_size": 16, "mlp_embedding_size": 16}),
    "LightGCN": ("LightGCN", {"fast": "all", "n_layers": 2}),
    "BPR + HetComp": ("BPR", {"distillers": ["hetcomp"], "teachers": ["BPR", "LightGCN"], "hetcomp_interval": 1,
                              "split_seed": 1}),
    "BPR + listwise": ("BPR", {"distillers": ["listwise"]}),
    "LightGCN + NKD + CPD + SLD": ("LightGCN", {"distillers": ["nkd", "cpd", "sld"], "n_layers": 2,
                                                 "warm_start": "svd"}),
    "BPR in 2 bits": ("BPR", {"distillers": ["listwise"], "student_bits": 2, "warm_start": "svd"}),
    "BPR in codebooks": ("BPR", {"distillers": ["listwise"], "student_codebooks": 4, "warm_start": "svd"}),
    "LightGCN in 4 bits": ("LightGCN", {"distillers": ["rrd"], "student_bits": 4, "n_layers": 2}),
}  # fmt: skip
#: What makes methods fit the small data.
_SMALL = {
    "rrd_k": 4, "rrd_l": 6, "rrd_top_n": 20, "de_num_experts": 3, "sld_k": 4, "sld_l": 6, "sld_top_n": 20,
    "cpd_num_experts": 3, "hetcomp_k": 10, "hetcomp_top_n": 20,
    "hetcomp_discrepancy_k": 10, "teacher_snapshots": 2,
}  # fmt: skip


def data_of(bench: Bench) -> dict[str, Any]:
    """Return the settings of the data: RecBole's own copy of ml-100k, or made-up ones in the small form."""
    if not bench.small:
        return {"dataset": "ml-100k", "embedding_size": 32, "teacher": {"embedding_size": 128}}
    folder = bench.folder / "data"
    if not (folder / "small").is_dir():
        write_power_law(folder, "small", 120, 150, 1500)
    return {"dataset": "small", "data_path": str(folder), "embedding_size": 8, **_SMALL}


def _settings(bench: Bench, more: dict[str, Any]) -> dict[str, Any]:
    own = {**data_of(bench), "epochs": 2 if bench.small else 5, "compare_student": False, **more}
    if "teachers" in more:
        own.pop("teacher", None)
    return own


# -- from the same start


def training_checks(bench: Bench) -> Iterator[Check]:
    """Yield one check for each whole run; the small form makes the first."""
    runs = dict(list(RUNS.items())[:1]) if bench.small else RUNS
    for name, (model, settings) in runs.items():
        yield Check(f"training/{name}", 15, functools.partial(check_run, bench, model, settings))


@contextlib.contextmanager
def _spied(steps: list[float]) -> Iterator[None]:
    own = DistilledMixin.calculate_loss

    def spied(self: Any, *args: Any, **kwargs: Any) -> Any:
        losses = own(self, *args, **kwargs)
        if len(steps) < STEPS:
            steps.append(float(sum(losses) if isinstance(losses, tuple) else losses))
        return losses

    with mock.patch.object(DistilledMixin, "calculate_loss", spied):
        yield


def check_run(bench: Bench, model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Compare a run on the device with one on the CPU; both find the same teacher, which the CPU has trained."""
    if bench.kind == "pretend" and "LightGCN" in model:
        raise SkippedError("sparse tensors are not pretended")
    steps: list[list[float]] = []
    records = []
    for on_device in (False, True):
        steps.append([])
        own = bench.settings(on_device=on_device, **_settings(bench, settings))
        with kept_environment(), bench.noise_of_the_cpu(), _spied(steps[-1]):
            records.append(run_recbole_derrd(model, own.pop("dataset"), config_dict=own))
    return compare_runs(steps, records)


def compare_runs(steps: list[list[float]], records: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the first losses and the metrics of two runs."""
    if not steps[0] or len(steps[0]) != len(steps[1]):
        raise FailedError(f"{len(steps[1])} first losses on the device, {len(steps[0])} on the CPU")
    difference = max(abs(one - other) / abs(one) for one, other in zip(*steps))
    ours, theirs = (record["distilled"]["test"] for record in reversed(records))
    numbers = {
        "first losses": difference,
        "metrics": max(abs(ours[name] - value) for name, value in theirs.items()),
        "NDCG@10": ours["ndcg@10"],
        "NDCG@10 on the CPU": theirs["ndcg@10"],
    }
    within(numbers, {"first losses": LOSS_BOUND, "metrics": METRIC_BOUND})
    return numbers


# -- checkpoints


def checkpoint_checks(bench: Bench) -> Iterator[Check]:
    """Yield the checks of checkpoints and resumption."""
    yield Check("checkpoint/resumed", 15, functools.partial(resumed, bench))
    yield Check("checkpoint/between devices", 10, functools.partial(between_devices, bench))
    yield Check("checkpoint/read by stock RecBole", 10, functools.partial(read_by_stock, bench))


class _KilledError(Exception):
    """Stands for the end of a process."""


def made(bench: Bench, checkpoint: Path, *, on_device: bool = True, **more: Any) -> tuple[Any, Any]:
    """Return a trainer of a distilled student, and its data; DE draws noise in every step."""
    settings = {"epochs": 4, "checkpoint_step": 1, "distillers": ["de", "rrd"], **more}
    config = bench.config("BPR", on_device=on_device, **_settings(bench, settings))
    with kept_environment():
        data = prepare_data(config)
        knowledge = knowledge_of(config, teachers_of(config, data), data)
        data = prepare_data(config)
        student = build_student(config, data, knowledge)
    return trainer_for(config, student, checkpoint=checkpoint), data


def _interrupted(bench: Bench, checkpoint: Path, **more: Any) -> Any:
    def kill(epoch: int, _: float) -> None:
        if epoch == 1:
            raise _KilledError

    first, data = made(bench, checkpoint, **more)
    with contextlib.suppress(_KilledError):
        first.fit(data.train, data.valid, callback_fn=kill)
    return first


def resumed(bench: Bench) -> dict[str, Any]:
    """An interrupted training that is gone on with ends as an uninterrupted one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            whole, data = made(bench, bench.folder / "whole.pth")
            whole.fit(data.train, data.valid)
            _interrupted(bench, bench.folder / "part.pth")
            torch.manual_seed(12345)
            second, data = made(bench, bench.folder / "part.pth")
            second.resume_checkpoint(second.training_file)
            second.fit(data.train, data.valid)
        finally:
            torch.use_deterministic_algorithms(False)
    others = sorted({str(one.message).split(" does not")[0] for one in caught if "deterministic" in str(one.message)})
    states = [{name: part.cpu() for name, part in one.model.state_dict().items()} for one in (whole, second)]
    numbers = {
        "to the bit": all(torch.equal(states[1][name], part) for name, part in states[0].items()),
        "difference": max(relative_error(states[1][name], part) for name, part in states[0].items()),
        "epochs after": len(second.train_loss_dict) - 2,
    }
    within(numbers, {"difference": RESUMED_BOUND if others else 0.0})
    return {**numbers, "note": f"not deterministic there: {', '.join(others)}"[:300] if others else ""}


def between_devices(bench: Bench) -> dict[str, Any]:
    """What one device has written the other reads: the student's weights, and a training to go on with."""
    numbers = {}
    for here, there in ((True, False), (False, True)):
        name = "to the CPU" if here else "to the device"
        first = _interrupted(bench, bench.folder / f"{name}.pth", on_device=here)
        second, data = made(bench, bench.folder / f"{name}.pth", on_device=there)
        second.load_best()
        score = second.evaluate(data.valid, load_best_model=False)["ndcg@10"]
        numbers[f"NDCG {name}"] = abs(score - first.best_valid_score)
        second.resume_checkpoint(second.training_file)
        second.fit(data.train, data.valid)
        if len(second.train_loss_dict) != 4:
            raise FailedError(f"{name}: {len(second.train_loss_dict)} epochs instead of 4")
    within(numbers, dict.fromkeys(numbers, METRIC_BOUND))
    return numbers


def read_by_stock(bench: Bench) -> dict[str, Any]:
    """Stock RecBole's classes load the student, on the CPU, and measure what the run has measured."""
    own = bench.settings(**_settings(bench, {"distillers": ["de", "rrd"]}))
    with kept_environment():
        record = run_recbole_derrd("BPR", own.pop("dataset"), config_dict=own)
    file = record["checkpoints"]["student"]
    names = [key for key in read_checkpoint(file)["state_dict"] if key.startswith("distillers")]
    if names:
        raise FailedError(f"the student's file holds {names[0]}")
    # RecBole's own reader calls torch.load with its defaults, which refuse its own files.
    with mock.patch.dict("os.environ", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"), mock.patch.object(sys, "argv", ["stock"]):
        config = torch.load(file, weights_only=False, map_location="cpu")["config"]
        if type(config).__module__ != "recbole.config.configurator":
            raise FailedError(f"the file's configuration is a {type(config)}")
        config["device"] = torch.device("cpu")
        init_seed(config["seed"], config["reproducibility"])
        train, _, test = data_preparation(config, create_dataset(config))
        trainer = Trainer(config, model_class("BPR")(config, train._dataset))
        trainer.eval_collector.data_collect(train)
        found = dict(trainer.evaluate(test, model_file=file))
    wanted = record["distilled"]["test"]
    # Equal scores in another order, at most.
    numbers = {"metrics": max(abs(float(found[name]) - value) for name, value in wanted.items())}
    within(numbers, {"metrics": 1e-3})
    return numbers


# -- several processes


def process_checks(bench: Bench) -> Iterator[Check]:
    """Yield the check of two processes."""
    yield Check("processes/two", 30, functools.partial(two_processes, bench))


def two_processes(bench: Bench) -> dict[str, Any]:
    """Two processes train one model on two cards (or on the CPU): one set of weights, metrics of one process."""
    if bench.kind == "pretend" or (bench.kind == "cuda" and torch.cuda.device_count() < 2):
        raise SkippedError("it needs two cards")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    meeting = {"nproc": 2, "world_size": 2, "ip": "localhost", "port": str(port), "offset": 0}
    cards = {"gpu_id": "0,1"} if bench.kind == "cuda" else {}
    small = {**bench.settings(**_settings(bench, {"epochs": 2})), **meeting, **cards}
    answer = start(in_one_process, 2, small)
    assert answer is not None
    told = json.loads(answer)
    if len(set(told["weights"])) != 1 or told["results"][0] != told["results"][1]:
        raise FailedError(f"two models: {told}")
    own = bench.config("BPR", **_settings(bench, {}))
    with kept_environment():
        data = prepare_data(own)
        trainer = trainer_for(own, build_student(own, data, _no_knowledge(data)))
    trainer.eval_collector.data_collect(data.train)
    alone = trainer.evaluate(data.test, model_file=told["checkpoint"])
    numbers = {"metrics": max(abs(told["results"][0][name] - float(value)) for name, value in alone.items())}
    within(numbers, {"metrics": 0.0 if bench.kind == "cpu" else 1e-3})
    return numbers


def _no_knowledge(data: Any) -> Any:
    from recbole_derrd.teacher import NoTeacher, StoredKnowledge

    return StoredKnowledge(Path(), NoTeacher(), data.history)


def in_one_process(local_rank: int, settings: dict[str, Any]) -> str:
    """Train a plain model as one of several processes; the metrics may need more than the best items (GAUC)."""
    import hashlib
    import logging

    from recbole_derrd.config.distill_config import DistillConfig
    from recbole_derrd.runtime.processes import all_gather

    logging.disable(logging.CRITICAL)
    more = {"local_rank": local_rank, "metrics": ["NDCG", "Recall", "GAUC"]}
    config = DistillConfig("BPR", config_dict={**settings, **more})
    data = prepare_data(config)
    trainer = trainer_for(config, build_student(config, data, _no_knowledge(data)))
    trainer.fit(data.train, data.valid)
    results = {name: float(value) for name, value in trainer.evaluate(data.test).items() if name != "gauc"}
    digest = hashlib.sha256()
    for parameter in trainer.model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    weights = all_gather(digest.hexdigest())
    return json.dumps({"weights": weights, "results": all_gather(results), "checkpoint": trainer.saved_model_file})
