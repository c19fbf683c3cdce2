"""Why a file is not read: each is turned into a sentence that names the file (:mod:`.reading`)."""

from __future__ import annotations


class RefusedError(ValueError):
    """Any reason for which a file is not read."""


class NotACheckpointError(RefusedError):
    """The file is something else: no archive, or TorchScript."""


class DamagedError(RefusedError):
    """The archive is cut short, or its bytes are not those that were written."""


class AsksForCodeError(RefusedError):
    """The file names a callable that no checkpoint needs; the message is this name."""


class MalformedError(RefusedError):
    """The pickle is none that a pickler writes, or describes a tensor that its bytes do not hold."""
