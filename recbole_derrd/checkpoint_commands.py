"""The commands that take a finished checkpoint: export, evaluate, shrink, recommend."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from recbole_derrd.command_line.arguments import Given, one_of, plain_number, read_arguments, whole_number
from recbole_derrd.command_line.streams import print_out
from recbole_derrd.errors import DistillError, did_you_mean


def export(arguments: Sequence[str]) -> int:
    """Make a checkpoint into what is served."""
    given = read_arguments("export", arguments)
    options = given.options
    if options["out"] is None:
        raise DistillError(f"An export needs a place: --out={'FILE' if options['strip'] else 'FOLDER'}.")
    if options["strip"]:
        return _strip(given)
    from recbole_derrd.exporting import Request
    from recbole_derrd.exporting import export as written
    from recbole_derrd.exporting.card import summary

    request = Request(
        Path(given.names[0]),
        Path(options["out"]),
        kind=options["format"] or "npy",
        bits=None if options["bits"] is None else whole_number("bits", options["bits"], 32),
        top=whole_number("top", options["top"], 0),
        keep_seen=options["keep_seen"],
        force=options["force"],
        model=options["model"],
        settings=tuple(given.settings),
        command=shlex.join(["recbole-derrd", "export", *arguments]),
        index=options["index"],
    )
    print_out(summary(written(request), request.out))
    return 0


def _strip(given: Given) -> int:
    options = given.options
    others = [
        f"--{key.replace('_', '-')}" for key in ("format", "bits", "top", "index", "keep_seen", "model") if options[key]
    ]
    others += [setting.partition("=")[0] for setting in given.settings]
    if others:
        raise DistillError(
            f"--strip writes the checkpoint alone, and {', '.join(others)} cannot change it: take them out."
        )
    from recbole_derrd.exporting.strip import strip

    out = Path(options["out"])
    before, after = strip(Path(given.names[0]), out, force=options["force"])
    print_out(f"Checkpoint without the optimiser's state: {out} ({after:,} bytes, before {before:,})\n")
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """Evaluate checkpoints on their own splits: a table, and a record of each."""
    given = read_arguments("evaluate", arguments)
    options = given.options
    split = one_of("split", options["split"], ("test", "valid", "both"), "both")
    from recbole_derrd.exporting.evaluate import Evaluation, evaluate_checkpoints, refuse_unwritable, write_records
    from recbole_derrd.report.checkpoint_tables import checkpoint_tables

    folder = Path(options["records"] or "records")
    asked = Evaluation(
        tuple(dict.fromkeys(map(Path, given.names))),
        splits=("valid", "test") if split == "both" else (split,),
        trusted=options["trusted"],
        model=options["model"],
        settings=tuple(given.settings),
        command=shlex.join(["recbole-derrd", "evaluate", *arguments]),
    )
    refuse_unwritable(folder)
    records = evaluate_checkpoints(asked)
    print_out(checkpoint_tables(records, asked.splits))
    for path in write_records(records, folder):
        print_out(f"Record: {path}\n")
    return 0


def shrink(arguments: Sequence[str]) -> int:
    """Make the best student of so many bytes, and say what it is compared with."""
    given = read_arguments("shrink", arguments)
    options = given.options
    whole = None if options["bytes"] is None else whole_number("bytes", options["bytes"], 0)
    times = None if options["times"] is None else plain_number("times", options["times"])
    from recbole_derrd.config.settings import file_names
    from recbole_derrd.shrinking import Budget
    from recbole_derrd.shrinking import shrink as shrunk

    files = options["config_files"]
    if given.names and files is not None:
        raise DistillError(
            "shrink takes a checkpoint or --config_files, not both: the checkpoint has its own settings."
        )
    outcome = shrunk(
        given.names[0] if given.names else None,
        Budget(whole, options["size"], times),
        options["out"],
        given.settings,
        config_file_list=None if files is None else file_names(files),
        force=options["force"],
        compare_student=not options["without_plain"],
        tell=lambda sentence: print_out(f"{sentence}\n"),
        command=shlex.join(["recbole-derrd", "shrink", *arguments]),
    )
    print_out(outcome.summary())
    return 0


def recommend(arguments: Sequence[str]) -> int:
    """Write users' rankings from an export, without torch, or from a checkpoint."""
    given = read_arguments("recommend", arguments)
    options = given.options
    if options["users"] is None:
        raise DistillError("Whose rankings? Write --users=FILE (one id a line), --users=ID,ID or --users=all.")
    k = whole_number("k", options["k"], 10)
    out = None if options["out"] is None else Path(options["out"])
    source = Path(given.names[0])
    lists = _lists_of_checkpoint if source.is_file() else _lists_of_export
    users, found = lists(source, given, k)
    from recbole_derrd.serving.lists import write_lists

    page = io.StringIO()
    rows = write_lists(found, out or page)
    print_out(page.getvalue() if out is None else f"{rows:,} rows of {len(users):,} users: {out}\n")
    return 0


def _lists_of_export(folder: Path, given: Given, k: int) -> tuple[list[str], Iterator[tuple[str, int, str, float]]]:
    from recbole_derrd.serving.lists import lists_of, named_users
    from recbole_derrd.serving.recommender import Recommender

    model, options = Recommender.load(folder), given.options
    extra = [setting.partition("=")[0] for setting in given.settings] + ["--model"] * (options["model"] is not None)
    if extra:
        known = ("users", "k", "out", "keep-seen")
        raise DistillError(
            f"'{folder}' is an export, which takes no '{extra[0]}'; a checkpoint does."
            f"{did_you_mean(extra[0].lstrip('-'), known)}"
        )
    users = named_users(options["users"], model.user_ids)
    return users, lists_of(model, users, k, keep_seen=options["keep_seen"])


def _lists_of_checkpoint(file: Path, given: Given, k: int) -> tuple[list[str], Iterator[tuple[str, int, str, float]]]:
    from recbole_derrd.exporting.recommend import recommended
    from recbole_derrd.exporting.request import Source

    options = given.options
    source = Source(file, "recommend", options["model"], tuple(given.settings))
    return recommended(source, options["users"], k, keep_seen=options["keep_seen"])
