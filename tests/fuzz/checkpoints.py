"""Tries the reader of checkpoints with files that nobody wrote: python -m tests.fuzz.checkpoints --seconds=60

Each case must end in what was read or in a CheckpointError: no other exception, no crash, no long wait, no memory
beyond a limit, and nothing that a hook of Python's audit events sees but the opening of the file itself. The cases run
in a child process, so that one that kills it is named; ``--only N`` repeats a case of the same seed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import math
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from recbole_derrd.errors import CheckpointError
from recbole_derrd.recbole_compat import Inert, read_archive

from ..recbole_compat.pickles import write_archive
from .programs import flawed, program

LONGEST = 10.0
_MEMORY = 1 << 30
_RECORDS = {
    "k0": struct.pack("<6f", *range(6)),
    "k1": struct.pack("<6q", 0, 1, 2, 0, 1, 2),
    "k2": struct.pack("<6q", 0, 2, 9, -1, 1, 2**40),
    "k3": struct.pack("<6q", 0, 1, 3, 0, 0, 2),
}
_READ = (
    type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset, OrderedDict, torch.Tensor,
    torch.nn.Parameter, np.ndarray, torch.Size, torch.dtype, torch.device, torch.layout, np.dtype, Inert,
)  # fmt: skip


def written(folder: Path) -> list[Path]:
    """Write what torch.save makes of a training, by two protocols."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    content = {
        "config": {"model": "BPR", "topk": [5, 10], "learning_rate": 0.001, "device": torch.device("cpu")},
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best_valid_score": np.float64(0.25),
        "other_parameter": {
            "item_similarity": np.arange(6.0).reshape(2, 3),
            "graph": torch.eye(3).to_sparse(),
            "rows": torch.eye(3).to_sparse_csr(),
        },
    }
    files = [folder / f"protocol{protocol}.pth" for protocol in (2, 4)]
    for protocol, file in zip((2, 4), files):
        torch.save(content, file, pickle_protocol=protocol)
    return files


def damaged(draw: Random, content: bytes) -> bytes:
    """Return a file with bits flipped, bytes moved, or a part missing or repeated."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        kind, at = draw.randrange(5), draw.randrange(len(changed))
        # The directory at the end is small and read first.
        at = at if draw.random() < 0.5 else max(0, len(changed) - 1 - draw.randrange(1200))
        other = draw.randrange(len(changed))
        if kind <= 1:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            changed[at], changed[other] = changed[other], changed[at]
        elif kind == 3:
            changed[at : at + draw.choice([1, 2, 4, 8])] = draw.randbytes(draw.choice([0, 1, 2, 4, 8]))
        else:
            del changed[at : at + draw.choice([1, 16, len(changed)])]
        if not changed:
            return b""
    return bytes(changed)


class Cases:
    """The cases of a seed.

    Args:
        folder: where they are written.
        seed: what they are drawn by.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        """Write what the damaged ones start from."""
        self.file = folder / "case.pth"
        self.seed = seed
        self.files = written(folder)
        self.wholes = [file.read_bytes() for file in self.files]
        readers: Any = [torch._C.PyTorchFileReader(str(file)) for file in self.files]  # type: ignore[attr-defined]
        self.pickles = [reader.get_record("data.pkl") for reader in readers]
        self.records = [
            {f"k{name[5:]}": reader.get_record(name) for name in reader.get_all_records() if name.startswith("data/")}
            for reader in readers
        ]

    def write(self, case: int) -> Path:
        """Write one case."""
        draw = Random(f"{self.seed}-{case}")
        kind, base = draw.random(), draw.randrange(len(self.files))
        if kind < 0.25:
            self.file.write_bytes(damaged(draw, self.wholes[base]))
        elif kind < 0.5:
            # The checksums are right, so that the pickle is reached.
            flaw = draw.choice([damaged, flawed])
            write_archive(self.file, flaw(draw, self.pickles[base]), **self.records[base])
        else:
            write_archive(self.file, program(draw), **_RECORDS)
        return self.file


#: What reading does of its own accord, and what reaches nothing.
_HARMLESS = frozenset({"_thread.start_new_thread", "object.__getattr__", "builtins.id"})


class Watch:
    """Notes every audit event, while a file is read, but for the opening of this file and the start of a thread."""

    def __init__(self) -> None:
        """Nothing is watched yet."""
        self.path: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.path is None or event in _HARMLESS:
            return
        if event == "open" and str(arguments[0]) == self.path and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.seen.append(f"{event} {arguments!r}"[:200])


def touch(value: Any, left: list[int]) -> None:
    """Read every number of what was read, so that one beyond its bytes would show."""
    left[0] -= 1
    if left[0] < 0:
        return
    if not isinstance(value, (*_READ, np.number, np.bool_)):
        raise AssertionError(f"a {type(value)} was read")
    if isinstance(value, torch.Tensor):
        if math.prod(value.shape) < 100_000:
            # Some kinds of numbers have no dense form in torch.
            with contextlib.suppress(RuntimeError):
                value.detach().to_dense().clone()
    elif isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise AssertionError(f"an array of {value.dtype} was read")
        value.copy()
    elif isinstance(value, dict):
        for key, one in value.items():
            touch(key, left)
            touch(one, left)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for one in value:
            touch(one, left)
    elif isinstance(value, Inert):
        touch(value.state, left)


def tried(cases: Cases, watch: Watch, case: int) -> bool:
    """Try a case; say whether it was read.

    Raises:
        AssertionError: it did what no file may do.
    """
    file, started = cases.write(case), time.process_time()
    watch.path = str(file)
    found, read = None, True
    try:
        found = read_archive(file)
    except CheckpointError:
        read = False
    finally:
        watch.path = None
    touch(found, [20_000])
    if watch.seen:
        raise AssertionError(f"it led to {watch.seen[:3]}")
    if time.process_time() - started > LONGEST:
        raise AssertionError(f"it took more than {LONGEST} s")
    return read


def limit_memory() -> None:
    """Let this process have so much more memory than it has."""
    status = Path("/proc/self/status")
    if status.exists():
        held = int(re.findall(r"VmData:\s+(\d+) kB", status.read_text())[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (held + _MEMORY, held + _MEMORY))


def run_child(options: argparse.Namespace) -> None:
    """Try cases one after the other, telling the parent the number of each."""
    torch.set_num_threads(1)
    # To show one, Python opens its source.
    warnings.simplefilter("ignore")
    numbers = [options.only] if options.only is not None else range(options.start, options.start + options.count)
    with tempfile.TemporaryDirectory() as folder:
        cases = Cases(Path(folder), options.seed)
        # What is imported late, is imported now.
        for file in cases.files:
            touch(read_archive(file), [20_000])
        watch = Watch()
        limit_memory()
        end, read = time.monotonic() + options.seconds, 0
        for case in numbers:
            os.write(1, struct.pack("<q", case))
            faulthandler.dump_traceback_later(60 * LONGEST, exit=True)
            read += tried(cases, watch, case)
            if time.monotonic() > end:
                break
        faulthandler.cancel_dump_traceback_later()
        os.write(1, struct.pack("<qq", -1, read))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--count", type=int, default=None, help="how many cases (20000; without end with --seconds)")
    parser.add_argument("--seed", type=int, default=0, help="what the cases are drawn by")
    parser.add_argument("--start", type=int, default=0, help="the first case")
    parser.add_argument("--only", type=int, default=None, help="try this case alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count is None:
        options.count = 20_000 if math.isinf(options.seconds) else sys.maxsize
    if options.child:
        run_child(options)
        return 0
    started = time.monotonic()
    child = subprocess.run([sys.executable, "-m", "tests.fuzz.checkpoints", "--child", *sys.argv[1:]],
                           stdout=subprocess.PIPE, check=False)  # fmt: skip
    numbers = [number for (number,) in struct.iter_unpack("<q", child.stdout[: len(child.stdout) // 8 * 8])]
    if child.returncode or len(numbers) < 2 or numbers[-2] != -1:
        case = numbers[-1] if numbers else "none"
        print(f"FAILED with status {child.returncode} at --seed={options.seed} --only={case}")
        return 1
    count, taken = len(numbers) - 2, time.monotonic() - started
    print(f"{count} files, {numbers[-1]} of them read, {count - numbers[-1]} refused, {count / taken:.0f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
