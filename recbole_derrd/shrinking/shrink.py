"""From a trained model and a number of bytes to the best student of these bytes, and an export of it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import Iterable, Iterator
from logging import getLogger
from pathlib import Path
from typing import Any, Callable

from recbole_derrd.adapters import EmbeddingAdapter
from recbole_derrd.compression import compress, evaluate_tables
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.errors import OptionError
from recbole_derrd.evaluation.latency import measure_latency
from recbole_derrd.evaluation.metrics import bigger_is_better
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes
from recbole_derrd.experiment.log import deprecations_hidden
from recbole_derrd.exporting import Request, export
from recbole_derrd.exporting.checkpoint import Trained, load_trained, of_the_data, run_settings
from recbole_derrd.exporting.evaluate import Evaluation, evaluate_checkpoints
from recbole_derrd.exporting.request import Source
from recbole_derrd.model_cache.results import TrainResult
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.shrinking.budget import Split, read_size, splits_of_bytes, splits_of_total
from recbole_derrd.shrinking.outcome import Outcome, Row
from recbole_derrd.shrinking.plan import Sizes, coded_settings, wide_settings

#: Splits of the budget that are trained; which, their untrained codes say on the validation split.
_TRAINED = 2
#: Splits whose untrained codes come within this share of the best are worth a training.
_NEAR = 0.97


@dataclasses.dataclass(frozen=True)
class Budget:
    """What may be spent: exactly one of the three.

    Attributes:
        item_bytes: bytes of an item's codes; the users stay float32.
        size: bytes of all users and items together, e.g. "1MB"; the users are in 8 bits.
        times: how many times smaller than the teacher the whole shall be.
    """

    item_bytes: int | None = None
    size: str | None = None
    times: float | None = None

    def check(self) -> None:
        """Refuse none, several, and what is no size.

        Raises:
            OptionError: what to write.
        """
        given = [value for value in (self.item_bytes, self.size, self.times) if value is not None]
        if len(given) != 1:
            raise OptionError(
                "How small? Write one of --bytes=20 (an item), --size=1MB (the whole) and --times=40 (smaller)."
            )
        if self.size is not None:
            read_size(self.size)
        if self.times is not None and not self.times > 1:
            raise OptionError(f"--times must be above 1, but is {self.times}.")

    def splits(self, users: int, items: int, teacher_bytes: int, most: int) -> list[Split]:
        """Return the ways to spend it; ids include the padding."""
        if self.item_bytes is not None:
            return splits_of_bytes(self.item_bytes, most)
        total = read_size(self.size) if self.size is not None else int(teacher_bytes / (self.times or 1))
        return splits_of_total(total, users, items, most)


def shrink(
    checkpoint: str | Path,
    budget: Budget,
    out: str | Path | None = None,
    settings: Iterable[str] = (),
    *,
    force: bool = False,
    compare_student: bool = True,
    tell: Callable[[str], None] | None = None,
    command: str = "",
) -> Outcome:
    """Make the best student of so many bytes that learns from a trained model.

    Args:
        checkpoint: the model: ours or stock RecBole's.
        budget: the bytes.
        out: folder of an export of the student; none is written if none.
        settings: ``--key=value`` over the checkpoint's settings and over the plan's.
        force: replace an export that lies at ``out``.
        compare_student: also train a student of these bytes without a teacher, for the table.
        tell: takes a sentence for each choice and step; the log if none.
        command: the command line, for the export's card.

    Returns:
        The table's rows, files and choices.

    Raises:
        DistillError: something the user can mend.
    """
    budget.check()
    request = None if out is None else Request(Path(), Path(out), force=force, command=command)
    if request is not None:
        request.check_place()
    return _Shrinking(Path(checkpoint), tuple(settings), tell or getLogger().info).run(budget, request, compare_student)


class _Shrinking:
    """One shrinking: what its steps share."""

    def __init__(self, checkpoint: Path, settings: tuple[str, ...], tell: Callable[[str], None]) -> None:
        self.checkpoint, self.settings, self._tell = checkpoint, settings, tell
        self.choices: list[str] = []
        with deprecations_hidden(), _quiet():
            self.teacher = load_trained(Source(checkpoint, "shrink", settings=of_the_data(settings)))
        # Budgets share their wide student, and an interrupted shrinking goes on where it was.
        self.common = {**run_settings(self.teacher), "compare_student": False, "resume": True}
        config = self.teacher.config
        self.metric = str(config["valid_metric"]).lower()
        self.sign = 1 if bigger_is_better(self.metric) else -1

    def run(self, budget: Budget, request: Request | None, compare_student: bool) -> Outcome:
        adapter, history = self.teacher.adapter, self.teacher.data.history
        embedded = isinstance(adapter, EmbeddingAdapter)
        size = int(adapter.item_embeddings().shape[1]) if embedded else None
        sizes = Sizes(history.n_users - 1, history.n_items - 1, len(history.items), size)
        splits = budget.splits(history.n_users, history.n_items, model_bytes(adapter.model), sizes.wide)
        rows = [self._evaluated("Teacher", self.teacher)]
        self.tell(
            f"Teacher: {adapter.name} of {size or '-'} dimensions, {self.metric} {rows[0].test[self.metric]:.4f}."
        )
        if compare_student:
            rows.append(self._plain(splits))
        if embedded:
            rows.append(self._untrained("Teacher, untrained", self.teacher, splits)[0][0])

        wide = self._run(wide_settings(sizes), self.checkpoint, f"A wide student of {sizes.wide} dimensions in float32")
        student = self._loaded(wide)
        found = self._untrained("Wide student, untrained", student, splits)
        best = found[0][0].valid[self.metric]
        worth = [split for row, split in found if self._near(row.valid[self.metric], best)][:_TRAINED]
        named = " and ".join(map(str, worth))
        self.choose(
            f"Of {len(splits)} ways to spend the bytes, trained: {named}. Such codes of the wide student, untrained, "
            "are the best on the validation split."
        )
        records = []
        for split in worth:
            record = self._run(coded_settings(sizes, split), Path(wide["checkpoints"]["student"]), f"{split}")
            records.append((record, split))
        record, split = max(records, key=lambda one: self.sign * one[0]["distilled"]["valid"][self.metric])
        if len(records) > 1:
            self.choose(f"{split}: the best of the trained ones on the validation split.")
        path = Path(record["checkpoints"]["student"])
        seconds = sum(one["distilled"]["seconds"] for one in (wide, *(found for found, _ in records)))
        rows += [self._of_record("Wide student", wide, None), self._of_record(f"Shrunk: {split}", record, seconds)]
        place = self._exported(request, path)
        return Outcome(tuple(rows), path, place, Path(record["path"]), tuple(self.choices), self.metric)

    # -- the steps

    def _run(self, plan: dict[str, Any], teacher: Path, what: str) -> dict[str, Any]:
        """Train a student by a plan, over which the user's settings go."""
        self.tell(f"{what}: learns by {' + '.join(plan['distillers']) or 'RecBole alone'}.")
        own = {"teacher_checkpoint": str(teacher)} if plan["distillers"] else {}
        with deprecations_hidden(), _repetitions_left_out():
            return run_recbole_derrd(
                model="BPR", config_dict={**self.common, **plan, **own}, command_line=self.settings, show_result=False
            )

    def _plain(self, splits: list[Split]) -> Row:
        """Train a student of these bytes as RecBole does; its embeddings are put into 8 bits afterwards."""
        split = next((one for one in splits if one.bits == 8), splits[-1])
        plan = {
            "distillers": [], "embedding_size": split.item_bytes, "store_bits": 8, "epochs": 300, "eval_step": 5,
            "stopping_step": 3, "train_batch_size": 1024, "learning_rate": 0.001, "fast": "all",
            "store_users": split.user_bits < 32,
        }  # fmt: skip
        record = self._run(plan, self.checkpoint, f"A student of {split.item_bytes} dimensions without a teacher")
        stored = record["stored"]
        return Row(
            f"Student alone, {split.item_bytes} dimensions in 8 bits", stored["test"], stored["valid"],
            stored["bytes_per_item"], stored["bytes"], _p50(stored), record["distilled"]["seconds"],
        )  # fmt: skip

    def _untrained(self, name: str, model: Trained, splits: list[Split]) -> list[tuple[Row, Split]]:
        """Return a model's codes without any training, one row a split, the best first."""
        adapter = model.adapter
        assert isinstance(adapter, EmbeddingAdapter)
        size = int(adapter.item_embeddings().shape[1])
        found = []
        for split in splits:
            kept = min(split.size, size)
            begun = time.perf_counter()
            options = CompressOptions(
                method="quantized", size=kept if kept < size else None, bits=split.bits, users=False, rotation="learned"
            )
            tables = compress(adapter, options, model.config["seed"])
            seconds = time.perf_counter() - begun
            with _quiet(), kept_random_state():
                result = evaluate_tables(model.config, model.data, tables, role="compressed", seconds=seconds)
            found.append((self._of_tables(f"{name}: {split}", result, tables.items.bytes_a_row), split))
        return sorted(found, key=lambda one: -self.sign * one[0].valid[self.metric])

    def _loaded(self, record: dict[str, Any]) -> Trained:
        own = Source(Path(record["checkpoints"]["student"]), "shrink", settings=self._of_the_data())
        with deprecations_hidden(), _quiet():
            return load_trained(own)

    def _exported(self, request: Request | None, path: Path) -> Path | None:
        if request is None:
            return None
        with _quiet():
            export(dataclasses.replace(request, checkpoint=path, settings=self._of_the_data()))
        return request.out

    # -- rows

    def _evaluated(self, name: str, trained: Trained) -> Row:
        with _quiet():
            (record,) = evaluate_checkpoints(Evaluation((self.checkpoint,), settings=self._of_the_data()))
        entry, model = record.distilled, trained.adapter.model
        latency = measure_latency(model, 200, seed=trained.config["seed"])
        milliseconds = None if latency is None else latency.p50_ms
        return Row(name, entry.test, entry.valid or {}, bytes_per_item(model), model_bytes(model), milliseconds, None)

    def _of_tables(self, name: str, result: TrainResult, item_bytes: int) -> Row:
        return Row(name, result.test, result.valid, item_bytes, model_bytes(result.model), None, result.seconds)

    def _of_record(self, name: str, record: dict[str, Any], seconds: float | None) -> Row:
        entry = record["distilled"]
        return Row(
            name, entry["test"], entry["valid"], entry["bytes_per_item"], entry["bytes"], _p50(entry),
            entry["seconds"] if seconds is None else seconds,
        )  # fmt: skip

    # -- words

    def tell(self, sentence: str) -> None:
        self._tell(sentence)

    def choose(self, sentence: str) -> None:
        self.choices.append(sentence)
        self._tell(sentence)

    def _near(self, value: float, best: float) -> bool:
        return value >= _NEAR * best if self.sign > 0 else value <= best / _NEAR

    def _of_the_data(self) -> tuple[str, ...]:
        return of_the_data(self.settings)


def _p50(entry: dict[str, Any]) -> float | None:
    latency = entry.get("latency")
    return latency["p50_ms"] if latency else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Log nothing but errors: what is read and evaluated between the runs has its line in the table."""
    root = getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


#: How warnings begin that say nothing new here: the plan asks for it.
_EXPECTED = ("Nothing to resume", "The teacher is a BPR of the student's own size")
#: Lines of a run that each of a shrinking's runs would repeat.
_REPEATED = ("Data:", "Teacher:")
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


@contextlib.contextmanager
def _repetitions_left_out() -> Iterator[None]:
    """Leave out warnings of what a plan asks for knowingly, and on the console what each run would repeat."""

    def new(record: logging.LogRecord) -> bool:
        words = _COLOUR.sub("", record.getMessage())
        if words.startswith(_REPEATED):
            record.shown = False
        return not words.startswith(_EXPECTED)

    root = getLogger()
    root.addFilter(new)
    try:
        yield
    finally:
        root.removeFilter(new)
