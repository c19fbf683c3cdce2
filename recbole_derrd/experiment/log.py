"""What surrounds a run: its own log file, its own share of the threads, and a word on each model."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from logging import getLogger
from pathlib import Path

import torch
from recbole.utils import init_logger, set_color
from threadpoolctl import threadpool_limits

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data
from recbole_derrd.errors import OptionError
from recbole_derrd.evaluation.metrics import shown_metric
from recbole_derrd.model_cache.results import TrainedModel
from recbole_derrd.runtime.console import SHOWN, ConsoleFilter, ConsoleHandler
from recbole_derrd.runtime.files import try_writing
from recbole_derrd.runtime.processes import is_main_process


@contextlib.contextmanager
def own_log(config: DistillConfig) -> Iterator[Path | None]:
    """Give the run its own log file, whose path is yielded; the next run of the same process gets another.

    The file has all that RecBole and this package log; the console warnings and one line for each step, or with
    ``verbose`` all of it.
    """
    root = getLogger()
    before, level = list(root.handlers), root.level
    if not is_main_process():
        root.setLevel(logging.ERROR)
        yield None
        return
    try:
        # RecBole looks whether a folder is there and then makes it: of two processes one would fail.
        Path("log", config["model"]).mkdir(parents=True, exist_ok=True)
        init_logger(config)
        own = [handler for handler in root.handlers if handler not in before]
        _refuse_unwritable_tensorboard()
    except (OSError, OptionError) as error:
        _close([handler for handler in root.handlers if handler not in before])
        if isinstance(error, OptionError):
            raise
        raise OptionError(
            f"Cannot write the log under '{Path.cwd()}': {error.strerror or error}. Start the run in another folder."
        ) from error
    own = [_for_the_console(root, handler, config) for handler in own]
    for handler in own:
        _log_once(handler)
    files = [Path(os.path.relpath(handler.baseFilename)) for handler in own if isinstance(handler, logging.FileHandler)]
    try:
        yield files[0] if files else None
    finally:
        _close(own)
        root.setLevel(level)


def _for_the_console(root: logging.Logger, handler: logging.Handler, config: DistillConfig) -> logging.Handler:
    """Put in place of RecBole's handler for the console one that shows less and knows of bars; others stay."""
    if isinstance(handler, logging.FileHandler) or not isinstance(handler, logging.StreamHandler):
        return handler
    ours = ConsoleHandler(handler.stream)
    ours.setLevel(handler.level)
    ours.setFormatter(handler.formatter)
    ours.addFilter(ConsoleFilter(verbose=config.run_options.verbose or handler.level <= logging.DEBUG))
    root.removeHandler(handler)
    root.addHandler(ours)
    return ours


def _refuse_unwritable_tensorboard() -> None:
    """Refuse before a training what RecBole's trainer would stumble over."""
    folder = Path("log_tensorboard")
    try:
        folder.mkdir(exist_ok=True)
        try_writing(folder)
    except OSError as error:
        raise OptionError(
            f"Cannot write to '{folder.absolute()}', where RecBole keeps its TensorBoard files: "
            f"{error.strerror or error}. Free it, or start the run in another folder."
        ) from error


def _log_once(handler: logging.Handler) -> None:
    """Log once that the log cannot be written, instead of a traceback a line; the run goes on without it."""
    said = False

    def handle_error(record: logging.LogRecord) -> None:
        nonlocal said
        if not said:
            _log_file_problem(handler, sys.exc_info()[1])
        said = True

    handler.handleError = handle_error  # type: ignore[method-assign]
    stream = getattr(handler, "stream", None)
    # A locale without ± writes a ? instead of nothing.
    if isinstance(stream, io.TextIOWrapper):
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors="replace")


def _log_file_problem(handler: logging.Handler, error: BaseException | None) -> None:
    name = getattr(handler, "baseFilename", "the log")
    # The log itself was where an error would have been written.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"recbole-derrd: Cannot write '{name}': {error}. The run goes on; its log is not whole.", file=sys.stderr)


def _close(handlers: list[logging.Handler]) -> None:
    root = getLogger()
    for handler in handlers:
        root.removeHandler(handler)
        try:
            handler.close()
        except OSError as error:
            _log_file_problem(handler, error)


@contextlib.contextmanager
def deprecations_hidden() -> Iterator[None]:
    """Keep RecBole's own use of what pandas and torch give up to itself: it is not the user's to mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
        yield


def most_threads(cpus: int) -> int:
    """Return how many threads a run may ask for: a file of settings may come from a larger machine."""
    return max(64, 4 * cpus)


@contextlib.contextmanager
def own_threads(threads: int, processes: int) -> Iterator[None]:
    """Bind torch, and the libraries behind numpy, to this many threads; several processes share the cores.

    Raises:
        OptionError: there are so many that they would only get in each other's way, or that a library would crash.
    """
    most = most_threads(os.cpu_count() or 1)
    if threads > most:
        raise OptionError(
            f"threads: {threads} are too many for the {os.cpu_count()} CPUs of this machine, where at most {most} may "
            "be asked for. Lower it; 0 leaves torch its choice, and more threads than CPUs make a run slower."
        )
    before = torch.get_num_threads()
    threads = threads or (max(1, before // processes) if processes > 1 else 0)
    if threads:
        torch.set_num_threads(threads)
    try:
        with threadpool_limits(limits=threads or None):
            yield
    finally:
        torch.set_num_threads(before)


class Notes(list[str]):
    """Sentences that are logged as warnings and that the run's table repeats."""

    def add(self, sentences: Iterable[str]) -> None:
        """Log and keep what has not been logged yet."""
        for sentence in sentences:
            if sentence not in self:
                self.append(sentence)
                getLogger().warning(sentence)


def log_data(config: DistillConfig, data: Data) -> None:
    """Log in a line what is trained on."""
    history, rows = data.history, [len(one._dataset) for one in (data.train, data.valid, data.test)]
    parts = ", ".join(f"{count:,} {part}" for count, part in zip(rows, ("training", "validation", "test")))
    words = f": {config['dataset']}, {history.n_users - 1:,} users, {history.n_items - 1:,} items; rows: {parts}"
    getLogger().info(set_color("Data", "yellow") + words, extra=SHOWN)


def log_model(trained: TrainedModel, who: str) -> None:
    """Log where a model comes from and how good it is."""
    how = f"trained in {trained.seconds:.0f} s" if trained.epochs else "given, not trained here"
    how = "found, not trained again" if trained.found else how
    known = not all(math.isnan(value) for value in trained.test.values())
    result = f"test {shown_metrics(trained.test)}" if known else "not evaluated"
    getLogger().info(set_color(who, "yellow") + f": {trained.model} ({how}), {result}", extra=SHOWN)


def shown_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics as the log shows them."""
    return ", ".join(f"{name} {shown_metric(value)}" for name, value in metrics.items())
