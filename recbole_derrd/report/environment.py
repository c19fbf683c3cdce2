"""What a result depends on beside its settings: versions, the commit, the process's memory."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import recbole_derrd

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
    return {**found, **{name: _version(name) for name in ("recbole", "torch", "numpy", "scipy", "pandas")}}


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


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
