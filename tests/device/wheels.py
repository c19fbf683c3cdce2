"""What RecBole and this package need beside torch, as a folder of wheels for a machine that can fetch nothing."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

#: What a folder may weigh.
MOST_MIB = 60
#: Pythons that compiled wheels are collected for.
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@dataclasses.dataclass(frozen=True)
class Package:
    """One requirement.

    Attributes:
        name: for pip.
        module: what is imported.
        below: the first major version that does not do.
        wheel: "pure" and "compiled" ones are collected; "there" must be there already, as torch is.
        helper: it may be missing: some versions of another package need it, others do not.
    """

    name: str
    module: str
    below: int | None = None
    wheel: str = "pure"
    helper: bool = False

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return self.name if self.below is None else f"{self.name}<{self.below}"


#: All that is imported, found by experiment. Of RecBole's requirements ray, hyperopt, plotly, thop and psutil are not:
#: they belong to its quick_start, its tuning and its count of operations.
NEEDED = (
    Package("torch", "torch", wheel="there"),
    Package("numpy", "numpy", wheel="there"),
    Package("scipy", "scipy", wheel="there"),
    Package("scikit-learn", "sklearn", wheel="there"),
    Package("pyyaml", "yaml", wheel="there"),
    Package("tensorboard", "tensorboard", wheel="there"),
    # RecBole fills in place, which does nothing from pandas 3 on.
    Package("pandas", "pandas", below=3, wheel="compiled"),
    Package("recbole", "recbole", below=2),
    Package("colorlog", "colorlog"),
    Package("colorama", "colorama"),
    Package("texttable", "texttable"),
    Package("tabulate", "tabulate"),
    Package("tqdm", "tqdm"),
    Package("filelock", "filelock"),
    Package("threadpoolctl", "threadpoolctl"),
    Package("packaging", "packaging"),
    # pandas' own.
    Package("python-dateutil", "dateutil", helper=True),
    Package("pytz", "pytz", helper=True),
    Package("tzdata", "tzdata", helper=True),
    Package("six", "six", helper=True),
    # The methods' own tests say in which small worlds they are looked at.
    Package("pytest", "pytest"),
    Package("pluggy", "pluggy", helper=True),
    Package("iniconfig", "iniconfig", helper=True),
    Package("pygments", "pygments", helper=True),
    Package("hypothesis", "hypothesis"),
    Package("sortedcontainers", "sortedcontainers", helper=True),
)


def unsuitable(packages: Iterable[Package] = NEEDED) -> list[Package]:
    """Return what is not installed in this interpreter, or in a version that does not do."""
    return [package for package in packages if not _suits(package)]


def _suits(package: Package) -> bool:
    if importlib.util.find_spec(package.module) is None:
        return False
    if package.below is None:
        return True
    try:
        version = importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return int(version.split(".")[0]) < package.below


def fatal(missing: Iterable[Package]) -> list[Package]:
    """Return those of the missing packages without which nothing runs."""
    return [package for package in missing if not package.helper]


def said(missing: list[Package], folder: Path | None) -> str:
    """Say in a sentence what is missing and what to do."""
    names = ", ".join(package.requirement for package in missing)
    there = [package.name for package in missing if package.wheel == "there"]
    if there:
        return (
            f"Missing here: {names}. Install on this machine, as no wheels are collected of these: {', '.join(there)}."
        )
    where = f"they are not in '{folder}' either" if folder else "give a folder of wheels with --wheels=FOLDER"
    return (
        f"Missing here: {names}; {where}. Fill a folder where packages can be fetched: "
        "python tests/device/check.py --collect-wheels=FOLDER"
    )


def install(folder: Path, target: Path) -> list[Package]:
    """Install from a folder of wheels what is missing, into a folder that goes before all others on sys.path.

    Not a virtual environment: where Python itself runs in one, a second one would not see its packages.

    Returns:
        What is missing still.
    """
    wanted = [package for package in unsuitable() if package.wheel != "there" and _wheels_of(package, folder)]
    if wanted:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        command += ["--disable-pip-version-check", "--find-links", str(folder), "--target", str(target)]
        names = [package.requirement for package in wanted]
        done = subprocess.run([*command, *names], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pip cannot install {', '.join(names)} from '{folder}': {_errors(done.stderr)}")
        sys.path.insert(0, str(target))
        importlib.invalidate_caches()
    return fatal(unsuitable())


def _wheels_of(package: Package, folder: Path) -> list[Path]:
    stem = package.name.replace("-", "_").lower()
    return [file for file in folder.glob("*.whl") if file.name.lower().split("-")[0] == stem]


def collect(folder: Path, pythons: Iterable[str] = PYTHONS) -> str:
    """Fill a folder with the wheels; say what it holds.

    Raises:
        RuntimeError: pip has failed, or the folder has become too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pure = [package.requirement for package in NEEDED if package.wheel == "pure"]
    # Of the oldest Python, so that every later one takes them too.
    oldest = min(pythons, key=lambda version: tuple(map(int, version.split("."))))
    _download(folder, pure, ["--python-version", oldest, "--platform", "any"])
    for python in pythons:
        platforms = [part for platform in _PLATFORMS for part in ("--platform", platform)]
        compiled = [package.requirement for package in NEEDED if package.wheel == "compiled"]
        _download(folder, compiled, ["--python-version", python, "--implementation", "cp", *platforms])
    files = sorted(folder.glob("*.whl"))
    size = sum(file.stat().st_size for file in files) / 2**20
    if size > MOST_MIB:
        raise RuntimeError(
            f"The wheels in '{folder}' take {size:.0f} MiB, more than {MOST_MIB}. Start with an empty folder, or name "
            "fewer Pythons with --pythons."
        )
    return f"{len(files)} wheels in '{folder}', {size:.1f} MiB, for Python {', '.join(pythons)}."


def _download(folder: Path, names: list[str], options: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), *options]
    done = subprocess.run([*command, *names], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip cannot fetch {', '.join(names)}: {_errors(done.stderr)}")


def _errors(output: str) -> str:
    """Return what pip says of errors, without its warnings."""
    lines = [line for line in output.strip().splitlines() if not line.startswith("WARNING")]
    return " ".join(lines)[-600:] or output.strip()[-600:]
