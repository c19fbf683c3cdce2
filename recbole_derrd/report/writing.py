"""One JSON file a run: everything that tables and plots are made from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import recbole_derrd
from recbole_derrd.runtime.files import replacing_file
from recbole_derrd.runtime.locks import clearing_folder

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def peak_rss_bytes() -> int | None:
    """Return the largest resident memory of this process so far; None where the system does not tell."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version(), "recbole_derrd": recbole_derrd.__version__}
    for package in ("recbole", "torch", "numpy", "scipy", "pandas"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def git_commit() -> str | None:
    """Return the commit of this package's own working tree, or None where it is installed as a package."""
    tree = Path(recbole_derrd.__file__).resolve().parent.parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(tree), "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        top, commit = answer.stdout.splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    # A virtual environment inside somebody's repository must not lend us that repository's commit.
    if Path(top).resolve() != tree:
        return None
    command = ["git", "-C", str(tree), "diff-index", "--quiet", "HEAD", "--", "recbole_derrd"]
    try:
        changed = subprocess.run(command, check=False, timeout=60).returncode
    except (OSError, subprocess.SubprocessError):
        # What is not known is not called clean.
        changed = 1
    return f"{commit}-dirty" if changed else str(commit)


def write_record(record: dict[str, Any], folder: Path, name: str) -> Path:
    """Write a record; its name tells model, data set, distillers, seed and time."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%f")
    path = Path(folder) / f"{name}-{stamp}.json"
    attempt = 1
    while path.exists():
        path = Path(folder) / f"{name}-{stamp}-{attempt}.json"
        attempt += 1
    _write(record, path)
    return path


def rewrite_record(record: dict[str, Any]) -> None:
    """Write a record again to where its ``path`` says it is."""
    _write({key: value for key, value in record.items() if key != "path"}, Path(record["path"]))


def _write(record: dict[str, Any], path: Path) -> None:
    # No later record has this one's name, so what a killed process leaves is removed by the next record of any name.
    with clearing_folder(path.parent, ".json", "records"), replacing_file(path) as partial:
        partial.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
