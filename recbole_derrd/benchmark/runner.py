"""Running the cells that are not recorded yet, several at once, each in a process that may die alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Callable

from recbole_derrd.atomic_files import data_files
from recbole_derrd.benchmark.plan import Cell, Plan
from recbole_derrd.errors import DistillError, OptionError
from recbole_derrd.files import locked
from recbole_derrd.named_files import named_files
from recbole_derrd.report.records import read_records

_POLL_SECONDS = 0.1
#: What a cell is run by.
WORKER = [sys.executable, "-m", "recbole_derrd.benchmark.worker"]


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
    from recbole_derrd.config import DistillConfig
    from recbole_derrd.running.checks import check_run

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
    for path in damaged:
        say(f"The record '{path}' is damaged and counts as missing.")
    cells, found, today = {cell.key: cell for cell in plan.cells}, set(), {}
    for record in records:
        key = str((record.get("benchmark") or {}).get("key"))
        before = {**(record["data"].get("files") or {}), **(record["data"].get("named_files") or {})}
        if key in cells and before:
            settings = cells[key].settings
            place = json.dumps([settings.get("data_path"), settings.get("dataset")], default=str)
            if place not in today:
                today[place] = _files_of(settings)
            now = today[place] and {**today[place], **named_files(settings)}
            changed = [name for name, content in before.items() if now and now.get(name) != content]
            if changed:
                say(
                    f"The data have changed since '{record['path']}' was recorded ({changed[0]}); it counts as missing."
                )
                continue
        found.add(key)
    return found


def _files_of(settings: dict[str, Any]) -> dict[str, str]:
    """Return what the data files of a cell hold today; nothing where its settings cannot be read."""
    from recbole_derrd.config import DistillConfig

    try:
        return data_files(DistillConfig(config_dict=settings))
    except DistillError:
        return {}


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
    with locked(plan.record_dir / plan.name, "goes through this benchmark"):
        done = recorded(plan, say)
        left = [cell for cell in plan.cells if cell.key not in done]
        say(f"{plan.name}: {len(plan.cells) - len(left)} of {len(plan.cells)} cells are recorded, {len(left)} to run.")
        failed = _run_all(plan, left, command, say)
    for cell, reason, log in failed:
        say(f"failed: {cell}: {reason} (log: {log})")
    if failed:
        say(f"{len(failed)} of {len(plan.cells)} cells failed. The same command tries them again.")
    else:
        say(f"All {len(plan.cells)} cells are recorded. The tables: recbole-derrd report {plan.record_dir}")
    return 1 if failed else 0


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
                reason = _ended(plan, one)
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


def _start(plan: Plan, cell: Cell, command: list[str]) -> _Running:
    threads = int(cell.settings.get("threads") or _share_of_threads(plan))
    settings = {**cell.settings, "threads": threads}
    # The key tells apart cells whose names differ in other characters alone.
    log = plan.record_dir / "log" / f"{re.sub(r'[^A-Za-z0-9.=_-]+', '_', cell.name)}-seed{cell.seed}-{cell.key[:6]}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("w", encoding="utf-8")
    except OSError as error:
        raise DistillError(f"Cannot write {log}: {error.strerror or error}. Choose another record_dir.") from error
    package = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }
    process = subprocess.Popen(
        WORKER,
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


def _ended(plan: Plan, one: _Running) -> str | None:
    """Return why a process that has ended left no record; None where it did."""
    _close(one)
    code = one.process.returncode
    if code == 0:
        return None
    if code < 0:
        return f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    lines = one.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (lines[-1] if lines else f"exit code {code}").replace("recbole-derrd: ", "")


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
