"""Compare what is installed with what the package was tried on, and say what to do about each difference."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata
from typing import NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

#: How RecBole is installed where its own requirements cannot be.
WITHOUT_REQUIREMENTS = "pip install --no-deps recbole==1.2.1"
_UNTRIED = "nobody has tried it with this package"


class Bounds(NamedTuple):
    """A distribution, the versions the package was tried on, and what goes wrong above them.

    Attributes:
        name: its name, or "python".
        range: the versions.
        above: what goes wrong with newer ones.
        install: the command that installs it; pip with the range if none.
    """

    name: str
    range: str
    above: str = _UNTRIED
    install: str = ""


# The ranges of setup.py (ray, tensorboard: of recbole's own metadata); tests/test_doctor.py compares them.
_ON_ANY = (
    Bounds("python", ">=3.9,<3.14"),
    Bounds("torch", ">=2.0,<2.14"),
    Bounds("pandas", ">=1.5.3,<3", "RecBole silently leaves missing values in place under pandas 3"),
    Bounds("pyyaml", ">=6.0.1"),
    Bounds("packaging", ">=22"),
    Bounds("threadpoolctl", ">=2.2,<4"),
    Bounds("filelock", ">=3.12,<5"),
)
_BELOW_312 = (
    Bounds("recbole", ">=1.2.1,<1.3", "this package extends classes of RecBole 1.2"),
    Bounds("numpy", ">=1.23.5,<2", "RecBole's Config and ray use names that numpy 2 removed"),
    Bounds("scipy", ">=1.10.1,<1.13", "RecBole's LightGCN and NGCF call a method that scipy 1.13 removed"),
    Bounds("setuptools", ">=65,<82", "ray imports pkg_resources, which setuptools 82 dropped"),
    Bounds("ray", ">=1.13.0,<=2.6.3", "RecBole 1.2.1 itself admits no later release"),
    Bounds("tensorboard", ">=2.5.0"),
)
# No ray release that RecBole 1.2.1 admits has a build for these Pythons: RecBole comes without its requirements, and
# they are this package's. ray and thop are imported by its quick_start alone.
_FROM_312 = (
    Bounds("recbole", ">=1.2.1,<1.3", "this package extends classes of RecBole 1.2", WITHOUT_REQUIREMENTS),
    Bounds("numpy", ">=1.26,<3"),
    Bounds("scipy", ">=1.11.4,<2"),
    Bounds("colorama", "==0.4.4", "RecBole 1.2.1 itself admits no later release"),
    Bounds("colorlog", "==4.7.2", "RecBole 1.2.1 itself admits no later release"),
    Bounds("plotly", ">=4.0.0"),
    Bounds("psutil", ">=5.9.0"),
    Bounds("scikit-learn", ">=0.23.2"),
    Bounds("tabulate", ">=0.8.10"),
    Bounds("tensorboard", ">=2.5.0"),
    Bounds("texttable", ">=0.9.0"),
    Bounds("tqdm", ">=4.48.2"),
)


def bounds_on(python: str) -> tuple[Bounds, ...]:
    """Return what is compared on a Python of this version."""
    return _ON_ANY + (_FROM_312 if Version(python) >= Version("3.12.dev0") else _BELOW_312)


def without_recbole() -> str:
    """Say that RecBole is missing, and how it is installed on this Python."""
    (recbole,) = (tested for tested in bounds_on(platform.python_version()) if tested.name == "recbole")
    return judge(recbole, None).advice


# The extras of setup.py, which are looked at where they are installed.
OPTIONAL = (
    Bounds("faiss-cpu", ">=1.8,<2"),
    Bounds("usearch", ">=2.20,<3"),
    Bounds("pyarrow", ">=14,<20", "newer ones were not tried, and 26 needs numpy 2"),
    Bounds("matplotlib", ">=3.7,<4"),
    Bounds("hyperopt", ">=0.2.5,<0.2.6", "RecBole's exhaustive search ends in an error from 0.2.6 on"),
)


class Finding(NamedTuple):
    """One line of the table; `advice` is empty where all is well."""

    name: str
    installed: str
    range: str
    verdict: str
    advice: str


def installed_version(name: str) -> str | None:
    """The version in the distribution's metadata, without importing it; None where it is not installed."""
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def judge(tested: Bounds, installed: str | None) -> Finding:
    """Compare one version with its range and word the advice."""
    name, allowed, above, install = tested
    if name == "python":
        remedy = "Make an environment with Python 3.11 and install the package there."
    else:
        remedy = "Run: " + (install or f'pip install "{name}{allowed}"')
    if not installed:
        return Finding(name, "-", allowed, "missing", f"{name} is not installed. {remedy}")
    try:
        version = Version(installed)
    except InvalidVersion:
        problem = f"{name} reports the version {installed!r}, which cannot be compared with {allowed}."
        return Finding(name, installed, allowed, "unreadable", f"{problem} {remedy}")
    wanted = SpecifierSet(allowed)
    # A pre-release is evaluated by its number instead of being refused for what it is.
    if wanted.contains(version, prereleases=True):
        return Finding(name, installed, allowed, "ok", "")
    if any(version < Version(bound.version) for bound in wanted if bound.operator == ">="):
        return Finding(
            name,
            installed,
            allowed,
            "too old",
            f"{name} {installed} is too old: {allowed} is needed. {remedy}",
        )
    problem = f"{name} {installed} is newer than the tested range {allowed}: {above}."
    return Finding(name, installed, allowed, "too new", f"{problem} {remedy}")


def table(findings: Iterable[Finding]) -> str:
    """The findings as aligned columns under a heading."""
    rows = [("package", "installed", "tested", "verdict"), *(finding[:4] for finding in findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def cuda() -> tuple[str, bool]:
    """A sentence about the GPU and whether torch could be asked at all."""
    try:
        # Imported last and here: it takes seconds, and a broken torch must not cost the user the table.
        import torch

        if torch.cuda.is_available():
            return f"CUDA is available: {torch.cuda.get_device_name()}.", True
    except Exception as error:  # a broken install raises ImportError, OSError, RuntimeError ...
        return f"CUDA was not checked, because torch cannot be used: {error}", False
    return "CUDA is not available: training runs on the CPU, which is fine for small data sets.", True


def doctor() -> int:
    """Print versions against the tested ranges, then what to do; return 0 if all is well and 1 otherwise."""
    python = installed_version("python") or platform.python_version()
    findings = [judge(tested, installed_version(tested.name)) for tested in bounds_on(python)]
    extras = [(extra, installed_version(extra.name)) for extra in OPTIONAL]
    findings += [judge(extra, version) for extra, version in extras if version is not None]
    advice = [finding.advice for finding in findings if finding.advice]
    print(table(findings))
    for sentence in advice:
        print(f"- {sentence}")
    cuda_sentence, torch_works = cuda()
    print(cuda_sentence)
    fine = not advice and torch_works
    print("All is well." if fine else "Mend the above, then run the doctor again.")
    return 0 if fine else 1
