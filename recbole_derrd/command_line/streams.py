"""The standard streams of the process: closed, full, or without a reader."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import TextIO


def open_streams() -> None:
    """Give the process the three standard streams: where one is closed, the next file to be opened would be it."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        # A terminal without ± shows a ? instead of a traceback.
        with contextlib.suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="replace")


class OutputError(OSError):
    """The standard output takes nothing."""


def print_out(text: str) -> None:
    """Print an answer as it is.

    Raises:
        BrokenPipeError: its reader has gone.
        OutputError: it cannot be written.
    """
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Told apart from other files: an unbuffered stream takes the next flush all the same.
        raise OutputError(error.errno, error.strerror) from error


def let_go_of(stream: TextIO) -> None:
    """Send what is still written to a stream nowhere."""
    # Python would complain once more, or give another exit code, when it flushes at its end.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def log_error(message: str) -> None:
    """Print a sentence for the user on the standard error."""
    # Text of files and records may be in it, which must not steer a terminal.
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in message
    )
    try:
        print(f"recbole-derrd: {shown}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        # Where nothing can be printed, the exit code must do.
        let_go_of(sys.stderr)


def has_lost_its_reader() -> bool:
    """Return whether it is our own output whose reader (| head) has gone; other pipes break as well."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLERR)
        poll.register(sys.stderr.fileno(), select.POLLERR)
    except (AttributeError, OSError, ValueError):
        # Windows has no poll; a stdout that is no file has no reader.
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def output_is_full() -> bool:
    """Return whether the standard output takes no more."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False
