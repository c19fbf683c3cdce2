"""``python -m tests.mutation``: put slips into distillers/ and ops/ and see whether their tests notice.

    --count=100      slips to try, drawn at random, at least one of each file; 0 tries all
    --seed=1         which are drawn
    --only=PATH      of files whose path holds this alone
    --at-least=95    percent that must be noticed
    --out=FILE       write the command, what was tried and what was not noticed as JSON
    --again=FILE     try only what such a file says was not noticed, and add to it what has come of that

Each slip is tried in a process of its own, forked where torch is imported already, on a copy of the repository. A slip
that no test can notice, as it changes no result, is listed in ``equivalent.txt`` with the reason.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("recbole_derrd/distillers", "recbole_derrd/ops")
#: Seconds of CPU time for the tests of one slip, which other work on the machine does not use up, and seconds until
#: tests that wait for something are stopped. A slip that makes them hang is noticed as well.
CPU_SECONDS, PATIENCE = 300, 1200
EQUIVALENT = Path(__file__).parent / "equivalent.txt"


def tests_of(file: str) -> list[str]:
    """Return the test files that look at a source file: named like it, or importing it."""
    module, stem = file[:-3].replace("/", "."), Path(file).stem
    module = module.removesuffix(".__init__")
    named, importing = [], []
    for test in [
        *sorted((ROOT / "tests" / "distillers").glob("test_*.py")),
        *sorted((ROOT / "tests").glob("test_*.py")),
    ]:
        if test.stem in ("test_coverage", "test_whole_runs"):
            continue
        name = str(test.relative_to(ROOT))
        if test.stem == f"test_{stem}" or (
            stem in ("method", "losses", "options") and test.stem.startswith("test_hetcomp")
        ):
            named.append(name)
        elif re.search(rf"\b{re.escape(module)}\b", test.read_text(encoding="utf-8")):
            importing.append(name)
    # Slips in what several methods share show in the methods; a kernel has tests of its own.
    own = named or (importing and "/ops/" in file)
    shared = [] if own else _tests_of_importers(module)
    of_all = ["kernels_used"] if "/ops/" in file else ["kernels_used", "work", "share", "preconditions"]
    of_all_files = [f"tests/distillers/test_{name}.py" for name in of_all]
    if "/ops/" not in file:
        of_all_files.append("tests/test_known_part.py")
    method = "hetcomp" if "/hetcomp/" in file else stem
    # Branches for cards run on a pretended one alone.
    if (ROOT / "configs" / "methods" / f"{method}.yaml").exists():
        of_all_files.append(f"tests/test_on_a_card.py::test_a_method_works_on_a_card[{method}]")
    return list(dict.fromkeys([*named, *importing, *shared, *of_all_files]))


def _tests_of_importers(module: str) -> list[str]:
    """Return the tests of five methods, and those named like what imports a module."""
    stems = ["rrd", "de", "cpd", "cd", "sld"]
    for room in ROOMS:
        for source in sorted((ROOT / room).rglob("*.py")):
            if re.search(rf"\b{re.escape(module)}\b", source.read_text(encoding="utf-8")):
                stems.append("hetcomp" if source.parent.name == "hetcomp" else source.stem)
    found = [f"tests/distillers/test_{stem}.py" for stem in dict.fromkeys(stems)]
    return [test for test in found if (ROOT / test).exists()]


def noticed(copy: Path, tests: list[str]) -> str:
    """Say how the tests notice what the copy is now: they "fail", they "hang", or neither, which is the empty word."""
    child = os.fork()
    if child == 0:
        os.setpgrp()
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        os.chdir(copy)
        sys.path[0] = str(copy)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        import pytest

        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow", "-W", "ignore"]
        code = 1
        try:
            code = int(pytest.main([*arguments, *tests]))
        finally:
            os._exit(code)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return "hang" if code == -signal.SIGXCPU else "fail" if code else ""
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hang"


def equivalents() -> set[tuple[str, str]]:
    """Return (file, line with the slip) of slips that change no result."""
    found = set()
    for line in EQUIVALENT.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            file, _, text = line.partition(": ")
            found.add((file, text))
    return found


def _without_line(shown: str) -> str:
    """Return a slip as a sentence without the number of its line, which other changes move."""
    return re.sub(r":\d+\n", "\n", shown)


def drawn(options: argparse.Namespace) -> list[Mutant]:
    """Return the slips to try."""
    files = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.name != "__init__.py")
    known, found = equivalents(), []
    for file in files:
        source = file.read_text(encoding="utf-8")
        for mutant in mutants_of(file, ROOT):
            changed = mutant.applied(source).splitlines()[mutant.line - 1].strip()
            if options.only in mutant.file and (mutant.file, changed) not in known:
                found.append(mutant)
    if options.again is not None:
        missed = {_without_line(shown) for shown in json.loads(options.again.read_text("ascii"))["not_noticed"]}
        return [one for one in found if _without_line(one.shown((ROOT / one.file).read_text("utf-8"))) in missed]
    random.Random(options.seed).shuffle(found)
    first = {mutant.file: mutant for mutant in reversed(found)}
    # One of each file before a second of any; the order stays random.
    found.sort(key=lambda mutant: first[mutant.file] != mutant)
    return found[: options.count or None]


def record_of(options: argparse.Namespace, outcomes: dict[Mutant, str]) -> dict[str, Any]:
    """Return what a run has found, as plain values."""
    survivors = [mutant for mutant, outcome in outcomes.items() if not outcome]
    files = collections.Counter(mutant.file for mutant in outcomes)
    missed = collections.Counter(mutant.file for mutant in survivors)
    given = f"--count={options.count} --seed={options.seed} --only={options.only}"
    if options.again is not None:
        given = f"--again={options.again}"
    return {
        "command": f"python -m tests.mutation {given}",
        "tried": len(outcomes),
        "noticed": len(outcomes) - len(survivors),
        "hung": sum(outcome == "hang" for outcome in outcomes.values()),
        "not_noticed": [mutant.shown((ROOT / mutant.file).read_text(encoding="utf-8")) for mutant in survivors],
        "listed_as_equivalent": len(equivalents()),
        "of_files": {file: f"{files[file] - missed[file]} of {files[file]}" for file in sorted(files)},
    }


def keep(options: argparse.Namespace, outcomes: dict[Mutant, str]) -> None:
    """Write the record of what has been tried so far, so that a run that is stopped has one as well."""
    record, out = record_of(options, outcomes), options.out
    if options.again is not None:
        out = options.again
        record = {**json.loads(out.read_text("ascii")), "again": record}
    if out is not None:
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


def main() -> int:
    """Try the slips and print those that nobody noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--at-least", type=float, default=95.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", type=Path)
    options = parser.parse_args()
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    mutants = drawn(options)
    import hypothesis  # noqa: F401
    import recbole.data
    import recbole.trainer  # noqa: F401
    import torch

    torch.set_num_threads(1)
    outcomes: dict[Mutant, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        left_out = shutil.ignore_patterns(
            "__pycache__", ".git", "docs", "results", "*.egg-info", ".venv", "saved", "log", "log_tensorboard"
        )
        shutil.copytree(ROOT, copy, ignore=left_out)
        (copy / "docs").mkdir(exist_ok=True)
        # Whoever writes the next test in the meantime changes neither what is tried nor by which tests.
        tests = {file: tests_of(file) for file in {mutant.file for mutant in mutants}}
        sources = {file: (copy / file).read_text(encoding="utf-8") for file in tests}
        for test in sorted({test for some in tests.values() for test in some}):
            if noticed(copy, [test]):
                print(f"{test} fails without any slip, so nothing would be shown.")
                return 1
        for number, mutant in enumerate(mutants, 1):
            source = sources[mutant.file]
            (copy / mutant.file).write_text(mutant.applied(source), encoding="utf-8")
            outcomes[mutant] = noticed(copy, tests[mutant.file])
            if not outcomes[mutant]:
                print(f"[{number}/{len(mutants)}] not noticed: {mutant.shown(source)}", flush=True)
            (copy / mutant.file).write_text(source, encoding="utf-8")
            keep(options, outcomes)
        keep(options, outcomes)
    seen = sum(map(bool, outcomes.values()))
    share = 100 * seen / max(1, len(outcomes))
    print(f"{seen} of {len(mutants)} slips noticed ({share:.1f} %).")
    return int(share < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
