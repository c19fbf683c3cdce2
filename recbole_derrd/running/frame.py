"""What surrounds a run: its own log file, its own share of the threads, and a word on each model."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from logging import getLogger
from pathlib import Path

import torch
from recbole.utils import init_logger, set_color
from threadpoolctl import threadpool_limits

from recbole_derrd.config import DistillConfig
from recbole_derrd.errors import OptionError
from recbole_derrd.processes import is_first
from recbole_derrd.trained.measured import TrainedModel


@contextlib.contextmanager
def own_log(config: DistillConfig) -> Iterator[None]:
    """Give the run its own log file; the next run of the same process gets another."""
    root = getLogger()
    before, level = list(root.handlers), root.level
    if not is_first():
        root.setLevel(logging.ERROR)
        yield
        return
    try:
        # RecBole looks whether a folder is there and then makes it: of two processes one would fail.
        Path("log", config["model"]).mkdir(parents=True, exist_ok=True)
        init_logger(config)
    except OSError as error:
        raise OptionError(
            f"Cannot write the log under '{Path.cwd()}': {error.strerror or error}. Start the run in another folder."
        ) from error
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)


@contextlib.contextmanager
def deprecations_hidden() -> Iterator[None]:
    """Keep RecBole's own use of what pandas and torch give up to itself: it is not the user's to mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
        yield


@contextlib.contextmanager
def own_threads(threads: int, processes: int) -> Iterator[None]:
    """Bind torch, and the libraries behind numpy, to this many threads; several processes share the cores."""
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
        """Log and keep what has not been said yet."""
        for sentence in sentences:
            if sentence not in self:
                self.append(sentence)
                getLogger().warning(sentence)


def say(trained: TrainedModel, who: str) -> None:
    """Log where a model comes from and how good it is."""
    how = f"trained in {trained.seconds:.0f} s" if trained.epochs else "brought"
    how = "found, not trained again" if trained.found else how
    getLogger().info(set_color(who, "yellow") + f": {trained.model} ({how}), test {trained.test}")
