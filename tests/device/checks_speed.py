"""Epoch times of every method and of stock RecBole, top-N rankings and full ranking, at the size of known data sets."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from typing import Any, Callable

import numpy as np
import torch
from benchmarks.power_law import write_power_law
from recbole.trainer import Trainer

from device.checks_fast import places_moved
from device.plan import Bench, Check, SkippedError, kept_environment, within
from recbole_derrd.adapters import adapter_of
from recbole_derrd.data.loaders import catalogue_sized, whole_batches
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.model_cache.building import build_model, freeze
from recbole_derrd.registry import METHODS
from recbole_derrd.student.model import build_student
from recbole_derrd.teacher import BuildSettings, GivenTeacher, StoredKnowledge
from recbole_derrd.teacher.exact import ExactSearch
from recbole_derrd.training.trainer import trainer_for

#: (users, items, interactions) of the made-up data.
SIZES = {"citeulike": (5_551, 15_980, 210_000), "gowalla": (29_858, 40_981, 1_030_000)}
_SMALL = (120, 250, 2_000)
#: Dimensions of student and teacher.
STUDENT, TEACHER = 20, 200
#: Snapshots of each teacher for methods that follow them.
SNAPSHOTS = 3
#: Methods that are measured together, beside each one alone.
PUBLISHED_TOGETHER = (("de", "rrd"), ("nkd", "cpd", "sld"))
#: Steps before the clock starts, and steps that are timed.
WARM_UP, TIMED = 5, 30
#: Users whose rankings are compared with the CPU's.
_COMPARED = 512


class FirstBatches:
    """A loader's first batches; tells how long all but the first few took, with all that the trainer does for them."""

    shuffle = False

    def __init__(self, loader: Any, wait: Callable[[], None], warm_up: int, timed: int) -> None:
        self.loader, self.wait, self.warm_up = loader, wait, min(warm_up, max(0, len(loader) - 2))
        self.timed = min(timed, len(loader) - 1 - self.warm_up)
        self.seconds = 0.0

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.warm_up + self.timed

    def __iter__(self) -> Iterator[Any]:
        """Yield them; the next one is asked for when the trainer is through with a step."""
        started = 0.0
        for index, batch in enumerate(itertools.islice(iter(self.loader), len(self) + 1)):
            if index == self.warm_up:
                self.wait()
                started = time.perf_counter()
            if index == len(self):
                self.wait()
                self.seconds = (time.perf_counter() - started) / self.timed
                return
            yield batch


class Hall:
    """Data of one size, what an untrained teacher knows, and the plain students' epochs; each made when asked for."""

    def __init__(self, bench: Bench, size: str) -> None:
        self.bench, self.size = bench, size
        self.plain: dict[tuple[str, str], float] = {}

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the settings of a model on these data."""
        users, items, interactions = _SMALL if self.bench.small else SIZES[self.size]
        folder = self.bench.folder / "data"
        if not (folder / self.size).is_dir():
            write_power_law(folder, self.size, users, items, interactions)
        small = {"train_batch_size": 128, "sld_k": 4, "sld_l": 6, "hetcomp_k": 10,
                 "rrd_k": 4, "rrd_l": 6, "ir_rrd_k": 4, "ir_rrd_l": 4, "ir_rrd_item_k": 2, "ir_rrd_item_l": 2,
                 "cd_n_distill": 10} if self.bench.small else {}  # fmt: skip
        own = {"dataset": self.size, "data_path": str(folder), "embedding_size": STUDENT, "n_layers": 2}
        return {**own, **small, "rd_start_epoch": 0, **more}

    @functools.cached_property
    def stock_data(self) -> Any:
        """Return the data in stock RecBole's loaders."""
        with kept_environment():
            return prepare_data(self.bench.config("BPR", **self.settings(fast="none")))

    @functools.cached_property
    def data(self) -> Any:
        """Return the same data in this package's loaders."""
        stock = self.stock_data
        valid, test = catalogue_sized(stock.valid), catalogue_sized(stock.test)
        return dataclasses.replace(stock, train=whole_batches(stock.train), valid=valid, test=test)

    def adapter(self, *, on_device: bool = True) -> Any:
        """Return an untrained teacher."""
        config = self.bench.config("BPR", on_device=on_device, **self.settings(embedding_size=TEACHER))
        return adapter_of(freeze(build_model(config, self.data)))

    @functools.cached_property
    def knowledge(self) -> StoredKnowledge:
        """Return what such a teacher knows; its earlier versions are itself."""
        adapter = self.adapter()
        teacher = GivenTeacher(lambda: adapter, adapter.hints, earlier=(lambda: adapter,) * (SNAPSHOTS - 1))
        folder = self.bench.folder / f"knowledge-{self.size}"
        return StoredKnowledge(folder, teacher, self.data.history, BuildSettings(snapshots=SNAPSHOTS))

    def epoch(self, model: str, methods: tuple[str, ...], *, stock: bool = False, last_phase: bool = False) -> Any:
        """Return the seconds of a step and of the begin of an epoch, and the number of steps."""
        fast = "none" if stock else "all"
        config = self.bench.config(model, **self.settings(fast=fast, distillers=list(methods)))
        data = self.stock_data if stock else self.data
        if stock:
            trainer = Trainer(config, build_model(config, data))
        else:
            trainer = trainer_for(config, build_student(config, data, self.knowledge))
        if last_phase:
            _end_phases(trainer.model)
        begin = 0.0
        for epoch in range(2) if methods else ():
            self.bench.synchronize()
            started = time.perf_counter()
            trainer.model.begin_epoch(epoch)
            self.bench.synchronize()
            begin = time.perf_counter() - started
        trainer.model.begin_epoch = lambda _: None
        warm_up, timed = (1, 2) if self.bench.small else (WARM_UP, TIMED)
        batches = FirstBatches(data.train, self.bench.synchronize, warm_up, timed)
        trainer._train_epoch(batches, 0)
        return batches.seconds, begin, len(data.train)


def _end_phases(model: Any) -> None:
    """Bring methods that go through phases to their last one."""
    for distiller in model.distillers:
        if hasattr(distiller, "in_fine_order"):
            state = distiller.state_dict()
            state["snapshot"][:] = (distiller.counts - 1).to(state["snapshot"].device)
            state["finished"].fill_(True)
            distiller.load_state_dict(state)


# -- epochs


def speed_checks(bench: Bench, size: str) -> Iterator[Check]:
    """Yield one check for each student, the plain ones first; the small form has one size."""
    if bench.small and size != "citeulike":
        return
    hall = _hall(bench, size)
    large = 1.0 if size == "citeulike" else 2.5
    models = ("BPR",) if bench.small or bench.kind == "pretend" else ("BPR", "LightGCN")
    for model in models:
        for name, stock in ((f"{model}, stock RecBole", True), (model, False)):
            run = functools.partial(plain_epoch, hall, model, stock)
            yield Check(f"speed/{size}/{name}", 8 * large, run)
    alone = [(method,) for method in METHODS]
    for methods in (*PUBLISHED_TOGETHER[:1], *alone, *PUBLISHED_TOGETHER[1:]):
        name = " + ".join(("BPR", *methods))
        yield Check(f"speed/{size}/{name}", 4 * large, functools.partial(method_epoch, hall, "BPR", methods))
    late = functools.partial(method_epoch, hall, "BPR", ("hetcomp",), last_phase=True)
    yield Check(f"speed/{size}/BPR + hetcomp, last phase", 4 * large, late)
    for model in models[1:]:
        run = functools.partial(method_epoch, hall, model, PUBLISHED_TOGETHER[0])
        yield Check(f"speed/{size}/{model} + {' + '.join(PUBLISHED_TOGETHER[0])}", 4 * large, run)


@functools.cache
def _hall_of(size: str, identity: int) -> list[Hall]:
    return []


def _hall(bench: Bench, size: str) -> Hall:
    """Return the one hall of a size: search and speed share its data."""
    kept = _hall_of(size, id(bench))
    if not kept:
        kept.append(Hall(bench, size))
    return kept[0]


def _numbers(hall: Hall, seconds: float, begin: float, steps: int) -> dict[str, Any]:
    return {
        "step ms": 1000 * seconds,
        "begin s": begin,
        "epoch s": begin + steps * seconds,
        "steps": steps,
        "peak MiB": hall.bench.peak_mib(),
    }


def plain_epoch(hall: Hall, model: str, stock: bool) -> dict[str, Any]:
    """Measure a plain student."""
    hall.data  # noqa: B018 (made before the clock and the memory are looked at)
    hall.bench.forget_peak()
    numbers = _numbers(hall, *hall.epoch(model, (), stock=stock))
    hall.plain[model, "stock" if stock else "plain"] = numbers["epoch s"]
    history = hall.data.history
    about = f"{history.n_users - 1:,} users, {history.n_items - 1:,} items, {len(history.items):,} training pairs."
    return {**numbers, **_ratios(hall, model, numbers["epoch s"]), "data": about}


def method_epoch(hall: Hall, model: str, methods: tuple[str, ...], *, last_phase: bool = False) -> dict[str, Any]:
    """Measure a student with methods."""
    hall.bench.forget_peak()
    numbers = _numbers(hall, *hall.epoch(model, methods, last_phase=last_phase))
    return {**numbers, **_ratios(hall, model, numbers["epoch s"])}


def _ratios(hall: Hall, model: str, seconds: float) -> dict[str, Any]:
    known = {name: hall.plain.get((model, name)) for name in ("plain", "stock")}
    return {f"to {name}": seconds / value for name, value in known.items() if value}


# -- rankings and full ranking


def search_checks(bench: Bench, size: str) -> Iterator[Check]:
    """Yield the checks of top-N rankings and of full ranking."""
    if bench.small and size != "citeulike":
        return
    hall = _hall(bench, size)
    seconds = 15.0 if size == "citeulike" else 45.0
    yield Check(f"search/{size}, rankings", seconds, functools.partial(rankings, hall))
    for model in ("BPR", "NeuMF") if size == "citeulike" else ("BPR",):
        yield Check(f"search/{size}, full ranking of {model}", seconds, functools.partial(ranking, hall, model))


def rankings(hall: Hall) -> dict[str, Any]:
    """Find every user's list on the device; compare those of some users with the CPU's."""
    bench, history, count = hall.bench, hall.data.history, 20 if hall.bench.small else 500
    found = _lists_of(hall.adapter(), history, count, history.n_users)  # warm
    bench.forget_peak()
    bench.synchronize()
    started = time.perf_counter()
    found = _lists_of(hall.adapter(), history, count, history.n_users)
    seconds = time.perf_counter() - started
    peak = bench.peak_mib()
    adapter = hall.adapter(on_device=False)
    compared = min(_COMPARED, history.n_users)
    started = time.perf_counter()
    wanted = _lists_of(adapter, history, count, compared)
    on_cpu = (time.perf_counter() - started) * history.n_users / compared
    with torch.no_grad():
        scores = adapter.score_all(torch.arange(1, compared))
    numbers = places_moved(torch.from_numpy(found[: compared - 1]), torch.from_numpy(wanted), scores)
    return {**numbers, "seconds": seconds, "seconds on the CPU": on_cpu, "peak MiB": peak}


@torch.no_grad()
def _lists_of(adapter: Any, history: Any, count: int, stop: int) -> np.ndarray[Any, Any]:
    """Return the rankings of users 1 .. stop - 1."""
    search = ExactSearch(adapter, history, count)
    with adapter.shared():
        parts = [search.rankings(low, min(low + search.chunk, stop)).cpu() for low in range(1, stop, search.chunk)]
    return torch.cat(parts).numpy()


def ranking(hall: Hall, model: str) -> dict[str, Any]:
    """Evaluate an untrained model by full ranking, quick and stock, on the device and quick on the CPU."""
    if model == "NeuMF" and hall.bench.small:
        raise SkippedError("the small form ranks with BPR")
    numbers: dict[str, Any] = {}
    metrics: dict[str, dict[str, float]] = {}
    weights = None
    for name, on_device, fast in (("device", True, "all"), ("CPU", False, "all"), ("stock, device", True, "none")):
        if fast == "none" and model != "BPR":
            continue
        config = hall.bench.config(model, on_device=on_device, **hall.settings(fast=fast))
        data = hall.stock_data if fast == "none" else hall.data
        network = build_model(config, data)
        if weights is None:
            weights = {key: value.cpu() for key, value in network.state_dict().items()}
        network.load_state_dict(weights)
        trainer = Trainer(config, network) if fast == "none" else trainer_for(config, network)
        trainer.eval_collector.data_collect(data.train)
        loader = data.valid
        for _ in range(1 if fast == "none" or not on_device else 2):
            hall.bench.synchronize()
            started = time.perf_counter()
            found = trainer.evaluate(loader, load_best_model=False)
            hall.bench.synchronize()
            numbers[f"seconds, {name}"] = time.perf_counter() - started
        metrics[name] = {key: float(value) for key, value in found.items()}
    for name, values in metrics.items():
        if name != "device":
            numbers[f"metrics, {name}"] = max(abs(values[key] - metrics["device"][key]) for key in values)
    within(numbers, {key: 1e-3 for key in numbers if key.startswith("metrics")})
    return numbers
