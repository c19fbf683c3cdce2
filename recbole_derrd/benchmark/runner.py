"""Running the experiments that are not recorded yet, several at once, each in a process that may die alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Callable

from recbole_derrd.benchmark.other_methods import note_of, refuse_typed
from recbole_derrd.benchmark.plan import Experiment, Plan
from recbole_derrd.config.settings import ReadSettings, written_settings
from recbole_derrd.data.atomic_files import data_files
from recbole_derrd.errors import DistillError, OptionError
from recbole_derrd.model_cache.named_files import named_files
from recbole_derrd.report.escaping import printable
from recbole_derrd.report.reading import read_records
from recbole_derrd.report.schema import RunRecord
from recbole_derrd.runtime.locks import locked

_POLL_SECONDS = 0.1
#: Characters of an experiment's name in that of its log; file systems allow 255 bytes.
_NAME = 150
# -c puts the working directory first on the path, -m as well: before anything is imported, the path becomes this
# process's own. What lies about in the working directory is then imported where this process would import it.
_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from recbole_derrd.benchmark.worker import run_and_end; run_and_end()"
#: What an experiment is run by; the path of this process follows.
WORKER = [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", _BEGIN]  # type: ignore[attr-defined]
#: Bytes at the end of a log in which the reason of a failure is looked for.
_TAIL = 1 << 16
#: What a process says, or its traceback, that has asked for more memory than there is.
_NO_MEMORY = re.compile(r"MemoryError|out of memory|can(no|')t allocate memory", re.IGNORECASE)


@dataclasses.dataclass
class _Running:
    experiment: Experiment
    process: subprocess.Popen[str]
    log: Path
    output: IO[str]
    started: float


def check_experiments(experiments: Iterable[Experiment]) -> None:
    """Refuse experiments whose settings cannot work before anything is trained.

    Raises:
        OptionError: which experiment, and what is wrong with it.
    """
    from recbole_derrd.config.distill_config import DistillConfig
    from recbole_derrd.experiment.compress import check_compressing
    from recbole_derrd.experiment.preflight import check_run

    seen = set()
    for experiment in experiments:
        if (experiment.name, experiment.fold) in seen:
            continue
        seen.add((experiment.name, experiment.fold))
        try:
            config = DistillConfig(config_dict=ReadSettings(experiment.settings))
            check_run(config)
            if experiment.compressed:
                check_compressing(config)
            if experiment.fold is not None:
                _refuse_missing(config.final_config_dict)
        except DistillError as error:
            where = "" if experiment.fold is None else f" on the fold '{experiment.fold}'"
            raise OptionError(f"The experiment '{experiment.name}' cannot run{where}: {error}") from error


def _refuse_missing(config: Mapping[str, Any]) -> None:
    """Refuse a fold without its files, before the folds in front of it are run."""
    for part in config["benchmark_filename"]:
        file = Path(config["data_path"]) / f"{config['dataset']}.{part}.inter"
        if not file.exists():
            raise OptionError(f"There is no file '{file}'. Check 'folds', data_path and benchmark_filename.")


def recorded(plan: Plan, log: Callable[[str], None]) -> set[str]:
    """Return the keys of the recorded experiments; a record that is damaged, or of other data, counts as missing."""
    records, unread = read_records(plan.record_dir) if plan.record_dir.exists() else ([], {})
    for source, fault in unread.items():
        log(printable(f"The record {source} counts as missing: it {fault}."))
    experiments = {experiment.key: experiment for experiment in plan.experiments}
    found, today = set(), _FilesToday()
    for record in records:
        key = record.benchmark.key if record.benchmark else None
        if key is None or key not in experiments:
            continue
        changed = today.changed(record, experiments[key].settings)
        if changed:
            words = f"The data have changed since the record {record.source} was made ({changed})"
            log(printable(f"{words}; it counts as missing."))
        else:
            found.add(key)
    return found


class _FilesToday:
    """What the data files of experiments hold now; those of one folder and data set are looked at once."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[dict[str, str], str | None]] = {}

    def changed(self, record: RunRecord, settings: dict[str, Any]) -> str | None:
        """Return the name of a file that holds something else than when the record was made."""
        before = {**record.data.files, **record.data.named_files}
        if not before:
            return None
        place = json.dumps([settings.get(key) for key in ("data_path", "dataset", "benchmark_filename")], default=str)
        if place not in self._seen:
            self._seen[place] = _files_of(settings)
        files, folder = self._seen[place]
        now = {**files, **named_files(settings, folder)} if files else {}
        return next((name for name, content in before.items() if now and now.get(name) != content), None)


def _files_of(settings: dict[str, Any]) -> tuple[dict[str, str], str | None]:
    """Return what the data files of these settings hold today, and their folder; nothing where they cannot be read."""
    from recbole_derrd.config.distill_config import DistillConfig

    try:
        config = DistillConfig(config_dict=ReadSettings(settings))
        return data_files(config), config["data_path"]
    except DistillError:
        return {}, None


def run_benchmark(plan: Plan, command: list[str], log: Callable[[str], None] = print) -> int:
    """Run what is left of a benchmark; return the exit code: 0, or 1 where an experiment failed.

    Args:
        plan: the benchmark.
        command: what the user typed, for the records.
        log: what is called with each line of progress.
    """
    total = len(plan.experiments)
    if plan.options.dry:
        done = recorded(plan, log)
        for experiment in plan.experiments:
            log(f"{'recorded' if experiment.key in done else 'to run  '}  {experiment}")
        log(f"{sum(experiment.key in done for experiment in plan.experiments)} of {total} experiments are recorded.")
        return 0
    check_experiments(plan.experiments)
    refuse_typed(plan)
    # No name of a benchmark makes it the lock that the records of its experiments take.
    with locked(plan.record_dir / f"{plan.name}.benchmark", "goes through this benchmark"):
        done = recorded(plan, log)
        left = [experiment for experiment in plan.experiments if experiment.key not in done]
        log(f"{plan.name}: {total - len(left)} of {total} experiments are recorded, {len(left)} to run.")
        note = note_of(plan)
        if note:
            log(note)
        failed = _run_all(plan, left, command, log)
        known = [one for one, *_ in failed]
        failed += _without_record(plan, [experiment for experiment in left if experiment not in known])
    for experiment, reason, file in failed:
        log(f"failed: {experiment}: {reason} (log: {file})")
    if failed:
        log(f"{len(failed)} of {total} experiments failed. The same command tries them again.")
    else:
        log(f"All {total} experiments are recorded. The tables: recbole-derrd report {plan.record_dir}")
    return 1 if failed else 0


def _without_record(plan: Plan, experiments: list[Experiment]) -> list[tuple[Experiment, str, Path]]:
    keys = {record.benchmark.key for record in read_records(plan.record_dir)[0] if record.benchmark}
    reason = "it ended without an error, but left no record"
    return [(experiment, reason, _log_of(plan, experiment)) for experiment in experiments if experiment.key not in keys]


def _run_all(
    plan: Plan, left: list[Experiment], command: list[str], log: Callable[[str], None]
) -> list[tuple[Experiment, str, Path]]:
    waiting = list(left)
    running: list[_Running] = []
    failed: list[tuple[Experiment, str, Path]] = []
    begun = time.perf_counter()
    try:
        while waiting or running:
            while waiting and len(running) < plan.options.jobs:
                running.append(_start(plan, waiting.pop(0), command))
                log(f"      {running[-1].experiment}: started (log: {running[-1].log})")
            ended = [one for one in running if one.process.poll() is not None]
            for one in ended:
                running.remove(one)
                reason = _ended(one)
                if reason:
                    failed.append((one.experiment, reason, one.log))
                rest = len(waiting) + len(running)
                words = f"{one.experiment}: {'FAILED' if reason else 'recorded'} after {_time(_since(one.started))}"
                log(
                    f"[{len(plan.experiments) - rest}/{len(plan.experiments)}] {words}; {rest} left"
                    + (f", about {_time(_since(begun) / (len(left) - rest) * rest)}" if rest else "")
                    + (f", {len(failed)} failed" if failed else "")
                )
            if not ended:
                time.sleep(_POLL_SECONDS)
    finally:
        for one in running:
            _stop(one)
    return failed


def _since(started: float) -> float:
    return time.perf_counter() - started


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _share_of_threads(plan: Plan) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // plan.options.jobs)


def _log_of(plan: Plan, experiment: Experiment) -> Path:
    # The key tells apart experiments whose names differ in other characters alone.
    name = re.sub(r"[^A-Za-z0-9.=_-]+", "_", experiment.name)[:_NAME]
    return plan.record_dir / "log" / f"{name}-seed{experiment.seed}-{experiment.key[:6]}.log"


def _start(plan: Plan, experiment: Experiment, command: list[str]) -> _Running:
    threads = int(experiment.settings.get("threads") or _share_of_threads(plan))
    settings = {**experiment.settings, "threads": threads}
    log = _log_of(plan, experiment)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("w", encoding="utf-8")
    except OSError as error:
        raise DistillError(f"Cannot write {log}: {error.strerror or error}. Choose another record_dir.") from error
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        [*WORKER, *map(str, sys.path)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=os.name != "nt",
    )
    assert process.stdin is not None
    job = {"settings": written_settings(settings), "compressed": experiment.compressed, "command": command}
    # A process that dies at once is reported when it is polled.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    return _Running(experiment, process, log, output, time.perf_counter())


def _ended(one: _Running) -> str | None:
    """Return why a process has failed; None where it has not."""
    _close(one)
    code = one.process.returncode
    if code == 0:
        return None
    if code < 0:
        return _killed_by(-code)
    lines = _end_of(one.log).strip().splitlines()
    last = printable(lines[-1].replace("recbole-derrd: ", "")) if lines else f"exit code {code}"
    return f"out of memory: {last}" if _NO_MEMORY.search(last) else last


def _killed_by(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"killed by signal {number}"
    why = {"SIGKILL": "by the system for its memory, or by somebody", "SIGXCPU": "by a limit of time"}
    crashed = name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT")
    return f"killed by signal {number} ({name}: {why.get(name, 'it crashed' if crashed else 'by somebody')})"


def _end_of(log: Path) -> str:
    """Return the end of a log, without colours and the like."""
    try:
        with log.open("rb") as content:
            content.seek(max(0, content.seek(0, os.SEEK_END) - _TAIL))
            text = content.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return re.sub(r"\x1b\[[0-9;]*m|[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f]", " ", text.replace("\r", "\n"))


def _stop(one: _Running) -> None:
    """End a running experiment: its stdin ends, so it goes by itself, with all of its processes."""
    _close(one)
    try:
        one.process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        one.process.kill()
        one.process.wait()


def _close(one: _Running) -> None:
    with contextlib.suppress(OSError):
        if one.process.stdin is not None:
            one.process.stdin.close()
    one.output.close()
