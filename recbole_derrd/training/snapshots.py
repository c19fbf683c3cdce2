"""Earlier snapshots of a model: its weights at some epochs of its training, few at any time.

Which epochs are kept is decided by their numbers alone, so that a training that is stopped and resumed, or repeated,
keeps the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_derrd.errors import CheckpointError, UnreadableError
from recbole_derrd.training.checkpoint import read_checkpoint, write_stock_checkpoint

#: Weights on disk at any time, at most: enough to be near each quarter of the way to a best epoch in its second half.
MOST = 16
#: How far, as a share of the way, a kept epoch may be from the one that is wanted.
_NEAR = 1 / 8


def _stride(ran: int) -> int:
    stride = 1
    while ran // stride > MOST:
        stride *= 2
    return stride


def kept_epochs(ran: int) -> range:
    """Return the epochs, counted from 1, whose weights are kept once a training has run for so many."""
    stride = _stride(ran)
    return range(stride, ran + 1, stride)


def snapshot_epochs(best: int, ran: int, snapshots: int) -> list[int]:
    """Return the epochs of the snapshots before the final one, at equal shares of the way to the best epoch.

    Args:
        best: the best epoch, counted from 1; its weights are the final snapshot.
        ran: epochs that were trained.
        snapshots: how many are wanted, the final one included.

    Returns:
        At most ``snapshots - 1`` epochs, ascending: the nearest kept ones, or, where the best epoch came so early that
        one of those is far off, the shares themselves, which are to be trained again; fewer of fewer epochs.
    """
    kept = kept_epochs(max(ran, best))
    wanted = [best * part / snapshots for part in range(1, snapshots)]
    near = [min(kept, key=lambda epoch: (abs(epoch - share), epoch)) for share in wanted]
    far = any(abs(epoch - share) > _NEAR * best or epoch >= best for epoch, share in zip(near, wanted))
    chosen = [max(1, round(share)) for share in wanted] if far else near
    return sorted({epoch for epoch in chosen if epoch < best})


def best_epoch(checkpoint: Path) -> int:
    """Return the epoch, counted from 1, that a model's weights are of.

    Raises:
        CheckpointError: the file is damaged, or does not say.
    """
    epoch = read_checkpoint(checkpoint).get("epoch") or 0
    if not isinstance(epoch, int) or epoch < 0:
        raise CheckpointError(f"'{checkpoint}' is damaged: its epoch cannot be {str(epoch)[:60]}.")
    return int(epoch) + 1


class Snapshots:
    """A folder of weights by epoch.

    Args:
        folder: where they are.
        only: keep these epochs alone; those of :func:`kept_epochs` if None.
    """

    def __init__(self, folder: Path, only: Iterable[int] | None = None) -> None:
        """Nothing is written yet."""
        self.folder = Path(folder)
        self._only = None if only is None else frozenset(only)

    def path(self, epoch: int) -> Path:
        """Return the file of an epoch."""
        return self.folder / f"epoch-{epoch}.pth"

    def keep(self, epoch: int, state: dict[str, Any]) -> None:
        """Write an epoch's weights, and remove those that are no longer to be kept."""
        write_stock_checkpoint(self.path(epoch), state)
        self.reduce(kept_epochs(epoch) if self._only is None else self._only)

    def wants(self, epoch: int) -> bool:
        """Return whether this epoch, counted from 1, is to be kept."""
        return epoch in (kept_epochs(epoch) if self._only is None else self._only)

    def reduce(self, epochs: Iterable[int]) -> None:
        """Remove the weights of all other epochs."""
        kept = {self.path(epoch).name for epoch in epochs}
        for path in self.folder.glob("epoch-*.pth"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def whole(self, epochs: Iterable[int]) -> bool:
        """Return whether the weights of all these epochs are there, each under its own name."""
        return all(self._is_of(epoch) for epoch in epochs)

    def _is_of(self, epoch: int) -> bool:
        path = self.path(epoch)
        if not path.is_file():
            return False
        try:
            found = best_epoch(path)
        except UnreadableError:
            raise
        except CheckpointError as error:
            getLogger().warning(f"{error} It is trained once more.")
            return False
        if found != epoch:
            getLogger().warning(f"'{path}' holds the weights after epoch {found}. They are trained once more.")
        return found == epoch
