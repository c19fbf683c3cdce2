"""Several processes training one model: which of them this is, what they tell each other, and starting them."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.util
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch import Tensor

from recbole_derrd.errors import DistillError, OptionError
from recbole_derrd.runtime.machine_errors import sentence_of

# An optimizer's first step imports the last.
_SLOW_IMPORTS = ("torch", "recbole.trainer", "torch._dynamo")
#: Seconds for a process to go when it is asked to.
_GRACE = 5.0
#: How long a process waits for the others, e.g. while the first of them finds the teacher's lists.
_PATIENCE = datetime.timedelta(hours=24)
#: Folders of sockets of processes that this one has started; Python removes them where a process ends by itself.
_SOCKETS: set[str] = set()


def is_distributed() -> bool:
    """Say whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return this process's number among all of them, over all machines; 0 where there is one."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes over all machines."""
    return dist.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """Say whether this process is the one that writes, logs and decides."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        dist.barrier()


def broadcast(value: Any) -> Any:
    """Return the first process's value on every process."""
    if not is_distributed():
        return value
    box = [value if is_main_process() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather(value: Any) -> list[Any]:
    """Return every process's value, in the order of their numbers."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_rows(part: Tensor) -> Tensor:
    """Return every process's rows one after the other, in the order of their numbers; they may differ in number."""
    if not is_distributed():
        return part
    lengths = all_gather(len(part))
    # GPUs speak nccl, which takes nothing from the CPU: what models that compute there have collected.
    place = torch.device("cuda") if dist.get_backend() == "nccl" else part.device
    padded = torch.zeros((max(lengths), *part.shape[1:]), dtype=part.dtype, device=place)
    padded[: len(part)] = part.to(place)
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([one[:length] for one, length in zip(parts, lengths)]).to(part.device)


def mean_of_all(values: list[float]) -> list[float]:
    """Return the mean over the processes of each number."""
    every = all_gather(values)
    return [sum(column) / len(every) for column in zip(*every)]


def shard_range(count: int) -> tuple[int, int]:
    """Return (start, stop) of this process's share of ``count`` rows; the shares follow one another."""
    return rank() * count // world_size(), (rank() + 1) * count // world_size()


def rendezvous(settings: Any) -> dict[str, Any] | None:
    """Return the keys by which a run's processes find each other; None where it is one process.

    Args:
        settings: a configuration with RecBole's ``nproc``, ``world_size``, ``ip``, ``port`` and ``group_offset``.
    """
    here = int(settings["nproc"] or 1)
    world = int(settings["world_size"] or -1)
    world = here if world == -1 else world
    if world == 1:
        return None
    # One machine's processes take any free port; those of several must be told one.
    port = settings["port"] or (_free_port() if world == here else 5678)
    offset = int(settings["group_offset"] or 0)
    ip = settings["ip"] or "localhost"
    return {"nproc": here, "world_size": world, "ip": ip, "port": port, "offset": offset, "group_offset": offset}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def join(local_rank: int, settings: dict[str, Any]) -> torch.device:
    """Become one of the processes, by RecBole's keys ``offset``, ``world_size``, ``ip`` and ``port``.

    Args:
        local_rank: number of this process on this machine.
        settings: RecBole's configuration.

    Returns:
        The device of this process.

    Raises:
        OptionError: the others cannot be reached, or there is no GPU for this one.
    """
    on_gpu = bool(settings.get("gpu_id")) and torch.cuda.is_available()
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise OptionError(
            f"gpu_id = {settings['gpu_id']} and nproc = {settings.get('nproc')} ask for more GPUs than the "
            f"{torch.cuda.device_count()} that torch finds. Lower nproc, or take the CPU (--gpu_id=)."
        )
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        address = f"tcp://{settings['ip']}:{settings['port']}"
        try:
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                rank=local_rank + settings["offset"],
                world_size=settings["world_size"],
                init_method=address,
                timeout=_PATIENCE,
            )
        except (RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise OptionError(
                f"The {settings['world_size']} processes cannot meet at {address}: {reason}. Check ip, port, "
                "world_size and group_offset; each machine needs the same ip, port and world_size."
            ) from error
    return device


def remove_sockets() -> None:
    """Remove what processes that this one has started would leave if all were killed now."""
    for folder in tuple(_SOCKETS):
        shutil.rmtree(folder, ignore_errors=True)


def _end_with_the_parent(left: str | None) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    if left is not None:
        # A killed parent could not remove it.
        shutil.rmtree(left, ignore_errors=True)
    os._exit(1)


def _started(
    local_rank: int,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    answers: Any,
    environment: dict[str, str],
    home: str,
    left: str | None,
) -> None:
    # It began where Python's own modules are, see _among_pythons_own.
    os.chdir(home)
    # That of the process which it was forked from may be older.
    os.environ.update(environment)
    # Its parent may be killed, and its files are then the next run's.
    threading.Thread(target=_end_with_the_parent, args=(left,), daemon=True).start()
    try:
        answer = work(local_rank, *arguments)
    except KeyboardInterrupt:
        # Torch would take it for a good end.
        os._exit(128 + signal.SIGINT)
    except Exception as error:
        sentence = str(error) if isinstance(error, DistillError) else sentence_of(error)
        if sentence is None or isinstance(error, ConnectionError):
            raise
        answers.put((False, sentence))
        # At once: the interpreter's own end would wait for the other processes.
        os._exit(2)
    if is_main_process():
        answers.put((True, answer))
    barrier()
    dist.destroy_process_group()


def _start_method() -> str:
    """Return how processes are begun: forked from one that has imported what takes long, where that is safe."""
    # CUDA does not survive a fork, and a driver may be woken by as little as an import; so may libraries of macOS.
    if sys.platform != "linux" or torch.cuda.is_available():
        return "spawn"
    # Not of this package, which that process might find elsewhere; and nothing that this one could not import.
    multiprocessing.set_forkserver_preload([name for name in _SLOW_IMPORTS if name in sys.modules])
    try:
        multiprocessing.forkserver.ensure_running()
    except OSError:  # e.g. a path of temporary files that is too long for a socket
        return "spawn"
    return "forkserver"


@contextlib.contextmanager
def _among_pythons_own() -> Iterator[None]:
    """Be in the folder of Python's own modules while processes are begun.

    Each begins with ``python -c``, which imports from the folder that it is in first of all, and only then takes this
    one's path.
    """
    home, library = os.getcwd(), os.path.dirname(os.__file__)
    os.chdir(library if os.path.isdir(library) else os.path.dirname(sys.executable))
    try:
        yield
    finally:
        os.chdir(home)


def start(work: Callable[..., str], processes: int, *arguments: Any) -> str | None:
    """Run ``work(local_rank, *arguments)`` in this many new processes and wait for them.

    Args:
        work: a function that a fresh process can import; it returns a short string.
        processes: how many on this machine.
        arguments: what it is given.

    Returns:
        The answer of the first process of all machines; None where that one ran elsewhere.

    Raises:
        DistillError: what one of them has raised.
    """
    from torch.multiprocessing.spawn import ProcessException, start_processes

    home = os.getcwd()
    with _among_pythons_own():
        method = _start_method()
    # Where the sockets of the process lie that the others are forked from.
    left = multiprocessing.util.get_temp_dir() if method == "forkserver" else None
    _SOCKETS.update([left] if left else [])
    # A pipe: both ends are open before the processes start, and an answer is shorter than its buffer.
    answers = multiprocessing.get_context(method).SimpleQueue()
    failure: Exception | None = None
    known = set(multiprocessing.active_children())
    files: list[str] = []
    try:
        with _among_pythons_own():
            context = start_processes(
                _started,
                args=(work, arguments, answers, dict(os.environ), home, left),
                nprocs=processes,
                join=False,
                start_method=method,
            )
        files = list(getattr(context, "error_files", ()))
        while not context.join():
            pass
    except ProcessException as error:
        failure = error
    finally:
        _end([process for process in multiprocessing.active_children() if process not in known])
        for file in files:
            with contextlib.suppress(OSError):
                os.unlink(file)
    answer = _first_answer(answers, failure)
    if failure is not None and answer is None:
        raise _ended_early(failure, [process.exitcode for process in context.processes]) from failure
    return answer


def _first_answer(answers: Any, failure: Exception | None) -> str | None:
    """Return the first answer; where processes have ended early, only what one of them has raised counts."""
    while not answers.empty():
        well, answer = answers.get()
        if not well:
            raise DistillError(answer)
        if failure is None:
            return str(answer)
    return None


def _end(processes: list[Any]) -> None:
    """End processes that are still there: one that is stopped must not wait for them."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE)
        if process.is_alive():
            process.kill()
            process.join()


def _ended_early(failure: Exception, codes: list[int | None]) -> Exception:
    """Return the error that says why processes have ended: the first to go takes the others along."""
    goes_on = "With resume: True the same command goes on from the last training checkpoint."
    # SIGTERM is how the others are ended.
    killed = [(rank, -code) for rank, code in enumerate(codes) if code is not None and code < 0]
    killed.sort(key=lambda one: one[1] == signal.SIGTERM)
    reason = str(failure).strip().splitlines()[-1].rstrip(".")
    if killed and (killed[0][1] != signal.SIGTERM or "signal" in reason):
        number = killed[0][1]
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        memory = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        return DistillError(
            f"Process {killed[0][0]} of this run was ended by {name}{memory}; the others were ended with it. {goes_on}"
        )
    known = ("DistillError", "exit code", "onnection closed", "onnection reset", "eer closed", "roken pipe")
    if any(word in reason for word in known):
        return DistillError(f"A process of this run has ended: {reason}. {goes_on}")
    return RuntimeError(f"A process of this run has failed:\n{failure}")
