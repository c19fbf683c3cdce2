"""The archive that ``torch.save`` writes, read through torch's own reader, every byte checked against its checksum."""

from __future__ import annotations

import os
import sys
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO

import torch

from recbole_derrd.recbole_compat.layout import Record, read_layout
from recbole_derrd.recbole_compat.refusals import DamagedError, NotACheckpointError

#: Smaller records are checked at once, larger ones while the next are read.
_LARGE = 1 << 20
_BYTE_ORDERS = {b"little": "little", b"big": "big"}


class Archive:
    """The records of one file. As a context manager: at the end of the block, each of them has been checked.

    Raises:
        NotACheckpointError: the file is no archive, or holds code (TorchScript).
        DamagedError: a record is not what was written.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read the directory."""
        self._records = read_layout(file)
        # Torch's reader reads these as it is built, at whatever length they give.
        early = [record for name, record in self._records.items() if name.lower().startswith(("version", ".data/"))]
        if not all(record.stored for record in early):
            raise DamagedError("a record is compressed")
        file.seek(0)
        # The same open file: what has been checked is what is read.
        torchs_reader: Any = torch._C.PyTorchFileReader
        self._reader = torchs_reader(file)
        if self._reader.has_record("constants.pkl") or "data.pkl" not in self._records:
            raise NotACheckpointError("TorchScript, or another archive")
        if not all(record.stored for record in self._records.values()):
            raise DamagedError("a record is compressed")
        self._unread = set(self._records)
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        self._checks: list[Future[None]] = []
        order = self.record("byteorder") if "byteorder" in self._records else b"little"
        if order not in _BYTE_ORDERS:
            raise DamagedError("its byte order is unknown")
        #: Whether numbers have to be turned round.
        self.swapped = _BYTE_ORDERS[order] != sys.byteorder

    def __enter__(self) -> Archive:
        """Return the archive."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Check what nobody has read, and wait for the other checks."""
        try:
            if kind is None:
                for name in sorted(self._unread):
                    self.record(name)
                for check in self._checks:
                    check.result()
        finally:
            self._pool.shutdown(wait=True)

    def record(self, name: str) -> bytes:
        """Return a record's bytes."""
        content: bytes = self._reader.get_record(name)
        self._unread.discard(name)
        _check(content, self._records[name])
        return content

    def storage(self, key: str, size: int) -> torch.UntypedStorage:
        """Return the bytes of a tensor's storage.

        Args:
            key: its name within the pickle.
            size: how many bytes it must have.
        """
        name = f"data/{key}"
        record = self._records.get(name)
        if record is None or record.size != size:
            raise DamagedError(f"the record '{name}' does not hold {size} bytes")
        self._unread.discard(name)
        if size == 0:
            return torch.UntypedStorage(0)
        # This call trusts its size, which is why it is compared before.
        storage: torch.UntypedStorage = self._reader.get_storage_from_record(name, size, torch.uint8).untyped_storage()
        content = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,)).numpy()
        # Numbers that are turned round are so in place.
        if size < _LARGE or self.swapped:
            _check(content, record)
        else:
            self._checks.append(self._pool.submit(_check, content, record))
        return storage


def _check(content: Any, record: Record) -> None:
    if len(content) != record.size or zlib.crc32(content) != record.crc:
        raise DamagedError(f"the bytes of its record '{record.name}' are not those that were written")
