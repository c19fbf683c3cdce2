"""SIGTERM and SIGHUP end the process as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class StoppedError(KeyboardInterrupt):
    """A signal that asks the process to end; everything is left as Ctrl-C leaves it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _: object) -> None:
    # Who asks twice does not want to wait.
    signal.signal(number, signal.SIG_DFL)
    raise StoppedError(number)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise :class:`StoppedError` at SIGTERM and SIGHUP, unless they are ignored (nohup) or handled by other code."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    alone = threading.current_thread() is threading.main_thread()
    taken = [number for number in numbers if alone and signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
