"""Check the package on one card: python tests/device/check.py [--device=cuda]

    python tests/device/check.py --collect-wheels=wheels       # where packages can be fetched
    python tests/device/check.py --wheels=wheels --out=device.json --page=device.md     # where the card is
    python tests/device/check.py --device=cpu --small          # the same checks, small, on any machine
    python tests/device/check.py --device=pretend --small      # on a card that is none: finds mixed devices

Each check is one line: PASS, FAIL or SKIP, its name, seconds and numbers. One that fails stops no other, not even
where it takes the process with it. The exit code is 1 if one has failed. Nothing is fetched, and this file needs Python
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The package of these files is "device", beside the tests' own "distillers"; no file here is a module by itself.
sys.path[:] = [str(ROOT), str(HERE.parent), *(path for path in sys.path if path != str(HERE))]

from device import page, wheels, worker  # noqa: E402

#: Seconds that a check may run beyond the time for all before its process is ended.
GRACE = 15.0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu", "pretend"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small data and few variants: under a minute on one core")
    parser.add_argument("--seconds", type=float, default=360, help="time for all checks; what does not fit is skipped")
    parser.add_argument("--only", default="*", help="which checks, e.g. 'loss/*'")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to take from what is missing here")
    parser.add_argument("--out", type=Path, help="write facts and numbers to this JSON file")
    parser.add_argument("--page", type=Path, help="write a Markdown page made from them")
    parser.add_argument("--quiet", action="store_true", help="print failures and one line on all")
    parser.add_argument("--collect-wheels", type=Path, metavar="FOLDER", help="fill a folder with wheels, and end")
    parser.add_argument("--pythons", default=",".join(wheels.PYTHONS), help="Pythons to collect compiled wheels for")
    parser.add_argument("--page-of", type=Path, metavar="JSON", help="write --page from an earlier --out, and end")
    parser.add_argument("--tell", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--done", default="", type=lambda names: names.split(","), help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args()


class Run:
    """All checks, made by one process after the other where one does not come to the end."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.started = time.monotonic()
        self.deadline = self.started + given.seconds
        self.facts: dict[str, Any] = {}
        self.plan: list[str] = []
        self.results: dict[str, dict[str, Any]] = {}
        self._running: tuple[str, float] | None = None
        self._log = ""

    def make(self, work: str) -> None:
        """Make them; what could not be made is skipped."""
        while True:
            known = len(self.results)
            whole = self._one_process(work)
            goes_on = self._blame() and len(self.results) > known
            left = [name for name in self.plan if name not in self.results]
            if whole or not left or not goes_on or time.monotonic() >= self.deadline:
                break
        for name in self.plan:
            if name not in self.results:
                self._take(name, "SKIP", 0.0, "no time is left")

    def _take(self, name: str, status: str, seconds: float, message: str) -> None:
        self._show({"name": name, "status": status, "seconds": seconds, "numbers": {}, "message": message})

    def _show(self, result: dict[str, Any]) -> None:
        self.results[result["name"]] = result
        if result["status"] == "FAIL" or not self.given.quiet:
            print(line_of(result), flush=True)

    def _blame(self) -> bool:
        """Let the check that ran have failed; return whether there is anything to go on with."""
        if self._running is None:
            # The process has ended between two checks because its card had stopped to answer.
            return any(result["status"] == "FAIL" for result in self.results.values())
        name, since = self._running
        self._running = None
        self._take(name, "FAIL", time.monotonic() - since, f"its process has ended: {self._log}")
        return True

    def _one_process(self, work: str) -> bool:
        """Start a process and take its messages; return whether it came to the end."""
        reading, writing = os.pipe()
        command = [sys.executable, str(HERE / "check.py"), *self._same_arguments(writing, work)]
        log = Path(work, "worker.log")
        # cuBLAS gives the same bits each time only with a workspace of its own, set before CUDA begins.
        environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **os.environ}
        with open(log, "wb") as output:
            process = subprocess.Popen(command, pass_fds=[writing], stdout=output, stderr=output, env=environment)
        os.close(writing)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(reading, lines), daemon=True).start()
        ended = False
        while True:
            try:
                line = lines.get(timeout=max(0.1, self.deadline + GRACE - time.monotonic()))
            except queue.Empty:
                self._log = "it was stopped at the end of the time for all"
                process.kill()
                break
            if line is None:
                break
            ended = self._understood(json.loads(line)) or ended
        status = process.wait()
        if not ended and not self._log:
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            self._log = f"status {status}; {' '.join(tail)[-500:]}"
        if not self.plan:
            raise SystemExit(f"The checks could not begin. {self._log}\n{log.read_text(errors='replace')[-3000:]}")
        return ended

    def _same_arguments(self, writing: int, work: str) -> list[str]:
        given = self.given
        left = f"{self.deadline - time.monotonic():.1f}"
        own = [f"--device={given.device}", f"--seconds={left}", f"--only={given.only}", f"--tell={writing}"]
        own += [f"--work={work}", f"--done={','.join(self.results)}"]
        return [*own, "--small"] if given.small else own

    def _understood(self, message: dict[str, Any]) -> bool:
        if "facts" in message and not self.facts:
            self.facts = message["facts"]
            if not self.given.quiet:
                from device.machine import sentence

                print(sentence(self.facts), flush=True)
        if "plan" in message:
            self.plan = message["plan"]
        if "start" in message:
            self._running, self._log = (message["start"], time.monotonic()), ""
        if "result" in message:
            self._running = None
            self._show(message["result"])
        return "end" in message

    def content(self) -> dict[str, Any]:
        """Return facts and numbers for a file."""
        return {
            "schema": 1,
            "device": self.given.device,
            "small": self.given.small,
            "seconds": time.monotonic() - self.started,
            "facts": self.facts,
            "checks": [self.results[name] for name in self.plan],
        }


def _read(descriptor: int, lines: queue.Queue[str | None]) -> None:
    with os.fdopen(descriptor, encoding="utf-8") as pipe:
        for line in pipe:
            lines.put(line)
    lines.put(None)


def line_of(result: dict[str, Any]) -> str:
    """Return a result as one line."""
    numbers = ", ".join(f"{name} {page.shown(value)}" for name, value in result["numbers"].items())
    message = f" ({result['message']})" if result["message"] else ""
    return f"{result['status']} {result['name']} {result['seconds']:.1f} s {numbers}{message}".rstrip()


def closing_line(content: dict[str, Any]) -> str:
    """Return what is said of all checks."""
    statuses = [check["status"] for check in content["checks"]]
    passed, failed, skipped = (statuses.count(status) for status in ("PASS", "FAIL", "SKIP"))
    counts = f"{passed} passed, {failed} failed, {skipped} skipped"
    return f"device checks ({content['device']}): {counts} in {content['seconds']:.0f} s"


def checked(given: argparse.Namespace, work: str) -> int:
    """Install what is missing, make the checks and write what was found."""
    missing = wheels.install(given.wheels, Path(work, "site")) if given.wheels else wheels.fatal(wheels.unsuitable())
    if missing:
        print(wheels.said(missing, given.wheels), file=sys.stderr)
        return 1
    paths = [str(Path(work, "site")), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    run = Run(given)
    run.make(work)
    content = run.content()
    if given.out:
        given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if given.page:
        given.page.write_text(page.page_of(content), encoding="utf-8")
    print(closing_line(content))
    return int(any(check["status"] == "FAIL" for check in content["checks"]))


def main() -> int:
    """Do what the command line says."""
    given = arguments()
    if given.tell is not None:
        return worker.main(given, worker.writer_to(given.tell))
    if given.collect_wheels:
        print(wheels.collect(given.collect_wheels, given.pythons.split(",")))
        return 0
    if given.page_of:
        if given.page is None:
            raise SystemExit("--page-of needs --page=FILE.md.")
        given.page.write_text(page.page_of(json.loads(given.page_of.read_text(encoding="utf-8"))), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory(prefix="device-check-") as work:
        return checked(given, work)


if __name__ == "__main__":
    sys.exit(main())
