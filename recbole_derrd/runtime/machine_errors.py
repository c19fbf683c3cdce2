"""What the machine refuses a process (memory, open files, room on a disk) as a sentence that says what to do."""

from __future__ import annotations

import errno
import re

from recbole_derrd.errors import DistillError

_NO_MEMORY = re.compile(
    r"can'?t allocate memory|cannot allocate memory|unable to allocate|failed to allocate|out of memory|bad_alloc"
    r"|not enough memory|memory allocation|failed to map segment",
    re.I,
)
_NO_FILES = re.compile(r"too many open files", re.I)
_NO_THREADS = re.compile(r"can'?t start new thread|thread creation failed|resource temporarily unavailable", re.I)
#: What a system's answer means for whoever started the run.
_ADVICE = {
    errno.ENOSPC: "Free space, or choose another folder.",
    errno.EDQUOT: "Free space, or choose another folder.",
    errno.EFBIG: "The limit of a file's size (ulimit -f) is too low, or choose another folder.",
    errno.EROFS: "Choose another folder, or start the run in one that can be written.",
    errno.EACCES: "Choose another folder, or start the run in one that can be written.",
    errno.EPERM: "Choose another folder, or start the run in one that can be written.",
}


def limit_reached(error: BaseException) -> str | None:
    """Return the sentence for an error that says that memory, open files or threads have run out; None for another."""
    reason = " ".join(str(error).split())
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _describes(error, _NO_MEMORY, reason):
        return (
            f"The memory is not enough: {_shortened(reason) or 'no more was to be had'}. Lower train_batch_size, "
            "eval_batch_size, knowledge_batch_size or the sizes of the models, or give the process more (ulimit -v, "
            "the limit of a container)."
        )
    if number in (errno.EMFILE, errno.ENFILE) or _describes(error, _NO_FILES, reason):
        return (
            f"The process may not open more files: {_shortened(reason)}. Raise the limit, e.g. by 'ulimit -n 1024', "
            "and start it again."
        )
    if number == errno.EAGAIN or _describes(error, _NO_THREADS, reason):
        return (
            f"The system starts no more threads or processes: {_shortened(reason)}. Lower threads, nproc or jobs, or "
            "raise the limit (ulimit -u)."
        )
    return None


def sentence_of(error: BaseException) -> str | None:
    """Return the sentence for an error that is the machine's and no defect of the program; None for any other."""
    reached = limit_reached(error)
    if reached is not None or not isinstance(error, OSError):
        return reached
    named = " and ".join(f"'{name}'" for name in (error.filename, error.filename2) if name)
    # Without a number it is what some library says in its own words.
    answer = error.strerror or _shortened(" ".join(str(error).split())) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0, "")
    return f"Cannot use {named or 'a file or a connection'}: {answer}. {advice}".strip()


def refuse_limit(error: BaseException) -> None:
    """Raise the sentence for an error that says that memory, open files or threads have run out.

    Raises:
        DistillError: the sentence.
    """
    reached = limit_reached(error)
    if reached is not None:
        raise DistillError(reached) from error


def _describes(error: BaseException, words: re.Pattern[str], reason: str) -> bool:
    # Texts of libraries: torch raises a RuntimeError, a library that cannot be loaded an ImportError.
    return isinstance(error, (RuntimeError, ImportError, OSError, SystemError)) and bool(words.search(reason))


def _shortened(reason: str) -> str:
    # Torch begins with a line of its own source.
    reason = re.sub(r"^\[enforce fail at [^]]*\]\s*(\S+ == \S+\s*)?\.?\s*", "", reason)
    return reason[:200].rstrip(". ")
