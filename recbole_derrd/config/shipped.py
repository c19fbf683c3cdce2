"""The configurations that come with the package, which are named without a path: ``quickstart``, ``methods/rrd``."""

from __future__ import annotations

from pathlib import Path, PurePath

from recbole_derrd.errors import OptionError, nearest

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder() -> Path:
    """Return where the configurations lie: in the package where it is installed, beside it in a checkout."""
    within = _PACKAGE / "configs"
    return within if within.is_dir() else _PACKAGE.parent / "configs"


def shipped_names() -> list[str]:
    """Return the names of the configurations."""
    folder = shipped_folder()
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))


def shipped_file(name: str) -> Path:
    """Return the file of a configuration."""
    return shipped_folder() / f"{name}.yaml"


def found_config(given: str | Path) -> Path:
    """Return the config file that is meant: what is no file and has no ending is a name of those that are shipped.

    Raises:
        OptionError: there is none of that name.
    """
    path = Path(given)
    if path.is_file() or path.suffix:
        return path
    name, names = path.as_posix(), shipped_names()
    if name in names:
        return shipped_file(name)
    # A folder of that name is a mistake of another kind.
    if path.exists() or path.is_absolute():
        return path
    meant = nearest(name, names)
    hint = f" Did you mean '{meant}'?" if meant else ""
    raise OptionError(
        f"There is no config file '{given}', and none of that name comes with the package.{hint} "
        "'recbole-derrd help configs' lists those that do."
    )


def shipped_hint(missing: Path) -> str:
    """Return how to name a file that is not there, where one like it comes with the package; else nothing."""
    parts = PurePath(missing).with_suffix("").parts
    name = "/".join(parts[1:] if parts[:1] == ("configs",) else parts)
    return f" It comes with the package under the name '{name}'." if name in shipped_names() else ""


def summary_of(name: str) -> str:
    """Return what a configuration is for: its first line."""
    with shipped_file(name).open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip().rstrip(":")
