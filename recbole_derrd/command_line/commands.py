"""The commands: what each takes, and its parser."""

from __future__ import annotations

import argparse
import functools
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
        summary: what the list of commands says of it.
        usage: its command line.
        names: what it is given beside options, e.g. "RECORDS"; "" where it takes nothing.
        settings: whether it takes any ``--key=value``.
    """

    summary: str
    usage: str
    names: str = ""
    settings: bool = False


_RUN = '[-m MODEL] [-d DATASET] [--config_files="A.yaml B.yaml"] [--key=value ...]'
COMMANDS = {
    "run": Command(
        "train (or find) the teacher and the plain student, distil, evaluate; the default command, and without "
        "arguments the quick start",
        f"recbole-derrd [run] {_RUN}\n       python run_recbole_derrd.py [the same]",
        settings=True,
    ),
    "compress": Command(
        "make the run's teacher smaller without any training (SVD, bits, codebooks): what a student must beat",
        f"recbole-derrd compress --compress_method=svd|quantized|product\n       {_RUN}",
        settings=True,
    ),
    "benchmark": Command(
        "run a grid of models, distillers, sizes and seeds; what is recorded already is skipped",
        "recbole-derrd benchmark FILE [--jobs=N] [--dry] [--only=[NAME, ...]] [--key=value ...]",
        names="FILE",
        settings=True,
    ),
    "frontier": Command(
        "quality against bytes an item: train students in few bits and their rivals, then a table and a picture",
        "recbole-derrd frontier FILE [--plot=FILE] [--also=RECORDS] [--jobs=N] [--dry] [--only=[NAME, ...]]\n"
        "                              [--key=value ...]",
        names="FILE",
        settings=True,
    ),
    "report": Command(
        "make tables, tests and plots from folders and files of records; html is one file with everything in it",
        "recbole-derrd report RECORDS [RECORDS ...] [--format=md|tex|html] [--out=FILE] [--plots=FOLDER]\n"
        "                            [--baseline=ROW] [--metric=NAME] [--split=test|valid]",
        names="RECORDS",
    ),
    "convert": Command(
        "write RecBole's file of interactions from a table (CSV, TSV; gzip too), the first step with data of your own",
        "recbole-derrd convert TABLE --user=COL --item=COL --out=dataset/NAME [--time=COL] [--rating=COL]\n"
        "                             [--sep=,] [--encoding=utf-8] [--drop-missing] [--drop-duplicates] [--force]",
        names="TABLE",
    ),
    "export": Command(
        "make a checkpoint, of stock RecBole too, into what is served: embeddings with the data's own ids, rankings",
        "recbole-derrd export CHECKPOINT --out=FOLDER [--format=npy|safetensors|parquet] [--bits=8|4|3|2|1]\n"
        "                            [--top=N] [--index=faiss|usearch] [--keep-seen] [--force] [--data_path=FOLDER]\n"
        "                            [--key=value ...]\n"
        "       recbole-derrd export CHECKPOINT --strip --out=FILE",
        names="CHECKPOINT",
        settings=True,
    ),
    "evaluate": Command(
        "compute the metrics of checkpoints, of stock RecBole too, on their own splits: a table, and a record of each",
        "recbole-derrd evaluate CHECKPOINT [CHECKPOINT ...] [--split=test|valid|both] [--records=FOLDER]\n"
        "                              [--trusted] [--metrics=[NDCG, ...]] [--topk=[10, ...]] [--data_path=FOLDER]\n"
        "                              [--key=value ...]",
        names="CHECKPOINT",
        settings=True,
    ),
    "shrink": Command(
        "make the best student of so many bytes that learns from a trained model, and an export of it to serve",
        "recbole-derrd shrink CHECKPOINT --bytes=N|--size=1MB|--times=40 [--out=FOLDER] [--force] [--without-plain]\n"
        "                            [--data_path=FOLDER] [--key=value ...]\n"
        "       recbole-derrd shrink --config_files=FILES --bytes=N [the same]   (the teachers of a run's settings)",
        names="CHECKPOINT",
        settings=True,
    ),
    "recommend": Command(
        "write users' top-N rankings from an export, with numpy alone, or from a checkpoint",
        "recbole-derrd recommend EXPORT|CHECKPOINT --users=FILE|all|ID,ID [--k=10] [--out=FILE.csv] [--keep-seen]\n"
        "                               [--data_path=FOLDER] [--key=value ...]",
        names="EXPORT",
        settings=True,
    ),
    "doctor": Command("print versions against the tested ranges and say what is wrong", "recbole-derrd doctor"),
    "help": Command(
        "show a command, a method with its options (recbole-derrd help rrd), the options of a run, or the configs that "
        "come with the package",
        "recbole-derrd help [COMMAND | METHOD | package.module.Class | options | configs ...]",
        names="NAME",
    ),
}

#: Options of every command.
FLAGS = ("-h", "--help", "--version")
#: Options of a run that the command line itself reads; any other is a setting.
_RUN_OPTIONS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("-m", "--model"), "NAME", "the student: a general recommender of RecBole, or package.module.Class of your own"),
    (("-d", "--dataset"), "NAME", "the data set; ml-100k if neither a config file nor this option names one"),
    (
        ("--config_files", "--config"),
        "FILES",
        "YAML files, later ones win: 'A.yaml B.yaml'; or names ('help configs')",
    ),
)
#: The options of each command: how each is written, its value (none: a switch), its meaning.
OPTIONS: dict[str, tuple[tuple[tuple[str, ...], str, str], ...]] = {
    "run": _RUN_OPTIONS,
    "compress": _RUN_OPTIONS,
    "export": (
        (("--out",), "FOLDER", "the folder to write, which must not exist"),
        (("--format",), "npy|safetensors|parquet", "how embeddings are written (parquet: rankings too); npy if none"),
        (
            ("--bits",),
            "8|4|3|2|1",
            "quantise the embeddings to so many bits a dimension; if none, as the model was trained",
        ),
        (("--top",), "N", "write each user's N best items as well, to top.csv"),
        (("--index",), "faiss|usearch", "write a search index of the items as well, by inner product"),
        (("--keep-seen",), "", "leave a user's training items in these rankings"),
        (("--strip",), "", "write the checkpoint alone, without the optimiser's state, to the file that --out names"),
        (("--force",), "", "replace an export of that name, or the file of --strip"),
        (("--model",), "CLASS", "package.module.Class of a model of your own, if the checkpoint is of one"),
    ),
    "evaluate": (
        (("--split",), "test|valid|both", "the splits to evaluate; both if none"),
        (("--records",), "FOLDER", "where the records are written, one JSON file a checkpoint; records if none"),
        (("--trusted",), "", "evaluate also a checkpoint whose file says that it was trained on another split"),
        (("--model",), "CLASS", "package.module.Class of a model of your own, if the checkpoints are of one"),
    ),
    "frontier": (
        (("--plot",), "FILE", "where the picture is written (.svg, .png or .pdf); frontier.svg by the records if none"),
        (("--also",), "RECORDS", "a folder or file of further records of the same data, for table and picture"),
    ),
    "shrink": (
        (("--bytes",), "N", "bytes of an item's codes, and 2 more for its scale; users stay float32"),
        (("--size",), "SIZE", "bytes of all users and items together, e.g. 1MB or 250kB; users are in 8 bits"),
        (("--times",), "N", "how many times smaller than the given model the whole shall be"),
        (("--out",), "FOLDER", "an export of the student is written there, to be served"),
        (("--force",), "", "replace an export of that name"),
        (("--config_files",), "FILES", "YAML files of a run, whose teacher or teachers are shrunk; no checkpoint then"),
        (("--without-plain",), "", "leave out the student without a teacher, which takes a training of its own"),
    ),
    "recommend": (
        (("--users",), "FILE|all|ID,ID", "a file with one id a line, all users there are, or ids with commas"),
        (("--k",), "N", "length of a ranking; 10 if none"),
        (("--out",), "FILE", "the CSV file to write (user_id, rank, item_id, score); printed if none"),
        (("--keep-seen",), "", "leave a user's training items in the rankings"),
        (("--model",), "CLASS", "package.module.Class of a model of your own, if a checkpoint is of one"),
    ),
    "report": (
        (
            ("--format",),
            "md|tex|html",
            "md and tex are printed, html is written to report.html in the folder; md if none",
        ),
        (("--out",), "FILE", "the file to write the report to"),
        (("--plots",), "FOLDER", "the folder for plots beside md (SVG) and tex (PDF)"),
        (("--baseline",), "ROW", "the row to test against; the best baseline if none"),
        (("--metric",), "NAME", "what gaps, tests and plots are of; the records' valid_metric if none"),
        (("--split",), "test|valid", "the split to report; valid while settings are still being chosen"),
    ),
    "convert": (
        (("--user",), "COL", "the users' column: its name, or its number, from 1, where the first row names none"),
        (("--item",), "COL", "the items' column"),
        (("--time",), "COL", "the times' column: numbers, or ISO dates (UTC where they name no zone) made seconds"),
        (("--rating",), "COL", "the ratings' column: numbers"),
        (("--out",), "FOLDER", "the data set's folder, whose last part is its name: dataset/NAME"),
        (("--sep",), "SIGNS", "what is between columns, e.g. tab or ::; if none, the sign the first line has most of"),
        (("--encoding",), "NAME", "the table's encoding; utf-8 if none"),
        (("--drop-missing",), "", "leave out rows without a value, which are refused otherwise"),
        (("--drop-duplicates",), "", "of rows with the same user and item keep the first; otherwise all are kept"),
        (("--force",), "", "replace a file that is there"),
    ),
}
_NAMES = {
    "FILE": "the file (YAML), or the name of one that comes with the package: benchmark/quick, frontier/quick",
    "TABLE": "the file of interactions, one a row",
    "RECORDS": "folders of records, with their sub-folders, and files: .json, or .jsonl with one a line",
    "CHECKPOINT": "the .pth file that a training of RecBole or of this plugin has saved",
    "EXPORT": "the folder that 'export' has written, or a checkpoint (.pth)",
    "NAME": "commands, methods, or dotted paths of methods of your own; without one, the general help",
}


class _Parser(argparse.ArgumentParser):
    """Argparse that guesses no abbreviation and leaves help, which must not end the process, to its caller."""

    def __init__(self, **arguments: Any) -> None:
        layout = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=30)
        super().__init__(add_help=False, allow_abbrev=False, exit_on_error=False, formatter_class=layout, **arguments)
        self.own = self.add_argument_group("options")
        self.own.add_argument("-h", "--help", action="store_true", help="show this help")
        self.own.add_argument("--version", action="store_true", help="show the version")


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the whole command line, and that of each command."""
    whole = _Parser(prog="recbole-derrd", usage="recbole-derrd [COMMAND] [--key=value ...]")
    group = whole.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    return whole, {name: _added(group, name, command) for name, command in COMMANDS.items()}


def _added(group: Any, name: str, command: Command) -> argparse.ArgumentParser:
    parser: _Parser = group.add_parser(name, help=command.summary, usage=command.usage)
    for spellings, shown, meaning in OPTIONS.get(name, ()):
        # A run's are kept all: the same option with two values is refused, config files add up.
        action = "append" if command.settings and not command.names else "store"
        kind: dict[str, Any] = {"action": action, "metavar": shown} if shown else {"action": "store_true"}
        parser.own.add_argument(*spellings, help=meaning, **kind)
    if command.names:
        # We word ourselves how many are needed.
        parser.add_argument_group("arguments").add_argument(
            "names", metavar=command.names, nargs="*", help=_NAMES[command.names]
        )
    return parser
