"""Running the cells that are not recorded yet, several at once, each in a process that may die alone."""

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
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Callable

from recbole_derrd.benchmark.plan import Cell, Plan
from recbole_derrd.data.atomic_files import data_files
from recbole_derrd.errors import DistillError, OptionError
from recbole_derrd.model_cache.named_files import named_files
from recbole_derrd.report.escaping import printable
from recbole_derrd.report.records import read_records
from recbole_derrd.runtime.locks import locked

_POLL_SECONDS = 0.1
#: Characters of a cell's name in that of its log; file systems allow 255 bytes.
_NAME = 150
# -c puts the working directory first on the path, -m as well: before anything is imported, the path becomes this
# process's own. What lies about in the working directory is then imported where this process would import it.
_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from recbole_derrd.benchmark.worker import run_and_end; run_and_end()"
#: What a cell is run by; the path of this process follows.
WORKER = [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", _BEGIN]  # type: ignore[attr-defined]
#: Bytes at the end of a log in which the reason of a failure is looked for.
_TAIL = 1 << 16
#: What a process says, or its traceback, that has asked for more memory than there is.
_NO_MEMORY = re.compile(r"MemoryError|out of memory|can(no|')t allocate memory", re.IGNORECASE)


@dataclasses.dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[str]
    log: Path
    output: IO[str]
    started: float


def check_cells(cells: Iterable[Cell]) -> None:
    """Refuse cells whose settings cannot work before anything is trained.

    Raises:
        OptionError: which cell, and what is wrong with it.
    """
    from recbole_derrd.config.distill_config import DistillConfig
    from recbole_derrd.experiment.preflight import check_run

    seen = set()
    for cell in cells:
        if cell.name in seen:
            continue
        seen.add(cell.name)
        try:
            check_run(DistillConfig(config_dict=cell.settings))
        except DistillError as error:
            raise OptionError(f"The cell '{cell.name}' cannot run: {error}") from error


def recorded(plan: Plan, say: Callable[[str], None]) -> set[str]:
    """Return the keys of the cells that are recorded; a record that is damaged, or of other data, counts as missing."""
    records, damaged = read_records(plan.record_dir)
    for path, fault in damaged.items():
        say(printable(f"The record '{path}' is damaged and counts as missing: {fault}."))
    cells, found, today = {cell.key: cell for cell in plan.cells}, set(), {}
    for record in records:
        key = str((record.get("benchmark") or {}).get("key"))
        before = {**(record["data"].get("files") or {}), **(record["data"].get("named_files") or {})}
        if key in cells and before:
            settings = cells[key].settings
            place = json.dumps([settings.get("data_path"), settings.get("dataset")], default=str)
            if place not in today:
                today[place] = _files_of(settings)
            files, folder = today[place]
            now = files and {**files, **named_files(settings, folder)}
            changed = [name for name, content in before.items() if now and now.get(name) != content]
            if changed:
                words = f"The data have changed since '{record['path']}' was recorded ({changed[0]})"
                say(printable(f"{words}; it counts as missing."))
                continue
        found.add(key)
    return found


def _files_of(settings: dict[str, Any]) -> tuple[dict[str, str], str | None]:
    """Return what the data files of a cell hold today, and their folder; nothing where its settings cannot be read."""
    from recbole_derrd.config.distill_config import DistillConfig

    try:
        config = DistillConfig(config_dict=settings)
        return data_files(config), config["data_path"]
    except DistillError:
        return {}, None


def run_benchmark(plan: Plan, command: list[str], say: Callable[[str], None] = print) -> int:
    """Run what is left of a benchmark; return the exit code: 0, or 1 where a cell failed.

    Args:
        plan: the benchmark.
        command: what the user typed, for the records.
        say: where progress is told.
    """
    if plan.options.dry:
        done = recorded(plan, say)
        for cell in plan.cells:
            say(f"{'recorded' if cell.key in done else 'to run  '}  {cell}")
        say(f"{sum(cell.key in done for cell in plan.cells)} of {len(plan.cells)} cells are recorded.")
        return 0
    check_cells(plan.cells)
    # No name of a benchmark makes it the lock that the records of its cells take.
    with locked(plan.record_dir / f"{plan.name}.benchmark", "goes through this benchmark"):
        done = recorded(plan, say)
        left = [cell for cell in plan.cells if cell.key not in done]
        say(f"{plan.name}: {len(plan.cells) - len(left)} of {len(plan.cells)} cells are recorded, {len(left)} to run.")
        failed = _run_all(plan, left, command, say)
        failed += _without_record(plan, [cell for cell in left if cell not in [one for one, *_ in failed]])
    for cell, reason, log in failed:
        say(f"failed: {cell}: {reason} (log: {log})")
    if failed:
        say(f"{len(failed)} of {len(plan.cells)} cells failed. The same command tries them again.")
    else:
        say(f"All {len(plan.cells)} cells are recorded. The tables: recbole-derrd report {plan.record_dir}")
    return 1 if failed else 0


def _without_record(plan: Plan, cells: list[Cell]) -> list[tuple[Cell, str, Path]]:
    keys = {(record.get("benchmark") or {}).get("key") for record in read_records(plan.record_dir)[0]}
    reason = "it ended without an error, but left no record"
    return [(cell, reason, _log_of(plan, cell)) for cell in cells if cell.key not in keys]


def _run_all(
    plan: Plan, left: list[Cell], command: list[str], say: Callable[[str], None]
) -> list[tuple[Cell, str, Path]]:
    waiting = list(left)
    running: list[_Running] = []
    failed: list[tuple[Cell, str, Path]] = []
    before, begun = len(plan.cells) - len(left), time.perf_counter()
    try:
        while waiting or running:
            while waiting and len(running) < plan.options.jobs:
                running.append(_start(plan, waiting.pop(0), command))
                say(f"      {running[-1].cell}: started (log: {running[-1].log})")
            ended = [one for one in running if one.process.poll() is not None]
            for one in ended:
                running.remove(one)
                reason = _ended(one)
                if reason:
                    failed.append((one.cell, reason, one.log))
                finished = len(left) - len(waiting) - len(running)
                seconds = time.perf_counter() - begun
                rest = len(left) - finished
                say(
                    f"[{before + finished}/{len(plan.cells)}] {one.cell}: {'FAILED' if reason else 'recorded'} after "
                    f"{_time(time.perf_counter() - one.started)}; {rest} left"
                    + (f", about {_time(seconds / finished * rest)}" if rest else "")
                    + (f", {len(failed)} failed" if failed else "")
                )
            if not ended:
                time.sleep(_POLL_SECONDS)
    finally:
        for one in running:
            _stop(one)
    return failed


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _share_of_threads(plan: Plan) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // plan.options.jobs)


def _log_of(plan: Plan, cell: Cell) -> Path:
    # The key tells apart cells whose names differ in other characters alone.
    name = re.sub(r"[^A-Za-z0-9.=_-]+", "_", cell.name)[:_NAME]
    return plan.record_dir / "log" / f"{name}-seed{cell.seed}-{cell.key[:6]}.log"


def _start(plan: Plan, cell: Cell, command: list[str]) -> _Running:
    threads = int(cell.settings.get("threads") or _share_of_threads(plan))
    settings = {**cell.settings, "threads": threads}
    log = _log_of(plan, cell)
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
    job = {"settings": settings, "compressed": cell.compressed, "command": command}
    # A process that dies at once is reported when it is polled.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(job, default=str) + "\n")
        process.stdin.flush()
    return _Running(cell, process, log, output, time.perf_counter())


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
    """End a running cell: its stdin ends, so it goes by itself, with all of its processes."""
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
