"""One experiment in a process of its own; a line on stdin from :mod:`recbole_derrd.benchmark.runner` says what to run.

The line is followed by nothing until the benchmark ends, so the end of stdin means that the benchmark has gone, however
it was stopped; the experiment then goes too, and the next benchmark does not find it still training.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from recbole_derrd.config.settings import read_written
from recbole_derrd.errors import DistillError
from recbole_derrd.runtime.machine_errors import sentence_of


def _end_with_the_benchmark() -> None:
    sys.stdin.read()
    _remove_sockets()
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        # The experiment's own processes are in this group as well.
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _remove_sockets() -> None:
    processes = sys.modules.get("recbole_derrd.runtime.processes")
    if processes is not None:
        processes.remove_sockets()


def run_experiment(settings: dict[str, Any], *, compressed: bool) -> None:
    """Run an experiment, whose record says of which benchmark it is."""
    if compressed:
        from recbole_derrd.experiment.compress import run_compressed

        run_compressed(config_dict=settings)
    else:
        from recbole_derrd.quick_start import run_recbole_derrd

        run_recbole_derrd(config_dict=settings)


def main() -> int:
    """Read what to run, run it; return the exit code, 2 where the reason is a sentence."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_benchmark, daemon=True).start()
    # The record says what the user typed, not how this process was started.
    sys.argv = list(job["command"])
    try:
        run_experiment(read_written(job["settings"]), compressed=job["compressed"])
    except Exception as error:
        sentence = str(error) if isinstance(error, DistillError) else sentence_of(error)
        if sentence is None:
            raise
        print(f"recbole-derrd: {sentence}", file=sys.stderr)
        return 2
    return 0


def run_and_end() -> None:
    """Do what :func:`main` does, and end at once."""
    code = main()
    # The end at once is one without Python's own tidying up.
    _remove_sockets()
    sys.stdout.flush()
    sys.stderr.flush()
    # The thread that reads stdin would hold up an ordinary end.
    os._exit(code)
