"""From a trained model and a number of bytes to the best student of these bytes, and an export of it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import re
import time
from collections.abc import Collection, Iterable, Iterator
from logging import getLogger
from pathlib import Path
from typing import Any, Callable

from recbole_derrd.adapters import EmbeddingAdapter
from recbole_derrd.compression import compress, evaluate_tables
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.config.options.evaluation import left_out
from recbole_derrd.config.other_methods import NOT_AMONG
from recbole_derrd.config.settings import config_files, read_command_line, read_settings
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import DataError, DistillError, OptionError
from recbole_derrd.evaluation.metrics import bigger_is_better
from recbole_derrd.evaluation.size import model_bytes
from recbole_derrd.experiment.log import deprecations_hidden, log_data, own_log, own_threads
from recbole_derrd.experiment.plans import Sizes
from recbole_derrd.experiment.preflight import check_run
from recbole_derrd.experiment.refine import (
    OF_THE_PLANS,
    bytes_named,
    check_refining,
    dimensions_of,
    refined_config,
    refined_teacher,
    who_teaches,
)
from recbole_derrd.experiment.teachers import AnyTeacher, evaluated, knowledge_of, teachers_of
from recbole_derrd.exporting import Request, export
from recbole_derrd.exporting.checkpoint import described_by, of_the_data, run_settings
from recbole_derrd.exporting.request import Source
from recbole_derrd.model_cache.results import TrainedModel, TrainResult
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.runtime.processes import rendezvous
from recbole_derrd.runtime.randomness import kept_random_state
from recbole_derrd.shrinking.budget import Budget, Codebooks, Split
from recbole_derrd.shrinking.outcome import Outcome, Row
from recbole_derrd.shrinking.plan import codebook_settings, coded_settings, plain_settings

#: Splits of the budget that are trained; which, their untrained codes say on the validation split.
_TRAINED = 2
#: Settings that the bytes decide.
_SPENT = ("embedding_size", "student_bits", "student_codebooks", "user_bits", "store_bits", "store_users")
#: Settings of a training that a user may give, which hold for the refined teacher too.
_OF_A_TRAINING = ("learner", *(key for key in OF_THE_PLANS if key not in _SPENT))
#: Settings that a student without a teacher does not have.
_OF_A_TAUGHT_STUDENT = ("distillers", "base_weight", "warm_start", "teacher_scale")
#: Splits whose untrained codes come within this share of the best are worth a training.
_NEAR = 0.97


def shrink(
    checkpoint: str | Path | None,
    budget: Budget,
    out: str | Path | None = None,
    settings: Iterable[str] = (),
    *,
    config_file_list: Iterable[str | Path] | None = None,
    force: bool = False,
    compare_student: bool = True,
    tell: Callable[[str], None] | None = None,
    command: str = "",
) -> Outcome:
    """Make the best student of so many bytes that learns from a trained model.

    Args:
        checkpoint: the model: ours or stock RecBole's; if None, the settings name the teacher or teachers, as those of
            a run do.
        budget: the bytes.
        out: folder of an export of the student; none is written if none.
        settings: ``--key=value`` over the checkpoint's settings and over the plan's.
        config_file_list: YAML files under these settings.
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
        request.check_writable()
    files, given = config_files(config_file_list), tuple(settings)
    _refuse_spent(given)
    common = _of_the_file(Path(checkpoint), given) if checkpoint is not None else _of_the_settings(files, given)
    return _Shrinking(common, files, given, tell or getLogger().info).run(budget, request, compare_student)


def _of_the_file(checkpoint: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of a run on a checkpoint's data, which it teaches."""
    with deprecations_hidden(), _quiet():
        config, content = described_by(Source(checkpoint, "shrink", settings=of_the_data(settings)))
    return {**run_settings(config, content), "teacher_checkpoint": str(checkpoint)}


def _of_the_settings(files: list[str | Path], settings: tuple[str, ...]) -> dict[str, Any]:
    """Return who teaches: the teachers that the settings of a run name; its student is another one here."""
    given = {*read_command_line(settings), *(key for file in files for key in read_settings(file))}
    if not {"teacher", "teacher_model", "teacher_checkpoint", "teacher_export", "teachers"} & given:
        raise OptionError(
            "Which model? Name a checkpoint (recbole-derrd shrink saved/BPR.pth --bytes=20), or a teacher in the "
            "settings: teacher_model, teacher, teachers, teacher_checkpoint or teacher_export."
        )
    # A teacher is of the run's model where it names no other, and the student here is a BPR.
    return who_teaches(DistillConfig(None if "model" in given else "BPR", None, files, {}, settings))


def _refining(files: list[str | Path], settings: tuple[str, ...]) -> bool | dict[str, Any]:
    """Return the user's settings of the refined teacher's training, among them those that go over both plans.

    Raises:
        OptionError: the user wants no refined teacher, or says what it cannot be.
    """
    given = read_command_line(settings)
    wanted: Any = True
    for one in (*map(read_settings, files), given):
        wanted = one.get("teacher_refine", wanted)
    if wanted is False:
        raise OptionError("A shrunk student learns from the refined teacher: take teacher_refine: False out.")
    both = {key: given[key] for key in _OF_A_TRAINING if key in given}
    # What is neither is refused with the other settings.
    own = {} if wanted is True else wanted
    return {**both, **own} or True if isinstance(own, dict) else wanted


def _refuse_spent(settings: tuple[str, ...]) -> None:
    """Refuse settings that the bytes decide, over which those of the command line would go."""
    for key in _SPENT:
        if key in read_command_line(settings):
            raise OptionError(f"The bytes decide '{key}' of what shrink trains: take --{key} out.")


def _without(settings: tuple[str, ...], keys: Collection[str]) -> tuple[str, ...]:
    return tuple(setting for setting in settings if setting.lstrip("-").partition("=")[0] not in keys)


class _Shrinking:
    """One shrinking: what its steps share."""

    def __init__(
        self,
        common: dict[str, Any],
        files: list[str | Path],
        settings: tuple[str, ...],
        tell: Callable[[str], None],
    ) -> None:
        refine = _refining(files, settings)
        self.files, self.settings, self._tell = files, _without(settings, ["teacher_refine"]), tell
        self.given = read_command_line(settings)
        self.choices: list[str] = []
        # Budgets share the refined teacher, and an interrupted shrinking goes on where it was.
        self.common = {**common, "compare_student": False, "resume": True, "teacher_refine": refine}
        methods = {"distillers": ["listwise"], "warm_start": "none"}
        self.config = DistillConfig("BPR", None, files, {**self.common, **methods}, self.settings)
        check_run(self.config)
        if rendezvous(self.config) is not None:
            # A refined teacher of several processes is another one than that of one.
            raise OptionError("shrink trains in one process: take out nproc and world_size.")
        if "validation" in left_out(self.config):
            raise OptionError(
                "shrink chooses on the validation split, and eval_args leaves none. Take a teacher whose run has one, "
                "e.g. eval_args: {split: {RS: [0.8, 0.1, 0.1]}}."
            )
        self.metric = str(self.config["valid_metric"]).lower()
        self.sign = 1 if bigger_is_better(self.metric) else -1

    def run(self, budget: Budget, request: Request | None, compare_student: bool) -> Outcome:
        config = self.config
        threads = own_threads(config.run_options.threads, 1)
        with own_log(config), threads, deprecations_hidden(), _warnings_left_out():
            data = prepare_data(config)
            log_data(config, data)
            self._check(budget, data)
            self._tell_of_the_files(data)
            teachers = teachers_of(config, data)
            knowledge = knowledge_of(config, teachers, data)
            trained = evaluated(config, teachers, knowledge, data)
            sizes = Sizes.of(data, dimensions_of(teachers))
            history = data.history
            most = refined_config(config, sizes)["embedding_size"]
            splits = budget.splits(history.n_users, history.n_items, trained.bytes, most)
            rows = [_of_trained("Teacher", trained)]
            if len(teachers) == 1 and sizes.teacher is not None:
                rows.append(self._untrained("Teacher, untrained", teachers[0], data, splits)[0][0])
            refined = refined_teacher(config, data, teachers)
            found = self._untrained("Refined teacher, untrained", refined, data, splits)
            rows.append(_of_trained("Refined teacher", refined.trained))
        if compare_student:
            rows.insert(1, self._plain(sizes, splits))
        plans = self._plans(sizes, found, budget.codebooks(history.n_items, most))
        records = [(self._run(plan, name, self.settings), name) for name, plan in plans.items()]
        record, name = max(records, key=lambda one: self.sign * one[0]["distilled"]["valid"][self.metric])
        if len(records) > 1:
            self.choose(f"{name}: the best of the trained ones on the validation split.")
        path = Path(record["checkpoints"]["student"])
        seconds = refined.trained.seconds + sum(one["distilled"]["seconds"] for one, _ in records)
        rows.append(_of_entry(f"Shrunk: {name}", record["distilled"], seconds))
        outcome = Outcome(tuple(rows), path, None, Path(record["path"]), tuple(self.choices), self.metric)
        try:
            return dataclasses.replace(outcome, export=self._exported(request, path))
        except DistillError:
            # What the trainings have come to is not lost with it.
            self.tell(outcome.summary())
            raise

    # -- the steps

    def _check(self, budget: Budget, data: Data) -> None:
        """Refuse before the first training what can be seen before it."""
        own = check_refining(self.config, data)
        known = 0 if budget.times is None else bytes_named(self.config, data)
        if known is not None:
            budget.splits(data.history.n_users, data.history.n_items, known, own["embedding_size"])

    def _plans(
        self, sizes: Sizes, found: list[tuple[Row, Split]], books: Codebooks | None
    ) -> dict[str, dict[str, Any]]:
        """Choose what is trained, by the untrained codes of all splits; return the settings by their names."""
        worth = self._worth_a_training(found)
        named = " and ".join(map(str, worth))
        self.choose(
            f"There are {len(found)} ways to spend the bytes. The refined teacher's codes, untrained, are the best on "
            f"the validation split with {named}: this is trained."
        )
        plans = {str(split): coded_settings(sizes, split) for split in worth}
        if books is not None:
            plans[str(books)] = codebook_settings(sizes, books.number, books.size)
            self.choose(f"The items are so many that codebooks hardly count beside them: {books} are trained too.")
        return plans

    def _run(self, plan: dict[str, Any], what: str, settings: tuple[str, ...]) -> dict[str, Any]:
        """Train a student by a plan, over which the user's settings go."""
        methods = DistillConfig("BPR", None, self.files, {**self.common, **plan}, settings).run_options.distillers
        self.tell(f"{what}: {'learns by ' + ' + '.join(methods) if methods else 'RecBole alone'}.")
        whole = {**self.common, **plan, "teacher_refine": self.common["teacher_refine"] if methods else False}
        with deprecations_hidden(), _warnings_left_out(), _lines_left_out():
            return run_recbole_derrd("BPR", None, self.files, whole, settings, show_result=False)

    def _plain(self, sizes: Sizes, splits: list[Split]) -> Row:
        """Train a student of these bytes as RecBole does; its embeddings are put into 8 bits afterwards."""
        split = next((one for one in splits if one.bits == 8), splits[-1])
        plan = plain_settings(sizes, split.item_bytes, users=split.user_bits < 32)
        own = _without(self.settings, _OF_A_TAUGHT_STUDENT)
        record = self._run(plan, f"A student of {split.item_bytes} dimensions without a teacher", own)
        name = f"Student alone, {split.item_bytes} dimensions in 8 bits"
        return _of_entry(name, record["stored"], record["distilled"]["seconds"])

    def _untrained(self, name: str, teacher: AnyTeacher, data: Data, splits: list[Split]) -> list[tuple[Row, Split]]:
        """Return a model's codes without any training, one row a split, the best first."""
        adapter = teacher.load()
        assert isinstance(adapter, EmbeddingAdapter)
        size = int(adapter.item_embeddings().shape[1])
        found = []
        for split in splits:
            kept = min(split.size, size)
            begun = time.perf_counter()
            options = CompressOptions(
                method="quantized", size=kept if kept < size else None, bits=split.bits, users=False, rotation="learned"
            )
            tables = compress(adapter, options, self.config["seed"])
            seconds = time.perf_counter() - begun
            with _quiet(), kept_random_state():
                result = evaluate_tables(teacher.config, data, tables, role="compressed", seconds=seconds)
            found.append((_of_tables(f"{name}: {split}", result, tables.items.bytes_a_row), split))
        return sorted(found, key=lambda one: self._rank(one[0]))

    def _exported(self, request: Request | None, path: Path) -> Path | None:
        if request is None:
            return None
        with _quiet():
            export(dataclasses.replace(request, checkpoint=path, settings=of_the_data(self.settings)))
        return request.out

    # -- words

    def tell(self, sentence: str) -> None:
        self._tell(sentence)

    def _tell_of_the_files(self, data: Data) -> None:
        """Say which settings of files do not hold for what is trained here: its plan has its own."""
        planned = {"compare_student", *coded_settings(Sizes.of(data, None), Split(8, 8))}
        of_files = {key for file in self.files for key in read_settings(file)}
        idle = sorted((of_files & planned) - {"teacher_refine", *self.given})
        if idle:
            self.tell(
                f"The files describe the teacher's run. What shrink trains from it has a plan of its own, and takes "
                f"none of their {', '.join(idle)}; settings of its trainings are given on the command line."
            )

    def choose(self, sentence: str) -> None:
        self.choices.append(sentence)
        self._tell(sentence)

    def _worth_a_training(self, found: list[tuple[Row, Split]]) -> list[Split]:
        """Return the splits of the best untrained codes, of all splits with theirs, the best first.

        Raises:
            DataError: no codes have a number for what chooses.
        """
        known = [(row.valid[self.metric], split) for row, split in found if self._rank(row) < math.inf]
        if not known:
            raise DataError(
                f"No codes have a {self.metric} on the validation split, so that none are the best: it is no number "
                "there. Choose another valid_metric, or check what eval_args leaves for the validation split."
            )
        return [split for value, split in known if self._near(value, known[0][0])][:_TRAINED]

    def _rank(self, row: Row) -> float:
        """Return a number that is the smaller the better a row is on the validation split; infinity for no number."""
        value = row.valid.get(self.metric, math.nan)
        return math.inf if math.isnan(value) else -self.sign * value

    def _near(self, value: float, best: float) -> bool:
        return value >= _NEAR * best if self.sign > 0 else value <= best / _NEAR


def _of_trained(name: str, trained: TrainedModel) -> Row:
    milliseconds = None if trained.latency is None else trained.latency.p50_ms
    return Row(
        name, trained.test, trained.valid, trained.bytes_per_item, trained.bytes, milliseconds, trained.seconds or None
    )


def _of_tables(name: str, result: TrainResult, item_bytes: int) -> Row:
    return Row(name, result.test, result.valid, item_bytes, model_bytes(result.model), None, result.seconds)


def _of_entry(name: str, entry: dict[str, Any], seconds: float) -> Row:
    latency = entry.get("latency")
    milliseconds = latency["p50_ms"] if latency else None
    return Row(name, entry["test"], entry["valid"], entry["bytes_per_item"], entry["bytes"], milliseconds, seconds)


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
_EXPECTED = ("Nothing to resume", "The teacher is a BPR of the student's own size", NOT_AMONG)
#: Lines of a run that each of a shrinking's runs would repeat.
_REPEATED = ("Data:", "Teacher:", "Refining", "Refined teacher:")
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


def _warnings_left_out() -> contextlib.AbstractContextManager[None]:
    """Leave out warnings of what a plan asks for knowingly."""
    return _filtered(lambda record: not _COLOUR.sub("", record.getMessage()).startswith(_EXPECTED))


def _lines_left_out() -> contextlib.AbstractContextManager[None]:
    """Leave out on the console what each run would repeat; the log files have it."""

    def mark(record: logging.LogRecord) -> bool:
        if _COLOUR.sub("", record.getMessage()).startswith(_REPEATED):
            record.shown = False
        return True

    return _filtered(mark)


@contextlib.contextmanager
def _filtered(kept: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    root = getLogger()
    root.addFilter(kept)
    try:
        yield
    finally:
        root.removeFilter(kept)
