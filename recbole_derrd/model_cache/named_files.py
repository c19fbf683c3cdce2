"""Files that settings name: a model that is built from a file is another model when the file's content changes."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recbole_derrd.data.atomic_files import file_digest
from recbole_derrd.errors import OptionError

#: Settings that name output or data folders, that have a part of their own in a cache key, or that hold words alone.
_POSITIONS = frozenset(
    """
    model dataset data_path checkpoint_dir record_dir cache_dir config_files dataset_save_path dataloaders_save_path
    wandb_project state benchmark teacher_model benchmark_filename eval_args train_neg_sample_args load_col unload_col
    unused_col metrics valid_metric distillers
    """.split()
)
#: In a folder with more files than this, sizes and times stand for the content.
_MOST_FILES = 1000


def with_contents(key: str, value: Any, beside: str | None = None) -> Any:
    """Return a setting's value, with a hash of the content in place of each file name.

    Args:
        key: the setting.
        value: its value; lists and dicts are gone through.
        beside: the data folder, where models look for files too.

    Raises:
        OptionError: a file that is named cannot be read.
    """
    if type(value) is dict:
        return {name: with_contents(f"{key}.{name}", one, beside) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(with_contents(key, one, beside) for one in value)
    digest = _digest(key, value, beside)
    return value if digest is None else f"content {digest}"


def named_files(settings: Mapping[str, Any], beside: str | None = None) -> dict[str, str]:
    """Return a hash of the content of each file or folder that settings name, by its name.

    Args:
        settings: the settings.
        beside: the data folder, where models look for files too.

    Raises:
        OptionError: one cannot be read.
    """
    found = {}
    for key, value in _leaves(settings):
        digest = _digest(key, value, beside)
        if digest is not None:
            found[os.fspath(value)] = digest
    return found


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(one, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(one, key)
    else:
        yield key, value


def _digest(key: str, value: Any, beside: str | None) -> str | None:
    """Return a hash of the content of the file or folder that a value names; None where it names none."""
    if key.partition(".")[0] in _POSITIONS or not isinstance(value, (str, os.PathLike)):
        return None
    path = os.path.expanduser(os.fspath(value))
    try:
        if os.path.isfile(path):
            return file_digest(path)
        near = os.path.join(beside, path) if beside and isinstance(path, str) and path.strip("./\\ ") else None
        if near and os.path.isfile(near):
            return file_digest(near)
        # Values such as '.' or '/' are separators more often than folders.
        folder = isinstance(path, str) and path.strip("./\\ ") and os.path.isdir(path)
        return _folder_digest(Path(path)) if folder else _digest_without_ending(path)
    except OSError as error:
        raise OptionError(
            f"Cannot read '{error.filename or path}', which the setting '{key}' names: {error.strerror or error}. "
            "What is trained depends on it: make it readable, or take it out."
        ) from error


def _digest_without_ending(path: str) -> str | None:
    """Return a hash of the files that a path names but for their endings, which numpy and torch add; None for none."""
    if not isinstance(path, str) or os.sep not in path or not os.path.basename(path):
        return None
    files = sorted(file for file in glob.glob(f"{glob.escape(path)}.*") if os.path.isfile(file))
    if not files:
        return None
    return hashlib.sha256(repr([file_digest(file) for file in files]).encode()).hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, including those behind links; no folder twice."""
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = {name: os.path.realpath(os.path.join(place, name)) for name in folders}
        folders[:] = [name for name in sorted(folders) if real[name] not in seen]
        seen.update(real.values())
        yield from (Path(place) / name for name in names)


def _raise(error: OSError) -> None:
    raise error


def _folder_digest(folder: Path) -> str:
    files = sorted(file for file in _files(folder) if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        content = file_digest(file) if len(files) <= _MOST_FILES else f"{stat.st_size} {stat.st_mtime_ns}"
        digest.update(f"{file.relative_to(folder)}\0{content}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
