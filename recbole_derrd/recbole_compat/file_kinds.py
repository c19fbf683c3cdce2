"""What a path holds that is given for a checkpoint and is none, from its kind and its first bytes."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

_WANTED = "Give the .pth file that a training of RecBole or of this plugin has saved."
#: First bytes of files that are given for checkpoints.
_SIGNS = (
    (b"\x93NUMPY", "one numpy array"),
    (b"PAR1", "a Parquet table"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip file; unpack it, if a checkpoint is in it"),
)


def fault_of_checkpoint_path(path: str | Path) -> str | None:
    """Say in a sentence why a path is no checkpoint; None where its kind and first bytes allow that it is one."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return f"There is no checkpoint file '{path}': it is a folder. {_first_inside(Path(path))}"
        if not stat.S_ISREG(status.st_mode):
            return f"There is no checkpoint file '{path}': it is a pipe or a device. {_WANTED}"
        with open(path, "rb") as file:
            head = file.read(512)
    except (FileNotFoundError, NotADirectoryError):
        return f"There is no checkpoint file '{path}'. Check the path."
    except (OSError, ValueError) as error:
        return f"The checkpoint '{path}' cannot be read: {getattr(error, 'strerror', None) or error}."
    kind = "empty" if not head else _kind(path, head, status.st_size)
    return None if kind is None else f"'{path}' is {kind}, not a RecBole checkpoint. {_WANTED}"


def _kind(path: str | Path, head: bytes, size: int) -> str | None:
    for sign, kind in _SIGNS:
        if head.startswith(sign):
            return kind
    if head.startswith(b"PK"):
        return "an .npz file of arrays" if _holds_arrays(path) else None
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < size:
        return "a safetensors file of bare weights"
    return "a text file" if _is_text(head) else None


def _holds_arrays(path: str | Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _is_text(head: bytes) -> bool:
    try:
        # A character may be cut at the end.
        text = head.decode("utf-8") if len(head) < 512 else head[:-3].decode("utf-8", errors="ignore")
    except UnicodeDecodeError:
        return False
    return len(text) > 0 and all(sign.isprintable() or sign in "\t\r\n\ufeff" for sign in text)


def _first_inside(folder: Path) -> str:
    inside = sorted(folder.glob("*.pth")) if os.access(folder, os.R_OK) else []
    return f"Give a file in it, e.g. '{inside[0]}'." if inside else _WANTED
