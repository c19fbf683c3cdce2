"""Files that ``torch.save`` wrote, read as data; whatever is wrong with one is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recbole_derrd.errors import CheckpointError, UnreadableError, shown
from recbole_derrd.recbole_compat.archive import Archive
from recbole_derrd.recbole_compat.rebuild import Rebuilder, admits
from recbole_derrd.recbole_compat.refusals import AsksForCodeError, MalformedError, NotACheckpointError
from recbole_derrd.recbole_compat.tensors import Storages
from recbole_derrd.recbole_compat.unpickle import describe
from recbole_derrd.runtime.machine_errors import refuse_limit


def read_archive(path: str | Path, device: torch.device | str = "cpu", plain: bool = False) -> Any:
    """Return what ``torch.save`` wrote: plain values, tensors, numpy's numbers; every byte is as it was written.

    What else a stock checkpoint holds comes as :class:`recbole_derrd.recbole_compat.placeholders.Inert`.

    Args:
        path: the file.
        device: where the tensors go.
        plain: whether to refuse a file that holds anything else.

    Raises:
        CheckpointError: the file is missing, no checkpoint, damaged, or asks for code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint file '{path}'. Check the path.")
    try:
        with open(path, "rb") as file, Archive(file) as archive:
            described = describe(archive.record("data.pkl"), admits)
            return Rebuilder(Storages(archive, device), plain, 2 * path.stat().st_size + (1 << 20)).value(described)
    except NotACheckpointError as error:
        raise CheckpointError(
            f"'{path}' is not a RecBole checkpoint, or only a part of one. Give the .pth file of a training."
        ) from error
    except AsksForCodeError as error:
        raise CheckpointError(
            f"'{path}' asks to load {shown(str(error))}, which no RecBole checkpoint needs and which could run code. "
            "It was not loaded; use a checkpoint from a source that you trust."
        ) from error
    except MalformedError as error:
        raise CheckpointError(
            f"'{path}' is not what torch.save writes: {_short(error)}. It was not loaded; train the model again."
        ) from error
    except torch.cuda.OutOfMemoryError:
        raise
    except OSError as error:
        refuse_limit(error)
        raise UnreadableError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        refuse_limit(error)
        raise CheckpointError(
            f"'{path}' is damaged and cannot be read: {_short(error)}. Take a whole copy of it, or train the model "
            "again."
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
